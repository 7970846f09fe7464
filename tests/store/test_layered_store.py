"""A store over others: the suite on every pair of stores, and what is borrowed, held and given back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import pytest

from store import check, codec, layered_store, rehearsal
from store.blocks import Change, RootChange, Store, collect, dereference
from store.cid import Cid
from store.errors import MissingLink, NoSpace, StoreError
from store.flatfs_store import FlatFsStore
from store.layered_store import LayeredStore
from store.lmdb_store import LmdbStore
from store.memory_store import MemoryStore
from store.repository import Repository
from tests.store.children import child
from tests.suites import blocks
from tests.suites.blocks import State, drain, hold, node, raw

Make = Callable[[Path], Store]
MAKERS: dict[str, Make] = {
    "memory": lambda path: MemoryStore(),
    "lmdb": lambda path: LmdbStore(path),
    "flatfs": lambda path: FlatFsStore(path),
}
ME = "0" * 32


def layered(tmp_path: Path, top: str, *bases: str) -> LayeredStore:
    made = []
    for number, kind in enumerate((top, *bases)):
        path = tmp_path / str(number)
        path.mkdir(exist_ok=True)
        made.append(MAKERS[kind](path))
    (tmp_path / "layer").mkdir(exist_ok=True)
    for base in made[1:]:
        layered_store.register(base, ME, tmp_path)
    return LayeredStore(made[0], made[1:], ME, tmp_path / "layer")


@pytest.mark.parametrize(
    "kinds", [("memory", "memory"), ("lmdb", "flatfs"), ("flatfs", "lmdb", "memory")], ids="/".join
)
class TestLayeredStore(blocks.Suite):
    @pytest.fixture
    def store(self, tmp_path: Path, kinds: tuple[str, ...]) -> Iterator[LayeredStore]:
        made = layered(tmp_path, *kinds)
        for base in made.bases:
            blocks.hold(base, b"its own", node(label="base"), blocks=(raw(b"of the base"), node(label="base")))
        yield made
        made.close()


LEAF, INNER = raw(b"leaf"), node(raw(b"leaf"), label="inner")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LayeredStore]:
    """A layer in memory over a base in memory, which has LEAF below INNER below the root b."""
    made = layered(tmp_path, "memory", "memory")
    hold(made.bases[0], b"b", INNER, blocks=(LEAF, INNER))
    yield made
    made.close()


def base_of(store: LayeredStore) -> Store:
    return store.bases[0]


def forget_in_base(store: LayeredStore) -> None:
    """Let go of everything in the base, and collect."""
    dereference(base_of(store), b"b")
    drain(base_of(store))


# Borrowing


def test_a_put_of_what_the_base_has_stores_nothing(store: LayeredStore) -> None:
    assert hold(store, b"r", INNER, blocks=(LEAF, INNER)) == 0
    assert list(store.cids()) == [] and store.usage().plain == 0
    assert store.get(LEAF.cid) == LEAF.data and store.count(INNER.cid) == 1
    assert store.borrowed().keys() == {INNER.cid}, "what is below it the base keeps itself"
    forget_in_base(store)
    assert store.get(LEAF.cid) == LEAF.data
    dereference(store, b"r")
    drain(store)
    drain(base_of(store))
    assert store.borrowed() == {} and list(base_of(store).cids()) == []


def test_only_what_is_new_is_stored(store: LayeredStore) -> None:
    mine = raw(b"mine")
    top = node(INNER, LEAF, mine, label="top")
    assert hold(store, b"r", top, blocks=(LEAF, INNER, mine, top)) == 2
    assert set(store.cids()) == {mine.cid, top.cid}
    assert store.borrowed().keys() == {INNER.cid, LEAF.cid}


def test_a_base_s_blocks_can_be_referred_to_without_being_put(store: LayeredStore) -> None:
    hold(store, b"r", INNER)
    forget_in_base(store)
    assert store.get(LEAF.cid) == LEAF.data


def test_a_link_to_nothing_is_missing_and_changes_nothing(store: LayeredStore) -> None:
    before, below = State.of(store), State.of(base_of(store))
    top = node(INNER, raw(b"nowhere"), label="top")
    with pytest.raises(MissingLink):
        hold(store, b"r", top, blocks=(top,))
    assert State.of(store) == before
    assert State.of(base_of(store)) == below, "what was borrowed for it is given back"


def test_what_is_stored_in_the_base_later_is_not_borrowed_for_what_is_here(store: LayeredStore) -> None:
    block = raw(b"first here")
    hold(store, b"r", block, blocks=(block,))
    hold(base_of(store), b"late", block, blocks=(block,))
    hold(store, b"s", block, blocks=(block,))
    assert store.borrowed() == {} and store.count(block.cid) == 2
    dereference(store, b"r")
    dereference(store, b"s")
    assert drain(store) == 1
    assert store.has(block.cid) and store.count(block.cid) is None


def test_of_two_bases_the_first_lends(tmp_path: Path) -> None:
    store = layered(tmp_path, "memory", "memory", "memory")
    for base in store.bases:
        hold(base, b"b", LEAF, blocks=(LEAF,))
    hold(store, b"r", LEAF)
    assert store.borrowed() == {LEAF.cid: 0}
    for base in store.bases:
        dereference(base, b"b")
        drain(base)
    assert [base.has(LEAF.cid) for base in store.bases] == [True, False]
    assert store.get(LEAF.cid) == LEAF.data


# Races and failures


class Racing:
    """A base in which somebody is quicker: before its first `calls` are made, all that nothing holds is collected."""

    def __init__(self, store: Store, calls: int) -> None:
        self._store, self._calls = store, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def apply(self, change: Change) -> int:
        if self._calls:
            self._calls -= 1
            drain(self._store)
        return self._store.apply(change)


def test_a_base_that_has_just_deleted_it_lends_nothing(store: LayeredStore) -> None:
    dereference(base_of(store), b"b")  # still there, but not for long
    store.bases = (cast(Store, Racing(base_of(store), 1)),)
    assert hold(store, b"r", INNER, blocks=(LEAF, INNER)) == 2
    assert store.borrowed() == {}
    State.of(store).check()


class Fleeting(Racing):
    """A base in which all that nothing holds is collected right after it said what it has."""

    def has(self, cid: Cid) -> bool:
        found = self._store.has(cid)
        drain(self._store)
        return found


def test_what_a_base_deletes_after_it_was_asked_is_stored_here(store: LayeredStore) -> None:
    dereference(base_of(store), b"b")
    store.bases = (cast(Store, Fleeting(base_of(store), 0)),)
    assert hold(store, b"r", INNER, blocks=(LEAF, INNER)) == 2
    assert store.borrowed() == {}
    State.of(store).check()


class Full(Racing):
    def apply(self, change: Change) -> int:
        raise NoSpace("no space left")


def test_a_base_on_a_full_disk_changes_nothing(store: LayeredStore) -> None:
    before = State.of(store)
    base = base_of(store)
    store.bases = (cast(Store, Full(base, 0)),)
    with pytest.raises(NoSpace):
        hold(store, b"r", INNER)
    assert State.of(store) == before
    own = raw(b"own")
    hold(store, b"s", own, blocks=(own,))  # for what needs nothing from it the base is not asked
    store.bases = (base,)
    hold(store, b"r", INNER)
    store.bases = (cast(Store, Full(base, 0)),)
    dereference(store, b"r")
    drain(store)  # giving back has to wait
    store.bases = (base,)
    assert store.borrowed().keys() == {INNER.cid}
    drain(store)
    assert store.borrowed() == {}


class Lying(Racing):
    """A top that does what it is asked, and says that it failed."""

    def apply(self, change: Change) -> int:
        self._store.apply(change)
        raise self.error

    error: BaseException = StoreError("the disk lies")


@pytest.mark.parametrize("error", [StoreError("the disk lies"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_what_is_needed_is_not_given_back_whatever_the_top_says(store: LayeredStore, error: BaseException) -> None:
    top, lying = store.top, Lying(store.top, 0)
    lying.error = error
    store.top = cast(Store, lying)
    with pytest.raises(type(error)):
        hold(store, b"r", INNER)
    store.top = top
    assert store.root(b"r") is not None and store.borrowed().keys() == {INNER.cid}
    forget_in_base(store)
    assert store.get(LEAF.cid) == LEAF.data


# check


def test_check_finds_what_the_base_does_not_hold_and_repair_holds_it(store: LayeredStore, tmp_path: Path) -> None:
    hold(store, b"r", INNER)
    assert check.examine(store).is_clean
    (key,) = [key for key in base_of(store).root_keys(layered_store.PREFIX) if key.count(b"/") == 2]
    dereference(base_of(store), key)
    report = check.examine(store)
    assert [(problem.kind, problem.cid) for problem in report.problems] == [("held", INNER.cid)]
    check.repair(Repository(tmp_path, store), report)
    assert check.examine(store).is_clean
    forget_in_base(store)
    assert store.get(LEAF.cid) == LEAF.data


def test_check_finds_what_the_base_has_lost(store: LayeredStore) -> None:
    hold(store, b"r", INNER)
    base_of(store).repair(lambda tables: tables.lose(INNER.cid))
    (problem,) = check.examine(store).problems
    assert (problem.kind, problem.cid) == ("missing", INNER.cid)
    hold(store, b"s", INNER, blocks=(LEAF, INNER))  # healed here
    assert set(store.cids()) == {INNER.cid}
    assert check.examine(store).is_clean


def test_a_rehearsal_tells_what_a_layer_would_free(store: LayeredStore) -> None:
    mine = raw(b"mine" * 100)
    top = node(INNER, mine, label="top")
    hold(store, b"r", top, blocks=(mine, top))
    change = Change(roots=(RootChange(b"r", store.root(b"r"), None),))
    freed = rehearsal.freed_by(store, change)
    store.apply(change)
    (done,) = collect(store, 100)
    assert (freed.blocks, freed.bytes) == (done.blocks, done.bytes) == (2, freed.bytes)


# Other processes


def work_in_layer(pipe: Connection, path: Path, number: int) -> None:
    store = layered(path, "flatfs", "lmdb")
    rng = random.Random(number)
    for turn in range(15):
        shared = [raw(bytes([rng.randrange(8)]) * 3000) for _ in range(3)]  # the base has some of these at times
        top = node(*shared, label=f"{number} {turn}")
        hold(store, b"root %d" % number, top, blocks=(*shared, top))
        assert all(store.get(block.cid) == block.data for block in (*shared, top))
        store.gc(rng.randrange(1, 20))
    store.close()


def work_in_base(pipe: Connection, path: Path) -> None:
    base = LmdbStore(path / "1")
    rng = random.Random("base")
    for _ in range(60):
        some = [raw(bytes([rng.randrange(8)]) * 3000) for _ in range(3)]
        hold(base, b"b%d" % rng.randrange(2), *some, blocks=tuple(some))
        if rng.random() < 0.3:
            dereference(base, b"b%d" % rng.randrange(2))
        base.gc(20)
    base.close()


def test_processes_use_a_layer_and_its_base_at_once(tmp_path: Path) -> None:
    layered(tmp_path, "flatfs", "lmdb").close()
    with ExitStack() as stack:
        others = [stack.enter_context(child(work_in_layer, tmp_path, number)) for number in range(2)]
        for other in [*others, stack.enter_context(child(work_in_base, tmp_path))]:
            other.finish()
    store = layered(tmp_path, "flatfs", "lmdb")
    drain(store)
    assert check.examine(store).is_clean and check.examine(base_of(store)).is_clean
    for key in (b"b0", b"b1"):
        dereference(base_of(store), key)
    drain(base_of(store))
    for _, top in store.roots(b"root"):
        for cid in codec.links_of_record(raw(b"").cid, top):
            assert all(store.get(link) for link in codec.links(cid, store.get(cid)))
    below = State.of(base_of(store))
    assert below.blocks.keys() == store.borrowed().keys() == below.reachable()
    store.close()
