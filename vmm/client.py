"""A client of a supervisor: asks for something, or lends a command its own stdin, stdout, stderr, terminal and signals.

One loop over poll(2), so that a reader who is slow holds up only what he reads, and no signal waits.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vmm import limits, sockets, terminal, wire
from vmm.errors import CommandFailed, SupervisorGone, VmError

_FORWARDED: Final = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
)  # fmt: skip
_PATIENCE: Final = 3  # as many Ctrl-C end the machine


@dataclass
class Ending:
    """How a conversation ended. `ended` is the machine's row once it is over; `exit_code` that of a command in it."""

    ended: wire.Doc | None = None
    exit_code: int | None = None
    begun: bool = False
    interrupted: int | None = None  # the signal that came before the command had begun
    first_byte: float | None = None  # time.monotonic()
    output_failed: str | None = None
    notes: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


def connect(directory: Path) -> socket.socket:
    """Connect to the supervisor of the machine whose directory this is. Raises SupervisorGone."""
    try:
        return sockets.connect(directory / "socket")
    except OSError as error:
        raise SupervisorGone(f"the supervisor of machine {directory.name} does not answer: {error.strerror}") from None


def ask(connection: socket.socket, **request: Any) -> Ending:
    """Ask, and wait for the end of it. Output that comes goes to stdout and stderr. Raises VmError."""
    connection.sendall(wire.doc(**request))
    return Attached(connection, stdin=None, signals=False).run()


def hear(connection: socket.socket) -> Iterator[wire.Doc]:
    """Yield what the supervisor says, one after another; for a client that lends nothing. Raises VmError."""
    decoder = wire.Decoder()
    while data := connection.recv(limits.wire_data_bytes_max):
        for frame in decoder.feed(data):
            if frame.kind == wire.DOC:
                yield _checked(frame.doc())
    raise SupervisorGone("the machine's supervisor is gone")


class Attached:
    """The streams of this process, lent to a command. `stdin` is None where it shall read nothing."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        stdin: int | None,
        tty: bool = False,
        signals: bool = True,
        outputs: tuple[int, int] = (1, 2),
    ) -> None:
        self._connection = connection
        self._signals = signals
        self._stdin = stdin
        self._tty = tty
        self._decoder = wire.Decoder()
        self._credit = limits.wire_stdin_bytes_max
        self._sending = bytearray()
        self._outputs = {wire.OUT: _Output(outputs[0]), wire.ERR: _Output(outputs[1])}
        self._interrupts = 0
        self._over = False
        self._ending = Ending()

    def run(self) -> Ending:
        """Go on until the supervisor says that it is over. Raises VmError."""
        if self._stdin is None:
            self._sending += wire.frame(wire.IN, b"")
        self._connection.setblocking(False)
        with (
            signals(_FORWARDED if self._signals else ()) as received,
            terminal.raw(self._stdin if self._tty else None),
        ):
            while not self._over or any(output.waiting for output in self._outputs.values()):
                self._step(received)
        return self._ending

    def _step(self, received: int) -> None:
        poll = select.poll()
        poll.register(received, select.POLLIN)
        reading = select.POLLIN if not self._over and self._room() else 0
        if reading or self._sending:
            poll.register(self._connection, reading | (select.POLLOUT if self._sending else 0))
        if self._stdin is not None and self._credit and len(self._sending) < limits.wire_stdin_bytes_max:
            poll.register(self._stdin, select.POLLIN)
        for output in self._outputs.values():
            if output.waiting:
                poll.register(output.descriptor, select.POLLOUT)
        ready = dict(poll.poll())
        if received in ready:
            self._take_signals(received)
        if ready.get(self._connection.fileno(), 0) & select.POLLOUT:
            self._send()
        for kind, output in self._outputs.items():
            if output.descriptor in ready and output.waiting:
                self._write(kind, output)
        if self._stdin in ready:
            self._read_stdin()
        if ready.get(self._connection.fileno(), 0) & (select.POLLIN | select.POLLHUP | select.POLLERR) and reading:
            self._receive()

    def _room(self) -> bool:
        return all(len(output.waiting) < limits.wire_stdin_bytes_max for output in self._outputs.values())

    # From the supervisor

    def _receive(self) -> None:
        try:
            data = self._connection.recv(limits.wire_data_bytes_max)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            raise SupervisorGone("the machine's supervisor is gone")
        for frame in self._decoder.feed(data):
            if frame.kind == wire.DOC:
                self._hear(_checked(frame.doc()))
            elif frame.kind in self._outputs:
                if self._ending.first_byte is None:
                    self._ending.first_byte = time.monotonic()
                self._outputs[frame.kind].put(frame.data)

    def _hear(self, doc: wire.Doc) -> None:
        self._credit += int(doc.get("credit", 0))
        self._ending.begun = self._ending.begun or "begun" in doc
        if doc.get("stdin") == "closed":
            self._stdin = None
        if "exit" in doc:
            self._ending.exit_code = int(doc["exit"])
            self._over = True
        if "ended" in doc:
            self._ending.ended = doc["ended"]
            self._ending.notes, self._ending.hints = doc["notes"], doc["hints"]
            self._over = True

    # To the supervisor

    def _tell(self, **values: Any) -> None:
        self._sending += wire.doc(**values)

    def _send(self) -> None:
        try:
            del self._sending[: self._connection.send(self._sending)]
        except BlockingIOError:
            return
        except ConnectionError:
            self._sending.clear()  # what it said last is still to be read

    def _read_stdin(self) -> None:
        assert self._stdin is not None
        try:
            data = os.read(self._stdin, min(self._credit, limits.wire_data_bytes_max))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # a terminal that was hung up
            data = b""
        self._credit -= len(data)
        self._sending += wire.frame(wire.IN, data)
        if not data:
            self._stdin = None

    def _take_signals(self, received: int) -> None:
        for number in os.read(received, 64):
            if self._over:  # there is nobody left to get it, but a reader of ours who does not read
                for output in self._outputs.values():
                    output.close()
            if number == signal.SIGWINCH:
                size = terminal.size()
                if self._tty and size is not None:
                    self._tell(resize=size)
                continue
            if number == signal.SIGINT:
                self._interrupts += 1
            if self._interrupts == _PATIENCE - 1 and number == signal.SIGINT:
                _say("the command goes on; Ctrl-C once more ends its machine at once")
            if not self._ending.begun and self._ending.interrupted is None:
                self._ending.interrupted = number
            self._tell(kill=True) if self._interrupts >= _PATIENCE else self._tell(signal=number)

    def _write(self, kind: int, output: _Output) -> None:
        try:
            output.write()
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self._ending.output_failed = f"cannot write what the command says: {error.strerror}"
            output.close()
            if kind == wire.OUT:
                self._tell(signal=signal.SIGPIPE)  # what a program gets whose reader has gone


class _Output:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.waiting = bytearray()
        self._closed = False
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        except OSError:
            regular, self._closed = True, True
        # Of a pipe that poll says can be written, no more than this goes in for sure without waiting.
        self._step = limits.wire_data_bytes_max if regular else select.PIPE_BUF

    def put(self, data: bytes) -> None:
        if not self._closed:
            self.waiting += data

    def write(self) -> None:
        with suppress(BlockingIOError):
            del self.waiting[: os.write(self.descriptor, self.waiting[: self._step])]

    def close(self) -> None:
        self._closed = True
        self.waiting.clear()


def _checked(doc: wire.Doc) -> wire.Doc:
    if "error" in doc:
        raise failure(doc.get("code", 0), doc["error"])
    return doc


def failure(code: int, text: str) -> VmError:
    """Return the error that a supervisor told of."""
    return CommandFailed(code, text) if code in (126, 127) else VmError(text)


def _say(text: str) -> None:
    with suppress(OSError):
        os.write(2, f"monofs: {text}\r\n".encode())


@contextmanager
def signals(numbers: tuple[signal.Signals, ...]) -> Iterator[int]:
    """Yield a descriptor that says which of these signals came, instead of what they would do otherwise."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False) if numbers else -1
    try:
        yield reader
    finally:
        if numbers:
            signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
