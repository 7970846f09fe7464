"""Following what a project's machines print and how they are, over the sockets of all of them at once.

A loop over selectors and no trio: it may have to start a supervisor anew, and that forks.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from monofs_fuse import tenancy
from monofs_fuse.project import supervisor
from vmm import client, wire
from vmm.errors import SupervisorGone, VmError, WrongState
from vmm.logs import LogReader
from vmm.project import limits
from vmm.project.folder import Folder
from vmm.state import Row, State

Report = dict[str, dict[str, Any]]

_COLOURS = (36, 33, 32, 35, 34, 31)


def reports(folder: Folder) -> Iterator[Report]:
    """Yield how the machines are, now and whenever that changes; the last one is when nothing is left to look after.

    If the supervisor is killed another one takes its place. Raises VmError.
    """
    for _ in range(limits.tries_max):
        for doc in supervisor.watch(folder):
            _check_lost(doc)
            yield doc["machines"]
            if doc.get("over"):
                return
    raise SupervisorGone(f"the project's supervisor ends again and again; see {folder.logs}")


def _check_lost(doc: wire.Doc) -> None:
    if doc.get("lost"):
        raise WrongState(".mc was taken away while machines ran; they were ended, and what they had not saved is lost")


class Printer:
    """Writes lines with the machine's name before them; with `plain`, bytes as they are, stderr apart."""

    def __init__(self, names: list[str], *, plain: bool = False) -> None:
        self._names, self._plain = names, plain
        self._width = max(map(len, names), default=0)
        self._coloured = not plain and sys.stdout.isatty()
        self._partial: dict[tuple[str, int], bytearray] = {}

    def write(self, name: str, stream: int, data: bytes) -> None:
        if self._plain:
            _put(sys.stdout.buffer if stream == wire.OUT else sys.stderr.buffer, data)
            return
        rest = self._partial.setdefault((name, stream), bytearray())
        rest += data
        *lines, last = bytes(rest).split(b"\n")
        rest[:] = last
        if len(rest) > limits.line_bytes_max:
            lines.append(bytes(rest))
            rest.clear()
        if lines:
            _put(sys.stdout.buffer, b"".join(self._mark(name) + line + b"\n" for line in lines))

    def end(self, name: str) -> None:
        """Write what a machine has begun and not finished."""
        for (other, _), rest in self._partial.items():
            if other == name and rest:
                _put(sys.stdout.buffer, self._mark(name) + bytes(rest) + b"\n")
                rest.clear()

    def _mark(self, name: str) -> bytes:
        mark = f"{name:<{self._width}} | "
        if self._coloured:
            mark = f"\x1b[{_COLOURS[self._names.index(name) % len(_COLOURS)]}m{mark}\x1b[0m"
        return mark.encode()


def _put(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()


class _Source:
    """One run of a machine that is being followed. `tail` keeps the last lines until all there was has come."""

    def __init__(self, name: str, connection: socket.socket, tail: int | None) -> None:
        self.name, self.connection = name, connection
        self.decoder = wire.Decoder()
        self.tail = None if tail is None else Tail(tail)


class Tail:
    """The last lines of what was written."""

    def __init__(self, lines_max: int) -> None:
        self._lines: deque[tuple[int, bytes]] = deque(maxlen=lines_max + 1)  # the last one may not be whole

        self._lines_max = lines_max

    def add(self, stream: int, data: bytes) -> None:
        for line in data.splitlines(keepends=True):
            if self._lines and self._lines[-1][0] == stream and not self._lines[-1][1].endswith(b"\n"):
                self._lines[-1] = (stream, (self._lines[-1][1] + line)[-limits.line_bytes_max :])
            else:
                self._lines.append((stream, line))

    def lines(self) -> list[tuple[int, bytes]]:
        return list(self._lines)[-self._lines_max :] if self._lines_max else []


class Follower:
    """Shows the logs of machines, of every run that begins, and tells what happens.

    `tails` says how many lines of the run that is under way at the beginning are shown, None is all of them. Used in a
    `with` block: SIGINT is an event there.
    """

    def __init__(
        self,
        folder: Folder,
        names: list[str],
        tails: Mapping[str, int | None],
        *,
        printer: Printer | None = None,
        since: Report | None = None,
    ) -> None:
        """Runs that have ended in the report `since` are not shown."""
        self.last: Report = {}
        self._folder, self._names = folder, names
        self._tails = dict(tails)
        self._printer = printer or Printer(names)
        self._selector = selectors.DefaultSelector()
        # Machine -> the run that was shown last.
        self._seen: dict[str, str] = {name: one["vm"] for name, one in (since or {}).items() if one["phase"] == "down"}
        self._watch: socket.socket | None = None
        self._watch_decoder = wire.Decoder()
        self._is_over = False
        self._tries = 0

    def __enter__(self) -> Self:
        self._signals = client.signals((signal.SIGINT, signal.SIGTERM))
        self._wakeup = self._signals.__enter__()
        self._selector.register(self._wakeup, selectors.EVENT_READ, "signal")
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.__exit__(None, None, None)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    def mine(self) -> list[dict[str, Any]]:
        return [one for name, one in self.last.items() if name in self._names]

    def look(self) -> None:
        supervisor.look(self._folder)

    def events(self) -> Iterator[str]:
        """Yield "interrupt" and "report" as they come, until the project's supervisor has nothing left to do."""
        while not self._is_over:
            if self._watch is None:
                self._begin_watch()
            if self._is_over:
                yield "report"
                return
            for key, _ in self._selector.select():
                if key.data == "signal":
                    os.read(self._wakeup, 64)
                    yield "interrupt"
                elif key.data == "watch":
                    if self._hear():
                        yield "report"
                else:
                    self._take(key.data)

    # The supervisor

    def _begin_watch(self) -> None:
        self._tries += 1
        if self._tries > limits.tries_max:
            raise SupervisorGone(f"the project's supervisor ends again and again; see {self._folder.logs}")
        self._watch = supervisor.watching(self._folder)
        if self._watch is None:
            self._report({"machines": supervisor.report(self._folder), "over": True})
            return
        self._watch_decoder = wire.Decoder()
        self._selector.register(self._watch, selectors.EVENT_READ, "watch")

    def _hear(self) -> bool:
        assert self._watch is not None
        data = b""
        with suppress(ConnectionError):
            data = self._watch.recv(limits.report_bytes_max)
        if not data:  # it was killed
            self._selector.unregister(self._watch)
            self._watch.close()
            self._watch = None
            return False
        docs = [frame.doc() for frame in self._watch_decoder.feed(data)]
        for doc in docs:
            self._tries = 0
            self._report(doc)
        return bool(docs)

    def _report(self, doc: wire.Doc) -> None:
        _check_lost(doc)
        if "error" in doc:
            raise VmError(doc["error"])
        self.last = doc["machines"]
        self._is_over = self._is_over or bool(doc.get("over"))
        self._find_runs()

    # The machines

    def _find_runs(self) -> None:
        for name in self._names:
            one = self.last.get(name)
            if one is None or one["vm"] is None or self._seen.get(name) == one["vm"]:
                continue
            first = name not in self._seen
            directory = tenancy.machines_directory(self._folder.store) / one["vm"]
            tail = self._tails.get(name) if first else None
            if one["phase"] == "down":
                if one["is_current"]:  # it was quicker than we are
                    self._seen[name] = one["vm"]
                    self._show(name, directory, tail)
                continue
            try:
                connection = client.connect(directory)
            except (SupervisorGone, OSError):
                continue  # it is not there yet, or not any more, which the next report tells
            self._seen[name] = one["vm"]
            connection.sendall(wire.doc(op="follow"))
            self._selector.register(connection, selectors.EVENT_READ, _Source(name, connection, tail))

    def _take(self, source: _Source) -> None:
        data = b""
        with suppress(ConnectionError):
            data = source.connection.recv(limits.report_bytes_max)
        if not data:
            self._finish(source)
            return
        for frame in source.decoder.feed(data):
            if frame.kind in (wire.OUT, wire.ERR):
                if source.tail is not None:
                    source.tail.add(frame.kind, frame.data)
                else:
                    self._printer.write(source.name, frame.kind, frame.data)
            elif frame.kind == wire.DOC and frame.doc().get("caught_up"):
                self._print_tail(source)

    def _print_tail(self, source: _Source) -> None:
        tail, source.tail = source.tail, None
        for stream, line in tail.lines() if tail is not None else []:
            self._printer.write(source.name, stream, line)

    def _finish(self, source: _Source) -> None:
        self._print_tail(source)
        self._printer.end(source.name)
        self._selector.unregister(source.connection)
        source.connection.close()

    def drain(self) -> None:
        """Show the rest of what machines said that have ended."""
        while sources := [key.data for key in self._selector.get_map().values() if isinstance(key.data, _Source)]:
            ready = [key.data for key, _ in self._selector.select(limits.answer_seconds)]
            for source in ready:
                if isinstance(source, _Source):
                    self._take(source)
            if not ready or "signal" in ready:
                for source in sources:
                    self._finish(source)
                return

    def _show(self, name: str, directory: Path, tail: int | None) -> None:
        found = Tail(tail) if tail is not None else None
        for stream, data in records(directory):
            if found is None:
                self._printer.write(name, stream, data)
            else:
                found.add(stream, data)
        for stream, line in found.lines() if found is not None else []:
            self._printer.write(name, stream, line)
        self._printer.end(name)


# What is written down


def runs(folder: Folder, name: str) -> list[Row]:
    """Return the runs of a machine that are still in the list, the oldest first."""
    with State(tenancy.machines_directory(folder.store), create=False) as listed:
        return [row for row in reversed(listed.all()) if row.name == name]


def records(directory: Path) -> Iterator[tuple[int, bytes]]:
    reader = LogReader(directory)
    try:
        yield from reader.read()
    finally:
        reader.close()


def last_lines(folder: Folder, name: str) -> list[str]:
    """Return the last lines of the last run of a machine, as text that does no harm."""
    found = runs(folder, name)
    if not found:
        return []
    tail = Tail(limits.tail_lines)
    for stream, data in records(tenancy.machines_directory(folder.store) / found[-1].id):
        tail.add(stream, data)
    texts = [line.decode(errors="replace").rstrip("\n") for _, line in tail.lines()]
    return ["".join(letter if letter.isprintable() else "?" for letter in text) for text in texts]
