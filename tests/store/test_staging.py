"""Staged blocks stay while their process lives, whatever others collect, and go when it has died."""

from __future__ import annotations

import random
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from store import limits, staging, version
from store.blocks import Change, Store, dereference
from store.entry import Entry
from store.errors import MissingLink, NoSpace, NotFound
from store.importer import import_directory
from store.lmdb_store import LmdbStore
from store.memory_store import MemoryStore
from store.repository import Repository
from store.staging import Stage
from store.version import Tree
from tests.store.children import child
from tests.suites.blocks import State, drain, hold, node, put, raw

ONE, TWO = raw(b"one"), raw(b"two")
EMPTY = State({}, {}, frozenset(), {})


def test_staged_blocks_are_held_until_they_are_released() -> None:
    store = MemoryStore()
    stage = Stage(store, "test")
    stage.put(dict([ONE]))
    stage.put(dict([ONE, TWO]))
    stage.put({})
    assert stage.new_blocks == 2
    assert drain(store) == 0
    State.of(store).check()
    stage.release()
    stage.release()
    assert drain(store) == 2
    assert State.of(store) == EMPTY


def test_the_change_that_publishes_lets_go() -> None:
    store = MemoryStore()
    stage = Stage(store, "test")
    stage.put(dict([ONE, TWO]))
    drops = stage.drop()
    store.apply(Change(roots=drops))
    stage.dropped(drops)
    assert stage.drop() == ()
    stage.put(dict([ONE]))
    assert store.count(ONE.cid) == 1


def test_a_long_stage_is_released_in_steps() -> None:
    store = Interrupted()
    changes: list[int] = []
    store.before = lambda change: changes.append(len(change.roots))
    stage = Stage(store, "test")
    for number in range(limits.stage_records_per_step * 2 + 5):
        stage.put(dict([raw(b"%d" % number)]))
    changes.clear()
    stage.release()
    assert changes == [limits.stage_records_per_step] * 2 + [5]
    assert store.roots() == [] and stage.drop() == ()


def test_publishing_lets_go_of_a_long_stage(tmp_path: Path) -> None:
    store = Interrupted()
    target = Repository(tmp_path, store)
    store.before = lambda change: None
    batch, stage = target.batch("test")
    for number in range(100):
        batch.put_raw(b"%d" % number)
        batch.flush()
    tree = version.put_tree(batch, Tree(Entry("dir", 0o755)))

    def full_once_published(change: Change) -> None:
        if target.pins():
            raise NoSpace("full")

    store.before = full_once_published
    target.pin(tree, batch, stage)  # succeeds all the same
    assert len(store.roots(staging.PREFIX)) == 100 - limits.stage_records_per_step
    store.before = lambda change: None
    target.publish("one", tree, batch, stage)
    assert store.roots(staging.PREFIX) == []
    assert drain(store) == 100


def test_a_stage_that_was_swept_holds_nothing_and_releases() -> None:
    store = MemoryStore()
    stage = Stage(store, "test")
    stage.put(dict([ONE]))
    [key] = store.root_keys(staging.PREFIX)
    dereference(store, key)  # as a process that cannot see us does
    stage.release()
    assert stage.drop() == () and drain(store) == 1


def test_a_failed_put_holds_nothing() -> None:
    store = MemoryStore()
    stage = Stage(store, "test")
    with pytest.raises(MissingLink):
        stage.put(dict([node(TWO)]))
    assert stage.drop() == () and State.of(store) == EMPTY
    stage.put(dict([TWO]))
    assert store.count(TWO.cid) == 1


def test_two_stages_of_one_process_do_not_meet() -> None:
    store = MemoryStore()
    first, second = Stage(store, "test"), Stage(store, "test")
    first.put(dict([ONE]))
    second.put(dict([TWO]))
    first.release()
    assert drain(store) == 1 and store.has(TWO.cid)


def test_keep_holds_what_is_wanted_and_nothing_else() -> None:
    store = MemoryStore()
    stage = Stage(store, "open")
    put(store, ONE, TWO)
    for wanted in ({ONE, TWO}, {TWO}, {TWO}, {ONE}, set(), {ONE}):
        put(store, ONE, TWO)
        stage.keep(frozenset(block.cid for block in wanted))
        drain(store)
        assert State.of(store).blocks.keys() == {block.cid for block in wanted}
    with pytest.raises(MissingLink):
        stage.keep(frozenset([TWO.cid]))
    assert State.of(store).blocks.keys() == {ONE.cid}
    stage.release()
    stage.keep(frozenset([ONE.cid]))
    stage.release()
    drain(store)
    assert State.of(store) == EMPTY


# The dead


def stage_and_wait(pipe: Connection, path: Path) -> None:
    store = LmdbStore(path)
    stage = Stage(store, "test")
    for number in range(5):
        stage.put(dict([raw(b"%d" % number)]))
    pipe.send("staged")
    pipe.recv()


def test_what_the_dead_staged_is_swept_and_what_the_living_staged_stays(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    mine = Stage(store, "test")
    mine.put(dict([ONE]))
    with child(stage_and_wait, tmp_path) as first, child(stage_and_wait, tmp_path) as second:
        assert [first.pipe.recv(), second.pipe.recv()] == ["staged", "staged"]
        assert staging.sweep(store) == 0
        first.kill()
        assert staging.sweep(store) == 5
        assert drain(store) == 0  # the second still holds the same blocks
        second.kill()
        assert staging.sweep(store) == 5
    assert drain(store) == 5
    assert State.of(store).blocks.keys() == {ONE.cid}
    store.close()


def dead_owner(store: Store, *names: bytes) -> None:
    for name in names:
        hold(store, staging.PREFIX + b"00000000-0000-0000-0000-000000000000-1-1/test-0/" + name)


def test_sweeping_leaves_what_it_cannot_read() -> None:
    store = MemoryStore()
    hold(store, staging.PREFIX + b"from the future")
    dead_owner(store, b"1")
    assert staging.sweep(store) == 1
    assert store.roots(staging.PREFIX) == [(staging.PREFIX + b"from the future", node(label="record").data)]


class Interrupted(MemoryStore):
    """Calls `before` before each change."""

    before: Callable[[Change], None]

    def apply(self, change: Change) -> int:
        self.before(change)
        return super().apply(change)


def test_several_may_sweep_at_once() -> None:
    store = Interrupted()
    store.before = lambda change: None
    dead_owner(store, b"1", b"2", b"3")

    def quicker(change: Change) -> None:
        store.before = lambda change: None
        dereference(store, change.roots[0].key)

    store.before = quicker
    assert staging.sweep(store) == 2
    assert store.roots() == []


def test_on_a_full_disk_nothing_is_swept_and_nothing_fails() -> None:
    store = Interrupted()
    store.before = lambda change: None
    dead_owner(store, b"1", b"2")

    def full(change: Change) -> None:
        raise NoSpace("full")

    store.before = full
    assert staging.sweep(store) == 0
    assert len(store.roots()) == 2


# A whole import beside gc


def import_often(pipe: Connection, path: Path, source: Path) -> None:
    """Import the same and new files again and again, staging every few blocks."""
    limits.batch_bytes_max = 100_000  # type: ignore[misc]
    target = Repository.open(path)
    for number in range(15):
        (source / "changes").write_bytes(random.Random(number).randbytes(150_000))
        batch, stage = target.batch("import")
        cid = import_directory(batch, source).cid
        target.publish(f"tree{number}", cid, batch, stage)
        if number >= 2:
            target.forget_name(f"tree{number - 2}")
        pipe.send(str(cid))
    target.close()


def test_nothing_is_lost_when_one_imports_and_others_collect(tmp_path: Path, rng: random.Random) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(10):
        (source / str(number)).write_bytes(rng.randbytes(60_000))
    target = Repository.init(tmp_path / "store")
    with child(import_often, target.path, source) as other:
        for _ in range(15):
            while not other.pipe.poll():
                target.store.gc(3)
            other.pipe.recv()
        other.finish()
    State.of(target.store).check()
    drain(target.store)
    state = State.of(target.store)
    assert state.reachable() == state.blocks.keys()
    assert [name for name, _ in target.names()] == ["tree13", "tree14"]
    assert target.store.roots(staging.PREFIX) == []
    target.close()


def test_a_dead_import_leaves_nothing(tmp_path: Path) -> None:
    Repository.init(tmp_path / "store").close()
    with child(stage_and_wait, tmp_path / "store" / "lmdb") as other:
        other.pipe.recv()
        target = Repository.open(tmp_path / "store")
        drain(target.store)
        assert len(State.of(target.store).blocks) == 5
        target.close()
        other.kill()
    target = Repository.open(tmp_path / "store")
    drain(target.store)
    assert State.of(target.store) == EMPTY
    with pytest.raises(NotFound):
        target.store.get(raw(b"0").cid)
    target.close()
