"""A Layer laid upon a tree: whiteouts first, then what it adds, then the hard links between the two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from store import directory, links
from store import limits as store_limits
from store.batch import Batch
from store.directory import printable
from store.entry import Entry
from store.errors import WrongKind
from store.links import Group
from store.oci import layer as layers
from store.oci.errors import BadImage
from store.oci.layer import Layer, Steps
from store.version import Tree

EMPTY = Tree(layers.EMPTY_ROOT)


def apply(batch: Batch, below: Tree, layer: Layer) -> Tree:
    """Return what `below` becomes with `layer` on it. Raises BadImage."""
    return _Overlay(batch, below, layer).run()


class _Place:
    """A directory of the result: the entry it began with, and what changed. Opened only where something does."""

    __slots__ = ("above", "changes", "entry", "opened", "path")

    def __init__(self, path: bytes, entry: Entry, above: _Place | None) -> None:
        self.path, self.entry, self.above = path, entry, above
        self.opened: dict[bytes, _Place] = {}
        self.changes: dict[bytes, Entry | None] = {}


class _Move(NamedTuple):
    """A directory of the layer that no entry is about lies on a symbolic link below: what it holds goes there."""

    layer_path: bytes
    entry: Entry
    path: bytes


class _Overlay:
    def __init__(self, batch: Batch, below: Tree, layer: Layer) -> None:
        self._batch, self._below, self._layer = batch, below, layer
        self._marks = layers.read_marks(batch, layer)
        self._steps = Steps()
        self._root = _Place(b"", below.root, None)
        self._places = [self._root]  # a directory before those in it
        self._moved: dict[bytes, bytes] = {}  # path in the layer -> path in the result
        self._groups: dict[bytes, Group] = {}  # below, those that were asked for
        self._lost: set[bytes] = set()  # what was no directory and is gone
        self._lost_links: set[bytes] = set()  # those of them that had other names too
        self._lost_trees: set[bytes] = set()

    def run(self) -> Tree:
        for path in self._marks.opaque:
            self._clear(path)
        for path in self._marks.whiteouts:
            self._white_out(path)
        moves = self._merge(self._layer.root, b"", self._root)
        while moves:
            move = moves.pop(0)
            place = self._folder(move.path)
            self._moved[move.layer_path] = place.path
            moves += self._merge(move.entry, move.layer_path, place)
        across = list(self._groups_across())
        own = list(self._groups_of_layer())
        for group in across + own if self._moved else across:  # those of the layer alone are counted
            self._count(group)
        gone = list(self._torn())
        root = self._finished()
        return Tree(root, links.changed(self._batch, self._below.links, gone, across + own))

    # The layer's own directories

    def _merge(self, source: Entry, path: bytes, place: _Place) -> list[_Move]:
        """Lay a directory of the layer upon `place`."""
        moves: list[_Move] = []
        todo = [(source, path, place)]
        while todo:
            source, path, place = todo.pop()
            if path not in self._marks.implicit:
                place.entry = _with_metadata(place.entry, source)
            for name, entry in directory.entries(self._batch, source):
                inside = _joined(path, name)
                old = self._look(place, name)
                if entry.is_dir and old is not None and old.is_dir:
                    todo.append((entry, inside, self._open(place, name, old)))
                elif entry.is_dir and old is not None and old.kind == "symlink" and inside in self._marks.implicit:
                    moves.append(_Move(inside, entry, _joined(place.path, name)))
                elif entry.is_dir and old is not None and inside in self._marks.implicit:
                    raise BadImage(f"'{printable(inside)}' is a {old.kind}, but a layer has something in it")
                else:
                    self._set(place, name, entry)
        return moves

    # Whiteouts

    def _clear(self, path: bytes) -> None:
        place = self._existing(path)
        if place is not None:
            for name, entry in list(directory.entries(self._batch, place.entry)):
                self._lose(_joined(place.path, name), entry)
            place.entry = _emptied(place.entry)
            place.opened, place.changes = {}, {}

    def _white_out(self, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        place = self._existing(above)
        if place is not None and self._look(place, name) is not None:
            self._set(place, name, None)

    # Hard links

    def _groups_of_layer(self) -> Iterator[Group]:
        for group in links.groups_below(self._batch, self._layer.links, b""):
            yield tuple(map(self._mapped, group))

    def _groups_across(self) -> Iterator[Group]:
        """Make the layer's links to files below; yields the groups with these, and others that lost a path."""
        added: dict[Group, list[bytes]] = {}
        for path, target in self._marks.hard:
            found, entry = self._file_below(target)
            group = self._group_below(found)
            above, _, name = self._mapped(path).rpartition(b"/")
            place = self._folder(above)
            path = _joined(place.path, name)
            if self._groups.get(path) is not group or self._is_lost(path):
                self._set(place, name, entry._replace(nlink=1))
                added.setdefault(group, []).append(path)
        for group in {**dict.fromkeys(added), **dict.fromkeys(self._torn())}:
            kept = [path for path in group if not self._is_lost(path)]
            yield tuple(sorted({*kept, *added.get(group, ())}))

    def _group_below(self, path: bytes) -> Group:
        """Return the paths below of one file. Asked once for each group, which may be as long as somebody likes."""
        if path not in self._groups:
            group = links.group(self._batch, self._below.links, path)
            self._groups.update(dict.fromkeys(group, group))
        return self._groups[path]

    def _file_below(self, target: bytes) -> tuple[bytes, Entry]:
        """Return the path and the entry of a file of the tree below. Raises BadImage."""
        above, _, name = target.rpartition(b"/")
        original = _Walk(self._batch, self._below.root, self._steps)
        path = original.resolve(above)
        entry = directory.find(self._batch, self._below.root, _joined(path, name)) if path is not None else None
        if path is None or entry is None or entry.is_dir:
            raise BadImage(f"a hard link to '{printable(target)}', which is no file in the layers below")
        return _joined(path, name), entry

    def _torn(self) -> Iterator[Group]:
        """Yield each group below that lost a path."""
        seen: set[bytes] = set()
        for path in sorted(self._lost_links):
            if path not in seen:
                group = self._group_below(path)
                seen.update(group)
                if len(group) > 1:
                    yield group
        for top in sorted(self._lost_trees) if self._below.links is not None else ():
            for group in links.groups_below(self._batch, self._below.links, top):
                if seen.isdisjoint(group):
                    yield group
                seen.update(group)

    def _is_lost(self, path: bytes) -> bool:
        if path in self._lost:
            return True
        at = path.find(b"/")
        while at >= 0:
            if path[:at] in self._lost_trees:
                return True
            at = path.find(b"/", at + 1)
        return path in self._lost_trees

    def _count(self, group: Group) -> None:
        for path in group:
            above, _, name = path.rpartition(b"/")
            place = self._folder(above)
            entry = self._look(place, name)
            if entry is None or entry.is_dir:
                raise BadImage(f"the layers put several files at '{printable(path)}'")
            if entry.nlink != len(group):
                place.changes[name] = entry._replace(nlink=len(group))

    # Reading and changing the result

    def _look(self, place: _Place, name: bytes) -> Entry | None:
        if name in place.opened:
            return place.opened[name].entry
        if name in place.changes:
            return place.changes[name]
        return directory.lookup(self._batch, place.entry, name)

    def _open(self, place: _Place, name: bytes, entry: Entry) -> _Place:
        found = place.opened.get(name)
        if found is None:
            found = place.opened[name] = _Place(_joined(place.path, name), entry, place)
            self._places.append(found)
        return found

    def _set(self, place: _Place, name: bytes, entry: Entry | None) -> None:
        old = self._look(place, name)
        if old is not None:
            self._lose(_joined(place.path, name), old)
        place.opened.pop(name, None)
        place.changes[name] = entry

    def _lose(self, path: bytes, entry: Entry) -> None:
        if entry.is_dir:
            self._lost_trees.add(path)
            return
        self._lost.add(path)
        if entry.nlink > 1:
            self._lost_links.add(path)

    def _existing(self, path: bytes) -> _Place | None:
        """Return the directory at `path` in the result; links on the way are followed."""
        return self._way(path, make=False)

    def _folder(self, path: bytes) -> _Place:
        """Return the directory at `path`, made where it is missing."""
        place = self._way(path, make=True)
        assert place is not None
        return place

    def _way(self, path: bytes, *, make: bool) -> _Place | None:
        place = self._root
        todo = _names(path)[::-1]
        followed = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                place = place.above or place
                continue
            entry = self._look(place, name)
            if entry is not None and entry.kind == "symlink":
                todo += self._steps.follow(_target(entry), followed, path)
                followed += 1
                place = self._root if _target(entry).startswith(b"/") else place
                continue
            if entry is None or not entry.is_dir:
                if not make:
                    return None
                if entry is not None:
                    raise BadImage(f"'{printable(_joined(place.path, name))}' is a {entry.kind}, not a directory")
                entry = layers.EMPTY_ROOT
                place.changes[name] = entry
            place = self._open(place, name, entry)
            _check_path(place.path)
        return place

    def _mapped(self, path: bytes) -> bytes:
        """Return where in the result a path of the layer is."""
        if not self._moved:
            return path
        at = len(path)
        while at > 0:
            real = self._moved.get(path[:at])
            if real is not None:
                return _joined(real, path[at + 1 :]) if at < len(path) else real
            at = path.rfind(b"/", 0, at)
        return path

    def _finished(self) -> Entry:
        for place in reversed(self._places):
            above, name = place.above, place.path.rpartition(b"/")[2]
            if above is not None and above.opened.get(name) is not place:
                continue  # something else took its place
            if place.changes:
                place.entry = directory.with_entries(self._batch, place.entry, place.changes)
            if above is not None:
                above.changes[name] = place.entry
        return self._root.entry


class _Walk:
    """Finds directories in a tree as the kernel would inside a chroot."""

    def __init__(self, batch: Batch, root: Entry, steps: Steps) -> None:
        self._batch, self._root, self._steps = batch, root, steps

    def resolve(self, path: bytes) -> bytes | None:
        way: list[tuple[bytes, Entry]] = [(b"", self._root)]
        todo = _names(path)[::-1]
        followed = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                way = way[:-1] or way
                continue
            above, here = way[-1]
            entry = directory.lookup(self._batch, here, name)
            if entry is None:
                return None
            if entry.kind == "symlink":
                todo += self._steps.follow(_target(entry), followed, path)
                followed += 1
                way = way[:1] if _target(entry).startswith(b"/") else way
                continue
            if not entry.is_dir:
                return None
            way.append((_joined(above, name), entry))
            _check_path(way[-1][0])
        return way[-1][0]


def _target(entry: Entry) -> bytes:
    if not isinstance(entry.data, bytes):
        raise WrongKind("not a symbolic link")
    return entry.data


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def _check_path(path: bytes) -> None:
    if len(path) > store_limits.link_path_bytes_max:
        raise BadImage("symbolic links in the layers lead too deep")


def _with_metadata(entry: Entry, source: Entry) -> Entry:
    return source._replace(data=entry.data, total=entry.total)


def _emptied(entry: Entry) -> Entry:
    return entry._replace(data=None, total=(0, 0, 0))


def _joined(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
