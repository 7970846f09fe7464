"""Any sequence of puts, links, roots, dereferences, collections and crashes, beside a model made of plain dicts.

One machine; every kind of store runs through it, and the layered one with a base that lives its own life.
"""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from store import layered_store, limits
from store.blocks import Change, RootChange, Store, dereference
from store.cid import Cid
from store.errors import MissingLink, NotFound, RootMoved
from store.flatfs_store import FlatFsStore
from store.layered_store import LayeredStore
from store.lmdb_store import LmdbStore
from store.memory_store import MemoryStore
from tests.suites.blocks import Block, State, drain, hold, node, put, raw, record
from tests.suites.faults import die_before_line, forked, quick_directory, waited

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
            self.check_nothing_else_is_here()

    @rule(step=st.integers(1, 6))
    def collect_all(self, step: int) -> None:
        drain(self.store, step)
        self.check_nothing_else_is_here()

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
        counts = Counter(dict.fromkeys(self.counted(state), 0))
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

    def here(self) -> set[Cid]:
        """Every block that can be read."""
        return set(self.store.cids())

    def counted(self, state: State) -> set[Cid]:
        """What has a count though nothing may refer to it."""
        return set(state.blocks)

    def check_nothing_else_is_here(self) -> None:
        """After a collection."""
        assert set(self.store.cids()) == self.needed()

    def choose(self, chosen: list[int]) -> frozenset[Cid]:
        """Return some of the blocks that are in the store, garbage too."""
        here = sorted(self.here())
        return frozenset(here[number % len(here)] for number in chosen) if here else frozenset()

    def put(self, blocks: list[Block], links: list[frozenset[Cid]], key: bytes | None, top: Cid | None = None) -> None:
        new = {cid for cid, _ in blocks} - self.here()
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


class DiskMachine(Machine):
    """Closed and opened again at any time, by processes that are killed too."""

    lines = 500  # of our code, about as many as a change and a step of gc run through

    def open_in(self, directory: Path) -> Store:
        raise NotImplementedError

    def open(self) -> Store:
        self.place = ExitStack()
        self.directory = self.place.enter_context(quick_directory())
        return self.open_in(self.directory)

    @precondition(lambda self: hasattr(self, "store"))
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open_in(self.directory)

    @rule(
        chosen=SOME,
        depth=st.integers(1, 4),
        key=st.sampled_from(KEYS),
        step=st.integers(1, 4),
        part=st.integers(1, 1000),
    )
    def crash(self, chosen: list[int], depth: int, key: bytes, step: int, part: int) -> None:
        """A process is killed before any line of ours, in a change or in the collection after it."""
        links = self.choose(chosen)
        blocks, found = [node(*links, raw(b"bytes"), label="crash")], [links | {raw(b"bytes").cid}]
        for _ in range(depth):
            found.append(frozenset([blocks[-1].cid]))
            blocks.append(node(blocks[-1], label="crash"))
        blocks, found = [raw(b"bytes"), *blocks], [frozenset(), *found]
        old, new = self.old(key), record(blocks[-1])
        for (cid, data), linked in zip(blocks, found, strict=True):
            self.data[cid], self.links[cid] = data, linked
        self.store.close()

        def work() -> None:
            opened = self.open_in(self.directory)
            die_before_line(1 + part * self.lines // 1000)
            opened.apply(Change(dict(blocks), (RootChange(key, old, new),)))
            opened.gc(step)

        status = waited(forked(work))
        assert status in (0, -signal.SIGKILL)
        self.store = self.open_in(self.directory)
        assert self.store.root(key) in (old, new)
        if self.store.root(key) == new:
            self.roots[key] = frozenset([blocks[-1].cid])
        else:
            assert status, "it was told that this is done"

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "place"):
            self.place.close()


class LmdbMachine(DiskMachine):
    """With a map that has to grow."""

    def open_in(self, directory: Path) -> Store:
        return LmdbStore(directory, map_bytes=64 * limits.KIB)

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


class FlatFsMachine(DiskMachine):
    lines = 800

    def open_in(self, directory: Path) -> Store:
        return FlatFsStore(directory)

    def check_nothing_else_is_here(self) -> None:
        super().check_nothing_else_is_here()
        files = {path.name for path in self.directory.glob("blocks/*/*")}
        assert files == set(map(str, self.needed())), "files of blocks that are gone, or the other way round"
        assert not list(self.directory.glob("new/*"))


class LayeredMachine(DiskMachine):
    """A top on files over a base in LMDB, which others use and collect too."""

    lines = 2500
    BASE_KEYS = (b"name/of base", b"pin/of base")

    def open_in(self, directory: Path) -> Store:
        is_new = not (directory / "top").exists()
        for name in ("base", "top", "layer"):
            (directory / name).mkdir(exist_ok=True)
        self.base = LmdbStore(directory / "base")
        if is_new:
            layered_store.register(self.base, "top", directory)
        return LayeredStore(FlatFsStore(directory / "top"), [self.base], "top", directory / "layer")

    # What others do in the base

    @rule(fill=st.integers(0, 5), size=st.integers(0, 3000), key=st.sampled_from([None, *BASE_KEYS]))
    def put_bytes_in_base(self, fill: int, size: int, key: bytes | None) -> None:
        self.put_in_base([raw(bytes([fill]) * size)], frozenset(), key)

    @rule(chosen=SOME, label=st.integers(0, 3), key=st.sampled_from([None, *BASE_KEYS]))
    def put_node_in_base(self, chosen: list[int], label: int, key: bytes | None) -> None:
        here = sorted(self.base.cids())
        links = frozenset(here[number % len(here)] for number in chosen) if here else frozenset()
        self.put_in_base([node(*links, label=str(label))], links, key)

    def put_in_base(self, blocks: list[Block], links: frozenset[Cid], key: bytes | None) -> None:
        self.data[blocks[0].cid], self.links[blocks[0].cid] = blocks[0].data, links
        if key is None:
            put(self.base, *blocks)
        else:
            hold(self.base, key, *blocks, blocks=tuple(blocks))

    @rule(key=st.sampled_from(BASE_KEYS))
    def drop_root_in_base(self, key: bytes) -> None:
        dereference(self.base, key)

    @rule(step=st.integers(1, 6))
    def collect_base(self, step: int) -> None:
        drain(self.base, step)
        state = State.of(self.base)
        assert state.blocks.keys() == state.reachable()

    # What always holds

    @invariant()
    def the_base_is_whole_and_holds_what_we_need(self) -> None:
        state = State.of(self.base)
        state.check()
        held = layered(self.store).borrowed().keys()
        own = set(self.store.cids())
        assert held >= {cid for cid in self.referred() if cid not in own}
        assert state.blocks.keys() >= held
        assert layered(self.store).unheld() == []

    def here(self) -> set[Cid]:
        return {*self.store.cids(), *self.base.cids()}

    def counted(self, state: State) -> set[Cid]:
        return {*state.blocks, *state.queue}

    def check_nothing_else_is_here(self) -> None:
        own = set(self.store.cids())
        assert own <= self.needed() <= self.here()
        assert layered(self.store).borrowed().keys() == self.referred() - own

    def referred(self) -> set[Cid]:
        """What the top's own blocks and roots refer to."""
        of_blocks = (self.links[cid] for cid in self.store.cids())
        return set().union(*of_blocks, *self.roots.values())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for key in KEYS:
                dereference(self.store, key)
            drain(self.store)
            assert [key for key in self.base.root_keys(layered_store.PREFIX) if b"/" in key[len("borrow/") :]] == []
        super().teardown()


def layered(store: Store) -> LayeredStore:
    assert isinstance(store, LayeredStore)
    return store


COMMON = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(COMMON, max_examples=100, stateful_step_count=30)
TestLmdbMachine = LmdbMachine.TestCase
TestLmdbMachine.settings = settings(COMMON, max_examples=25, stateful_step_count=25)
TestFlatFsMachine = FlatFsMachine.TestCase
TestFlatFsMachine.settings = settings(COMMON, max_examples=20, stateful_step_count=20)
TestLayeredMachine = LayeredMachine.TestCase
TestLayeredMachine.settings = settings(COMMON, max_examples=20, stateful_step_count=25)
