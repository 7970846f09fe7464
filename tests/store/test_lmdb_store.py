"""The default store: the suite, and what other processes, a full disk, failures and bad bytes do to it."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lmdb
import pytest

from store import limits
from store.blocks import Change, RootChange, dereference
from store.errors import Corrupt, NoSpace, StoreError
from store.lmdb_store import LmdbStore
from store.tables import Tables
from tests.store.children import child
from tests.suites import blocks
from tests.suites.blocks import Block, State, drain, hold, node, put, raw, record

TINY = 64 * limits.KIB  # a map that soon has to grow


class TestLmdbStore(blocks.Suite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LmdbStore]:
        yield from opened(tmp_path)


class TestLmdbStoreWithATinyMap(blocks.Suite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LmdbStore]:
        yield from opened(tmp_path, TINY)


def opened(path: Path, map_bytes: int = limits.map_bytes_start) -> Iterator[LmdbStore]:
    store = LmdbStore(path, map_bytes=map_bytes)
    yield store
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    yield from opened(tmp_path, TINY)


def some(rng: random.Random, count: int, size: int = 20_000) -> tuple[Block, ...]:
    return tuple(raw(rng.randbytes(size)) for _ in range(count))


# The map


def test_what_was_stored_is_there_after_reopening(tmp_path: Path, rng: random.Random) -> None:
    stored = some(rng, 20)
    store = LmdbStore(tmp_path, map_bytes=TINY)
    hold(store, b"r", *stored, blocks=stored)
    before = State.of(store)
    store.close()
    for map_bytes in (TINY, limits.map_bytes_start):
        again = LmdbStore(tmp_path, map_bytes=map_bytes)
        assert State.of(again) == before
        again.close()


def test_the_map_grows_within_one_change(store: LmdbStore, rng: random.Random) -> None:
    stored = some(rng, 100)
    hold(store, b"r", *stored, blocks=stored)
    State.of(store).check()
    assert all(store.get(block.cid) == block.data for block in stored)


def grow(pipe: Connection, path: Path, count: int) -> None:
    store = LmdbStore(path, map_bytes=TINY)
    rng = random.Random(f"child {count}")
    while True:
        stored = some(rng, count)
        hold(store, b"child", *stored, blocks=stored)
        pipe.send([block.cid for block in stored])
        pipe.recv()


def test_another_process_grows_the_map(store: LmdbStore, tmp_path: Path, rng: random.Random) -> None:
    hold(store, b"parent")
    with child(grow, tmp_path, 50) as other:
        for number in range(5):  # each process makes it too small for the other, by turns
            theirs = other.pipe.recv()
            if number % 2:
                assert [store.has(cid) for cid in theirs] == [True] * 50  # read first,
            ours = some(rng, 40)
            hold(store, b"parent", *ours, blocks=ours)  # or write first
            assert all(store.get(cid) for cid in theirs)
            State.of(store).check()
            other.pipe.send("go on")


def test_threads_read_and_write_while_the_map_grows(store: LmdbStore, rng: random.Random) -> None:
    first = some(rng, 1)[0]
    hold(store, b"first", first, blocks=(first,))
    batches = {key: [some(rng, 3) for _ in range(20)] for key in (b"a", b"b")}
    done = threading.Event()
    failures: list[BaseException] = []

    def write(key: bytes) -> None:
        for batch in batches[key]:
            hold(store, key, *batch, blocks=batch)

    def read() -> None:
        while not done.is_set():
            assert store.get(first.cid) == first.data
            assert store.count(first.cid) == 1

    def watched(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return run

    writers = [threading.Thread(target=watched(lambda key=key: write(key))) for key in batches]
    reader = threading.Thread(target=watched(read))
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    State.of(store).check()
    assert store.usage().file > 40 * 60_000 - TINY


# Several processes


def churn(pipe: Connection, path: Path, number: int) -> None:
    """Make changes that others make too: shared blocks, garbage, names that move, gc."""
    store = LmdbStore(path, map_bytes=TINY)
    rng = random.Random(number)
    shared = [raw(b"shared %d " % i * 500) for i in range(20)]
    own = b"own/%d" % number
    for _ in range(60):
        leaves = rng.sample(shared, 5)
        top = node(*leaves, label=f"{rng.randrange(6)}")
        hold(store, own, top, blocks=(*leaves, top))
        if rng.random() < 0.5:
            store.gc(rng.randrange(1, 20))
        if rng.random() < 0.2:
            dereference(store, own)
    hold(store, own, *shared, blocks=tuple(shared))
    store.close()


def test_processes_write_and_collect_at_once(store: LmdbStore, tmp_path: Path) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(child(churn, tmp_path, number)) for number in range(3)]
        for other in others:
            other.finish()
    State.of(store).check()
    drain(store)
    state = State.of(store)
    assert state.blocks.keys() == state.reachable()
    assert list(state.counts.values()) == [3] * 20


def die_while_reading(pipe: Connection, path: Path) -> None:
    def wait(tables: Tables) -> None:
        pipe.send(os.getpid())
        pipe.recv()

    LmdbStore(path, map_bytes=TINY).view(wait)


def test_gc_ends_the_reading_of_the_dead(store: LmdbStore, tmp_path: Path) -> None:
    """Or the pages they saw could never be used again, and the file would grow and grow."""
    with child(die_while_reading, tmp_path) as other:
        pid = other.pipe.recv()
        assert str(pid) in store._env.readers()
        store.gc(1)
        assert str(pid) in store._env.readers()
        other.kill()
        assert str(pid) in store._env.readers()
        store.gc(1)
        assert str(pid) not in store._env.readers()


# A full disk


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "monofs-test", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(path: Path) -> None:
    """Leave not a byte on the disk of `path`."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def write_until_full(store: LmdbStore, rng: random.Random) -> int:
    """Store roots of four blocks each; returns how many there was room for."""
    for number in range(10_000):
        stored = some(rng, 4)
        before = State.of(store)
        try:
            hold(store, b"root %d" % number, *stored, blocks=stored)
        except NoSpace as error:
            assert "\n" not in str(error) and "nothing was changed" in str(error)
            assert State.of(store) == before
            return number
    raise AssertionError("the disk never got full")


def test_a_full_disk_changes_nothing_and_ends_when_there_is_room(tmp_path: Path, rng: random.Random) -> None:
    with small_disk(tmp_path / "disk", "6m") as disk:
        (disk / "store").mkdir()
        (disk / "ballast").write_bytes(bytes(1_000_000))
        store = LmdbStore(disk / "store")
        assert write_until_full(store, rng) > 10
        fill(disk / "filler")
        before = State.of(store)
        more = some(rng, 10)
        with pytest.raises(NoSpace):
            hold(store, b"more", *more, blocks=more)
        assert State.of(store) == before
        store.close()

        store = LmdbStore(disk / "store")  # opening and reading need no room
        assert State.of(store) == before
        (disk / "ballast").unlink()
        hold(store, b"more", *more, blocks=more)
        State.of(store).check()
        store.close()


def test_garbage_can_be_collected_on_a_full_disk(tmp_path: Path, rng: random.Random) -> None:
    with small_disk(tmp_path / "disk", "6m") as disk:
        (disk / "store").mkdir()
        store = LmdbStore(disk / "store")
        count = write_until_full(store, rng)
        fill(disk / "filler")
        for number in range(0, count, 2):
            dereference(store, b"root %d" % number)
        assert drain(store) == 4 * len(range(0, count, 2))
        more = some(rng, 10)
        hold(store, b"more", *more, blocks=more)
        State.of(store).check()
        store.close()


def make_store(pipe: Connection, path: Path) -> None:
    try:
        LmdbStore(path)
    except StoreError as error:
        pipe.send(error)


def test_making_a_store_on_a_full_disk_is_an_error_and_no_crash(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk / "store").mkdir()
        fill(disk / "filler")
        for room in (0, 4096, 8192, 20480):  # too little for the lock file, and then for the data
            os.truncate(disk / "filler", (disk / "filler").stat().st_size - room)
            with child(make_store, disk / "store") as other:  # LMDB would die by SIGBUS
                assert isinstance(other.pipe.recv(), NoSpace)
                other.finish()
        (disk / "filler").unlink()
        LmdbStore(disk / "store").close()


# Failures


class Faults:
    """Stands in for the LMDB environment; the nth writing call, or commit, raises `error`, and all after it too."""

    def __init__(self, env: Any, nth: int, error: type[lmdb.Error], *, once: bool = False) -> None:
        self._env, self._nth, self._error, self._once = env, nth, error, once
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, write: bool = False) -> Any:
        txn = self._env.begin(write=write)
        return _FaultyTransaction(txn, self) if write else txn

    def step(self) -> None:
        self.calls += 1
        if self.calls == self._nth or (self.calls > self._nth and not self._once):
            raise self._error("injected")


class _FaultyTransaction:
    def __init__(self, txn: Any, faults: Faults) -> None:
        self._txn, self._faults = txn, faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._txn, name)
        if name in ("put", "delete", "pop"):
            self._faults.step()
        return found

    def __enter__(self) -> _FaultyTransaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._txn.abort()
            return
        try:
            self._faults.step()
        except lmdb.Error:
            self._txn.abort()
            raise
        self._txn.commit()


def prepare(store: LmdbStore) -> Change:
    """Fill a store, and return a change that does a bit of everything."""
    leaf, shared, queued, fresh = raw(b"leaf"), raw(b"shared"), raw(b"queued"), raw(b"fresh" * 1000)
    old, new = node(leaf, shared, label="old"), node(shared, queued, fresh, label="new")
    hold(store, b"moves", old, blocks=(leaf, shared, old))
    hold(store, b"goes", shared)
    put(store, queued, node(label="garbage"))
    roots = (
        RootChange(b"moves", record(old), record(new)),
        RootChange(b"goes", record(shared), None),
        RootChange(b"comes", None, record(fresh)),
    )
    return Change(dict([fresh, new]), roots)


WORK = {
    "apply": lambda store, change: store.apply(change),
    "gc": lambda store, change: store.gc(1),
    "dereference": lambda store, change: dereference(store, b"moves"),
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize(("error", "ours"), [(lmdb.DiskError, NoSpace), (lmdb.Error, StoreError)])
def test_whichever_call_fails_nothing_is_changed(
    store: LmdbStore, work: str, error: type[lmdb.Error], ours: type[StoreError]
) -> None:
    change = prepare(store)
    before, env = State.of(store), store._env
    usage = store.usage()
    for nth in range(1, 1000):
        faults = store._env = Faults(env, nth, error)
        try:
            WORK[work](store, change)
        except ours:
            assert State.of(store) == before, f"call {nth} failed, but something was changed"
            assert store.usage() == usage
        else:
            break
    store._env = env
    assert faults.calls == nth - 1 > 3, "every call failed once"
    after = State.of(store)
    after.check()
    assert after != before


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("error", [lmdb.MapFullError, lmdb.MapResizedError])
def test_whichever_call_finds_the_map_too_small_all_is_done_once(
    tmp_path: Path, work: str, error: type[lmdb.Error]
) -> None:
    states = []
    for nth in range(1, 1000):
        (tmp_path / str(nth)).mkdir()
        store = LmdbStore(tmp_path / str(nth), map_bytes=TINY)
        change = prepare(store)
        faults = store._env = Faults(store._env, nth, error, once=True)
        WORK[work](store, change)
        states.append((State.of(store), store.usage().plain))
        store.close()
        if nth > faults.calls:
            break
    assert len(states) > 4
    assert all(state == states[0] for state in states)


def test_room_that_the_last_transaction_made_is_found(store: LmdbStore) -> None:
    """LMDB uses it only after one more transaction, which a full disk would never see."""
    change = prepare(store)
    store._env = Faults(store._env, 1, lmdb.DiskError, once=True)
    store.apply(change)
    state = State.of(store)
    state.check()
    assert state.roots.keys() == {b"moves", b"comes"}


class SmallSteps(Faults):
    """Lets no transaction make more than 20 calls, as if the disk had room for no more."""

    def __init__(self, env: Any) -> None:
        super().__init__(env, 0, lmdb.DiskError, once=True)

    def begin(self, write: bool = False) -> Any:
        self.calls = 0
        return super().begin(write)

    def step(self) -> None:
        super().step()
        if self.calls > 20:
            raise lmdb.DiskError("injected")


def test_garbage_is_collected_in_steps_for_which_there_is_room(store: LmdbStore) -> None:
    put(store, *(raw(b"%d" % number) for number in range(100)))
    store._env = SmallSteps(store._env)
    freed = store.gc(1024)
    assert 0 < freed.blocks < 10 and freed.waiting == 100 - freed.blocks
    assert drain(store) == freed.waiting
    assert State.of(store) == State({}, {}, frozenset(), {})


class Panicking:
    """An LMDB environment after a failed write of its meta page: it does nothing any more."""

    def __init__(self, env: Any) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, write: bool = False) -> Any:
        raise lmdb.PanicError("injected")


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("read_first", [True, False])
def test_a_database_that_panicked_is_opened_anew(store: LmdbStore, work: str, read_first: bool) -> None:
    change = prepare(store)
    before, env = State.of(store), store._env
    store._env = Panicking(env)
    if read_first:
        assert State.of(store) == before
    WORK[work](store, change)
    after = State.of(store)
    after.check()
    assert after != before
    with pytest.raises(lmdb.Error):  # the old one is closed, or LMDB would have the file open twice
        env.begin()


def test_a_database_that_panicked_while_threads_use_it(store: LmdbStore, rng: random.Random) -> None:
    stored = some(rng, 3)
    hold(store, b"r", *stored, blocks=stored)
    failures: list[BaseException] = []

    def use(number: int) -> None:
        try:
            for turn in range(30):
                if number == 0 and turn % 10 == 5:
                    with store._writer, store._lock:
                        store._env = Panicking(store._env)
                if number == 1:
                    hold(store, b"s", blocks=(raw(b"%d" % turn),))
                assert [store.get(cid) for cid, _ in stored] == [data for _, data in stored]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    State.of(store).check()


# Bad bytes and bad places


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def alter(path: Path, cid: bytes, work: Callable[[bytes], bytes]) -> None:
    """Change the stored value of a block behind the store's back. The store must be closed."""
    with lmdb.open(os.fspath(path), max_dbs=5) as env, env.begin(write=True) as txn:
        table = env.open_db(b"blocks", txn=txn)
        txn.put(cid, work(txn.get(cid, db=table)), db=table)


@pytest.mark.parametrize("data", [b"abc", b"compressible " * 50, b"", bytes(100_000)], ids=len)
def test_a_flipped_bit_gives_no_wrong_bytes(tmp_path: Path, data: bytes) -> None:
    block = raw(data)
    store = LmdbStore(tmp_path)
    hold(store, b"r", block, blocks=(block,))
    store.close()
    found = 0
    bits = []
    alter(tmp_path, block.cid, lambda value: bits.append(len(value) * 8) or value)  # type: ignore[func-returns-value]
    for bit in range(bits[0]):
        alter(tmp_path, block.cid, lambda value, bit=bit: flipped(value, bit))
        store = LmdbStore(tmp_path)
        try:
            assert store.get(block.cid) == data  # a few bits of zstd's frame mean nothing
        except Corrupt as error:
            assert error.cid == block.cid
            found += 1
        store.close()
        alter(tmp_path, block.cid, lambda value, bit=bit: flipped(value, bit))
    assert found >= bits[0] * 0.9


@pytest.mark.parametrize("value", [b"", b"\0", b"\1", b"\2abc", b"\1\x28\xb5\x2f\xfd"], ids=bytes.hex)
def test_a_torn_value_is_corrupt(tmp_path: Path, value: bytes) -> None:
    block = raw(b"abc")
    store = LmdbStore(tmp_path)
    put(store, block)
    store.close()
    alter(tmp_path, block.cid, lambda _: value)
    store = LmdbStore(tmp_path)
    with pytest.raises(Corrupt):
        store.get(block.cid)
    store.close()


def test_a_value_that_would_unpack_to_too_much_is_corrupt(tmp_path: Path) -> None:
    import zstandard

    block = raw(b"abc")
    store = LmdbStore(tmp_path)
    put(store, block)
    store.close()
    alter(tmp_path, block.cid, lambda _: b"\1" + zstandard.compress(bytes(limits.block_bytes_max + 1)))
    store = LmdbStore(tmp_path)
    with pytest.raises(Corrupt, match="more than a block"):
        store.get(block.cid)
    store.close()


def test_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not a database " * 1000)
    with pytest.raises(StoreError, match="database failed"):
        LmdbStore(tmp_path)


def test_a_closed_store_is_a_clear_error(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    store.close()
    with pytest.raises(StoreError):
        store.roots()
    with pytest.raises(StoreError):
        put(store, raw(b"x"))


def open_as_nobody(pipe: Connection, path: Path) -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    make_store(pipe, path)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_store_of_somebody_else_is_a_clear_error(tmp_path: Path, mode: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    path = tmp_path / "store"
    path.mkdir()
    LmdbStore(path).close()
    path.chmod(mode)
    for above in (tmp_path, *tmp_path.parents[:3]):
        above.chmod(above.stat().st_mode | 0o011)
    with child(open_as_nobody, path) as other:
        error = other.pipe.recv()
        assert isinstance(error, StoreError) and "cannot open the store" in str(error)
        assert "Permission denied" in str(error)
        other.finish()
