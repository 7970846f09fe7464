"""What differs between two trees: the same as a walk of both says, and found without reading what they share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import codec, directory
from store.batch import Batch
from store.cache import Cache
from store.cid import Cid
from store.diff import Difference, compare
from store.entry import Entry
from store.errors import Corrupt
from store.memory_store import MemoryStore
from store.nodes import DIRECTORY, Node, encode
from tests.store.models import examples, new_batch

FILE, DIR = Entry("file", 0o644), Entry("dir", 0o755)


def tree(into: Batch, paths: dict[bytes, Entry]) -> Entry:
    """Return a directory with these files and empty directories, and the directories on the way to them."""
    here: dict[bytes, Entry | None] = {}
    below: dict[bytes, dict[bytes, Entry]] = {}
    for path, entry in paths.items():
        name, slash, rest = path.partition(b"/")
        if slash:
            below.setdefault(name, {})[rest] = entry
        else:
            here[name] = entry
    for name, inner in below.items():
        here[name] = tree(into, inner)
    return directory.with_entries(into, DIR, here)


def described(differences: list[Difference]) -> list[tuple[str, bytes]]:
    return [(one.status, one.path) for one in differences]


# The model


def walked(into: Batch, old: Entry, new: Entry) -> list[tuple[str, bytes]]:
    """What `compare` must say, from a walk of both trees."""
    olds, news = dict(directory.walk(into, old)), dict(directory.walk(into, new))
    found = []
    for path in olds.keys() | news.keys():
        before, after = olds.get(path), news.get(path)
        if before is None or after is None:
            found.append(("A" if before is None else "D", path))
        elif before.kind != after.kind:
            found.append(("T", path))
        elif before._replace(data=None, total=(0, 0, 0)) != after._replace(data=None, total=(0, 0, 0)) or (
            not before.is_dir and before != after
        ):
            found.append(("M", path))
    return sorted(found, key=lambda one: one[1].split(b"/"))


names = st.sampled_from([b"a", b"b", b"c", b"sub", b"sub.x", b"\xff"])
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)
entries = st.builds(
    lambda kind, mode, mtime: Entry("dir" if kind else "file", mode, mtime=mtime),
    st.booleans(),
    st.sampled_from([0o644, 0o600]),
    st.integers(0, 1),
)
trees = st.dictionaries(paths, entries, max_size=12)


LARGE_BATCH = new_batch()
LARGE = directory.with_entries(LARGE_BATCH, DIR, {b"%d" % number: FILE for number in range(3000)})


@examples(300)
@given(trees, trees)
def test_it_says_what_a_walk_says(before: dict[bytes, Entry], after: dict[bytes, Entry]) -> None:
    into = new_batch()
    old, new = tree(into, before), tree(into, after)
    assert described(list(compare(into, old, new))) == walked(into, old, new)


@examples(25)
@given(st.sets(st.integers(0, 4000), max_size=200), st.sets(st.integers(0, 4000), max_size=200))
def test_large_directories(gone: set[int], come: set[int]) -> None:
    changes: dict[bytes, Entry | None] = {b"%d" % number: None for number in gone}
    changes |= {b"%d" % number: Entry("file", 0o600) for number in come}
    new = directory.with_entries(LARGE_BATCH, LARGE, changes)
    assert described(list(compare(LARGE_BATCH, LARGE, new))) == walked(LARGE_BATCH, LARGE, new)


# The cost


class Reads(Batch):
    """Counts the nodes that are read."""

    count = 0

    def node(self, cid: Cid) -> Node:
        self.count += 1
        return super().node(cid)


def test_what_both_share_is_not_read() -> None:
    into = Reads(Cache(MemoryStore()))
    files: dict[bytes, Entry | None] = {b"%05d" % number: FILE for number in range(50_000)}
    old = directory.with_entries(into, DIR, files)
    new = directory.with_entries(into, old, {b"25000": Entry("file", 0o600)})
    into.count = 0
    assert described(list(compare(into, old, new))) == [("M", b"25000")]
    assert into.count < 20, "a directory of 50,000 has some 500 leaves"

    into.count = 0
    assert list(compare(into, old, old)) == []
    assert into.count == 0


# Edges


def test_one_side_alone() -> None:
    into = new_batch()
    some = tree(into, {b"a": FILE, b"d/b": FILE})
    assert described(list(compare(into, None, some))) == [("A", b""), ("A", b"a"), ("A", b"d"), ("A", b"d/b")]
    assert described(list(compare(into, some, None))) == [("D", b""), ("D", b"a"), ("D", b"d"), ("D", b"d/b")]
    assert list(compare(into, None, None)) == []


def test_a_file_in_place_of_a_directory() -> None:
    into = new_batch()
    old, new = tree(into, {b"x/a": FILE, b"x/b": FILE}), tree(into, {b"x": FILE})
    assert described(list(compare(into, old, new))) == [("T", b"x"), ("D", b"x/a"), ("D", b"x/b")]
    assert described(list(compare(into, new, old))) == [("T", b"x"), ("A", b"x/a"), ("A", b"x/b")]


def test_files_alone() -> None:
    into = new_batch()
    assert described(list(compare(into, FILE, FILE._replace(mode=0o600)))) == [("M", b"")]
    assert list(compare(into, FILE, FILE)) == []


def test_any_depth() -> None:
    into = new_batch()
    old, new = DIR, Entry("dir", 0o700)
    for _ in range(3000):
        old, new = (directory.with_entries(into, DIR, {b"d": entry}) for entry in (old, new))
    assert described(list(compare(into, old, new))) == [("M", b"/".join([b"d"] * 3000))]


def test_a_forged_level_is_corrupt() -> None:
    into = new_batch()
    leaf = directory.with_entries(into, DIR, {b"a": FILE})
    assert isinstance(leaf.data, Cid)
    forged = into.put_node(encode(DIRECTORY, 2, [codec.encode([b"a", leaf.data, 1, 0, 0])]))
    with pytest.raises(Corrupt, match="level"):
        list(compare(into, DIR, leaf._replace(data=forged)))
