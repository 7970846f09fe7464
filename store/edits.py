"""Edits to a whole directory tree at once: paths and what shall be there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from store import directory, limits
from store.batch import Batch
from store.entry import Entry
from store.errors import TooLarge


def made(batch: Batch, root: Entry, changes: Mapping[bytes, Entry | None], hollow: Collection[bytes] = ()) -> Entry:
    """Return `root` with these paths replaced, new, or gone (None). b"" is the root itself.

    A change inside a directory that is changed too is made to its new form; changes inside one that is gone count for
    nothing. The directories in `hollow` go too if nothing is left in them.
    """
    inside: defaultdict[int, defaultdict[bytes, dict[bytes, Entry | None]]] = defaultdict(lambda: defaultdict(dict))

    def change(path: bytes, entry: Entry | None) -> None:
        above, _, name = path.rpartition(b"/")
        inside[_depth(path) - 1][above][name] = entry

    known: dict[bytes, Entry | None] = {b"": changes.get(b"", root)}

    def before(path: bytes) -> Entry | None:
        """What is there when everything above was changed and nothing below."""
        missing = []
        while path not in known:
            missing.append(path)
            path = path.rpartition(b"/")[0]
        entry = known[path]
        for path in reversed(missing):
            if path in changes:
                entry = changes[path]
            elif entry is not None:
                entry = directory.lookup(batch, entry, path.rpartition(b"/")[2]) if entry.is_dir else None
            known[path] = entry
        return entry

    for path, entry in changes.items():
        if path:
            change(path, entry)
    for path in hollow:
        inside[_depth(path)].setdefault(path, {})
    deepest = max(inside, default=0)
    if deepest > limits.depth_max:
        raise TooLarge(f"directories may be {limits.depth_max} deep at most")
    for depth in range(deepest, -1, -1):
        for at, names in inside[depth].items():
            start = before(at)
            if start is None or not start.is_dir:
                continue  # it is gone, and all in it
            made: Entry | None = directory.with_entries(batch, start, names)
            if at in hollow and made is not None and made.data is None:
                made = None
            if not at:
                assert made is not None
                return made
            change(at, made)
    result = before(b"")
    assert result is not None
    return result


def _depth(path: bytes) -> int:
    """How many names lead to it; the root has 0."""
    return path.count(b"/") + 1 if path else 0
