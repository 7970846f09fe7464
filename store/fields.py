"""Fields: metadata merged field by field. What only one side changed is that side's."""

from __future__ import annotations

from typing import TypeVar

from store import entry as entries
from store.batch import Batch
from store.cid import Cid
from store.entry import Entry, Xattrs

_T = TypeVar("_T")


def merged(batch: Batch, base: Entry | None, first: Entry, second: Entry, onto: Entry) -> tuple[Entry, tuple[str, ...]]:
    """Return `onto` with the metadata of both, and the names of fields that both changed to something else.

    In those the first's stands. Of two times the later is taken, that is no conflict. All are of one kind, or `base`
    is None: then whatever is not equal was changed by both.
    """
    clashes: list[str] = []

    def one(name: str, of_base: _T | None, ours: _T, theirs: _T) -> _T:
        if ours == theirs or theirs == of_base:
            return ours
        if ours == of_base:
            return theirs
        clashes.append(name)
        return ours

    mode = one("mode", base and base.mode, first.mode, second.mode)
    uid = one("owner", base and base.uid, first.uid, second.uid)
    gid = one("group", base and base.gid, first.gid, second.gid)
    if {"owner", "group"}.intersection(clashes):
        mode &= 0o1777  # nobody asked for a program that runs as this one
    xattrs, names = _xattrs(batch, base, first, second)
    clashes += (f"attribute {name.decode(errors='backslashreplace')}" for name in names)
    mtime = _time(base and base.mtime, first.mtime, second.mtime)
    return onto._replace(mode=mode, uid=uid, gid=gid, mtime=mtime, xattrs=xattrs), tuple(clashes)


def _time(base: int | None, first: int, second: int) -> int:
    if base in (first, second):
        return second if first == base else first
    return max(first, second)


def _xattrs(batch: Batch, base: Entry | None, first: Entry, second: Entry) -> tuple[Xattrs | Cid, list[bytes]]:
    if first.xattrs == second.xattrs or (base is not None and second.xattrs == base.xattrs):
        return first.xattrs, []
    if base is not None and first.xattrs == base.xattrs:
        return second.xattrs, []
    old = dict(entries.unpack_xattrs(batch, base)) if base is not None else {}
    ours, theirs = (dict(entries.unpack_xattrs(batch, side)) for side in (first, second))
    clashes = []
    for name in theirs.keys() | old.keys():
        if theirs.get(name) in (ours.get(name), old.get(name)):
            continue
        if ours.get(name) != old.get(name):
            clashes.append(name)
            if name in ours:
                continue  # an attribute that one side deleted and the other changed is kept
        if name in theirs:
            ours[name] = theirs[name]
        else:
            del ours[name]
    return entries.pack_xattrs(batch, ours.items()), sorted(clashes)
