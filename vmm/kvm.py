"""Does KVM run a guest here? A few instructions in long mode tell. A program, because KVM itself may not come back.

Imports nothing of ours, so that it can be started by its path.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import struct
import sys
from contextlib import ExitStack
from typing import Final

DEVICE: Final = "/dev/kvm"

_API: Final = 12
_GET_API_VERSION: Final = 0xAE00
_CREATE_VM: Final = 0xAE01
_GET_VCPU_MMAP_SIZE: Final = 0xAE04
_CREATE_VCPU: Final = 0xAE41
_SET_USER_MEMORY_REGION: Final = 0x4020AE46
_RUN: Final = 0xAE80
_SET_REGS: Final = 0x4090AE82
_GET_SREGS: Final = 0x8138AE83
_SET_SREGS: Final = 0x4138AE84

_EXIT_IO: Final = 2
_EXIT_INTERNAL_ERROR: Final = 17
_PORT: Final = 0xE9
_ANSWER: Final = 0x4D

# xorps xmm0, xmm0 is what a host that only pretends fails on: OUT and HLT succeed there.
_CODE: Final = bytes([0x0F, 0x57, 0xC0, 0xB0, _ANSWER, 0xE6, _PORT, 0xF4])

_SIZE: Final = 2 << 20
_PML4, _PDPT, _PD, _CODE_AT = 0x1000, 0x2000, 0x3000, 0x8000
_SEGMENT: Final = struct.Struct("<QIH10B")
_CONTROL_AT: Final = 224  # in struct kvm_sregs, after 8 segments and 2 tables: cr0 cr2 cr3 cr4 cr8 efer


def probe() -> str | None:
    """Return None if KVM runs a guest, else why not."""
    try:
        with ExitStack() as stack:
            return _probe(stack)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            return f"there is no {DEVICE}"
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{DEVICE} may not be opened by this user"
        return f"{DEVICE}: {error.strerror}"


def _probe(stack: ExitStack) -> str | None:
    def keep(fd: int) -> int:
        stack.callback(os.close, fd)
        return fd

    kvm = keep(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    if fcntl.ioctl(kvm, _GET_API_VERSION) != _API:
        return f"{DEVICE} speaks another version of KVM's interface"
    vm = keep(fcntl.ioctl(kvm, _CREATE_VM, 0))
    memory = stack.enter_context(mmap.mmap(-1, _SIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))
    _fill(memory)
    region = struct.pack("<IIQQQ", 0, 0, 0, _SIZE, _address(memory))
    fcntl.ioctl(vm, _SET_USER_MEMORY_REGION, region)
    cpu = keep(fcntl.ioctl(vm, _CREATE_VCPU, 0))
    run = stack.enter_context(mmap.mmap(cpu, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE)))
    _enter_long_mode(cpu)
    fcntl.ioctl(cpu, _RUN, 0)
    return _judge(run)


def _address(memory: mmap.mmap) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _fill(memory: mmap.mmap) -> None:
    """Page tables that map the first 2 MiB to themselves, and the code."""
    memory[_PML4 : _PML4 + 8] = struct.pack("<Q", _PDPT | 3)
    memory[_PDPT : _PDPT + 8] = struct.pack("<Q", _PD | 3)
    memory[_PD : _PD + 8] = struct.pack("<Q", 0x83)
    memory[_CODE_AT : _CODE_AT + len(_CODE)] = _CODE


def _enter_long_mode(cpu: int) -> None:
    state = bytearray(fcntl.ioctl(cpu, _GET_SREGS, bytes(312)))
    #                       base limit selector type present dpl db s l g avl unusable padding
    code = _SEGMENT.pack(0, 0xFFFFFFFF, 8, 11, 1, 0, 0, 1, 1, 1, 0, 0, 0)
    data = _SEGMENT.pack(0, 0xFFFFFFFF, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
    state[: 6 * _SEGMENT.size] = code + data * 5
    # cr0: paging, protection and what SSE wants; cr4: PAE, OSFXSR, OSXMMEXCPT; efer: long mode
    struct.pack_into("<6Q", state, _CONTROL_AT, 0x80000033, 0, _PML4, 0x620, 0, 0x500)
    fcntl.ioctl(cpu, _SET_SREGS, bytes(state))
    registers = [0] * 18
    registers[6], registers[16], registers[17] = _CODE_AT - 16, _CODE_AT, 2  # rsp, rip, rflags
    fcntl.ioctl(cpu, _SET_REGS, struct.pack("<18Q", *registers))


def _judge(run: mmap.mmap) -> str | None:
    (reason,) = struct.unpack_from("<I", run, 8)
    if reason == _EXIT_IO:
        _, size, port, _, offset = struct.unpack_from("<BBHIQ", run, 32)
        if (size, port, run[offset]) == (1, _PORT, _ANSWER):
            return None
    if reason == _EXIT_INTERNAL_ERROR:
        return f"KVM does not run ordinary instructions here (internal error {struct.unpack_from('<I', run, 32)[0]})"
    return f"KVM does not run a guest here (exit reason {reason})"


if __name__ == "__main__":
    json.dump({"why_not": probe()}, sys.stdout)
