"""A gate: a file that processes and threads lock, many at once or one alone. A lock ends with its process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Gate:
    """Never nest two passes of one gate: the second waits for the first, in the same thread too."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def exclusive_now(self) -> Iterator[bool]:
        """Yield False at once if anybody else is inside."""
        with self._opened() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_alone = True
            except BlockingIOError:
                is_alone = False
            yield is_alone

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with self._opened() as file:
            fcntl.flock(file, how)
            yield

    @contextmanager
    def _opened(self) -> Iterator[int]:
        # Opened anew each time: a lock belongs to what open() made, so threads exclude each other too.
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield file
        finally:
            os.close(file)
