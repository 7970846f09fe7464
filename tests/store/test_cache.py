"""The cache gives what the store gives, asks it once, and stays within its bounds."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from store.batch import Batch
from store.blocks import Blocks
from store.cache import Cache, Lru
from store.cid import BLAKE3, Algorithm, Cid
from store.directory import with_entries
from store.entry import Entry
from store.errors import Corrupt, NotFound, WrongKind
from store.memory_store import MemoryStore
from tests.suites.blocks import put, raw, spoil


class Counting:
    """A store that counts how often each block is asked for."""

    def __init__(self, under: Blocks) -> None:
        self.asked: Counter[Cid] = Counter()
        self._under = under

    @property
    def algorithm(self) -> Algorithm:
        return self._under.algorithm

    def get(self, cid: Cid) -> bytes:
        self.asked[cid] += 1
        return self._under.get(cid)

    def has(self, cid: Cid) -> bool:
        return self._under.has(cid)


def test_a_block_is_asked_for_once() -> None:
    store = MemoryStore()
    block = raw(b"bytes")
    put(store, block)
    counting = Counting(store)
    cache = Cache(counting)
    assert cache.algorithm is BLAKE3
    assert [cache.get(block.cid) for _ in range(3)] == [b"bytes"] * 3
    assert counting.asked[block.cid] == 1


def test_the_block_used_longest_ago_goes_first() -> None:
    store = MemoryStore()
    blocks = [raw(bytes([number]) * 100) for number in range(4)]
    put(store, *blocks)
    counting = Counting(store)
    cache = Cache(counting, chunk_bytes=300)
    for number in (0, 1, 2, 0, 3, 0, 2, 3, 1):  # 3 pushes 1 out, 1 pushes 0 out
        cache.get(blocks[number].cid)
    assert [counting.asked[block.cid] for block in blocks] == [1, 2, 1, 1]
    cache.get(blocks[0].cid)
    assert counting.asked[blocks[0].cid] == 2


def test_a_block_larger_than_the_cache_is_read_all_the_same() -> None:
    store = MemoryStore()
    block = raw(bytes(1000))
    put(store, block)
    counting = Counting(store)
    cache = Cache(counting, chunk_bytes=100)
    assert cache.get(block.cid) == cache.get(block.cid) == block.data
    assert counting.asked[block.cid] == 2


def test_failures_are_not_kept() -> None:
    store = MemoryStore()
    block = raw(b"bytes")
    cache = Cache(store)
    with pytest.raises(NotFound):
        cache.get(block.cid)
    put(store, block)
    spoil(store, block.cid, b"wrong")
    with pytest.raises(Corrupt):
        cache.get(block.cid)
    spoil(store, block.cid, block.data)
    assert cache.get(block.cid) == block.data


def test_nodes_are_decoded_once_and_bounded() -> None:
    store = MemoryStore()
    batch = Batch(Cache(store))
    empty = Entry("dir", 0o755)
    roots = [with_entries(batch, empty, {b"%d" % n: Entry("file", 0o644)}).tree for n in range(3)]
    put(store, *((cid, data) for cid, data in batch.blocks.items()))  # type: ignore[arg-type]
    counting = Counting(store)
    cache = Cache(counting, node_count=2)
    nodes = [cache.node(cid) for cid in roots if cid]
    assert cache.node(roots[2]) is nodes[2] and cache.node(roots[1]) is nodes[1]  # type: ignore[arg-type]
    assert cache.node(roots[0]) is not nodes[0]  # type: ignore[arg-type]
    assert counting.asked == {roots[0]: 2, roots[1]: 1, roots[2]: 1}


def test_what_is_no_node_is_refused() -> None:
    store = MemoryStore()
    put(store, raw(b"bytes"))
    with pytest.raises(WrongKind):
        Cache(store).node(raw(b"bytes").cid)


def test_a_value_put_again_counts_once() -> None:
    lru: Lru[str] = Lru(10)
    one, two = raw(b"1").cid, raw(b"2").cid
    for _ in range(20):
        lru.put(one, "one", 5)
    lru.put(two, "two", 5)
    assert (lru.get(one), lru.get(two)) == ("one", "two")
    lru.put(two, "TWO", 6)
    assert (lru.get(one), lru.get(two)) == (None, "TWO")


def test_threads_may_share_a_cache() -> None:
    store = MemoryStore()
    blocks = [raw(b"%d" % number * 50) for number in range(100)]
    put(store, *blocks)
    cache = Cache(store, chunk_bytes=2000)
    failures: list[BaseException] = []

    def read(step: int) -> None:
        try:
            for number in range(5000):
                cid, data = blocks[number * step % 100]
                assert cache.get(cid) == data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(step,)) for step in (1, 3, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
