"""The one balanced tree: ordered items in content-defined nodes, all leaves at the same depth.

Its shape is a function of its items alone. Each level is the sequence of items cut into nodes from left to right:
a node ends behind an item whose label says so (see `_Builder.add`). An edit therefore rewrites the nodes from the
first touched item up to the first old boundary that the new cuts meet again, on every level: O(depth) nodes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from store import codec, limits, nodes
from store.batch import Batch, Nodes
from store.cid import Cid
from store.errors import Corrupt, WrongKind
from store.nodes import Flavor, Item, Key, Node, Totals

Pair = tuple[Key, Item]


# Reading


def find(source: Nodes, flavor: Flavor, root: Cid | None, key: Key) -> Item | None:
    """Return the item with exactly this key, or None."""
    if root is None:
        return None
    place = _locate(source, flavor, root, 0, key)
    if place is None:
        return None
    wanted = flavor.relative(key, place.origin)
    index = bisect_left(place.node.keys, wanted)
    if index < len(place.node.keys) and place.node.keys[index] == wanted:
        return place.node.items[index]
    return None


def seek(source: Nodes, flavor: Flavor, root: Cid | None, key: Key) -> Iterator[Pair]:
    """Yield (key, item) from the first item whose key is not less than `key` to the end."""
    place = None if root is None else _locate(source, flavor, root, 0, key)
    while place is not None:
        assert root is not None
        node = place.node
        for index in range(bisect_left(node.keys, flavor.relative(key, place.origin)), len(node.keys)):
            yield flavor.absolute(node.keys[index], place.origin), node.items[index]
        key = flavor.after(place.last(flavor))
        place = _locate(source, flavor, root, 0, key)


def items(source: Nodes, flavor: Flavor, root: Cid | None) -> Iterator[Pair]:
    return seek(source, flavor, root, flavor.start)


def totals(source: Nodes, flavor: Flavor, root: Cid | None) -> Totals:
    """Return the sums over the whole tree, from its topmost node alone."""
    return flavor.totals(0, []) if root is None else load(source, flavor, root).totals


def load(source: Nodes, flavor: Flavor, cid: Cid) -> Node:
    node = source.node(cid)
    if node.flavor is not flavor:
        raise WrongKind(f"{cid} is a node of kind '{node.flavor.name}', not '{flavor.name}'")
    return node


# Writing


def build(batch: Batch, flavor: Flavor, pairs: Iterable[Pair]) -> Cid | None:
    """Return the root of a new tree of `pairs`, which come in order; None for an empty one."""
    builder = Builder(batch, flavor)
    for key, item in pairs:
        builder.add(key, item)
    return builder.finish()[0]


class Builder:
    """A new tree that is fed item by item, in order. Holds one node and what stands for the others."""

    def __init__(self, batch: Batch, flavor: Flavor) -> None:
        self._batch, self._flavor = batch, flavor
        self._leaves = _Builder(batch, flavor, 0)
        self.add = self._leaves.add

    def finish(self) -> tuple[Cid | None, Totals]:
        """Return the root and the sums over the whole tree; None for an empty one."""
        self._leaves.close()
        leaves = list(self._leaves.made.items())
        totals = self._flavor.totals(1, [item for _, item in leaves])
        return _crown(self._batch, self._flavor, 1, leaves), totals


def edit(batch: Batch, flavor: Flavor, root: Cid | None, changes: Mapping[Key, Item | None]) -> Cid | None:
    """Return the root of the tree with `changes` made: key -> new item, or None to take it out."""
    if root is None:
        return build(batch, flavor, [(k, i) for k, i in sorted(changes.items()) if i is not None])
    if not changes:
        return root
    height = load(batch, flavor, root).level
    for level in range(height + 1):
        changes = _edit_level(batch, flavor, root, level, changes)
    return _crown(batch, flavor, height + 1, [(k, i) for k, i in sorted(changes.items()) if i is not None])


def _edit_level(
    batch: Batch, flavor: Flavor, root: Cid, level: int, changes: Mapping[Key, Item | None]
) -> dict[Key, Item | None]:
    """Rewrite the nodes of one level that `changes` touch; returns the changes this makes one level up."""
    pending = sorted(changes.items(), key=_key)
    gone: dict[Key, Item | None] = {}
    made: dict[Key, Item] = {}
    while pending:
        place = _locate(batch, flavor, root, level, pending[0][0]) or _last(batch, flavor, root, level)
        builder = _Builder(batch, flavor, level)
        while True:
            last = place.last(flavor)
            gone[last] = None
            following = _locate(batch, flavor, root, level, flavor.after(last))
            mine = len(pending) if following is None else bisect_left(pending, flavor.after(last), key=_key)
            for key, item in place.merged(flavor, pending[:mine]):
                builder.add(key, item)
            del pending[:mine]
            if following is None:
                builder.close()
                break
            if builder.at_boundary:  # old and new nodes begin together again here
                break
            place = following
        made.update(builder.made)
    return gone | made


def _crown(batch: Batch, flavor: Flavor, level: int, pairs: list[Pair]) -> Cid | None:
    """Return the root over `pairs`, which stand for the nodes of `level - 1`."""
    while len(pairs) > 1:
        builder = _Builder(batch, flavor, level)
        for key, item in pairs:
            builder.add(key, item)
        builder.close()
        pairs = list(builder.made.items())
        level += 1
    if not pairs:
        return None
    root: Cid = pairs[0][1][1]
    if level == 1:
        return root
    place = _Place(load(batch, flavor, root), flavor.start)
    while place.node.level and len(place.node.items) == 1:  # left over from a larger tree: its child is the root
        root = place.node.items[0][1]
        place = _child(batch, flavor, place, 0)
    return root


class _Builder:
    """Cuts a sequence of items into nodes. `made`: last key -> the item that stands for the node one level up."""

    def __init__(self, batch: Batch, flavor: Flavor, level: int) -> None:
        self.made: dict[Key, Item] = {}
        self._batch, self._flavor, self._level = batch, flavor, level
        self._items: list[Item] = []
        self._encoded: list[bytes] = []
        self._bytes = 0
        self._last: Key = None

    @property
    def at_boundary(self) -> bool:
        return not self._items

    def add(self, key: Key, item: Item) -> None:
        encoded = codec.encode(item)
        self._last = key
        self._items.append(item)
        self._encoded.append(encoded)
        self._bytes += len(encoded)
        count = len(self._items)
        # Two items at least, or a level could be as long as the one below it.
        full = count >= 2 and self._bytes >= limits.node_bytes_soft
        if full or (count >= limits.node_items_min and self._ends_here(item)):
            self.close()

    def _ends_here(self, item: Item) -> bool:
        return not self._flavor.label(item)[self._level] & limits.node_boundary_mask

    def close(self) -> None:
        if self._items:
            flavor, level, items = self._flavor, self._level, self._items
            node = Node(flavor, level, items, flavor.keys(items), flavor.totals(level, items))
            cid = self._batch.put_node(nodes.encode(flavor, level, self._encoded), node)
            self.made[self._last] = flavor.summary(items[-1], node.totals, cid)
            self._items, self._encoded, self._bytes = [], [], 0


# Places


@dataclass(frozen=True, slots=True)
class _Place:
    """A node and the key from which the keys inside it count."""

    node: Node
    origin: Key

    def last(self, flavor: Flavor) -> Key:
        return flavor.absolute(self.node.keys[-1], self.origin)

    def merged(self, flavor: Flavor, changes: list[tuple[Key, Item | None]]) -> Iterable[Pair]:
        keys = [flavor.absolute(key, self.origin) for key in self.node.keys]
        pairs: dict[Key, Item | None] = dict(zip(keys, self.node.items, strict=True))
        pairs.update(changes)
        return ((key, item) for key, item in sorted(pairs.items(), key=_key) if item is not None)


def _key(pair: tuple[Key, object]) -> Key:
    return pair[0]


def _locate(source: Nodes, flavor: Flavor, root: Cid, level: int, key: Key) -> _Place | None:
    """Return the first node on `level` that has a key not less than `key`; None if all are less."""
    place = _Place(load(source, flavor, root), flavor.start)
    while True:
        index = bisect_left(place.node.keys, flavor.relative(key, place.origin))
        if index == len(place.node.keys):
            return None
        if place.node.level == level:
            return place
        place = _child(source, flavor, place, index)


def _last(source: Nodes, flavor: Flavor, root: Cid, level: int) -> _Place:
    place = _Place(load(source, flavor, root), flavor.start)
    while place.node.level > level:
        place = _child(source, flavor, place, len(place.node.keys) - 1)
    return place


def _child(source: Nodes, flavor: Flavor, parent: _Place, index: int) -> _Place:
    """Return the child at `index`. Raises Corrupt unless it is what its parent says and keeps to its place."""
    item = parent.node.items[index]
    cid: Cid = item[1]
    node = load(source, flavor, cid)
    place = _Place(node, flavor.origin(parent.origin, parent.node.keys, index))
    good = (
        node.level == parent.node.level - 1
        and flavor.summary(node.items[-1], node.totals, cid) == item
        and flavor.absolute(node.keys[0], place.origin) > place.origin
    )
    if not good:
        raise Corrupt(cid, "it is not the node that its parent describes")
    return place
