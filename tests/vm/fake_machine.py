"""A machine that boots in no time: its commands are plain processes of the host, in the directory that is its root.

It keeps the promises of `vmm.machine`, so that all that is done with machines can be tested in milliseconds. Run as a
program it is `monofs` with these machines. "qemu" is a process that sleeps and dies with its supervisor.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from vmm.errors import BootTimeout, CommandFailed, MachineDied
from vmm.pids import Pid
from vmm.spec import Command, MachineSpec


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class FakeProcess:
    def __init__(self, process: trio.Process, terminal: int | None, machine: FakeMachine) -> None:
        self._process = process
        self._machine = machine
        self._send, self._receive = trio.open_memory_channel[tuple[int, bytes]](0)
        self._drained = trio.Event()
        self._terminal = None if terminal is None else trio.lowlevel.FdStream(terminal)
        self._terminal_fd = terminal

    async def drain(self) -> None:
        streams = (
            [(1, self._terminal)]
            if self._terminal is not None
            else [(1, self._process.stdout), (2, self._process.stderr)]
        )
        async with self._send, trio.open_nursery() as nursery:
            for number, stream in streams:
                nursery.start_soon(self._read, number, stream)
        self._drained.set()
        await self._process.wait()  # so that no zombie stays

    async def _read(self, number: int, stream: trio.abc.ReceiveStream) -> None:
        with suppress(trio.BrokenResourceError, OSError):  # EIO: how a terminal says that nobody has it any more
            while data := await stream.receive_some(65536):
                await self._send.send((number, data))

    async def write_stdin(self, data: bytes) -> None:
        stream = self._terminal or self._process.stdin
        assert stream is not None
        try:
            await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise BrokenPipeError from None

    async def close_stdin(self) -> None:
        if self._terminal is not None:
            await self.write_stdin(b"\x04")
        elif self._process.stdin is not None:
            await self._process.stdin.aclose()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        async for item in self._receive:
            yield item

    async def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def abandon(self) -> None:
        await self.signal(signal.SIGKILL)
        self._machine._nursery.start_soon(self._waste)

    async def _waste(self) -> None:
        async for _ in self._receive:
            pass

    async def resize(self, rows: int, columns: int) -> None:
        if self._terminal_fd is not None:
            fcntl.ioctl(self._terminal_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def wait(self) -> int:
        await self._drained.wait()
        code = await self._process.wait()
        if self._machine.died is not None:
            raise MachineDied(self._machine.died)
        return 128 - code if code < 0 else code


class FakeMachine:
    engine = "fake"

    def __init__(self, spec: MachineSpec, directory: Path, qemu: int, nursery: trio.Nursery) -> None:
        self.spec = spec
        self.notes: list[str] = []
        self.console = directory / "console.log"
        self.pids = {"qemu": [tuple(Pid.of(qemu))], "virtiofsd": []}
        self.timings = {"kernel": 0.001}
        self.ended = trio.Event()
        self.died: str | None = None
        self._nursery = nursery
        self.processes: list[FakeProcess] = []

    async def start(self, command: Command) -> FakeProcess:
        if command.argv[0] == "/never-answers":
            await trio.sleep_forever()
        root = os.fspath(self.spec.root)
        environment = {"PATH": os.environ["PATH"], "HOME": "/root", **dict(command.env)}
        master = slave = None
        if command.terminal:
            master, slave = pty.openpty()
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", command.rows, command.columns, 0, 0))
            streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        else:
            pipe = subprocess.PIPE
            streams = {"stdin": pipe, "stdout": pipe, "stderr": pipe}
        argv = (["setsid", "--ctty"] if command.terminal else []) + list(command.argv)
        try:
            process = await trio.lowlevel.open_process(
                argv,
                cwd=root + command.workdir,
                env=environment,
                start_new_session=not command.terminal,
                preexec_fn=_die_with_us,
                **streams,
            )
        except FileNotFoundError:
            raise CommandFailed(127, f"{command.argv[0]}: no such program in the machine") from None
        except PermissionError:
            raise CommandFailed(126, f"{command.argv[0]}: cannot be run") from None
        if slave is not None:
            os.close(slave)
        made = FakeProcess(process, master, self)
        self.processes.append(made)
        self._nursery.start_soon(made.drain)
        return made

    async def power_off(self, grace_seconds: float = 10.0) -> bool:
        for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10)):
            for process in self.processes:
                await process.signal(number)
            with trio.move_on_after(seconds):
                for process in self.processes:
                    await process._process.wait()
                return True
        return True

    async def watch(self, qemu: subprocess.Popen[bytes]) -> None:
        descriptor = os.pidfd_open(qemu.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        self.died = "QEMU was killed"
        self.ended.set()
        for process in self.processes:
            await process.signal(signal.SIGKILL)


@asynccontextmanager
async def booted(
    spec: MachineSpec, directory: Path, cache: Path, on_phase: Callable[[str, float], None] = lambda name, seconds: None
) -> AsyncIterator[FakeMachine]:
    if "FAKE_BOOT_FAILS" in os.environ:
        raise BootTimeout("the guest did not come up in 120 s; its console ends with: out of cheese")
    if "FAKE_BOOT_HANGS" in os.environ:
        (directory / "booting").touch()
        await trio.sleep_forever()
    qemu = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "sleep", "infinity"])  # noqa: ASYNC220
    try:
        on_phase("kernel", 0.001)
        async with trio.open_nursery() as nursery:
            machine = FakeMachine(spec, directory, qemu.pid, nursery)
            nursery.start_soon(machine.watch, qemu)
            try:
                yield machine
            finally:
                for process in machine.processes:
                    with trio.CancelScope(shield=True):
                        await process.signal(signal.SIGKILL)
                        await process._process.wait()
                nursery.cancel_scope.cancel()
    finally:
        qemu.kill()
        qemu.wait()


def install() -> None:
    """Let every machine of this process be a fake one."""
    from vmm import machine

    machine.booted = booted  # type: ignore[assignment]


def main() -> int:
    from monofs_fuse.cli import main as monofs

    install()
    return monofs()


if __name__ == "__main__":
    sys.exit(main())
