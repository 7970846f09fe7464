"""What differs between two directories, found by reading only the nodes that one of them lacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from store import apart, directory
from store import entry as entries
from store.batch import Nodes
from store.cid import Cid
from store.entry import Entry
from store.nodes import DIRECTORY, Item


class Difference(NamedTuple):
    """`status` is A (new), D (gone), M (content or metadata differ) or T (of another kind)."""

    status: str
    path: bytes
    old: Entry | None
    new: Entry | None


Pair = tuple[bytes, Entry | None, Entry | None]


def compare(
    source: Nodes, old: Entry | None, new: Entry | None, *, inside: str = "AD", known: Entry | None = None
) -> Iterator[Difference]:
    """Yield what differs, a directory before what it holds, the names in order. Any depth will do.

    A directory is M if its own metadata differ. Which paths are hard links of each other is not compared.
    Of directories that only one side has nothing below is told (or read) unless `inside` has their letter, and
    neither of those of `new` that the tree `known` has too, in the same place.
    """
    if status := _status(old, new):
        yield Difference(status, b"", old, new)
    if _content(old) == _content(new):
        return
    prefix = b""  # of all paths in the directory we are in; one for each directory above would be much memory
    stack = [(0, pairs(source, _content(old), _content(new)), known)]
    while stack:
        longer, rest, known = stack[-1]
        for name, before, after in rest:
            path = prefix + name
            if status := _status(before, after):
                yield Difference(status, path, before, after)
            gone, come = _content(before), _content(after)
            gone = gone if (after is not None and after.is_dir) or "D" in inside else None
            come = come if (before is not None and before.is_dir) or "A" in inside else None
            inner = directory.lookup(source, known, name) if come is not None and known and known.is_dir else None
            if gone != come and (come is None or come != _content(inner)):
                stack.append((len(name) + 1, pairs(source, gone, come), inner))
                prefix = path + b"/"
                break
        else:
            stack.pop()
            prefix = prefix[: len(prefix) - longer]


def own(entry: Entry) -> Entry:
    """Return the entry without what says something about the files below it."""
    return entry._replace(data=None, total=(0, 0, 0)) if entry.is_dir else entry


def pairs(source: Nodes, old: Cid | None, new: Cid | None) -> Iterator[Pair]:
    """Yield (name, old entry, new entry) in order, of all names that two directories do not have alike."""
    for key, before, after, old_leaf, new_leaf in apart.items(source, DIRECTORY, old, new):
        yield key, _entry(before, old_leaf), _entry(after, new_leaf)


def _entry(item: Item | None, leaf: Cid | None) -> Entry | None:
    return None if item is None or leaf is None else entries.decode(item[1], leaf)


def _status(old: Entry | None, new: Entry | None) -> str:
    if old is None or new is None:
        return "" if old is new else "A" if old is None else "D"
    if old.kind != new.kind:
        return "T"
    return "" if own(old) == own(new) else "M"


def _content(entry: Entry | None) -> Cid | None:
    return entry.tree if entry is not None and entry.is_dir else None
