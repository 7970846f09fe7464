"""Tombstones: what a version had and its successor has not, no more and no less, in the time of the difference."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import codec, directory, tombstones, version
from store.batch import Batch
from store.cache import Cache
from store.cid import BLAKE3, Cid
from store.entry import Entry
from store.errors import Corrupt
from store.memory_store import MemoryStore
from store.nodes import Node
from store.version import Tree
from tests.store.histories import DIR, History, file, tree
from tests.store.models import examples, new_batch, tiny

PATHS = ["a", "a.b", "d/", "d/a", "d/b", "d/e/", "d/e/f", "d-", "g/h/i"]
contents = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(["", "one", "two"]), max_size=8)
steps = st.lists(contents, min_size=1, max_size=6)


def names(past: History, cid: Cid) -> set[bytes]:
    return {path for path, _ in directory.walk(past.batch, past.tree(cid).root)}


def buried(past: History, cid: Cid) -> dict[bytes, int]:
    return {path: one.time for path, one in tombstones.below(past.batch, past.version(cid).tombstones)}


def usable(content: dict[str, str]) -> dict[str, str]:
    """A name that is a directory for others cannot be a file."""
    above = {path.rstrip("/").rpartition("/")[0] for path in content}
    return {path: data for path, data in content.items() if path.endswith("/") or path not in above}


@examples(200)
@given(steps)
def test_along_a_line(history: list[dict[str, str]]) -> None:
    """What some version had and the last has not, with the time of the first version without it."""
    with tiny():
        past = History(new_batch())
        gone: dict[bytes, int] = {}
        last, had = None, set[bytes]()
        for content in map(usable, history):
            last = past.commit(content, *([last] if last else []))
            now = names(past, last)
            time = {one.time for one in buried_now(past, last).values() if one.time not in gone.values()}
            gone.update(dict.fromkeys(had - now, next(iter(time), 0)))
            gone = {path: when for path, when in gone.items() if path not in now}
            had = now
            assert buried(past, last) == gone


def buried_now(past: History, cid: Cid) -> dict[bytes, tombstones.Tombstone]:
    return dict(tombstones.below(past.batch, past.version(cid).tombstones))


@examples(200)
@given(contents, contents, contents, contents)
def test_after_two_versions(
    first: dict[str, str], left: dict[str, str], right: dict[str, str], end: dict[str, str]
) -> None:
    """Those of both sides, without what is there, with what only one of them had."""
    past = History(new_batch())
    base = past.commit(usable(first))
    one, two = past.commit(usable(left), base), past.commit(usable(right), base)
    merged = past.commit(usable(end), one, two)
    had = set().union(*(names(past, cid) for cid in (base, one, two)))
    assert buried(past, merged).keys() == had - names(past, merged)
    other = past.commit(usable(end), two, one)
    assert buried(past, other).keys() == buried(past, merged).keys()


def test_what_it_says() -> None:
    past = History(new_batch())
    big = file(past.batch, "x" * 1000, mtime=5, nlink=2)
    first = past.commit({"big": big, "d/small": "s", "link": Entry("symlink", 0o777, size=1, data=b"d")})
    second = past.commit({}, first)
    found = buried_now(past, second)
    assert found[b"big"].content == big.data and found[b"big"].size == 1000 and found[b"big"].kind == "file"
    assert found[b"big"].was == tombstones.identity(BLAKE3, big._replace(mtime=9, nlink=1))
    assert found[b"big"].was != tombstones.identity(BLAKE3, big._replace(mode=0o600))
    assert found[b"d/small"].content is None and found[b"d/small"].size == 1
    assert found[b"link"].kind == "symlink" and found[b"d"].kind == "dir"
    assert not codec.links(first, past.batch.get(past.version(second).tombstones or first)), "a tombstone holds nothing"


def test_a_name_that_comes_back_has_none() -> None:
    past = History(new_batch())
    first = past.commit({"d/a": "1", "d/b": "2", "c": "3"})
    second = past.commit({}, first)
    third = past.commit({"d/a": "other", "c/x": "4"}, second)
    assert set(buried(past, third)) == {b"d/b"}
    assert buried(past, third)[b"d/b"] == buried(past, second)[b"d/b"]


def test_retention() -> None:
    past = History(new_batch())
    first = past.commit({"a": "1", "b": "2", "c": "3"})
    second = past.commit({"b": "2", "c": "3"}, first)
    third = past.commit({"c": "3"}, second)
    times = buried(past, third)
    root = past.version(third).tombstones
    kept = tombstones.without(past.batch, root, before=times[b"b"])
    assert [path for path, _ in tombstones.below(past.batch, kept)] == [b"b"]
    assert tombstones.without(past.batch, root, before=times[b"a"]) == root
    assert tombstones.without(past.batch, root, before=1 << 62) is None
    assert tombstones.without(past.batch, None, before=1) is None


# The cost


class Reads(Batch):
    """Counts the blocks that are read."""

    count = 0

    def node(self, cid: Cid) -> Node:
        self.count += 1
        return super().node(cid)

    def get(self, cid: Cid) -> bytes:
        self.count += 1
        return super().get(cid)


def test_the_size_of_the_tree_costs_nothing(rng: random.Random) -> None:
    batch = Reads(Cache(MemoryStore()))
    past = History(batch)
    many: dict[bytes, Entry | None] = {b"%05d" % number: Entry("file", 0o644) for number in range(30_000)}
    half = directory.with_entries(batch, DIR, many)
    root = directory.with_entries(batch, DIR, {b"left": half, b"right": half._replace(mode=0o700)})
    first = past.commit(Tree(root))
    fewer = directory.with_entries(batch, half, {b"%05d" % rng.randrange(30_000): None})
    third = directory.with_entries(batch, root, {b"left": fewer, b"again": half})
    batch.count = 0
    second = past.commit(Tree(third), first)
    assert len(buried(past, second)) == 1
    assert batch.count < 60, "60,000 files that stayed and 30,000 new ones have some 900 nodes"


def test_many_at_once() -> None:
    batch = new_batch()
    past = History(batch)
    many: dict[bytes, Entry | None] = {b"%05d" % number: Entry("file", 0o644) for number in range(9_000)}
    first = past.commit(Tree(directory.with_entries(batch, DIR, many)))
    second = past.commit({}, first)
    assert len(buried(past, second)) == 9_000
    assert past.version(past.commit(Tree(directory.with_entries(batch, DIR, many)), second)).tombstones is None


# Forgeries

WAS = bytes(BLAKE3.node(b"x"))
GOOD = {"time": 1, "was": WAS}


@pytest.mark.parametrize(
    "doc",
    [
        {}, {"time": 1}, {"was": WAS}, {**GOOD, "time": "1"}, {"time": 1, "was": b"short"}, {**GOOD, "time": True},
        {**GOOD, "kind": "file"}, {**GOOD, "kind": "thing"}, {**GOOD, "size": 0}, {**GOOD, "size": -1},
        {**GOOD, "content": b""}, {**GOOD, "more": 1}, {**GOOD, "was": BLAKE3.node(b"x")}, {**GOOD, "was": 5},
        {**GOOD, "content": BLAKE3.node(b"x")}, {**GOOD, "kind": 5}, {**GOOD, "time": 1.5}, {**GOOD, "content": []},
    ],
    ids=str,
)  # fmt: skip
def test_broken_ones_are_corrupt(doc: dict[str, object]) -> None:
    batch = new_batch()
    root = batch.put_doc(["tombstones", 0, [[b"a", doc]]])
    with pytest.raises(Corrupt):
        list(tombstones.below(batch, root))


def test_broken_trees_are_corrupt() -> None:
    batch = new_batch()
    for item in ([b"/a", {}], [b"", {}], [b"a/../b", {}], [b"a", []], [b"a", {}, 1], [b"a\0", {}]):
        with pytest.raises(Corrupt):
            list(tombstones.below(batch, batch.put_doc(["tombstones", 0, [item]])))


def test_a_damaged_old_version_keeps_no_new_one_from_being_made() -> None:
    past = History(new_batch())
    first = past.commit({"a": "1", "b": "2"})
    second = past.commit({"a": "1"}, first)
    held = past.version(second).tombstones
    lost = past.tree(second).root.tree
    assert lost is not None
    del past.batch.blocks[lost]
    third = past.commit({"c": "3"}, second)
    assert past.version(third).previous == {second} and past.version(third).tombstones == held
    assert version.load_tree(past.batch, third) == tree(past.batch, {"c": "3"})
