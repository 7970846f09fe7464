"""Nodes that do not end where the format says are found, and no others."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from store import check, codec, nodes, shape, tree
from store.batch import Batch
from store.blocks import Change, RootChange
from store.cache import Cache
from store.cid import Cid
from store.entry import Entry
from store.memory_store import MemoryStore
from store.nodes import DIRECTORY, FILE, LINKS, Flavor, Item
from tests.suites.blocks import record

ENTRY = Entry("file", 0o644)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def hold(store: MemoryStore, batch: Batch, top: Cid) -> None:
    store.apply(Change(batch.blocks, (RootChange(b"r", None, record(top)),)))


def items(flavor: Flavor, batch: Batch, rng: random.Random, count: int, size: int = 0) -> list[tuple[object, Item]]:
    if flavor is FILE:
        chunks = [batch.put_raw(rng.randbytes(10)) for _ in range(count)]
        return [(10 * (index + 1), [10, cid]) for index, cid in enumerate(chunks)]
    names = sorted({b"%d-%s" % (rng.randrange(10**9), b"x" * size) for _ in range(count)})
    if flavor is LINKS:
        return [(name, [name, name]) for name in names]
    return [(name, [name, {"mode": 0o644, "mtime": 0}]) for name in names]


def shapes(batch: Batch) -> dict[Cid, shape.Shape]:
    found = {cid: shape.of(cid, data) for cid, data in batch.blocks.items()}
    return {cid: one for cid, one in found.items() if one is not None}


@pytest.mark.parametrize("flavor", [DIRECTORY, LINKS, FILE], ids=lambda flavor: flavor.name)
@pytest.mark.parametrize(("count", "size"), [(1, 0), (31, 0), (500, 0), (20_000, 0), (2_000, 200)])
def test_what_the_tree_builds_is_good(
    store: MemoryStore, rng: random.Random, flavor: Flavor, count: int, size: int
) -> None:
    batch = Batch(Cache(store))
    top = tree.build(batch, flavor, items(flavor, batch, rng, count, size))
    assert top is not None
    seen = shape.Shapes()
    for cid, one in shapes(batch).items():
        assert not one.problem
        seen.see(cid, one)
    assert list(seen.torn()) == []
    hold(store, batch, top)
    assert check.examine(store).is_clean


def forged(batch: Batch, flavor: Flavor, pairs: list[tuple[object, Item]], cut: Callable[[int], bool]) -> Cid:
    """Return an inner node over leaves that are cut where `cut` says, and not where they must be."""
    made, part = [], list[Item]()
    for index, (_, item) in enumerate(pairs):
        part.append(item)
        if cut(index) or index == len(pairs) - 1:
            cid = batch.put_node(nodes.encode(flavor, 0, list(map(codec.encode, part))))
            made.append(flavor.summary(part[-1], flavor.totals(0, part), cid))
            part = []
    return batch.put_node(nodes.encode(flavor, 1, list(map(codec.encode, made))))


@pytest.mark.parametrize("flavor", [DIRECTORY, LINKS, FILE], ids=lambda flavor: flavor.name)
@pytest.mark.parametrize("every", [5, 31, 200])
def test_nodes_cut_elsewhere_are_found(store: MemoryStore, rng: random.Random, flavor: Flavor, every: int) -> None:
    batch = Batch(Cache(store))
    top = forged(batch, flavor, items(flavor, batch, rng, 1000), lambda index: index % every == every - 1)
    assert len(list(tree.items(batch, flavor, top))) == 1000, "readers take it"
    hold(store, batch, top)
    report = check.examine(store)
    assert {problem.kind for problem in report.problems} == {"shape"}
    assert all("not canonical" in str(problem) for problem in report.problems)


def test_a_node_that_breaks_the_format_is_found(store: MemoryStore) -> None:
    batch = Batch(Cache(store))
    top = batch.put_node(codec.encode(["dir", 0, [[b"..", {"mode": 0, "mtime": 0}]]]))
    hold(store, batch, top)
    (problem,) = check.examine(store).problems
    assert problem.kind == "shape" and "bad file name" in str(problem)


def test_other_blocks_have_no_shape(tmp_path: Path) -> None:
    algorithm = MemoryStore().algorithm
    for data in (codec.encode({"type": "tree"}), codec.encode([[b"a", b"b"]]), codec.encode(["other", 1, []])):
        assert shape.of(algorithm.node(data), data) is None
    assert shape.of(algorithm.raw(b"\x83\x63dir"), b"\x83\x63dir") is None
