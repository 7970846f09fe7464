"""A batch: blocks that are being made, read before they are stored, never too many of them in memory."""

from __future__ import annotations

import pytest

from monofs_fuse.limits import dirty_names_soft
from store import codec, limits
from store import file as files
from store.batch import Batch
from store.cache import Cache
from store.chunker import FastCdc
from store.cid import BLAKE3, SHA2_256, Algorithm, Cid
from store.errors import NotFound, TooLarge
from store.memory_store import MemoryStore
from tests.store.models import mixed, new_batch, stored


class Kept:
    """A stage that keeps what it is given, as a store does."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.sizes: list[int] = []
        self.counts: list[int] = []

    def put(self, blocks: dict[Cid, bytes]) -> None:
        from store.blocks import Change

        self.sizes.append(sum(map(len, blocks.values())))
        self.counts.append(len(blocks))
        self.store.apply(Change(dict(blocks)))


@pytest.mark.parametrize("algorithm", [BLAKE3, SHA2_256], ids=lambda a: a.name)
def test_blocks_are_named_by_the_stores_algorithm(algorithm: Algorithm) -> None:
    batch = new_batch(algorithm)
    assert batch.put_raw(b"bytes") == algorithm.raw(b"bytes")
    assert batch.put_doc([1]) == batch.put_node(codec.encode([1])) == algorithm.node(b"\x81\x01")
    assert batch.get(algorithm.raw(b"bytes")) == b"bytes"
    assert len(batch.blocks) == 2


def test_what_is_not_in_the_batch_comes_from_below() -> None:
    below = new_batch()
    raw, node = below.put_raw(b"below"), below.put_doc(["links", 0, [[b"a", b"b"]]])
    batch = Batch(stored(below))
    assert batch.get(raw) == b"below" and batch.node(node).items == [[b"a", b"b"]]
    assert not batch.blocks
    mine = batch.put_doc(["links", 0, [[b"c", b"d"]]])
    assert batch.node(mine).keys == [b"c"]
    with pytest.raises(NotFound):
        batch.get(BLAKE3.raw(b"nowhere"))
    with pytest.raises(NotFound):
        batch.node(BLAKE3.node(b"nowhere"))


def test_no_block_is_over_the_limit() -> None:
    batch = new_batch()
    batch.put_raw(bytes(limits.block_bytes_max))
    with pytest.raises(TooLarge, match="1048577"):
        batch.put_raw(bytes(limits.block_bytes_max + 1))
    with pytest.raises(TooLarge):
        batch.put_node(bytes(limits.block_bytes_max + 1))
    assert len(batch.blocks) == 1


def test_memory_is_bounded_by_the_stage() -> None:
    stage, data = Kept(), mixed(1, 60 * limits.MIB)
    batch = Batch(Cache(stage.store), stage)
    file = files.from_stream(batch, FastCdc(), iter([(len(data), data)]))
    assert len(stage.sizes) == 2
    assert max(stage.sizes) < limits.batch_bytes_max + limits.chunk_bytes_max
    assert file.read_at(batch, 0, len(data)) == data, "what went to the stage can still be read"
    batch.flush()
    assert not batch.blocks and sum(stage.sizes) >= len(data)
    batch.flush()
    assert len(stage.sizes) == 3, "nothing is nothing to store"


def test_small_blocks_are_bounded_by_their_number() -> None:
    """Each makes pages of the database dirty, however small it is."""
    stage = Kept()
    batch = Batch(Cache(stage.store), stage)
    count = limits.batch_blocks_max * 2 + 5
    for number in range(count):
        batch.put_raw(b"%d" % number)
        assert len(batch.blocks) < limits.batch_blocks_max
    assert stage.counts == [limits.batch_blocks_max] * 2 and len(batch.blocks) == 5
    assert limits.batch_blocks_max > dirty_names_soft, "a commit of small files is one transaction"


def test_equal_blocks_count_once() -> None:
    stage = Kept()
    batch = Batch(Cache(stage.store), stage)
    for _ in range(100):
        batch.put_raw(bytes(limits.MIB))
    assert not stage.sizes and len(batch.blocks) == 1


def test_without_a_stage_nothing_is_stored() -> None:
    batch = new_batch()
    for n in range(30):
        batch.put_raw(mixed(n, limits.MIB))
    batch.flush()
    assert len(batch.blocks) == 30
    batch.clear()
    assert not batch.blocks
