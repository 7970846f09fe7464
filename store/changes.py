"""Changes: what differs between two trees, as people think of it: with renames, and with the fields that differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from store import diff, directory, limits, renames
from store.batch import Nodes
from store.diff import Difference
from store.entry import Entry
from store.renames import Renames


class Change(NamedTuple):
    """`status` is A, D, M, T as in `diff`, or R: `was_at` is the old path then. `fields` say what of the entry differs.

    `candidates` are the old paths of which a new file has the content, if nobody can say which of them it was.
    """

    status: str
    path: bytes
    old: Entry | None
    new: Entry | None
    was_at: bytes | None = None
    fields: tuple[str, ...] = ()
    candidates: tuple[bytes, ...] = ()


def between(source: Nodes, old: Entry | None, new: Entry | None, *, find_renames: bool = True) -> Iterator[Change]:
    """Yield the changes in the order of the new paths. Above `rename_names_max` nothing is told to be a rename."""
    found = diff.compare(source, old, new)
    if not find_renames:
        yield from map(_plain, found)
        return
    some = list(islice(found, limits.rename_names_max))
    rest = next(found, None)
    if rest is not None:
        yield from map(_plain, chain(some, [rest], found))
    else:
        yield from _with_renames(some, renames.among(some))


def _with_renames(found: Iterable[Difference], moves: Renames) -> Iterator[Change]:
    some = list(found)
    gone = {one.path: one.old for one in some if one.status == "D"}
    moved_to = moves.new_of
    for one in some:
        if one.status == "A" and one.path in moves.old_of:
            was_at = moves.old_of[one.path]
            yield Change("R", one.path, gone[was_at], one.new, was_at, fields(gone[was_at], one.new))
        elif one.status == "A":
            if not _moved_along(one.path, moves.old_of):
                yield _plain(one)._replace(candidates=moves.ambiguous.get(one.path, ()))
        elif one.status != "D" or not (one.path in moved_to or _moved_along(one.path, moved_to)):
            yield _plain(one)


def files(source: Nodes, change: Change) -> Iterator[Change]:
    """Yield the change of each file that moved with a directory; any other change as it is."""
    yield change
    if change.status == "R" and change.new is not None and change.new.is_dir and change.was_at is not None:
        for path, entry in directory.walk(source, change.new):
            yield Change("R", change.path + b"/" + path, entry, entry, change.was_at + b"/" + path)


def _moved_along(path: bytes, moved: Iterable[bytes]) -> bool:
    return any(above in moved for above in renames.above_of(path))


def _plain(one: Difference) -> Change:
    return Change(*one, fields=fields(one.old, one.new))


def fields(old: Entry | None, new: Entry | None) -> tuple[str, ...]:
    """Return what differs: content, mode, owner, xattrs, links, time. Nothing for what only one side has."""
    if old is None or new is None:
        return ()
    pairs = {
        "content": ((old.size, old.data, old.rdev), (new.size, new.data, new.rdev)) if not new.is_dir else (0, 0),
        "mode": (old.mode, new.mode),
        "owner": ((old.uid, old.gid), (new.uid, new.gid)),
        "xattrs": (old.xattrs, new.xattrs),
        "links": (old.nlink, new.nlink),
        "time": (old.mtime, new.mtime),
    }
    return tuple(name for name, (before, after) in pairs.items() if before != after)
