"""The counting rules, on the smallest store there is."""

from __future__ import annotations

import pytest

from store.blocks import Change, RootChange
from store.errors import Corrupt
from store.memory_store import MemoryStore
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
