"""What long work tells whoever watches it."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol


class Skip(NamedTuple):
    """Something that was left out, or is not whole; `path` is relative to the tree's root."""

    path: bytes
    reason: str


class Progress(Protocol):
    """Called from the working thread, often: do little. Paths are relative to the tree's root."""

    def totals(self, files: int, size: int) -> None:
        """There will be about this many files and bytes; said once, before the first file."""
        ...

    def file(self, path: bytes, size: int) -> None:
        """A file of `size` bytes is next; in an export also a directory, whose entries are counted in advance."""
        ...

    def advance(self, size: int) -> None:
        """So many bytes more are done, those in holes included."""
        ...


class _Silent:
    def totals(self, files: int, size: int) -> None:
        pass

    def file(self, path: bytes, size: int) -> None:
        pass

    def advance(self, size: int) -> None:
        pass


SILENT: Final[Progress] = _Silent()
