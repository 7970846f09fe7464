"""The store of plain files: the suite, and what crashes, a full disk and lost files do to it."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from store import check
from store.block_files import BlockFiles
from store.blocks import dereference
from store.errors import Corrupt, FutureStore, NoSpace, NotFound, StoreError
from store.flatfs_store import FlatFsStore
from store.owner import Owner
from store.tables import Tables
from tests.store.children import child
from tests.store.test_lmdb_store import fill, small_disk, some
from tests.suites import blocks
from tests.suites.blocks import Block, State, drain, hold, node, put, raw


class TestFlatFsStore(blocks.Suite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[FlatFsStore]:
        made = FlatFsStore(tmp_path)
        yield made
        made.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FlatFsStore]:
    made = FlatFsStore(tmp_path)
    yield made
    made.close()


# Other processes


def churn(pipe: Connection, path: Path, number: int) -> None:
    """Store, replace and collect, with blocks that others store too."""
    store = FlatFsStore(path)
    rng = random.Random(number)
    for turn in range(25):
        shared = [raw(bytes([rng.randrange(6)]) * 3000) for _ in range(3)]
        own = raw(b"%d %d" % (number, turn) * 500)
        top = node(own, *shared, label=f"{number}")
        hold(store, b"root %d" % number, top, blocks=(own, *shared, top))
        assert all(store.get(block.cid) == block.data for block in (own, *shared, top))
        store.gc(rng.randrange(1, 20))
    store.close()


def test_processes_write_and_collect_at_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for other in [stack.enter_context(child(churn, tmp_path, number)) for number in range(3)]:
            other.finish()
    store = FlatFsStore(tmp_path)
    drain(store)
    state = State.of(store)
    state.check()
    assert len(state.roots) == 3 and state.blocks.keys() == state.reachable()
    check_files(tmp_path, state)
    store.close()


def check_files(path: Path, state: State) -> None:
    """Fail unless there is a file for each block, and nothing else."""
    assert {file.name for file in path.glob("blocks/*/*")} == set(map(str, state.blocks))
    assert not list((path / "new").iterdir())


def test_what_others_delete_stays_readable_while_it_is_viewed(store: FlatFsStore, tmp_path: Path) -> None:
    block = raw(b"seen")
    hold(store, b"r", block, blocks=(block,))
    other = FlatFsStore(tmp_path)

    def look(tables: Tables) -> bytes:
        dereference(other, b"r")
        drain(other)
        assert not other.has(block.cid)
        return tables.load(block.cid)()

    assert store.view(look) == block.data
    check_files(tmp_path, State({block.cid: b""}, {}, frozenset(), {}))  # its time has not come
    assert drain(other) == 0
    check_files(tmp_path, State.of(store))
    other.close()


# Lost and strange files


def test_a_lost_file_is_told_by_check_and_healed_by_a_put(store: FlatFsStore, tmp_path: Path) -> None:
    leaf = raw(b"precious")
    top = node(leaf)
    hold(store, b"r", top, blocks=(leaf, top))
    before = State.of(store)
    file_of(tmp_path, leaf).unlink()
    with pytest.raises(NotFound):
        store.get(leaf.cid)
    (problem,) = check.examine(store).problems
    assert problem.kind == "corrupt" and problem.cid == leaf.cid
    assert put(store, leaf) == 0, "it is a block already, with its count"
    assert State.of(store) == before and check.examine(store).is_clean


@pytest.mark.parametrize("value", [b"", b"\0wrong", b"\x01no zstd", b"\x07what", b"\0" + bytes(2_000_000)])
def test_a_file_with_other_bytes_is_corrupt(store: FlatFsStore, tmp_path: Path, value: bytes) -> None:
    block = raw(b"good")
    hold(store, b"r", block, blocks=(block,))
    path = file_of(tmp_path, block)
    path.chmod(0o600)
    path.write_bytes(value)
    with pytest.raises(Corrupt):
        store.get(block.cid)


def test_compacting_removes_files_that_nobody_knows(store: FlatFsStore, tmp_path: Path) -> None:
    block, stray = raw(b"known"), raw(b"stray")
    hold(store, b"r", block, blocks=(block,))
    before = State.of(store)
    file_of(tmp_path, stray).write_bytes(b"\0stray")
    store.compact()
    check_files(tmp_path, State.of(store))
    assert State.of(store) == before


def test_what_dead_processes_had_under_way_goes_when_the_store_is_opened(tmp_path: Path) -> None:
    FlatFsStore(tmp_path).close()
    (tmp_path / "new" / "no-such-boot-1-1.7").write_bytes(b"half")
    alive = tmp_path / "new" / f"{Owner.current()}.99"
    alive.write_bytes(b"half")
    FlatFsStore(tmp_path).close()
    assert list((tmp_path / "new").iterdir()) == [alive]


def file_of(path: Path, block: Block) -> Path:
    return path / "blocks" / f"{block.cid[4]:02x}" / str(block.cid)


# A full disk, and calls that fail


def test_a_full_disk_changes_nothing_and_ends_when_there_is_room(tmp_path: Path, rng: random.Random) -> None:
    with small_disk(tmp_path / "disk", "6m") as disk:
        (disk / "store").mkdir()
        (disk / "ballast").write_bytes(bytes(1_000_000))
        store = FlatFsStore(disk / "store")
        number = 0
        with pytest.raises(NoSpace):
            for number in range(1000):
                stored = some(rng, 4)
                before = State.of(store)
                hold(store, b"root %d" % number, *stored, blocks=stored)
        assert number > 10 and State.of(store) == before
        fill(disk / "filler")
        check_files(disk / "store", before)
        assert all(store.get(cid) == data for cid, data in before.blocks.items())
        (disk / "ballast").unlink()
        for done in range(0, number, 2):
            dereference(store, b"root %d" % done)
        assert drain(store) == 4 * len(range(0, number, 2))
        hold(store, b"more", *stored, blocks=stored)
        State.of(store).check()
        check_files(disk / "store", State.of(store))
        store.close()


class Failing:
    """Stands before the files of a store: the nth call that changes something fails, and all after it."""

    def __init__(self, files: BlockFiles, nth: int, error: int) -> None:
        self._files, self.calls, self._nth, self._error = files, 0, nth, error

    def __getattr__(self, name: str) -> Any:
        if name in ("write", "place", "remove", "sync"):
            self.calls += 1
            if self.calls >= self._nth:
                raise OSError(self._error, os.strerror(self._error))
        return getattr(self._files, name)


@pytest.mark.parametrize(("error", "ours"), [(errno.ENOSPC, NoSpace), (errno.EIO, StoreError)])
def test_whichever_call_fails_nothing_is_changed(
    tmp_path: Path, store: FlatFsStore, error: int, ours: type[StoreError]
) -> None:
    one, two, gone = raw(b"one"), raw(b"two"), raw(b"gone")
    hold(store, b"r", gone, blocks=(gone,))
    before, files = State.of(store), store._files
    top = node(one, two)
    for nth in range(1, 100):
        failing = Failing(files, nth, error)
        store._files = failing  # type: ignore[assignment]
        try:
            hold(store, b"r", top, blocks=(one, two, top))
            break
        except ours:
            store._files = files
            assert State.of(store) == before
            drain(store)
            check_files(tmp_path, before)
    assert nth > 5 and failing.calls == nth - 1
    store._files = files
    drain(store)
    check_files(tmp_path, State.of(store))


# Opening


def test_a_ledger_from_the_future_is_refused(tmp_path: Path) -> None:
    FlatFsStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("pragma user_version = 2")
    with pytest.raises(FutureStore, match="newer monofs"):
        FlatFsStore(tmp_path)


def test_a_damaged_ledger_is_a_clear_error(tmp_path: Path) -> None:
    FlatFsStore(tmp_path).close()
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="database failed"):
        FlatFsStore(tmp_path)
