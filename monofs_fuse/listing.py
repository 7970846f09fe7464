"""A listing: an open directory, whose names are given out one by one while others change it.

They come in the order of their bytes: from the committed tree as it is at that moment, and from the edits over it. So
nothing has to be gone through before the first name, and no list is kept of those to come. Where a reader is, is the
name that it had last, whatever has become of that: so each name that stays is given out once.

A reader knows a place by its cookie, which is made from the name alone. A listing keeps the names that it gave out,
packed, to know a cookie again when its name is gone.
"""

from __future__ import annotations

import errno
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from monofs_fuse import limits
from monofs_fuse.errors import Errno
from monofs_fuse.inodes import Directory
from store.nodes import Item

BEGIN, DOT, DOT_DOT = range(3)  # cookies of what comes first
_BITS: Final = (1 << 63) - 1
_NAME_BIT: Final = 1 << 62  # no cookie of a name is one of those above


class Named(NamedTuple):
    """A name in a directory. `item` is its committed entry, not decoded; None for one that was made since."""

    name: bytes
    item: Item | None


class Source(Protocol):
    """Where the directory is."""

    def names(self, parent: Directory, after: bytes, unsaved: list[bytes]) -> Iterator[Named]: ...


def cookie(name: bytes) -> int:
    """Return what stands for a name, as long as this process lives.

    Python's hash is keyed with a secret, so nobody can make names that share one. If two ever do (among a million, 1 in
    ten million), reading is right all the same; it is seekdir that could take one for the other.
    """
    return hash(name) & _BITS | _NAME_BIT


class Listing:
    """One open directory. The caller takes names from `read` and says which it gave out."""

    __slots__ = ("_base", "_kept", "_next", "_recent", "_rest", "_source", "_trail", "_unsaved", "_unsent", "directory")

    def __init__(self, source: Source, directory: Directory, kept: Kept) -> None:
        self.directory = directory
        self._source = source
        self._kept = kept
        self._trail = Trail()
        self._recent: list[bytes] = []  # given out in the last reply
        self._unsaved: list[bytes] | None = None  # names made since the last commit, when this listing began
        self._next = BEGIN  # the cookie of the last name given out
        self._base = directory.base
        self._rest: Iterator[Named] = iter(())  # the names behind that one
        self._unsent: Named | None = None  # taken from these already

    def read(self, start: int) -> Iterator[Named]:
        """Yield the names behind the cookie `start`; some may be gone. If the caller stops, the last one comes again.

        Raises EINVAL for a cookie of nothing that is or was here.
        """
        if start <= DOT_DOT:
            self._rewind()
        elif start != self._next or self._base != self.directory.base:
            self._go_on_behind(self._name_of(start))
        self._trail.add(self._recent)
        self._recent = []
        while (found := self._unsent or next(self._rest, None)) is not None:
            self._unsent = found
            yield found
            self._unsent = None

    def sent(self, name: bytes, place: int) -> None:
        """The name that `read` yielded last was given out with this cookie."""
        self._recent.append(name)
        self._next = place

    def close(self) -> None:
        self._trail.add(self._recent)
        self._kept.put(self.directory.ino, self._trail)

    def _rewind(self) -> None:
        if self._recent or self._trail:
            self.close()
            self._trail, self._recent = Trail(), []
        self._unsaved = None
        self._go_on_behind(b"")

    def _go_on_behind(self, name: bytes) -> None:
        if self._unsaved is None:
            self._unsaved = self.directory.unsaved()
        self._base = self.directory.base
        self._rest = self._source.names(self.directory, name, self._unsaved)
        self._unsent = None

    def _name_of(self, wanted: int) -> bytes:
        for name in reversed(self._recent):
            if cookie(name) == wanted:
                return name
        for trail in (self._trail, *self._kept.of(self.directory.ino)):
            if (found := trail.find(wanted)) is not None:
                return found
        # A reader that has been away for long, or was never here. This looks at every name.
        for name, _ in self._source.names(self.directory, b"", self.directory.unsaved()):
            if cookie(name) == wanted:
                return name
        raise Errno(errno.EINVAL)


class Trail:
    """The names that one listing has given out, in order."""

    __slots__ = ("_last", "_packed", "bytes")

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._last: list[bytes] = []  # as they are: most who seek do not go far
        self.bytes = 0  # of those that are packed

    def __bool__(self) -> bool:
        return bool(self._last)

    def add(self, names: list[bytes]) -> None:
        """Add names in order; those that come again, because a reader went back, are known already."""
        if self._last and names and names[0] <= self._last[-1]:
            names = names[bisect_right(names, self._last[-1]) :]
        self._last += names
        while len(self._last) >= 2 * limits.trail_names:
            page = zlib.compress(b"/".join(self._last[: limits.trail_names]), 1)
            del self._last[: limits.trail_names]
            self._packed.append(page)
            self.bytes += len(page)

    def find(self, wanted: int) -> bytes | None:
        """Return the name that a cookie stands for, if it is one of these."""
        for names in self._pages():
            for name in reversed(names):
                if cookie(name) == wanted:
                    return name
        return None

    def _pages(self) -> Iterator[list[bytes]]:
        """The newest first."""
        yield self._last
        for page in reversed(self._packed):
            yield zlib.decompress(page).split(b"/")


class Kept:
    """Trails of listings that were closed or rewound, for readers who open a directory anew and go on where they were.

    NFS servers do so for every few names.
    """

    def __init__(self) -> None:
        self._trails: deque[tuple[int, Trail]] = deque()
        self._bytes = 0

    def put(self, directory: int, trail: Trail) -> None:
        if not trail:
            return
        self._trails.append((directory, trail))
        self._bytes += trail.bytes
        while len(self._trails) > limits.trails_kept_max or self._bytes > limits.trail_bytes_kept_max:
            self._bytes -= self._trails.popleft()[1].bytes

    def of(self, directory: int) -> Iterable[Trail]:
        """The newest first."""
        return (trail for ino, trail in reversed(self._trails) if ino == directory)
