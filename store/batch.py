"""Blocks that are being made and not stored yet; reading looks here first."""

from __future__ import annotations

from typing import Protocol

from store import codec, limits
from store.cache import Cache
from store.cid import Algorithm, Cid
from store.errors import TooLarge
from store.nodes import Node


class Nodes(Protocol):
    """Where trees are read: a Cache, or a Batch over it."""

    @property
    def algorithm(self) -> Algorithm: ...
    def get(self, cid: Cid) -> bytes: ...
    def node(self, cid: Cid) -> Node: ...


class Stage(Protocol):
    """Where a batch puts blocks early, so that it need not hold them all."""

    def put(self, blocks: dict[Cid, bytes]) -> None: ...


class Batch:
    """Collects blocks, children before parents.

    With a `stage`, memory stays bounded, by `batch_bytes_max` and `batch_blocks_max`.
    """

    def __init__(self, under: Cache, stage: Stage | None = None) -> None:
        self.algorithm = under.algorithm
        self.blocks: dict[Cid, bytes] = {}
        self._under = under
        self._stage = stage
        self._bytes = 0
        self._nodes: dict[Cid, Node] = {}  # the last ones made

    def get(self, cid: Cid) -> bytes:
        data = self.blocks.get(cid)
        return self._under.get(cid) if data is None else data

    def node(self, cid: Cid) -> Node:
        data = self.blocks.get(cid)
        if data is None:
            return self._under.node(cid)
        return self._nodes.get(cid) or Node.decode(cid, data)

    def put_raw(self, data: bytes) -> Cid:
        return self._put(self.algorithm.raw(data), data)

    def put_node(self, data: bytes, node: Node | None = None) -> Cid:
        """`node` is what `data` decodes to, if the caller knows."""
        cid = self._put(self.algorithm.node(data), data)
        if node is not None:
            self._nodes[cid] = node
            if len(self._nodes) > limits.batch_nodes_max:
                del self._nodes[next(iter(self._nodes))]
        return cid

    def put_doc(self, doc: codec.Doc) -> Cid:
        return self.put_node(codec.encode(doc))

    def flush(self) -> None:
        """Store what there is so far, held by the stage."""
        if self._stage is not None and self.blocks:
            self._stage.put(self.blocks)
            self.clear()

    def clear(self) -> None:
        """Forget the blocks: they are stored."""
        for cid, node in self._nodes.items():
            if cid in self.blocks:
                self._under.keep(cid, node, len(self.blocks[cid]))
        self._nodes = {}
        self.blocks = {}
        self._bytes = 0

    def _put(self, cid: Cid, data: bytes) -> Cid:
        if len(data) > limits.block_bytes_max:
            raise TooLarge(f"a block of {len(data)} bytes is over the limit of {limits.block_bytes_max}")
        if cid not in self.blocks:
            self.blocks[cid] = data
            self._bytes += len(data) + limits.block_overhead_bytes
            full = self._bytes >= limits.batch_bytes_max or len(self.blocks) >= limits.batch_blocks_max
            if self._stage is not None and full:
                self.flush()
        return cid
