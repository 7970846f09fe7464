"""Renames: a name that went and one that came, with the same content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from store import diff, limits
from store.batch import Nodes
from store.diff import Difference
from store.entry import Entry


class Renames(NamedTuple):
    """`old_of` maps a new path to the one it had. `ambiguous` maps a new path to all that it could have had."""

    old_of: Mapping[bytes, bytes]
    ambiguous: Mapping[bytes, tuple[bytes, ...]]

    @property
    def new_of(self) -> dict[bytes, bytes]:
        return {old: new for new, old in self.old_of.items()}


NONE: Final = Renames({}, {})


def between(source: Nodes, old: Entry, new: Entry, known: Entry | None = None) -> Renames:
    """Return the renames from one tree to another; a directory that moved as it was is one. None if too much did.

    Directories that `known` has too are not looked into.
    """
    tops = {one.status for one in diff.compare(source, old, new, inside="", known=known)}
    if not {"A", "D"} <= tops:
        return NONE
    return among(diff.compare(source, old, new, known=known))


def among(differences: Iterable[Difference]) -> Renames:
    gone: defaultdict[Hashable, list[bytes]] = defaultdict(list)
    come: defaultdict[Hashable, list[bytes]] = defaultdict(list)
    directories: set[Hashable] = set()
    for count, one in enumerate(differences):
        if count > limits.rename_names_max:
            return NONE
        entry = one.old if one.status == "D" else one.new
        if one.status not in ("A", "D") or entry is None or (key := _content(entry)) is None:
            continue
        (gone if one.status == "D" else come)[key].append(one.path)
        if entry.is_dir:
            directories.add(key)
    old_of: dict[bytes, bytes] = {}
    ambiguous: dict[bytes, tuple[bytes, ...]] = {}
    left: set[bytes] = set()  # directories that moved, by their old and their new paths
    entered: set[bytes] = set()
    # Directories first, those further up first: what is in one that moved has moved with it.
    for key in sorted(come, key=lambda key: (key not in directories, min(map(_depth, come[key])))):
        olds = [path for path in gone.get(key, ()) if left.isdisjoint(above_of(path))]
        news = [path for path in come[key] if entered.isdisjoint(above_of(path))]
        if len(olds) == len(news) == 1:
            old_of[news[0]] = olds[0]
            if key in directories:
                left.add(olds[0])
                entered.add(news[0])
        elif olds and key not in directories:
            ambiguous.update(dict.fromkeys(news, tuple(olds)))
    return Renames(old_of, ambiguous)


def _content(entry: Entry) -> Hashable | None:
    """Return what two entries share if one can be the other under another name; None for what is no news: nothing."""
    if entry.data is None or entry.kind not in ("file", "dir"):
        return None
    return entry.kind, entry.size, entry.data


def _depth(path: bytes) -> int:
    return path.count(b"/")


def above_of(path: bytes) -> Iterator[bytes]:
    """Yield the directories on the way to `path`, the innermost first, without the root."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path
