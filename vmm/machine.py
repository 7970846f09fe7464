"""A running machine: QEMU and its virtiofsds, started together, watched, and always ended."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from . import argv, engine, initramfs, kernel, kvm, limits, programs
from .channel import Channel, Process
from .children import Child
from .console import BoundedFile, tail
from .errors import BadSpec, BootTimeout, MachineDied, VmError
from .programs import Virtiofsd
from .spec import Command, MachineSpec

__all__ = ["Machine", "OnPhase", "Process", "booted"]

OnPhase = Callable[[str, float], None]

# QEMU runs as a user of its own, made of this and our pid: it owns nothing, and no other machine has it.
_FIRST_UID: Final = 0x6D000000


@dataclass(frozen=True)
class _Plan:
    """All that can be known before anything is started."""

    qemu: str
    virtiofsd: Virtiofsd
    engine: engine.Engine
    note: str | None
    kernel: kernel.Kernel
    initramfs: Path


def check(spec: MachineSpec, cache: Path) -> None:
    """Raise what would keep such a machine from starting, and say what is missing. The root need not be there yet."""
    _plan(spec, cache)


def _plan(spec: MachineSpec, cache: Path) -> _Plan:
    programs.check_root()
    programs.check_helpers()
    qemu, virtiofsd = programs.find_qemu(), programs.find_virtiofsd()
    for volume in spec.volumes:
        _check_folder(volume.host)
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    chosen, note = engine.choose(spec.engine, cache)
    return _with_kernel(spec, cache, _Plan(qemu, virtiofsd, chosen, note, kernel.find(cache, spec.kernel), Path()))


def _prepare(spec: MachineSpec, directory: Path, cache: Path) -> _Plan:
    plan = _plan(spec, cache)
    _check_folder(spec.root)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return plan


def _with_kernel(spec: MachineSpec, cache: Path, plan: _Plan) -> _Plan:
    image = initramfs.build(cache, plan.kernel, plan.engine, spec.net)
    return _Plan(plan.qemu, plan.virtiofsd, plan.engine, plan.note, plan.kernel, image)


def _check_folder(folder: Path) -> None:
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise BadSpec(f"{folder} is not a directory")
    except OSError as error:
        raise BadSpec(f"{folder}: {error.strerror}") from None


class Machine:
    """Made by `booted`, and good until its block ends."""

    def __init__(self, spec: MachineSpec, plan: _Plan, directory: Path, on_phase: OnPhase) -> None:
        self.spec = spec
        self.engine: engine.Engine = plan.engine
        self.notes: list[str] = [plan.note] if plan.note else []
        self.directory = directory
        self.console = directory / "console.log"
        self.timings: dict[str, float] = {}
        self.ended = trio.Event()  # QEMU or a virtiofsd is gone
        self.died: str | None = None  # the line that says why, if that came uninvited
        self._plan, self._on_phase = plan, on_phase
        self._children: list[Child] = []
        self._console_stream, self._theirs_console = _pair()
        channel, self._theirs_channel = _pair()
        self._channel = Channel(channel)
        self._is_leaving = False
        self._has_spoken = trio.Event()

    @property
    def pids(self) -> dict[str, list[tuple[int, int]]]:
        """{"qemu": [(pid, start time in ticks)], "virtiofsd": [...]}"""
        found: dict[str, list[tuple[int, int]]] = {"qemu": [], "virtiofsd": []}
        for child in self._children:
            found[child.name] += child.pids
        return found

    async def start(self, command: Command) -> Process:
        """Run a command. Raises CommandFailed (126 or 127) when it cannot be started, MachineDied."""
        return await self._channel.start(command)

    async def power_off(self, grace_seconds: float = limits.grace_seconds) -> bool:
        """TERM everything, KILL after `grace_seconds`, sync, unmount, power off. Return whether the root was unmounted.

        When this returns QEMU and every virtiofsd are gone: whatever the guest wrote is in the root directory.
        False: it did not come to that, and `died` says why.
        """
        is_clean, why = False, "the guest did not unmount its root in time"
        with trio.move_on_after(grace_seconds + limits.unmount_seconds):
            try:
                is_clean, why = await self._channel.power_off(grace_seconds)
                self._is_leaving = True
                await self._channel.halt()
            except MachineDied as error:
                why = str(error)
        self._is_leaving = True
        await self._end(limits.end_seconds if is_clean else 0)
        if not is_clean and self.died is None:
            self.died = f"the machine was not shut down cleanly: {why}"
        return is_clean

    @property
    def is_mute(self) -> bool:
        """The guest has not given a sign of life."""
        return not self._has_spoken.is_set()

    # Starting

    def _start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        begin = trio.current_time()
        with ExitStack() as ours:
            folders = [self.spec.root, *(volume.host for volume in self.spec.volumes)]
            read_only = [self.spec.root_read_only, *(volume.read_only for volume in self.spec.volumes)]
            served = [
                self._serve(number, *each, ours) for number, each in enumerate(zip(folders, read_only, strict=True))
            ]
            self._phase("virtiofsd", begin)
            console, channel = ours.enter_context(self._theirs_console), ours.enter_context(self._theirs_channel)
            sockets = argv.Sockets(console.fileno(), channel.fileno(), served[0], tuple(served[1:]))
            self._start_qemu(sockets, ours)
        nursery.start_soon(self._keep_console)
        nursery.start_soon(self._converse)
        for child in self._children:
            nursery.start_soon(self._watch, child)

    def _phase(self, name: str, begin: float) -> None:
        self._note_phase(name, trio.current_time() - begin)

    def _note_phase(self, name: str, seconds: float) -> None:
        self.timings[name] = seconds
        self._on_phase(name, seconds)

    def _serve(self, number: int, folder: Path, read_only: bool, ours: ExitStack) -> int:
        """Start the virtiofsd of one folder; return a connection to it, for QEMU. Its socket has no name for long."""
        listener = ours.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        connection = ours.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        directory = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            place = f"/proc/self/fd/{directory}/fs{number}"  # the whole path may be longer than a socket's can be
            with suppress(FileNotFoundError):
                os.unlink(place)
            listener.bind(place)
            listener.listen(1)
            connection.connect(place)
            os.unlink(place)
        finally:
            os.close(directory)
        daemon = self._plan.virtiofsd
        command = argv.virtiofsd(daemon.path, daemon.flavour, folder, listener.fileno(), read_only=read_only)
        log = self.directory / f"virtiofsd-{number}.log"
        self._spawn("virtiofsd", argv.with_parent(command), log, [listener.fileno()])
        return connection.fileno()

    def _start_qemu(self, sockets: argv.Sockets, ours: ExitStack) -> None:
        """As a user that may open nothing: kernel and initramfs are descriptors."""
        opened = []
        for path in (self._plan.kernel.image, self._plan.initramfs):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            ours.callback(os.close, fd)
            opened.append(fd)
        boot = argv.Boot(*(f"/proc/self/fd/{fd}" for fd in opened))
        command = argv.qemu(self._plan.qemu, self.spec, self.engine, sockets, boot)
        groups = (os.stat(kvm.DEVICE).st_gid,) if self.engine == "kvm" else ()
        low_ports = any(one.host_port < 1024 for one in self.spec.publish)
        command = argv.unprivileged(command, _FIRST_UID + os.getpid(), groups, low_ports=low_ports)
        self._spawn("qemu", command, self.directory / "qemu.log", [*sockets.all(), *opened])

    def _spawn(self, name: str, command: list[str], log: Path, pass_fds: list[int]) -> None:
        with open(self.directory / "argv", "a") as file:
            file.write(" ".join(command) + "\n")
        try:
            child = Child(name, command, log, pass_fds)
            self._children.append(child)
            self._nursery.start_soon(child.keep_log)
        except OSError as error:
            raise VmError(f"{name} could not be started: {error.strerror}") from None

    # Watching

    async def _keep_console(self) -> None:
        log = BoundedFile(self.console, limits.console_bytes_max)
        try:
            async for data in self._console_stream:
                self._has_spoken.set()
                log.write(bytes(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            log.close()

    async def _converse(self) -> None:
        try:
            await self._channel.run()
        except BaseExceptionGroup as group:
            broken, rest = group.split(MachineDied)
            if rest is not None or broken is None:
                raise
            self._die(str(_first(broken)))

    async def _watch(self, child: Child) -> None:
        await child.wait()
        if not self._is_leaving:
            await trio.sleep(limits.blame_seconds)
            self._die(self._cause())
        self.ended.set()

    def _cause(self) -> str:
        """What to say of a machine that ended uninvited."""
        failed = [child for child in self._children if child.exit_code]
        console = tail(self.console)
        if not failed:
            why = "the guest switched itself off or crashed"
        else:
            # QEMU fails too when its virtiofsd does.
            guilty = min(failed, key=lambda child: child.name == "qemu")
            code = guilty.exit_code or 0
            why = f"{guilty.name} " + (f"was killed by signal {-code}" if code < 0 else f"failed with {code}")
            why += f" ({said})" if (said := guilty.last_words()) else ""
        return f"the machine died: {why}" + (f"; its console said: {console}" if console else "")

    def _die(self, line: str) -> None:
        """Tell everybody who waits. Who owns the block ends what is left."""
        if self.died is None and not self._is_leaving:
            self.died = line
        self._channel.fail(MachineDied(line))
        self.ended.set()

    async def _hear_first_word(self, begin: float) -> None:
        """Raises BootTimeout: under KVM without any sign of life soon, or if there is no agent after a long time."""
        if self.engine == "kvm":
            await self._hear_anything()
        with trio.move_on_after(limits.boot_seconds):
            in_kernel = await self._channel.hello()
            self._has_spoken.set()
            self._note_phase("firmware", max(0.0, trio.current_time() - begin - in_kernel))
            self._note_phase("kernel", in_kernel)
            ready = trio.current_time()
            await self._channel.set_up(self.spec, argv.volume_tags(self.spec))
            self._phase("agent", ready)
            for child in self._children:
                child.find_members()
            return
        said = tail(self.console)
        raise BootTimeout(
            f"the guest was not up after {limits.boot_seconds:.0f} seconds" + (f"; console: {said}" if said else "")
        )

    async def _hear_anything(self) -> None:
        """Wait for the first byte of any kind. Raises BootTimeout if there is none, MachineDied."""

        async def hear_agent() -> None:
            with suppress(VmError):
                await self._channel.hello()
            nursery.cancel_scope.cancel()

        async def hear_console() -> None:
            await self._has_spoken.wait()
            nursery.cancel_scope.cancel()

        with trio.move_on_after(limits.sign_of_life_seconds) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear_agent)
                nursery.start_soon(hear_console)
        if patience.cancelled_caught:
            raise BootTimeout(f"under KVM the guest gave no sign of life in {limits.sign_of_life_seconds:.0f} seconds")

    # Ending

    async def _end(self, patience: float) -> None:
        """End every process; those that are about to end by themselves get so many seconds."""
        self._is_leaving = True
        with trio.CancelScope(shield=True):
            for child in reversed(self._children):  # QEMU first: a virtiofsd ends with its connection
                await child.wait_for_all(patience)
                await child.end()
                patience = limits.end_seconds
            self._channel.fail(MachineDied(self.died or "the machine is gone"))
            await self._channel.close()
            await trio.aclose_forcefully(self._console_stream)
        self.ended.set()


def _pair() -> tuple[trio.SocketStream, socket.socket]:
    """A stream for us, and the socket that QEMU inherits."""
    ours, theirs = socket.socketpair()
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours)), theirs


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


@asynccontextmanager
async def booted(
    spec: MachineSpec, directory: Path, cache: Path, on_phase: OnPhase = lambda name, seconds: None
) -> AsyncIterator[Machine]:
    """Boot a machine; nothing of it is left when the block ends, however it ends.

    `directory` (0700) gets console, logs and argv; `cache` holds kernels, initramfs and the engine's verdict.
    Call it in a thread that outlives the block: the processes are killed with it.
    """
    begin = trio.current_time()
    plan = await trio.to_thread.run_sync(_prepare, spec, directory, cache)
    planned = trio.current_time() - begin
    on_phase("plan", planned)
    notes: list[str] = []
    while True:
        machine = Machine(spec, plan, directory, on_phase)
        machine.timings["plan"] = planned
        machine.notes[:0] = notes
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            try:
                started = trio.current_time()
                machine._start(nursery)
                await machine._hear_first_word(started)
                yield machine
            except BaseException as caught:
                error = caught  # raised below: a nursery would wrap it in a group
            finally:
                await machine._end(0)
                nursery.cancel_scope.cancel()
        if not (machine.is_mute and isinstance(error, VmError) and plan.engine == "kvm" and spec.engine == "auto"):
            break
        plan = await trio.to_thread.run_sync(partial(_fall_back, spec, cache, plan, str(error)))
        notes = machine.notes
    if error is not None:
        raise error


def _fall_back(spec: MachineSpec, cache: Path, plan: _Plan, why: str) -> _Plan:
    """From KVM to emulation, for every machine until the host boots again: the probe was wrong."""
    engine.remember(cache, engine.Verdict(engine.this_boot(), why))
    note = f"{why}; the machine is emulated, which is slower"
    return _with_kernel(spec, cache, _Plan(plan.qemu, plan.virtiofsd, "tcg", note, plan.kernel, plan.initramfs))
