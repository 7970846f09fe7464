"""A copy of a store has everything that lasts, or says why not; what it has is whole at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from store import check, copying, limits, staging, version
from store.blocks import Change, Store
from store.cid import SHA2_256, Cid
from store.entry import Entry
from store.errors import Corrupt, NameTaken, StoreError
from store.repository import Repository
from store.version import Tree
from tests.suites.blocks import State, drain, hold, node, raw, record, spoil


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Repository]:
    made = Repository.init(tmp_path / "source")
    yield made
    made.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Repository]:
    made = Repository.init(tmp_path / "target", backend="flatfs")
    yield made
    made.close()


def publish(repository: Repository, name: str, versions: int = 1) -> Cid:
    tree = Cid()
    for number in range(versions):
        batch, stage = repository.batch("test")
        tree = version.put_tree(batch, Tree(Entry("dir", 0o755, mtime=number)))
        repository.publish(name, tree, batch, stage, old=repository.name(name))
    return tree


def test_everything_that_lasts_is_copied(source: Repository, target: Repository) -> None:
    publish(source, "a")
    block, inner = raw(b"x"), node(raw(b"x"))
    hold(source.store, b"image/x", inner, blocks=(block, inner))
    lease = source.lease("a", source.resolve("a").tree, "/mnt", "/sock")
    _, stage = source.batch("test")
    stage.put(dict([raw(b"on its way")]))
    assert copying.copy(source, target) == copying.Copied(1, 0, 1, 4)
    assert sorted(target.store.roots()) == [(key, source.store.root(key)) for key in (b"image/x", b"name/a")]
    assert target.store.get(block.cid) == block.data
    assert State.of(target.store).blocks.keys() == State.of(target.store).reachable()
    source.release(lease)
    stage.release()
    assert not source.store.roots(staging.PREFIX), "the source is not held any more"


def test_a_long_history_is_copied(source: Repository, target: Repository) -> None:
    publish(source, "a", 1500)  # deeper than Python's stack
    copying.copy(source, target)
    assert target.name("a") == source.name("a")
    assert State.of(target.store).blocks == State.of(source.store).blocks


def test_another_hash_is_refused(source: Repository, tmp_path: Path) -> None:
    other = Repository.init(tmp_path / "other", SHA2_256)
    with pytest.raises(StoreError, match="export and import"):
        copying.copy(source, other)
    other.close()


def test_a_name_that_is_taken_stops_it_before_anything_is_written(source: Repository, target: Repository) -> None:
    publish(source, "a")
    publish(source, "b/c")
    publish(target, "b")
    before = State.of(target.store)
    with pytest.raises(NameTaken):
        copying.copy(source, target)
    assert State.of(target.store) == before


def test_a_corrupt_source_gives_a_copy_without_what_it_lacks(source: Repository, target: Repository) -> None:
    good, bad = raw(b"good"), raw(b"bad")
    hold(source.store, b"a", good, blocks=(good,))
    hold(source.store, b"b", bad, blocks=(bad,))
    spoil(source.store, bad.cid, b"evil")
    with pytest.raises(Corrupt):
        copying.copy(source, target)
    assert target.store.root(b"a") == record(good) and target.store.root(b"b") is None
    assert not target.store.roots(staging.PREFIX)
    assert check.examine(target.store).is_clean


class Racing:
    """A target whose garbage is collected before every write."""

    def __init__(self, store: Store, times: int) -> None:
        self._store, self._times = store, times

    def __getattr__(self, name: str) -> Any:
        if name == "apply" and self._times:
            self._times -= 1
            drain(self._store)
        return getattr(self._store, name)


def test_what_a_gc_of_the_target_takes_meanwhile_is_copied_again(source: Repository, target: Repository) -> None:
    leaves = [raw(b"%d" % number) for number in range(10)]
    top = node(*leaves)
    hold(source.store, b"a", top, blocks=(*leaves, top))
    target.store.apply(Change(dict(leaves)))  # left by somebody, and garbage
    target.store = cast(Store, Racing(target.store, 2))
    assert copying.copy(source, target).blocks == 11
    assert check.examine(target.store).is_clean


def test_memory_stays_bounded(source: Repository, target: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "batch_bytes_max", 100_000)
    leaves = [raw(b"%05d" % number * 4000) for number in range(60)]
    inner = [node(*leaves[i : i + 5], label=str(i)) for i in range(0, 60, 5)]
    top = node(*inner)
    hold(source.store, b"a", top, blocks=(*leaves, *inner, top))
    assert copying.copy(source, target).blocks == 73
    assert State.of(target.store).blocks == State.of(source.store).blocks
    assert not target.store.roots(staging.PREFIX)
