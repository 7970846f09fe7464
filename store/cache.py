"""Blocks that were read lately, and the nodes decoded from them. Thread-safe; bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

from store import limits
from store.blocks import Blocks
from store.cid import Algorithm, Cid
from store.nodes import Node

_T = TypeVar("_T")


class Lru(Generic[_T]):
    """The values used last, up to a total weight."""

    def __init__(self, weight_max: int) -> None:
        self._weight_max = weight_max
        self._weight = 0
        self._items: OrderedDict[Cid, tuple[_T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Cid) -> _T | None:
        with self._lock:
            found = self._items.get(key)
            if found is None:
                return None
            self._items.move_to_end(key)
            return found[0]

    def put(self, key: Cid, value: _T, weight: int) -> None:
        with self._lock:
            old = self._items.pop(key, None)
            self._weight += weight - (old[1] if old else 0)
            self._items[key] = value, weight
            while self._weight > self._weight_max:
                _, (_, gone) = self._items.popitem(last=False)
                self._weight -= gone


class Cache:
    """A reader of blocks that keeps what it read."""

    def __init__(
        self,
        blocks: Blocks,
        *,
        chunk_bytes: int = limits.cache_chunk_bytes,
        node_count: int = limits.cache_node_count,
    ) -> None:
        self._blocks = blocks
        self._chunks: Lru[bytes] = Lru(chunk_bytes)
        self._nodes: Lru[Node] = Lru(node_count)

    @property
    def algorithm(self) -> Algorithm:
        return self._blocks.algorithm

    def has(self, cid: Cid) -> bool:
        return self._blocks.has(cid)

    def get(self, cid: Cid) -> bytes:
        data = self._chunks.get(cid)
        if data is None:
            data = self._blocks.get(cid)
            self._chunks.put(cid, data, len(data))
        return data

    def node(self, cid: Cid) -> Node:
        """Return the tree node `cid`, decoded and checked. Raises NotFound, Corrupt, WrongKind."""
        node = self._nodes.get(cid)
        if node is None:
            data = self._blocks.get(cid)
            node = Node.decode(cid, data)
            self.keep(cid, node, len(data))
        return node

    def keep(self, cid: Cid, node: Node, size: int) -> None:
        """Keep a node of `size` bytes that somebody else made."""
        # A forged node can be as large as a block: it counts as the many that would take its place.
        self._nodes.put(cid, node, 1 + size // limits.cache_node_bytes)
