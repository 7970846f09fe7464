"""Tombstones: the names that a version no longer has, with when they went and what they were.

A tree of marks beside the Root: deleting a file and never having had it give the same tree. It holds no blocks: what
was deleted is known by its CID and its size, and is here for as long as some version has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from store import apart, codec, diff, directory, limits, tree, version
from store import cid as cids
from store import entry as entries
from store.batch import Batch, Nodes
from store.cid import Algorithm, Cid
from store.entry import Entry
from store.errors import BadCid, Corrupt
from store.nodes import TOMBSTONES, Item
from store.version import Version


class Tombstone(NamedTuple):
    """`time` is that of the version that had the name no more, `was` the identity of the entry, `content` its data."""

    time: int
    kind: str
    size: int
    was: Cid
    content: Cid | None = None


def identity(algorithm: Algorithm, entry: Entry) -> Cid:
    """Return what two entries share that differ in nothing but their time and number of links.

    A directory's says nothing about what is in it.
    """
    return algorithm.node(codec.encode(entries.encode(diff.own(entry)._replace(mtime=0, nlink=1))))


def of(algorithm: Algorithm, entry: Entry, time: int) -> Tombstone:
    content = entry.data if isinstance(entry.data, Cid) else None
    return Tombstone(time, entry.kind, entry.size, identity(algorithm, entry), content)


# Reading


def find(source: Nodes, root: Cid | None, path: bytes) -> Tombstone | None:
    item = tree.find(source, TOMBSTONES, root, path)
    return None if item is None or root is None else _decode(item, root)


def below(source: Nodes, root: Cid | None, path: bytes = b"") -> Iterator[tuple[bytes, Tombstone]]:
    """Yield (path, tombstone), in order, of `path` and what is below it; b"" is everything."""
    if root is None:
        return
    if path and (own := find(source, root, path)) is not None:
        yield path, own
    prefix = path + b"/" if path else b""
    for key, item in tree.seek(source, TOMBSTONES, root, prefix):
        if not key.startswith(prefix):
            return
        yield key, _decode(item, root)


def since(source: Nodes, old: Cid | None, new: Cid | None) -> Iterator[tuple[bytes, Tombstone]]:
    """Yield (path, tombstone), in order, of those in `new` that are not in `old`."""
    for one in apart.items(source, TOMBSTONES, old, new):
        if one.new is not None and one.new_leaf is not None:
            yield one.key, _decode(one.new, one.new_leaf)


# Writing


def after(batch: Batch, before: Sequence[Version], new: Cid, time: int) -> Cid | None:
    """Return the tombstones of a version of the tree `new` that comes right after the versions `before`.

    Those of all of them, without the names that `new` has, and with those that one of them had and `new` has not.
    """
    root = version.load_tree(batch, new).root
    edits = _Edits(batch, _union(batch, [one.tombstones for one in before]))
    for one in before:
        old = version.load_tree(batch, one.tree).root
        for change in diff.compare(batch, old, root, inside="D"):
            if change.status == "D" and change.old is not None:
                edits.bury(change.path, of(batch.algorithm, change.old, time))
            elif change.status in "AT" and change.new is not None:
                edits.raise_(root, change.path, is_dir=change.new.is_dir)
    return edits.finish()


def without(batch: Batch, root: Cid | None, *, before: int) -> Cid | None:
    """Return the tombstones without those of before that time."""
    edits = _Edits(batch, root)
    for path, found in below(batch, root):
        if found.time < before:
            edits.change(path, None)
    return edits.finish()


def _union(batch: Batch, roots: Iterable[Cid | None]) -> Cid | None:
    """Return the tombstones of all. Of two for one name the later stands, whatever the order."""
    several = sorted(root for root in set(roots) if root is not None)
    union = several[0] if several else None
    for other in several[1:]:
        assert union is not None
        edits = _Edits(batch, union)
        for path, mine, theirs, mine_in, theirs_in in apart.items(batch, TOMBSTONES, union, other):
            if theirs is None:
                continue
            new = _decode(theirs, theirs_in or other)
            if mine is None or _rank(new) > _rank(_decode(mine, mine_in or union)):
                edits.change(path, new)
        union = edits.finish()
    return union


def _rank(one: Tombstone) -> tuple[int, bytes, bytes]:
    return one.time, one.was, one.content or b""


class _Edits:
    """Changes to a tree of tombstones, a few thousand at a time: a million may go at once."""

    def __init__(self, batch: Batch, root: Cid | None) -> None:
        self._batch, self._root = batch, root
        self._old = root  # lookups see what was there at first
        self._changes: dict[bytes, Item | None] = {}

    def change(self, path: bytes, new: Tombstone | None) -> None:
        self._changes[path] = None if new is None else [path, _encode(new)]
        if len(self._changes) >= limits.marks_per_edit:
            self._flush()

    def bury(self, path: bytes, new: Tombstone) -> None:
        """Add one, unless it has one: it says when the name truly went."""
        if len(path) <= limits.link_path_bytes_max and tree.find(self._batch, TOMBSTONES, self._old, path) is None:
            self.change(path, new)

    def raise_(self, root: Entry, path: bytes, *, is_dir: bool) -> None:
        """`path` is there again: take away its tombstone, and those of all below that is there."""
        if not is_dir:
            if tree.find(self._batch, TOMBSTONES, self._old, path) is not None:
                self.change(path, None)
            return
        for found, _ in below(self._batch, self._old, path):
            if found == path or directory.find(self._batch, root, found) is not None:
                self.change(found, None)

    def finish(self) -> Cid | None:
        self._flush()
        return self._root

    def _flush(self) -> None:
        if self._changes:
            self._root = tree.edit(self._batch, TOMBSTONES, self._root, self._changes)
            self._changes = {}


def _encode(one: Tombstone) -> codec.Doc:
    doc: codec.Doc = {"time": one.time, "was": bytes(one.was)}  # bytes, not links: it shall hold nothing
    if one.kind != "file":
        doc["kind"] = one.kind
    if one.size:
        doc["size"] = one.size
    if one.content is not None:
        doc["content"] = bytes(one.content)
    return doc


def _decode(item: Item, leaf: Cid) -> Tombstone:
    doc = item[1]
    try:
        content = None if doc.get("content") is None else _unlinked(doc["content"])
        found = Tombstone(doc["time"], doc.get("kind", "file"), doc.get("size", 0), _unlinked(doc["was"]), content)
        good = type(found.time) is type(found.size) is int and type(found.kind) is str
        if good and 0 <= found.size <= limits.file_bytes_max and entries.is_kind(found.kind) and _encode(found) == doc:
            return found
    except (KeyError, TypeError, IndexError, BadCid):
        pass
    raise Corrupt(leaf, "a tombstone breaks the format")


def _unlinked(value: object) -> Cid:
    if type(value) is not bytes:
        raise TypeError
    return cids.checked(value)
