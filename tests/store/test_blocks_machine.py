"""Any sequence of puts, links, roots, dereferences and collections, beside a model made of plain dicts."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from store import limits
from store.blocks import Change, RootChange, Store, dereference
from store.cid import Cid
from store.errors import MissingLink, NotFound, RootMoved
from store.lmdb_store import LmdbStore
from store.memory_store import MemoryStore
from tests.suites.blocks import Block, State, drain, node, raw, record

KEYS = [b"name/a", b"name/b", b"pin/c", b"stage/d"]
SOME = st.lists(st.integers(0, 10_000), max_size=4)


class Machine(RuleBasedStateMachine):
    """`links` has every block that may be in the store, with what it refers to; `roots` what each root does."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.links: dict[Cid, frozenset[Cid]] = {}
        self.data: dict[Cid, bytes] = {}
        self.roots: dict[bytes, frozenset[Cid]] = {}

    def open(self) -> Store:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.store = self.open()

    # What is done

    @rule(size=st.integers(0, 3000), fill=st.integers(0, 5), key=st.sampled_from([None, *KEYS]))
    def put_bytes(self, size: int, fill: int, key: bytes | None) -> None:
        self.put([raw(bytes([fill]) * size)], [frozenset()], key)

    @rule(chosen=SOME, label=st.integers(0, 3), key=st.sampled_from([None, *KEYS]))
    def put_node(self, chosen: list[int], label: int, key: bytes | None) -> None:
        links = self.choose(chosen)
        self.put([node(*links, label=str(label))], [links], key)

    @rule(chosen=SOME, depth=st.integers(2, 5), key=st.sampled_from([None, *KEYS]), reverse=st.booleans())
    def put_chain(self, chosen: list[int], depth: int, key: bytes | None, reverse: bool) -> None:
        links = self.choose(chosen)
        blocks, found = [node(*links, label="chain")], [links]
        for _ in range(depth):
            found.append(frozenset([blocks[-1].cid]))
            blocks.append(node(blocks[-1], label="chain"))
        order = -1 if reverse else 1
        self.put(blocks[::order], found[::order], key, top=blocks[-1].cid)

    @rule(key=st.sampled_from(KEYS), chosen=SOME)
    def set_root(self, key: bytes, chosen: list[int]) -> None:
        links = self.choose(chosen)
        self.store.apply(Change(roots=(RootChange(key, self.old(key), record(*links)),)))
        self.roots[key] = links

    @rule(one=st.sampled_from(KEYS), other=st.sampled_from(KEYS))
    def swap_roots(self, one: bytes, other: bytes) -> None:
        if one == other or one not in self.roots or other not in self.roots:
            return
        first, second = self.old(one), self.old(other)
        self.store.apply(Change(roots=(RootChange(one, first, second), RootChange(other, second, first))))
        self.roots[one], self.roots[other] = self.roots[other], self.roots[one]

    @rule(key=st.sampled_from(KEYS))
    def drop_root(self, key: bytes) -> None:
        dereference(self.store, key)
        self.roots.pop(key, None)

    @rule(step=st.integers(1, 6))
    def collect_some(self, step: int) -> None:
        before = set(self.store.cids())
        freed = self.store.gc(step)
        gone = before - set(self.store.cids())
        assert freed.blocks == len(gone) <= step
        assert not gone & self.needed(), "a block that something needs was deleted"
        if not freed.waiting:
            assert set(self.store.cids()) == self.needed()

    @rule(step=st.integers(1, 6))
    def collect_all(self, step: int) -> None:
        drain(self.store, step)
        assert set(self.store.cids()) == self.needed()

    # What is refused

    @rule(chosen=SOME, key=st.sampled_from(KEYS), in_block=st.booleans())
    def link_to_nothing(self, chosen: list[int], key: bytes, in_block: bool) -> None:
        before = State.of(self.store)
        nothing = raw(b"never stored")
        parent = node(*self.choose(chosen), *([nothing] if in_block else []), label="refused")
        links = [parent] if in_block else [parent, nothing]
        with pytest.raises(MissingLink):
            self.store.apply(Change(dict([parent]), (RootChange(key, self.old(key), record(*links)),)))
        assert State.of(self.store) == before

    @rule(key=st.sampled_from(KEYS), chosen=SOME)
    def move_a_moved_root(self, key: bytes, chosen: list[int]) -> None:
        before = State.of(self.store)
        with pytest.raises(RootMoved):
            self.store.apply(
                Change(dict([raw(b"refused")]), (RootChange(key, b"stale", record(*self.choose(chosen))),))
            )
        assert State.of(self.store) == before

    # What always holds

    @invariant()
    def counts_are_what_a_recount_gives(self) -> None:
        state = State.of(self.store)
        counts = Counter(dict.fromkeys(state.blocks, 0))
        for links in (*(self.links[cid] for cid in state.blocks), *self.roots.values()):
            counts.update(links)
        assert state.counts == counts
        assert state.queue == {cid for cid, count in counts.items() if not count}
        assert state.roots.keys() == self.roots.keys()

    @invariant()
    def nothing_needed_is_missing(self) -> None:
        for cid in self.needed():
            assert self.store.get(cid) == self.data[cid]

    @invariant()
    def usage_is_a_sum(self) -> None:
        blocks = list(self.store.cids())
        usage = self.store.usage()
        assert (usage.blocks, usage.plain) == (len(blocks), sum(len(self.data[cid]) for cid in blocks))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for key in KEYS:
                dereference(self.store, key)
            drain(self.store)
            assert State.of(self.store) == State({}, {}, frozenset(), {})
            self.store.close()

    # Helpers

    def choose(self, chosen: list[int]) -> frozenset[Cid]:
        """Return some of the blocks that are in the store, garbage too."""
        here = sorted(self.store.cids())
        return frozenset(here[number % len(here)] for number in chosen) if here else frozenset()

    def put(self, blocks: list[Block], links: list[frozenset[Cid]], key: bytes | None, top: Cid | None = None) -> None:
        new = {cid for cid, _ in blocks} - set(self.store.cids())
        held = frozenset([top or blocks[0].cid])
        roots = () if key is None else (RootChange(key, self.old(key), record(*held)),)
        assert self.store.apply(Change(dict(blocks), roots)) == len(new)
        for (cid, data), found in zip(blocks, links, strict=True):
            self.data[cid], self.links[cid] = data, found
        if key is not None:
            self.roots[key] = held

    def old(self, key: bytes) -> bytes | None:
        links = self.roots.get(key)
        found = self.store.root(key)
        assert (found is None) == (links is None)
        return found

    def needed(self) -> set[Cid]:
        found: set[Cid] = set()
        todo = [cid for links in self.roots.values() for cid in links]
        while todo:
            cid = todo.pop()
            if cid not in found:
                found.add(cid)
                todo.extend(self.links[cid])
        return found


class MemoryMachine(Machine):
    def open(self) -> Store:
        return MemoryStore()


class LmdbMachine(Machine):
    """With a map that has to grow, and closed and opened again at any time."""

    def open(self) -> Store:
        self.directory = Path(tempfile.mkdtemp(prefix="monofs-machine-"))
        return LmdbStore(self.directory, map_bytes=64 * limits.KIB)

    @precondition(lambda self: hasattr(self, "store"))
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = LmdbStore(self.directory, map_bytes=64 * limits.KIB)

    @rule()
    def lose_and_heal(self) -> None:
        """What damage takes away, the next put of the same bytes brings back."""
        before = State.of(self.store)
        for cid in list(before.blocks)[:3]:
            if cid.is_node:
                continue  # its links would have to be recounted first: see test_check
            self.store.repair(lambda tables, cid=cid: tables.lose(cid))
            with pytest.raises(NotFound):
                self.store.get(cid)
            self.store.apply(Change({cid: self.data[cid]}))
        assert State.of(self.store) == before

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)


COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(COMMON, max_examples=100, stateful_step_count=30)
TestLmdbMachine = LmdbMachine.TestCase
TestLmdbMachine.settings = settings(COMMON, max_examples=25, stateful_step_count=25)
