"""What a guest or a program said, kept in files of bounded size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from . import limits
from .frames import printable

_OLD: Final = ".1"


class BoundedFile:
    """The latest bytes of a stream: between `most` and twice as many, in `path` and, before those, `path`.1."""

    def __init__(self, path: Path, most: int) -> None:
        self.path, self._most = path, most
        self._size = 0
        self._fd = self._open()

    def _open(self) -> int:
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self.path, flags, 0o600)

    def write(self, data: bytes) -> None:
        """Append. A full disk loses what was said, and nothing else."""
        while data:
            if self._size >= self._most:
                self._rotate()
            part, data = data[: self._most - self._size], data[self._most - self._size :]
            self._size += len(part)
            try:
                os.write(self._fd, part)
            except OSError:
                return

    def _rotate(self) -> None:
        os.close(self._fd)
        os.replace(self.path, f"{self.path}{_OLD}")
        self._fd, self._size = self._open(), 0

    def close(self) -> None:
        os.close(self._fd)


def tail(path: Path, lines: int = limits.console_tail_lines) -> str:
    """The last lines that say anything, on one line; "" if there are none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - lines * limits.console_line_bytes_max))
            data = file.read(lines * limits.console_line_bytes_max)
    except OSError:
        return ""
    said = [printable(line) for line in data.splitlines()]
    return " / ".join([line for line in said if line][-lines:])
