"""The command lines of QEMU and virtiofsd, as pure functions of what they are for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import limits
from .spec import EngineChoice, MachineSpec

ROOT_TAG: Final = "root"

# `tools/guest-kernel` and any other kernel get these too. Quiet, because the console is slow; panic=-1 with
# QEMU's -no-reboot ends the machine at once.
_KERNEL_WORDS: Final = (
    "console=ttyS0 quiet loglevel=0 panic=-1 reboot=t no_timer_check random.trust_cpu=on nowatchdog "
    "cryptomgr.notests audit=0 edd=off 8250.nr_uarts=1 rcupdate.rcu_expedited=1 rdinit=/init"
)
_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Sockets:
    """Descriptors that QEMU inherits, each one end of a socket pair or a connection."""

    console: int
    channel: int
    root: int
    volumes: tuple[int, ...] = ()

    def all(self) -> tuple[int, ...]:
        return (self.console, self.channel, self.root, *self.volumes)


@dataclass(frozen=True)
class Boot:
    """What QEMU loads. Both are given as paths that it can open after it lost its privileges."""

    kernel: str
    initramfs: str


def qemu(program: str, spec: MachineSpec, engine: EngineChoice, sockets: Sockets, boot: Boot) -> list[str]:
    """QEMU for this machine: as few devices as can be, no network unless asked for, nothing it may spawn."""
    return [
        program,
        *(_microvm() if engine == "kvm" else _q35()),
        *("-smp", str(spec.cpus)),
        *("-m", f"{spec.memory_bytes // limits.MIB}M"),
        *("-object", f"memory-backend-memfd,id=mem,size={spec.memory_bytes},share=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", _SANDBOX),
        *("-kernel", boot.kernel, "-initrd", boot.initramfs, "-append", _append(engine)),
        *("-chardev", f"socket,id=console,fd={sockets.console}", "-serial", "chardev:console"),
        *_devices(spec, "device" if engine == "kvm" else "pci", sockets),
    ]


def _q35() -> list[str]:
    """Emulated, this starts faster than the other kinds of machine."""
    options = "usb=off,vmport=off,graphics=off,smbus=off,sata=off,hpet=off,memory-backend=mem"
    return ["-M", f"q35,{options}", "-accel", "tcg,tb-size=256", "-cpu", "max", "-bios", "qboot.rom"]


def _microvm() -> list[str]:
    """With acpi: most kernels find no virtio-mmio devices without it, and none can power off."""
    return [
        *("-M", "microvm,acpi=on,pcie=off,usb=off,isa-serial=on,memory-backend=mem"),
        *("-accel", "kvm", "-cpu", "host", "-global", "virtio-mmio.force-legacy=false"),
    ]


def _append(engine: EngineChoice) -> str:
    # There is nothing to leak between guests by speculation where there is none.
    return _KERNEL_WORDS + (" mitigations=off" if engine == "tcg" else "")


def _devices(spec: MachineSpec, bus: str, sockets: Sockets) -> Iterator[str]:
    yield from ("-device", f"virtio-serial-{bus},max_ports=2")
    yield from ("-chardev", f"socket,id=channel,fd={sockets.channel}")
    yield from ("-device", "virtserialport,chardev=channel,name=monofs")
    for tag, socket in zip([ROOT_TAG, *volume_tags(spec)], [sockets.root, *sockets.volumes], strict=True):
        yield from ("-chardev", f"socket,id={tag},fd={socket}")
        yield from ("-device", f"vhost-user-fs-{bus},chardev={tag},tag={tag}")
    if spec.net == "user":
        forwards = [
            f",hostfwd=tcp:{one.host_address}:{one.host_port}-10.0.2.15:{one.guest_port}" for one in spec.publish
        ]
        yield from ("-netdev", "user,id=net,ipv6=off" + "".join(forwards))
        yield from ("-device", f"virtio-net-{bus},netdev=net" + (",romfile=" if bus == "pci" else ""))


def volume_tags(spec: MachineSpec) -> list[str]:
    """The virtio-fs tags of the volumes, in their order."""
    return [f"volume{index}" for index in range(len(spec.volumes))]


def virtiofsd(program: str, flavour: str, folder: Path, listener: int, *, read_only: bool) -> list[str]:
    """A virtiofsd that serves one folder to the first that connects to the listening socket, and ends with that.

    It tells the guest to keep what it has seen for a second (auto) or for good (always, where nobody writes).
    """
    cache = "always" if read_only else "auto"
    if flavour == "rust":
        command = [
            program,
            f"--shared-dir={folder}",
            f"--fd={listener}",
            f"--cache={cache}",
            *("--xattr", "--posix-acl", "--sandbox=namespace", "--log-level=warn"),
        ]
    else:
        # posix_acl is for the kernel in the guest to check and keep access lists; this daemon cannot pass modes through
        # a default ACL otherwise.
        options = f"source={_escaped(folder)},cache={cache},xattr,posix_acl,sandbox=namespace,log_level=warn"
        if not read_only:
            # It reads names ahead, looks each up when the guest asks for it, and ends the listing at one that is gone.
            options += ",no_readdirplus"
        command = [program, f"--fd={listener}", "-f", "-o", options]
    return [*_read_only(folder), *command] if read_only else command


def _escaped(folder: Path) -> str:
    """A comma would end the option, and a backslash escapes it."""
    return str(folder).replace("\\", "\\\\").replace(",", "\\,")


def _read_only(folder: Path) -> list[str]:
    """A mount namespace of its own, in which the folder cannot be written: the guest's word is not needed for that."""
    script = 'mount --bind -o ro -- "$0" "$0" && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, str(folder)]


def with_parent(command: list[str]) -> list[str]:
    """The command, killed with the thread that starts it."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *command]


def unprivileged(command: list[str], uid: int, groups: tuple[int, ...], *, low_ports: bool) -> list[str]:
    """The command as a user that owns nothing, killed with the thread that starts it.

    At most it may listen below port 1024.
    """
    capabilities = "-all,+net_bind_service" if low_ports else "-all"
    return [
        *("setpriv", "--pdeathsig", "KILL", "--no-new-privs", f"--reuid={uid}", f"--regid={uid}"),
        *([f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]),
        *(f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", "--bounding-set=-all", "--"),
        *command,
    ]
