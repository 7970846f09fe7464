"""A process is killed before every line of ours, one after the other, in a change and in the collection after it.

For the stores that take more than one transaction of one database: plain files, and a layer over a base.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from store import layered_store
from store.blocks import Change, RootChange, Store
from store.flatfs_store import FlatFsStore
from store.layered_store import LayeredStore
from store.lmdb_store import LmdbStore
from tests.suites.blocks import State, drain, hold, node, put, raw, record
from tests.suites.faults import die_before_line, forked, quick_directory, waited

STRIDE = 1 if os.environ.get("MONOFS_EVERY_LINE") else 12

LEAF, SHARED, QUEUED, BASE = raw(b"leaf"), raw(b"shared"), raw(b"queued"), raw(b"of the base")
FRESH = [raw(bytes([number]) * 5000) for number in range(5)]
IN_BASE = node(BASE, label="in base")
OLD = node(LEAF, SHARED, label="old")
NEW = node(SHARED, QUEUED, *FRESH, label="new")
KEPT = node(BASE, IN_BASE, label="kept")
CHANGE = Change(
    dict([*FRESH, NEW, BASE, IN_BASE, KEPT]),
    (
        RootChange(b"moves", record(OLD), record(NEW)),
        RootChange(b"goes", record(SHARED), None),
        RootChange(b"comes", None, record(FRESH[0], KEPT)),
    ),
)


def flat(directory: Path) -> Store:
    (directory / "top").mkdir(exist_ok=True)
    return FlatFsStore(directory / "top")


def layered(directory: Path) -> Store:
    is_new = not (directory / "base").exists()
    for name in ("base", "layer"):
        (directory / name).mkdir(exist_ok=True)
    base = LmdbStore(directory / "base", map_bytes=1 << 20)
    if is_new:
        hold(base, b"b", IN_BASE, blocks=(BASE, IN_BASE))
        layered_store.register(base, "me", directory)
    return LayeredStore(flat(directory), [base], "me", directory / "layer")


def prepare(directory: Path, make: Callable[[Path], Store]) -> State:
    store = make(directory)
    hold(store, b"moves", OLD, blocks=(LEAF, SHARED, OLD))
    hold(store, b"goes", SHARED)
    put(store, QUEUED, node(label="garbage"))
    state = State.of(store)
    store.close()
    return state


def work(directory: Path, make: Callable[[Path], Store], line: int) -> Callable[[], None]:
    def run() -> None:
        store = make(directory)
        die_before_line(line)
        store.apply(CHANGE)
        store.gc(100)

    return run


def check_what_is_left(directory: Path, store: Store, before: State) -> bool:
    """Fail unless all or nothing was done, and what is left can be collected. Returns whether it was done."""
    state = State.of(store)
    is_done = b"comes" in state.roots
    assert state.roots == ({b"moves": record(NEW), b"comes": record(FRESH[0], KEPT)} if is_done else before.roots), (
        "a part of the change was done"
    )
    if isinstance(store, LayeredStore):
        held = store.borrowed()
        assert BASE.cid not in state.blocks
        assert not is_done or held.keys() >= {BASE.cid, IN_BASE.cid}, "the base may take what is needed here"
        State.of(store.bases[0]).check()
    if not is_done:
        store.apply(CHANGE)  # life goes on
    drain(store)
    whole = State.of(store)
    assert store.get(BASE.cid) == BASE.data
    borrowed = {BASE.cid, IN_BASE.cid} if isinstance(store, LayeredStore) else set()
    assert whole.blocks.keys() == {*(b.cid for b in (*FRESH, NEW, KEPT, SHARED, QUEUED, BASE, IN_BASE))} - borrowed
    assert whole.counts == whole.recounted()
    assert {path.name for path in (directory / "top/blocks").glob("*/*")} == set(map(str, whole.blocks))
    assert not list((directory / "top/new").iterdir())
    assert store.usage().blocks == len(whole.blocks)
    if isinstance(store, LayeredStore):
        assert store.borrowed().keys() == borrowed and store.unheld() == []
    return is_done


@pytest.mark.slow
@pytest.mark.parametrize("make", [flat, layered])
def test_killed_before_any_line(make: Callable[[Path], Store], rng: random.Random) -> None:
    with quick_directory() as quick:
        (quick / "template").mkdir()
        before = prepare(quick / "template", make)
        done: list[bool] = []
        line = rng.randrange(1, STRIDE + 1)
        while True:
            place = quick / str(line)
            shutil.copytree(quick / "template", place)
            status = waited(forked(work(place, make, line)))
            assert status in (0, -signal.SIGKILL)
            store = make(place)
            try:
                done.append(check_what_is_left(place, store, before))
            except BaseException:
                print(f"killed before line {line}")
                raise
            finally:
                store.close()
            shutil.rmtree(place)
            if status == 0:
                break
            line += STRIDE
    assert sorted(done) == done, "what was done stays done"
    assert done[-1] and not done[0] and len(done) > 50
    print(f"killed {len(done)} times")
