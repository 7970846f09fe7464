"""The conversation with a guest's agent: commands, their streams and windows. The guest is not believed anything."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from typing import Final

import trio

from . import frames, limits
from .errors import CommandFailed, MachineDied, VmError
from .frames import Frame, Kind, broken
from .spec import Command, MachineSpec, check_window

_CHUNK: Final = 64 * limits.KIB
_STREAMS: Final = {Kind.STDOUT: 1, Kind.STDERR: 2}
_FOREVER: Final = (1 << 31) - 1


class Process:
    """A command that runs in a machine. Made by `Channel.start`."""

    def __init__(self, channel: Channel, number: int, *, is_terminal: bool) -> None:
        self._channel, self.number, self._is_terminal = channel, number, is_terminal
        self._received = {1: bytearray(), 2: bytearray()}
        self._windows = {1: limits.window_bytes, 2: limits.window_bytes}
        self._open = {1, 2}
        self._stdin_room = limits.stdin_window_bytes
        self._stdin_is_open = True
        self._is_started = False
        self._is_abandoned = False
        self._exit_code: int | None = None
        self._failure: VmError | None = None
        self._changed = trio.Event()

    # What the owner does

    async def write_stdin(self, data: bytes) -> None:
        """Send to its stdin; waits while it does not read. Raises BrokenPipeError once it has closed it, or is over."""
        view = memoryview(data)
        while view:
            while self._stdin_room == 0 and self._stdin_is_open and not self._is_over():
                await self._changed.wait()
            self._check()
            if not self._stdin_is_open or self._exit_code is not None:
                raise BrokenPipeError("the command does not read its input any more")
            part = view[: min(self._stdin_room, _CHUNK)]
            self._stdin_room -= len(part)
            await self._channel.send(frames.encode(self.number, Kind.STDIN, bytes(part)))
            view = view[len(part) :]

    async def close_stdin(self) -> None:
        """End its input; a terminal gets Ctrl-D. Once more, or late, does nothing."""
        if self._stdin_is_open and not self._is_over():
            self._stdin_is_open = False
            self._notify()
            await self._channel.send(frames.encode(self.number, Kind.STDIN))

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (1 or 2, bytes) until both have ended. One reader; what is not read is held back in the guest."""
        while True:
            found = [stream for stream in (1, 2) if self._received[stream]]
            for stream in found:
                data = bytes(self._received[stream])
                self._received[stream].clear()
                if self._exit_code is None and self._failure is None and stream in self._open:
                    self._windows[stream] += len(data)
                    await self._channel.send(frames.grant(self.number, stream, len(data)))
                yield stream, data
            if found:
                continue
            if not self._open:
                return
            self._check()
            await self._changed.wait()

    async def signal(self, number: int) -> None:
        """To the command's process group. Does nothing once it is over."""
        if not self._is_over():
            await self._channel.send(frames.signal(self.number, number))

    async def resize(self, rows: int, columns: int) -> None:
        """Its terminal has this size now."""
        check_window(rows, columns)
        if self._is_terminal and not self._is_over():
            await self._channel.send(frames.resize(self.number, rows, columns))

    async def wait(self) -> int:
        """Return the exit code, 128+n for a signal. All output has been received before, though maybe not yet read.

        A command with more output than the window ends only if somebody reads `output`. Raises MachineDied.
        """
        while self._exit_code is None:
            self._check()
            await self._changed.wait()
        return self._exit_code

    async def abandon(self) -> None:
        """Kill it, and never mind its output. The machine goes on."""
        self._is_abandoned = True
        if self._is_started and not self._is_over():
            await self._channel.send(self._last_wishes())

    def _last_wishes(self) -> bytes:
        self._windows = dict.fromkeys(self._windows, 1 << 62)
        for waste in self._received.values():
            waste.clear()
        grants = b"".join(frames.grant(self.number, stream, _FOREVER) for stream in (1, 2))
        return frames.signal(self.number, 9) + grants

    def _is_over(self) -> bool:
        return self._exit_code is not None or self._failure is not None

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # What the guest says

    async def started(self) -> None:
        """Wait for it. Raises CommandFailed, MachineDied."""
        while not self._is_started:
            self._check()
            await self._changed.wait()

    def fail(self, error: VmError) -> None:
        """It will not be heard of any more."""
        if self._exit_code is None and self._failure is None:
            self._failure = error
        self._notify()

    def take(self, frame: Frame) -> bytes | None:
        """Take in what the guest says of this command; return what to answer. Raises MachineDied if it cannot be so."""
        answer = None
        if frame.kind is Kind.STARTED and not self._is_started:
            frames.unpack(frame, "")
            self._is_started = True
            answer = self._last_wishes() if self._is_abandoned else None
        elif frame.kind is Kind.REFUSED and not self._is_started:
            code, line = frames.unpack_line(frame)
            self.fail(CommandFailed(code if code in (126, 127) else 126, line or "the command cannot be started"))
        elif not self._is_started:
            raise broken(f"{frame.kind.name} of a command that has not started")
        elif frame.kind in _STREAMS:
            self._take_output(_STREAMS[frame.kind], frame.payload)
        elif frame.kind is Kind.TAKEN:
            (count,) = frames.unpack(frame, "I")
            if not 0 < count <= limits.stdin_window_bytes - self._stdin_room:
                raise broken(f"TAKEN of {count} bytes that were not sent")
            self._stdin_room += count
        elif frame.kind is Kind.STDIN_CLOSED:
            frames.unpack(frame, "")
            self._stdin_is_open = False
        elif frame.kind is Kind.EXIT and not self._open:
            (code,) = frames.unpack(frame, "I")
            if code > 255:
                raise broken(f"EXIT with {code}")
            self._exit_code = code
        else:
            raise broken(f"{frame.kind.name} at the wrong time")
        self._notify()
        return answer

    def _take_output(self, stream: int, data: bytes) -> None:
        if stream not in self._open or len(data) > self._windows[stream]:
            raise broken(f"{len(data)} bytes more than the window of stream {stream}")
        if not data:
            self._open.discard(stream)
        elif not self._is_abandoned:
            self._windows[stream] -= len(data)
            self._received[stream] += data


class Channel:
    """One guest's agent. `run` is the one that reads; it waits for nothing else, so the guest never waits long."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._processes: dict[int, Process] = {}
        self._last = 0
        self._failure: VmError | None = None
        self._changed = trio.Event()
        self._heard: dict[Kind, Frame] = {}
        self._asked: set[Kind] = set()

    async def run(self) -> None:
        """Take in what the guest says until it closes. Raises MachineDied when it breaks the protocol."""
        decoder = frames.Decoder()
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    data = await self._stream.receive_some(limits.frame_bytes_max)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                if not data:
                    return
                for frame in decoder.feed(bytes(data)):
                    answer = self._take(frame)
                    if answer:
                        nursery.start_soon(self._send_if_possible, answer)

    def _take(self, frame: Frame) -> bytes | None:
        if frame.command == 0:
            self._take_for_machine(frame)
            return None
        process = self._processes.get(frame.command)
        if process is None:
            raise broken(f"{frame.kind.name} of a command that does not run")
        answer = process.take(frame)
        if frame.kind in (Kind.EXIT, Kind.REFUSED):
            del self._processes[frame.command]
        return answer

    def _take_for_machine(self, frame: Frame) -> None:
        """Each of these comes once, and only when it was asked for."""
        asked = {Kind.HELLO: None, Kind.READY: Kind.SETUP, Kind.FAILED: Kind.SETUP, Kind.DOWN: Kind.POWER_OFF}[
            frame.kind
        ]
        answered = frame.kind in self._heard or (frame.kind is Kind.FAILED and Kind.READY in self._heard)
        if answered or (asked is not None and asked not in self._asked):
            raise broken(f"{frame.kind.name} at the wrong time")
        if len(frame.payload) > limits.message_bytes_max:
            raise broken(f"{frame.kind.name} of {len(frame.payload)} bytes")
        self._heard[frame.kind] = frame
        if frame.kind is Kind.DOWN:
            self._fail_processes(MachineDied("the machine was powered off while the command ran"))
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def send(self, data: bytes) -> None:
        """Raises MachineDied once the machine is gone."""
        async with self._sending:
            if self._failure is not None:
                raise self._failure
            try:
                # A frame that is sent in part breaks the stream, so that a cancelled caller must wait for its rest.
                with trio.CancelScope(shield=True):
                    await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise self._failure or MachineDied("the machine is gone") from None

    async def _send_if_possible(self, data: bytes) -> None:
        try:
            await self.send(data)
        except VmError:
            return

    def fail(self, error: VmError) -> None:
        """The machine is gone: whoever waits for it gets this error. The first one counts."""
        if self._failure is None:
            self._failure = error
        self._fail_processes(self._failure)
        self._notify()

    async def close(self) -> None:
        """Let go of the stream: a send that waits for ever ends."""
        await trio.aclose_forcefully(self._stream)

    def _fail_processes(self, error: VmError) -> None:
        for process in self._processes.values():
            process.fail(error)

    async def _hear(self, *kinds: Kind) -> Frame:
        while True:
            for kind in kinds:
                if kind in self._heard:
                    return self._heard[kind]
            if self._failure is not None:
                raise self._failure
            await self._changed.wait()

    async def hello(self) -> float:
        """Wait for the agent's first word; return the seconds since its kernel started."""
        version, up_ns = frames.unpack(await self._hear(Kind.HELLO), "IQ")
        if version != frames.VERSION:
            raise broken(f"version {version}")
        return up_ns / 1e9

    async def set_up(self, spec: MachineSpec, tags: list[str]) -> None:
        """Have the root and the volumes mounted. Raises MachineDied if the guest cannot."""
        self._asked.add(Kind.SETUP)
        volumes = [(tag, one.guest, one.read_only) for tag, one in zip(tags, spec.volumes, strict=True)]
        await self.send(
            frames.setup(
                read_only=spec.root_read_only,
                net=spec.net != "none",
                now_ns=time.time_ns(),
                hostname=spec.hostname,
                volumes=volumes,
            )
        )
        frame = await self._hear(Kind.READY, Kind.FAILED)
        if frame.kind is Kind.FAILED:
            raise MachineDied(f"the machine could not start: {frames.printable(frame.payload)}")

    async def start(self, command: Command) -> Process:
        """Raises CommandFailed when it cannot be started, MachineDied."""
        if len(self._processes) >= limits.commands_max:  # which a guest that answers would have refused
            raise CommandFailed(126, "too many commands are running in this machine")
        self._last += 1
        process = Process(self, self._last, is_terminal=command.terminal)
        self._processes[self._last] = process
        is_sent = False
        try:
            await self.send(frames.start(process.number, command))
            is_sent = True
            await process.started()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await process.abandon()
            raise
        finally:
            if not is_sent:
                del self._processes[process.number]
        return process

    async def power_off(self, grace_seconds: float) -> tuple[bool, str]:
        """End all that runs and have everything written back; return whether that is so, and if not, why."""
        self._asked.add(Kind.POWER_OFF)
        await self.send(frames.power_off(min(math.ceil(grace_seconds * 1000), _FOREVER)))
        clean, line = frames.unpack_line(await self._hear(Kind.DOWN))
        return clean == 1, line

    async def halt(self) -> None:
        """Switch the guest off; only after `power_off`."""
        await self.send(frames.encode(0, Kind.HALT))
