"""The items that two ordered trees do not share, found by reading only the nodes that one of them lacks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import NamedTuple

from store import tree
from store.batch import Nodes
from store.cid import Cid
from store.errors import Corrupt
from store.nodes import Flavor, Item, Key


class Apart(NamedTuple):
    """The items of one key, and the leaves that they lie in."""

    key: Key
    old: Item | None
    new: Item | None
    old_leaf: Cid | None
    new_leaf: Cid | None


def items(source: Nodes, flavor: Flavor, old: Cid | None, new: Cid | None) -> Iterator[Apart]:
    """Yield, in order, all items that the two do not share. Reads only the nodes that one of them lacks.

    `flavor` must be one whose keys do not count from where their node begins.
    """
    old_leaves, new_leaves = _leaves(source, flavor, old, new)
    olds, news = _below(source, flavor, old_leaves), _below(source, flavor, new_leaves)
    before, after = next(olds, None), next(news, None)
    while before is not None and after is not None:
        (left, left_leaf), (right, right_leaf) = before, after
        if left == right:
            before, after = next(olds, None), next(news, None)
        elif left[0] == right[0]:
            yield Apart(left[0], left, right, left_leaf, right_leaf)
            before, after = next(olds, None), next(news, None)
        elif left[0] < right[0]:
            yield Apart(left[0], left, None, left_leaf, None)
            before = next(olds, None)
        else:
            yield Apart(right[0], None, right, None, right_leaf)
            after = next(news, None)
    if before is not None:
        yield from (Apart(item[0], item, None, leaf, None) for item, leaf in chain([before], olds))
    if after is not None:
        yield from (Apart(item[0], None, item, None, leaf) for item, leaf in chain([after], news))


def _below(source: Nodes, flavor: Flavor, leaves: list[Cid]) -> Iterator[tuple[Item, Cid]]:
    return chain.from_iterable(zip(_items(source, flavor, leaf, 0), repeat(leaf)) for leaf in leaves)


def _leaves(source: Nodes, flavor: Flavor, old: Cid | None, new: Cid | None) -> tuple[list[Cid], list[Cid]]:
    """Return the leaves of each that are not the other's, in order.

    A node in both holds the same keys with the same items on both sides, so it can be left out unread.
    """
    if old == new:
        return [], []
    olds, news = _Row.of(source, flavor, old), _Row.of(source, flavor, new)
    while olds.level or news.level:
        level = max(olds.level, news.level)
        olds, news = olds.down_from(source, flavor, level), news.down_from(source, flavor, level)
        if olds.level == news.level:
            shared = frozenset(olds.cids).intersection(news.cids)
            olds, news = olds.without(shared), news.without(shared)
    return olds.cids, news.cids


class _Row(NamedTuple):
    """Nodes of one level, in order."""

    level: int
    cids: list[Cid]

    @classmethod
    def of(cls, source: Nodes, flavor: Flavor, root: Cid | None) -> _Row:
        return cls(0, []) if root is None else cls(tree.load(source, flavor, root).level, [root])

    def down_from(self, source: Nodes, flavor: Flavor, level: int) -> _Row:
        """Return the row below, if this one is at `level`."""
        if self.level < level:
            return self
        return _Row(level - 1, [item[1] for cid in self.cids for item in _items(source, flavor, cid, level)])

    def without(self, cids: frozenset[Cid]) -> _Row:
        return _Row(self.level, [cid for cid in self.cids if cid not in cids])


def _items(source: Nodes, flavor: Flavor, cid: Cid, level: int) -> list[Item]:
    node = tree.load(source, flavor, cid)
    if node.level != level:
        raise Corrupt(cid, f"a node of level {node.level} where one of level {level} was promised")
    return node.items
