"""Grouping: which paths of a merged tree are one file.

For each path both sides and the base say which others it is one file with. What only one side changed is that side's;
if both did, all that either wants together is together, but for what one took apart. Only equal files can be one: a
name that one side gave to a file follows what the merge made of the file, and where that is not one thing the group
falls apart, which is told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from store import apart, directory, edits, limits, links, tree
from store.batch import Batch
from store.conflicts import Conflict
from store.entry import Entry
from store.links import Group
from store.merge import Merged
from store.nodes import LINKS, Item
from store.version import Tree


class Grouped(NamedTuple):
    tree: Tree
    conflicts: Mapping[bytes, Conflict]


def grouped(
    batch: Batch, base: Tree | None, sides: tuple[Tree, Tree], merged: Merged, labels: tuple[str, str]
) -> Grouped:
    """Return the merged tree with the hard links of both sides, and every `nlink` right."""
    ours, theirs = sides
    paths = {one.key for one in apart.items(batch, LINKS, ours.links, theirs.links)}
    if not paths and not any(merged.copies):
        return Grouped(Tree(merged.root, ours.links), {})
    return _Grouper(batch, base, sides, merged, labels).run(paths)


class _Grouper:
    def __init__(
        self, batch: Batch, base: Tree | None, sides: tuple[Tree, Tree], merged: Merged, labels: tuple[str, str]
    ) -> None:
        self._batch, self._base, self._sides, self._merged, self._labels = batch, base, sides, merged, labels
        self._conflicts: dict[bytes, Conflict] = {}
        self._new: dict[bytes, Entry] = {}  # what the merge made of these paths, or we did

    def run(self, paths: set[bytes]) -> Grouped:
        self._find(self._closure(paths))
        groups = [group for paths in self._components() for group in self._alike(paths)]
        groups += self._copied()
        size = {path: len(group) for group in groups for path in group}
        changes: dict[bytes, Entry | None] = {}
        for path, entry in self._new.items():
            made = entry._replace(nlink=size.get(path, 1))
            if made != directory.find(self._batch, self._merged.root, path):
                changes[path] = made
        rings: dict[bytes, Item | None] = dict.fromkeys(self._all)
        for group in groups:
            rings.update((path, [path, after]) for path, after in zip(group, group[1:] + group[:1]))
        root = edits.made(self._batch, self._merged.root, changes)
        return Grouped(Tree(root, tree.edit(self._batch, LINKS, self._sides[0].links, rings)), self._conflicts)

    def _closure(self, paths: Iterable[bytes]) -> set[bytes]:
        """Return these paths and all that are one file with one of them, anywhere."""
        found: set[bytes] = set()
        waiting = list(paths)
        while waiting:
            path = waiting.pop()
            if path not in found:
                found.add(path)
                waiting += (other for group in self._groups(path) for other in group if other not in found)
        self._all = found
        return found

    def _groups(self, path: bytes) -> tuple[Group, Group, Group]:
        """Return what `path` is one file with in the base, ours and theirs."""
        base = self._base.links if self._base is not None else None
        ours, theirs = (links.group(self._batch, side.links, path) for side in self._sides)
        return links.group(self._batch, base, path), ours, theirs

    def _find(self, paths: Iterable[bytes]) -> None:
        for path in paths:
            entry = directory.find(self._batch, self._merged.root, path)
            if entry is not None and not entry.is_dir:
                self._new[path] = entry

    def _components(self) -> list[Group]:
        leader = {path: path for path in self._new}

        def lead(path: bytes) -> bytes:
            while leader[path] != path:
                leader[path] = leader[leader[path]]
                path = leader[path]
            return path

        for path in self._new:
            for other in self._wanted(path):
                if other in self._new:
                    leader[lead(other)] = lead(path)
        found: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for path in sorted(self._new):
            found[lead(path)].append(path)
        return [tuple(paths) for paths in found.values() if len(paths) > 1]

    def _wanted(self, path: bytes) -> Iterable[bytes]:
        """Return what `path` shall be one file with."""
        base, ours, theirs = map(set, self._groups(path))
        if theirs in (base, ours):
            return ours
        return theirs if ours == base else (ours | theirs) - (base - ours) - (base - theirs)

    def _alike(self, paths: Group) -> list[Group]:
        """Take apart what is not equal."""
        self._follow(paths)
        alike: defaultdict[Entry, list[bytes]] = defaultdict(list)
        for path in paths:
            if len(path) <= limits.link_path_bytes_max:
                alike[self._new[path]._replace(nlink=1)].append(path)
        if len(alike) > 1:
            apart_ = ", ".join(directory.printable(path) for path in paths[:8])
            self._conflicts[paths[0]] = Conflict("links", min(self._labels), max(self._labels), None, apart_)
        return [tuple(group) for group in alike.values() if len(group) > 1]

    def _follow(self, paths: Group) -> None:
        """A name that one side gave to a file gets what the merge made of it, if that is one thing."""
        base = self._base
        old = [path for path in paths if base is not None and directory.find(self._batch, base.root, path) is not None]
        values = {self._new[path]._replace(nlink=1) for path in old}
        if len(values) != 1:
            return
        (value,) = values
        for side in self._sides:
            before = {self._plain(side, path) for path in old}
            for path in paths:
                if path not in old and self._new[path]._replace(nlink=1) in before and self._was(side, path, old):
                    self._new[path] = value

    def _was(self, side: Tree, path: bytes, old: list[bytes]) -> bool:
        return not set(links.group(self._batch, side.links, path)).isdisjoint(old)

    def _plain(self, side: Tree, path: bytes) -> Entry | None:
        entry = directory.find(self._batch, side.root, path)
        return None if entry is None else entry._replace(nlink=1)

    def _copied(self) -> list[Group]:
        """The copies of what was one file are one file."""
        found: set[Group] = set()
        for side, copies in zip(self._sides, self._merged.copies):
            self._find(copies.values())
            self._all.update(copies.values())
            for path in copies:
                group = links.group(self._batch, side.links, path)
                copied = tuple(sorted(copies[other] for other in group if other in copies))
                if len(copied) > 1 and all(len(one) <= limits.link_path_bytes_max for one in copied):
                    found.add(copied)
        return sorted(found)
