"""What a machine's command wrote: kept in order, stdout apart from stderr, and never more than two segments of it.

A record is one byte for the stream, four for the length, and the bytes. `output.1` is the segment before `output`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from vmm import limits

_HEAD: Final = struct.Struct(">BI")
_STREAMS: Final = (1, 2)

Record = tuple[int, bytes]


def _current(directory: Path) -> Path:
    return directory / "output"


def _older(directory: Path) -> Path:
    return directory / "output.1"


class LogWriter:
    """Appends; a full disk loses what was to be logged, and never holds up the command."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._size = 0
        self._open()

    def write(self, stream: int, data: bytes) -> None:
        with suppress(OSError):
            if self._size >= limits.log_segment_bytes_max:
                self._rotate()
            written = _HEAD.pack(stream, len(data)) + data
            at = self._size
            try:
                self._size += self._file.write(written)
            except OSError:
                os.ftruncate(self._file.fileno(), at)  # no half record before the next one
                raise
            if self._size < at + len(written):
                os.ftruncate(self._file.fileno(), at)
                self._size = at

    def close(self) -> None:
        self._file.close()

    def _open(self) -> None:
        descriptor = os.open(
            _current(self._directory), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        self._file = open(descriptor, "ab", buffering=0)  # noqa: SIM115, it stays open
        self._size = 0

    def _rotate(self) -> None:
        self._file.close()
        os.replace(_current(self._directory), _older(self._directory))
        self._open()


class LogReader:
    """Reads records as they come; what was rotated away before it was read is left out."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: BinaryIO | None = None

    def read(self) -> Iterator[Record]:
        """Yield what there is by now. Call it again for what came later."""
        if self._file is not None:
            yield from _records(self._file)
        while (following := self._following()) is not None:
            if self._file is not None:
                yield from _records(self._file)  # what was added between our last look and the rotation
                self._file.close()
            self._file = following
            yield from _records(self._file)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _following(self) -> BinaryIO | None:
        """Return the segment after the one being read, if there is one. One that went unseen is skipped."""
        older, current = _opened(_older(self._directory)), _opened(_current(self._directory))
        ours = self._file
        chosen = None
        if ours is None:
            chosen = older or current
        elif current is not None and not _same(current, ours):
            chosen = current if older is None or _same(older, ours) else older
        for other in (older, current):
            if other is not None and other is not chosen:
                other.close()
        return chosen


def _records(file: BinaryIO) -> Iterator[Record]:
    while True:
        at = file.tell()
        head = file.read(_HEAD.size)
        if len(head) == _HEAD.size:
            stream, length = _HEAD.unpack(head)
            data = file.read(length) if stream in _STREAMS and length <= limits.log_segment_bytes_max else b""
            if data and len(data) == length:
                yield stream, data
                continue
        file.seek(at)  # the rest of it is not written yet
        return


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _same(one: BinaryIO, other: BinaryIO) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())
