"""The counting rules, on the smallest store there is."""

from __future__ import annotations

import pytest

from store import check
from store.blocks import Change, RootChange, collect
from store.cid import Cid
from store.errors import Corrupt
from store.memory_store import MemoryStore, _Tables
from tests.suites.blocks import State, hold, node, put, raw, record


def test_counts_that_are_too_low_are_corrupt_and_change_nothing() -> None:
    store, block = MemoryStore(), raw(b"x")
    hold(store, b"r", block, blocks=(block,))
    store.repair(lambda tables: tables.set_count(block.cid, 0))
    before = State.of(store)
    with pytest.raises(Corrupt) as caught:
        store.apply(Change(roots=(RootChange(b"r", record(block), None),)))
    assert caught.value.cid == block.cid and "monofs check" in str(caught.value)
    assert State.of(store) == before


def test_a_link_moved_from_one_root_to_another_is_never_queued() -> None:
    store, block = MemoryStore(), raw(b"x")
    hold(store, b"a", block, blocks=(block,))
    move = (RootChange(b"a", record(block), None), RootChange(b"b", None, record(block)))
    store.apply(Change(roots=move))
    assert store.count(block.cid) == 1
    assert State.of(store).queue == frozenset()


def test_a_new_parent_takes_a_queued_child_out_of_the_queue() -> None:
    store, leaf = MemoryStore(), raw(b"leaf")
    put(store, leaf)
    top = node(leaf)
    put(store, top)
    assert State.of(store).queue == {top.cid}


def test_new_blocks_are_told_from_those_that_were_there() -> None:
    store = MemoryStore()
    assert put(store, raw(b"1"), raw(b"2")) == 2
    assert put(store, raw(b"2"), raw(b"3")) == 1


def test_gc_writes_a_count_once_however_many_of_what_goes_refer_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions that are pruned share most of what they refer to."""
    store = MemoryStore()
    shared = [raw(b"%d" % number) for number in range(50)]
    kept = node(*shared)
    chain = [node(*shared, raw(b"first"))]
    for number in range(20):
        chain.append(node(*shared, chain[-1], label=f"{number}"))
    hold(store, b"keep", kept, blocks=(*shared, kept))
    hold(store, b"r", chain[-1], blocks=(raw(b"first"), *chain))
    store.apply(Change(roots=(RootChange(b"r", record(chain[-1]), None),)))
    written: list[Cid] = []
    write = _Tables.set_count
    monkeypatch.setattr(_Tables, "set_count", lambda self, cid, n: (written.append(cid), write(self, cid, n)))
    assert store.gc(1000).blocks == len(chain) + 1
    assert sorted(written) == sorted(block.cid for block in shared)
    assert {store.count(block.cid) for block in shared} == {1}


def test_gc_in_steps_of_any_size_leaves_the_same() -> None:
    for step in (1, 2, 3, 7, 1000):
        store = MemoryStore()
        leaves = [raw(b"%d" % number) for number in range(6)]
        nodes = [node(*leaves[number:]) for number in range(5)]
        top = node(*nodes)
        hold(store, b"r", top, blocks=(*leaves, *nodes, top))
        hold(store, b"keep", nodes[3])
        store.apply(Change(roots=(RootChange(b"r", record(top), None),)))
        *_, total = collect(store, step)
        assert total.blocks == 8 and total.waiting == 0, step
        assert set(store.cids()) == {nodes[3].cid, *(leaf.cid for leaf in leaves[3:])}
        assert check.examine(store).is_clean
