"""What differs between two directories, found by reading only the nodes that one of them lacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from store import entry as entries
from store import tree
from store.batch import Nodes
from store.cid import Cid
from store.entry import Entry
from store.errors import Corrupt
from store.nodes import DIRECTORY, Item


class Difference(NamedTuple):
    """`status` is A (new), D (gone), M (content or metadata differ) or T (of another kind)."""

    status: str
    path: bytes
    old: Entry | None
    new: Entry | None


def compare(source: Nodes, old: Entry | None, new: Entry | None) -> Iterator[Difference]:
    """Yield what differs, a directory before what it holds, the names in order. Any depth will do.

    A directory is M if its own metadata differ. Which paths are hard links of each other is not compared.
    """
    if status := _status(old, new):
        yield Difference(status, b"", old, new)
    stack = [] if _content(old) == _content(new) else [(b"", _pairs(source, _content(old), _content(new)))]
    while stack:
        at, pairs = stack[-1]
        for name, before, after in pairs:
            path = at + b"/" + name if at else name
            if status := _status(before, after):
                yield Difference(status, path, before, after)
            if _content(before) != _content(after):
                stack.append((path, _pairs(source, _content(before), _content(after))))
                break
        else:
            stack.pop()


def own(entry: Entry) -> Entry:
    """Return the entry without what says something about the files below it."""
    return entry._replace(data=None, total=(0, 0, 0)) if entry.is_dir else entry


def _status(old: Entry | None, new: Entry | None) -> str:
    if old is None or new is None:
        return "" if old is new else "A" if old is None else "D"
    if old.kind != new.kind:
        return "T"
    return "" if own(old) == own(new) else "M"


def _content(entry: Entry | None) -> Cid | None:
    return entry.tree if entry is not None and entry.is_dir else None


def _pairs(source: Nodes, old: Cid | None, new: Cid | None) -> Iterator[tuple[bytes, Entry | None, Entry | None]]:
    """Yield (name, old entry, new entry) in order, of all that lies in nodes which the two do not share."""
    old_leaves, new_leaves = _leaves_apart(source, old, new)
    olds, news = _entries(source, old_leaves), _entries(source, new_leaves)
    before, after = next(olds, None), next(news, None)
    while before is not None or after is not None:
        name = min(side[0] for side in (before, after) if side is not None)
        left = right = None
        if before is not None and before[0] == name:
            left, before = before[1], next(olds, None)
        if after is not None and after[0] == name:
            right, after = after[1], next(news, None)
        yield name, left, right


def _entries(source: Nodes, leaves: list[Cid]) -> Iterator[tuple[bytes, Entry]]:
    for leaf in leaves:
        for name, doc in _items(source, leaf, 0):
            yield name, entries.decode(doc, leaf)


def _leaves_apart(source: Nodes, old: Cid | None, new: Cid | None) -> tuple[list[Cid], list[Cid]]:
    """Return the leaves of each that are not the other's, in order.

    A node in both holds the same names with the same entries on both sides, so it can be left out unread.
    """
    olds, news = _Row.of(source, old), _Row.of(source, new)
    while olds.level or news.level:
        level = max(olds.level, news.level)
        olds, news = olds.down_from(source, level), news.down_from(source, level)
        if olds.level == news.level:
            shared = frozenset(olds.cids).intersection(news.cids)
            olds, news = olds.without(shared), news.without(shared)
    return olds.cids, news.cids


class _Row(NamedTuple):
    """Nodes of one level, in order."""

    level: int
    cids: list[Cid]

    @classmethod
    def of(cls, source: Nodes, root: Cid | None) -> _Row:
        return cls(0, []) if root is None else cls(tree.load(source, DIRECTORY, root).level, [root])

    def down_from(self, source: Nodes, level: int) -> _Row:
        """Return the row below, if this one is at `level`."""
        if self.level < level:
            return self
        return _Row(level - 1, [item[1] for cid in self.cids for item in _items(source, cid, level)])

    def without(self, cids: frozenset[Cid]) -> _Row:
        return _Row(self.level, [cid for cid in self.cids if cid not in cids])


def _items(source: Nodes, cid: Cid, level: int) -> list[Item]:
    node = tree.load(source, DIRECTORY, cid)
    if node.level != level:
        raise Corrupt(cid, f"a node of level {node.level} where one of level {level} was promised")
    return node.items
