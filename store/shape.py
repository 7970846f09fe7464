"""The shape of nodes: whether each ends where the format says, so that equal content cannot have two CIDs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from store import codec, limits
from store.cid import Cid
from store.errors import StoreError
from store.nodes import FLAVORS, Node


class Shape(NamedTuple):
    """`problem` is what is wrong with the node by itself. `is_open`: only the end of its level can end it here."""

    problem: str
    is_open: bool
    children: tuple[Cid, ...]


def of(cid: Cid, data: bytes) -> Shape | None:
    """Return the shape of a tree's node; None for every other block."""
    if not cid.is_node or not data.startswith(_BEGINNINGS):
        return None
    try:
        node = Node.decode(cid, data)
    except StoreError as error:
        return Shape(f"breaks the format: {getattr(error, 'why', error)}", False, ())
    ends = _ends(node, len(data))
    problem = "" if ends is None or ends == len(node.items) else f"goes on behind item {ends}, where a node must end"
    return Shape(problem, ends is None, tuple(item[1] for item in node.items) if node.level else ())


def _ends(node: Node, size: int) -> int | None:
    """Return the number of items with which a node must end, if these are the first; None if nothing ends it."""
    may_be_full = size >= limits.node_bytes_soft
    done = 0
    for count, item in enumerate(node.items, 1):
        if may_be_full:
            done += len(codec.encode(item))
            if count >= 2 and done >= limits.node_bytes_soft:
                return count
        if count >= limits.node_items_min and not node.flavor.label(item)[node.level] & limits.node_boundary_mask:
            return count
    return None


_BEGINNINGS: Final = tuple(b"\x83" + codec.encode(name) for name in FLAVORS)


class Shapes:
    """What is seen of all nodes of a store, in any order. Holds little more than what is said of inner nodes."""

    def __init__(self) -> None:
        self._open: set[Cid] = set()
        self._children: dict[Cid, tuple[Cid, ...]] = {}

    def see(self, cid: Cid, shape: Shape) -> None:
        if shape.is_open:
            self._open.add(cid)
        if shape.children:
            self._children[cid] = shape.children

    def torn(self) -> Iterator[Cid]:
        """Yield the nodes that end too early: something follows on their level, and nothing ended them.

        Nodes that were not seen are taken for good. A tree that is higher than it must be is not found.
        """
        found: set[Cid] = set()
        for children in self._children.values():
            for child in children[:-1]:
                found.update(self._open_ends(child))
        yield from sorted(found)

    def _open_ends(self, cid: Cid) -> Iterator[Cid]:
        """Yield the open nodes on the right edge below `cid`, and itself."""
        at: Cid | None = cid
        while at is not None:
            if at in self._open:
                yield at
            at = self._children[at][-1] if at in self._children else None
