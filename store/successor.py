"""A successor: the version that comes right after others, with what it takes over from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from store import conflicts, tombstones, version
from store.batch import Batch
from store.cid import Cid
from store.conflicts import Conflicts
from store.errors import Corrupt, NotFound, WrongKind
from store.version import Version


def put(batch: Batch, tree: Cid, before: Sequence[Cid], *, message: str = "", found: Conflicts | None = None) -> Cid:
    """Store a Version of `tree` right after `before`, of which the first is the one on the name's line.

    `found` are conflicts that a merge has just met. Takes the time that the difference to `before` takes.
    """
    time = version.now()
    made = Version(tree, frozenset(before), time, author(), message, before[0] if len(set(before)) > 1 else None)
    if before:
        # Nothing that is lost of an old tree may keep a new one from being saved.
        with suppress(Corrupt, NotFound, WrongKind):
            old = [version.load_version(batch, cid) for cid in before]
            made = made._replace(
                tombstones=_readable(batch, old[0].tombstones), conflicts=_readable(batch, old[0].conflicts)
            )
            made = made._replace(tombstones=tombstones.after(batch, old, tree, time))
            made = made._replace(conflicts=conflicts.after(batch, old, tree, found))
    return version.put_version(batch, made)


def with_marks(batch: Batch, old: Cid, tombstones: Cid | None, conflicts: Cid | None, message: str) -> Cid:
    """Store a Version of the tree of `old`, right after it, with these marks."""
    tree = version.load_version(batch, old).tree
    before = frozenset((old,))
    return version.put_version(
        batch, Version(tree, before, version.now(), author(), message, None, tombstones, conflicts)
    )


def author() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _readable(batch: Batch, marks: Cid | None) -> Cid | None:
    """Return the marks of a version if they are here."""
    with suppress(Corrupt, NotFound):
        if marks is not None:
            batch.get(marks)
            return marks
    return None
