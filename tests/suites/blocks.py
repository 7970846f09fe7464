"""What every store promises. A test module derives from `Suite` and gives it a `store` fixture."""

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

import pytest

from store import cid as cids
from store import codec, limits, rehearsal
from store.blocks import Change, RootChange, Store, collect, dereference
from store.cid import BLAKE3, Cid
from store.errors import Corrupt, MissingLink, NotFound, RootMoved
from store.ledger import RECORD_CID
from store.tables import Tables


class Block(NamedTuple):
    cid: Cid
    data: bytes


def raw(data: bytes) -> Block:
    return Block(BLAKE3.raw(data), data)


def node(*links: Block | Cid, label: str = "") -> Block:
    data = codec.encode([label, *(link.cid if isinstance(link, Block) else link for link in links)])
    return Block(BLAKE3.node(data), data)


def record(*links: Block | Cid) -> bytes:
    return node(*links, label="record").data


def put(store: Store, *blocks: Block) -> int:
    return store.apply(Change(dict(blocks)))


def hold(store: Store, key: bytes, *links: Block | Cid, blocks: tuple[Block, ...] = ()) -> int:
    """Store `blocks` and make the root `key` refer to `links` and to nothing else."""
    return store.apply(Change(dict(blocks), (RootChange(key, store.root(key), record(*links)),)))


def drain(store: Store, step: int = 1024) -> int:
    """Collect all garbage; returns the number of blocks freed."""
    *_, total = collect(store, step)
    return total.blocks


class State(NamedTuple):
    """All that a store holds."""

    blocks: dict[Cid, bytes]
    counts: dict[Cid, int]
    queue: frozenset[Cid]
    roots: dict[bytes, bytes]

    @classmethod
    def of(cls, store: Store) -> State:
        return store.view(
            lambda tables: cls(
                {cid: tables.load(cid)() for cid in tables.cids()},
                dict(tables.counts()),
                frozenset(tables.queued()),
                dict(tables.roots()),
            )
        )

    def recounted(self) -> dict[Cid, int]:
        """The count of every block as its definition has it: links of blocks, each once, and links of records."""
        found: Counter[Cid] = Counter(dict.fromkeys(self.blocks, 0))
        for cid, data in self.blocks.items():
            found.update(codec.links(cid, data))
        for data in self.roots.values():
            found.update(codec.links_of_record(RECORD_CID, data))
        return dict(found)

    def check(self) -> None:
        """Fail unless the counts are right, the queue too, and every block is what its CID says."""
        assert self.counts == self.recounted()
        assert self.queue == {cid for cid, count in self.counts.items() if not count}
        for cid, data in self.blocks.items():
            cids.verify(cid, data)

    def reachable(self) -> set[Cid]:
        found: set[Cid] = set()
        todo = [link for data in self.roots.values() for link in codec.links_of_record(RECORD_CID, data)]
        while todo:
            cid = todo.pop()
            if cid not in found:
                found.add(cid)
                todo.extend(codec.links(cid, self.blocks[cid]))
        return found


class Suite:
    # Blocks

    def test_a_block_comes_back(self, store: Store) -> None:
        block = raw(b"hello")
        assert not store.has(block.cid) and store.count(block.cid) is None
        assert put(store, block) == 1
        assert store.get(block.cid) == store.peek(block.cid) == b"hello"
        assert store.has(block.cid) and store.count(block.cid) == 0
        assert list(store.cids()) == [block.cid]
        State.of(store).check()

    @pytest.mark.parametrize("size", [0, 1, 2047, 4096, limits.block_bytes_max])
    @pytest.mark.parametrize("kind", ["zeros", "random", "text"])
    def test_any_bytes_come_back(self, store: Store, size: int, kind: str, rng: random.Random) -> None:
        data = {"zeros": bytes(size), "random": rng.randbytes(size), "text": b"la la " * (size // 6)}[kind]
        put(store, raw(data))
        assert store.get(raw(data).cid) == data

    def test_a_large_batch_comes_back(self, store: Store, rng: random.Random) -> None:
        blocks = [raw(rng.randbytes(50_000) + bytes(50_000)) for _ in range(100)]
        assert put(store, *blocks) == 100
        assert all(store.get(cid) == data for cid, data in blocks)
        assert sorted(store.cids()) == sorted(cid for cid, _ in blocks)

    def test_an_unknown_block_is_not_found(self, store: Store) -> None:
        for read in (store.get, store.peek):
            with pytest.raises(NotFound, match=str(raw(b"x").cid)):
                read(raw(b"x").cid)

    def test_a_second_put_stores_nothing(self, store: Store) -> None:
        put(store, raw(b"one"))
        before = State.of(store)
        assert put(store, raw(b"one")) == 0
        assert State.of(store) == before

    def test_usage_follows_what_is_stored(self, store: Store) -> None:
        put(store, raw(bytes(5000)), raw(b"abc"))
        usage = store.usage()
        assert (usage.blocks, usage.plain, usage.waiting) == (2, 5003, 2)
        assert 0 < usage.stored <= 5005
        drain(store)
        usage = store.usage()
        assert (usage.blocks, usage.plain, usage.stored, usage.waiting) == (0, 0, 0, 0)

    def test_bad_bytes_are_never_returned(self, store: Store) -> None:
        block = raw(b"good")
        hold(store, b"r", block, blocks=(block,))
        spoil(store, block.cid, b"evil")
        with pytest.raises(Corrupt) as caught:
            store.get(block.cid)
        assert caught.value.cid == block.cid

    # Roots

    def test_roots_are_listed_by_prefix_in_order(self, store: Store) -> None:
        for key in (b"b/2", b"a", b"b/10", b"c", b"b"):
            hold(store, key)
        assert [key for key, _ in store.roots()] == [b"a", b"b", b"b/10", b"b/2", b"c"]
        assert [key for key, _ in store.roots(b"b/")] == [b"b/10", b"b/2"]
        assert store.roots(b"d") == []
        assert store.roots(b"a") == [(b"a", record())]
        for prefix in (b"", b"a", b"b", b"b/", b"b/1", b"d"):
            assert store.root_keys(prefix) == [key for key, _ in store.roots(prefix)]

    def test_a_root_counts_each_of_its_links_once(self, store: Store) -> None:
        one, two = raw(b"1"), raw(b"2")
        hold(store, b"r", one, one, two, blocks=(one, two))
        assert (store.count(one.cid), store.count(two.cid)) == (1, 1)
        hold(store, b"s", one)
        assert (store.count(one.cid), store.count(two.cid)) == (2, 1)

    def test_a_new_record_lets_go_of_what_the_old_one_held(self, store: Store) -> None:
        one, two, both = raw(b"1"), raw(b"2"), raw(b"both")
        hold(store, b"r", one, both, blocks=(one, two, both))
        hold(store, b"r", two, both)
        assert [store.count(block.cid) for block in (one, two, both)] == [0, 1, 1]
        State.of(store).check()
        assert drain(store) == 1
        assert State.of(store).blocks.keys() == {two.cid, both.cid}

    def test_one_change_may_touch_a_root_twice(self, store: Store) -> None:
        block = raw(b"1")
        a, b = record(block), record()
        store.apply(Change(dict([block]), (RootChange(b"r", None, a), RootChange(b"r", a, b))))
        assert store.root(b"r") == b and store.count(block.cid) == 0
        State.of(store).check()

    # Atomicity

    @pytest.mark.parametrize("old", [b"stale", None])
    def test_a_moved_root_changes_nothing(self, store: Store, old: bytes | None) -> None:
        one, two = raw(b"1"), raw(b"2")
        hold(store, b"r", one, blocks=(one,))
        before = State.of(store)
        change = Change(dict([two]), (RootChange(b"first", None, record(two)), RootChange(b"r", old, record(two))))
        with pytest.raises(RootMoved):
            store.apply(change)
        assert State.of(store) == before

    def test_a_root_that_is_gone_has_moved(self, store: Store) -> None:
        with pytest.raises(RootMoved):
            store.apply(Change(roots=(RootChange(b"r", record(), None),)))

    def test_an_unchanged_record_asserts_that_nobody_changed_it(self, store: Store) -> None:
        block = raw(b"1")
        hold(store, b"r", block, blocks=(block,))
        before = State.of(store)
        held = store.root(b"r")
        store.apply(Change(roots=(RootChange(b"r", held, held), RootChange(b"no such", None, None))))
        assert State.of(store) == before

    @pytest.mark.parametrize("where", ["block", "root"])
    def test_a_missing_link_changes_nothing(self, store: Store, where: str) -> None:
        hold(store, b"old", blocks=(raw(b"x"),))
        before = State.of(store)
        missing = raw(b"never stored")
        parent = node(missing) if where == "block" else node()
        root = RootChange(b"r", None, record(parent, missing) if where == "root" else record(parent))
        with pytest.raises(MissingLink, match=str(missing.cid)):
            store.apply(Change(dict([raw(b"new"), parent]), (root,)))
        assert State.of(store) == before

    def test_an_empty_change_is_none(self, store: Store) -> None:
        before = State.of(store)
        assert store.apply(Change()) == 0
        assert State.of(store) == before

    # Counts

    def test_a_block_counts_each_of_its_links_once(self, store: Store) -> None:
        leaf = raw(b"leaf")
        put(store, leaf, node(leaf, leaf, label="a"), node(leaf, label="b"))
        assert store.count(leaf.cid) == 2
        State.of(store).check()

    def test_children_may_come_after_their_parents(self, store: Store) -> None:
        leaf = raw(b"leaf")
        inner = node(leaf)
        top = node(inner, leaf)
        hold(store, b"r", top, blocks=(top, inner, leaf))
        assert [store.count(block.cid) for block in (top, inner, leaf)] == [1, 1, 2]
        State.of(store).check()

    @pytest.mark.parametrize("block", [raw(b"bytes"), node(label="a node")], ids=["raw", "node"])
    def test_bytes_and_nodes_are_counted_alike(self, store: Store, block: Block) -> None:
        put(store, block)
        assert store.count(block.cid) == 0
        hold(store, b"r", block)
        assert store.count(block.cid) == 1
        assert drain(store) == 0 and store.has(block.cid)
        dereference(store, b"r")
        assert store.count(block.cid) == 0
        assert drain(store) == 1 and not store.has(block.cid)

    # What goes and what stays

    def test_everything_only_a_root_held_goes_and_the_rest_stays(self, store: Store) -> None:
        shared, mine = raw(b"shared"), raw(b"mine")
        inner = node(shared, mine, label="inner")
        top, other = node(inner, label="top"), node(shared, label="other")
        hold(store, b"r", top, blocks=(shared, mine, inner, top))
        hold(store, b"s", other, blocks=(other,))
        dereference(store, b"r")
        assert store.root(b"r") is None
        assert drain(store) == 3
        state = State.of(store)
        assert state.blocks.keys() == {shared.cid, other.cid} == state.reachable()
        state.check()

    def test_dereferencing_what_is_no_root_does_nothing(self, store: Store) -> None:
        put(store, raw(b"x"))
        before = State.of(store)
        dereference(store, b"nothing")
        assert State.of(store) == before

    def test_a_queued_block_that_is_put_again_stays(self, store: Store) -> None:
        leaf = raw(b"leaf")
        top = node(leaf)
        hold(store, b"r", top, blocks=(leaf, top))
        dereference(store, b"r")
        assert State.of(store).queue == {top.cid}
        assert hold(store, b"again", top, blocks=(leaf, top)) == 0
        assert State.of(store).queue == frozenset()
        assert drain(store) == 0
        assert State.of(store).reachable() == {leaf.cid, top.cid}

    def test_a_half_collected_tree_can_be_put_again(self, store: Store) -> None:
        leaf = raw(b"leaf")
        top = node(leaf)
        hold(store, b"r", top, blocks=(leaf, top))
        dereference(store, b"r")
        assert store.gc(1).waiting == 1  # the top is gone, the leaf waits
        assert hold(store, b"again", top, blocks=(leaf, top)) == 1
        assert drain(store) == 0
        State.of(store).check()

    def test_gc_works_in_bounded_steps(self, store: Store) -> None:
        chain = [raw(b"end")]
        for number in range(49):
            chain.append(node(chain[-1], label=str(number)))
        hold(store, b"r", chain[-1], blocks=tuple(chain))
        dereference(store, b"r")
        left = 50
        while left:
            freed = store.gc(7)
            assert freed.blocks == min(7, left)
            left -= freed.blocks
            assert freed.waiting == (1 if left else 0)
            assert len(list(store.cids())) == left
            State.of(store).check()
        assert store.gc(7).blocks == 0

    def test_collect_yields_the_sum_after_each_step(self, store: Store) -> None:
        blocks = [raw(b"%d" % number) for number in range(10)]
        put(store, *blocks)
        steps = list(collect(store, 4))
        assert [(step.blocks, step.waiting) for step in steps] == [(4, 6), (8, 2), (10, 0)]
        assert steps[-1].bytes > 0

    # Damage

    def test_lost_bytes_are_healed_by_a_put(self, store: Store) -> None:
        block = raw(b"precious")
        hold(store, b"r", block, blocks=(block,))
        before = State.of(store)
        store.repair(lambda tables: tables.lose(block.cid))
        assert not store.has(block.cid) and store.count(block.cid) == 1 and not list(store.cids())
        with pytest.raises(NotFound):
            store.get(block.cid)
        assert put(store, block) == 1
        assert State.of(store) == before
        assert store.usage().plain == len(block.data)

    def test_a_healed_block_that_nothing_refers_to_is_garbage(self, store: Store) -> None:
        block = raw(b"gone")
        put(store, block)
        store.repair(lambda tables: tables.lose(block.cid))
        put(store, block)
        State.of(store).check()
        store.repair(lambda tables: tables.lose(block.cid))
        hold(store, b"r", block, blocks=(block,))
        State.of(store).check()
        assert drain(store) == 0 and store.has(block.cid)

    def test_beside_a_lost_block_life_goes_on(self, store: Store) -> None:
        lost, other = raw(b"lost"), raw(b"other")
        old, new = node(lost, label="old"), node(lost, other, label="new")
        hold(store, b"r", old, blocks=(lost, old))
        store.repair(lambda tables: tables.lose(lost.cid))
        hold(store, b"r", new, blocks=(other, new))  # as a commit in the directory of the lost file does
        assert store.count(lost.cid) == 2
        assert drain(store) == 1
        dereference(store, b"r")
        drain(store)
        assert State.of(store) == State({}, {}, frozenset(), {})

    def test_what_is_lost_with_its_count_can_still_be_let_go_of(self, store: Store) -> None:
        block = raw(b"x")
        hold(store, b"r", block, blocks=(block,))
        store.repair(lambda tables: (tables.lose(block.cid), tables.drop_count(block.cid)))
        dereference(store, b"r")
        assert State.of(store) == State({}, {}, frozenset(), {})

    def test_gc_passes_corrupt_and_lost_nodes(self, store: Store) -> None:
        bad, lost, good = node(label="bad"), node(label="lost"), node(label="good")
        put(store, bad, lost, good)
        spoil(store, bad.cid, b"\xff no cbor")
        store.repair(lambda tables: tables.lose(lost.cid))
        assert drain(store) == 2
        assert State.of(store) == State({}, {}, frozenset(), {})

    def test_gc_keeps_what_is_queued_by_mistake(self, store: Store) -> None:
        block = raw(b"x")
        hold(store, b"r", block, blocks=(block,))
        store.repair(lambda tables: tables.queue(block.cid))
        assert drain(store) == 0
        assert store.get(block.cid) == b"x"
        State.of(store).check()


def spoil(store: Store, cid: Cid, data: bytes) -> None:
    """Put wrong bytes in the place of a block."""

    def work(tables: Tables) -> None:
        tables.lose(cid)
        tables.put(cid, data)

    store.repair(work)

    # Rehearsals

    def test_a_rehearsal_tells_what_a_change_will_free(self, store: Store, rng: random.Random) -> None:
        keys = [b"a", b"b", b"c", b"d"]
        for _ in range(12):
            blocks = [raw(rng.randbytes(rng.randrange(3000))) for _ in range(6)]
            for number in range(12):
                blocks.append(node(*rng.sample(blocks, rng.randint(0, 4)), label=f"{number} {rng.random()}"))
            for key in keys:
                hold(store, key, *rng.sample(blocks, 2), blocks=tuple(blocks))
            drain(store)
            new = node(*rng.sample([block for block in blocks if store.has(block.cid)], 2), label="new")
            roots = [RootChange(key, store.root(key), None) for key in rng.sample(keys, rng.randint(1, 3))]
            change = Change(dict([new]), (*roots, RootChange(b"new", store.root(b"new"), record(new))))
            before = State.of(store)
            told = rehearsal.freed_by(store, change)
            assert State.of(store) == before
            store.apply(change)
            *_, freed = collect(store, 3)
            assert (told.blocks, told.bytes) == (freed.blocks, freed.bytes)

    def test_a_rehearsal_leaves_out_what_waits_anyway(self, store: Store) -> None:
        leaf, shared = raw(b"leaf"), raw(b"shared")
        garbage = node(shared, label="garbage")
        hold(store, b"r", leaf, shared, blocks=(leaf, shared, garbage))
        told = rehearsal.freed_by(store, Change(roots=(RootChange(b"r", store.root(b"r"), None),)))
        assert told.blocks == 2
        drain(store)
        dereference(store, b"r")
        assert drain(store) == 2

    def test_a_rehearsal_fails_as_the_change_would(self, store: Store) -> None:
        with pytest.raises(MissingLink):
            rehearsal.freed_by(store, Change(roots=(RootChange(b"r", None, record(raw(b"not there"))),)))
