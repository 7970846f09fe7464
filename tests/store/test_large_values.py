"""What is very large, or made to be: no node is ever over the block limit, and an edit writes little."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import check, codec, directory, limits, shape, tree
from store import entry as entries
from store.batch import Batch
from store.blocks import Change, RootChange
from store.cache import Cache
from store.chunker import FastCdc
from store.entry import Entry
from store.file import File, from_stream
from store.memory_store import MemoryStore
from store.nodes import DIRECTORY, LINKS, Item
from tests.suites.blocks import record
from tools.benchmarks import large_directory


@pytest.fixture
def batch() -> Batch:
    return Batch(Cache(MemoryStore()))


def check_nodes(batch: Batch) -> None:
    """Fail unless every node is within the limit and canonical."""
    seen = shape.Shapes()
    for cid, data in batch.blocks.items():
        assert len(data) <= limits.block_bytes_max
        if found := shape.of(cid, data):
            assert not found.problem
            seen.see(cid, found)
    assert not list(seen.torn())


def pieces(count: int, rng: random.Random) -> Iterator[tuple[int, bytes | None]]:
    """A few bytes and a hole, again and again: each is a chunk of its own."""
    for _ in range(count // 2):
        data = rng.randbytes(6).replace(b"\0", b"\1")
        yield len(data), data
        yield limits.hole_bytes_min, None


@pytest.mark.slow
def test_a_file_of_200_000_chunks(batch: Batch, rng: random.Random) -> None:
    file = from_stream(batch, FastCdc(), pieces(200_000, rng))
    step = 6 + limits.hole_bytes_min
    assert (file.size, file.holes) == (100_000 * step, 100_000 * limits.hole_bytes_min)
    check_nodes(batch)
    for _ in range(50):
        at = rng.randrange(100_000) * step
        data = file.read_at(batch, at - 3 if at else 0, 20)
        assert data[3 if at else 0 :][:6].strip(b"\0") and not data[3 if at else 0 :][6:].strip(b"\0")
    assert file.read_at(batch, file.size - 1, 10) == b"\0"


@pytest.mark.slow
def test_a_file_of_200_000_equal_chunks(batch: Batch) -> None:
    """All labels are the same."""
    for byte in range(2):
        chunk = batch.put_raw(bytes([byte + 1]) * 10)
        top = tree.build(batch, tree.nodes.FILE, ((10 * (n + 1), [10, chunk]) for n in range(200_000)))
        assert top is not None
        assert File(2_000_000, 0, top).read_at(batch, 1_234_567, 5) == bytes([byte + 1]) * 5
    check_nodes(batch)


def unending_names(count: int, length: int) -> Iterator[bytes]:
    """Names chosen so that none of them ends a node."""
    number = 0
    while count:
        name = (b"%08d" % number).ljust(length, b"x")
        number += 1
        if DIRECTORY.label([name])[0] & limits.node_boundary_mask:
            count -= 1
            yield name


def test_a_directory_whose_names_are_chosen_to_be_nasty(batch: Batch, rng: random.Random) -> None:
    """The longest names, targets, and attributes that just fit into the entry."""
    xattrs = entries.pack_xattrs(batch, [(b"user.x", rng.randbytes(480))])
    assert not isinstance(xattrs, bytes)
    link = Entry("symlink", 0o777, size=4095, data=b"/" * 4095, xattrs=xattrs)
    names = list(unending_names(2000, limits.name_bytes_max))
    root = directory.with_entries(batch, Entry("dir", 0o755), dict.fromkeys(names, link))
    check_nodes(batch)
    assert directory.lookup(batch, root, names[1000]) == link
    assert root.total[0] == 2000


@pytest.mark.slow
def test_links_with_the_longest_paths(batch: Batch) -> None:
    paths = [b"%08d" % n + b"/x" * (limits.link_path_bytes_max // 2 - 4) for n in range(40)]
    items: list[tuple[bytes, Item]] = [(path, [path, path]) for path in paths]
    assert tree.build(batch, LINKS, items) is not None
    assert max(map(len, batch.blocks.values())) > 4 * limits.link_path_bytes_max
    check_nodes(batch)


def test_a_value_of_64_kib_and_the_largest_set(batch: Batch, rng: random.Random) -> None:
    largest = [(b"user.%d" % n, rng.randbytes(limits.xattr_value_bytes_max)) for n in range(7)]
    for pairs in (largest[:1], largest):
        packed = entries.pack_xattrs(batch, pairs)
        entry = Entry("file", 0o644, xattrs=packed)
        assert dict(entries.unpack_xattrs(batch, entry)) == dict(pairs)
        names = [b"%d" % n for n in range(1000)]
        root = directory.with_entries(batch, Entry("dir", 0o755), dict.fromkeys(names, entry))
        assert directory.lookup(batch, root, b"500") == entry
        assert len(codec.encode(entries.encode(entry))) < 100
    check_nodes(batch)


@pytest.mark.slow
def test_a_hundred_thousand_names(batch: Batch, rng: random.Random) -> None:
    names = [b"%d" % n for n in range(100_000)]
    root = directory.with_entries(batch, Entry("dir", 0o755), dict.fromkeys(names, Entry("file", 0o644)))
    check_nodes(batch)
    store = MemoryStore()
    assert root.data is not None and isinstance(root.data, bytes)
    store.apply(Change(batch.blocks, (RootChange(b"r", None, record(root.data)),)))
    assert check.examine(store).is_clean
    edit = Batch(Cache(store))
    directory.with_entries(edit, root, {b"5": Entry("file", 0o600)})
    assert len(edit.blocks) <= 6 and sum(map(len, edit.blocks.values())) < 100_000


def test_the_benchmark_of_ten_million_on_ten_thousand(tmp_path: Path) -> None:
    found = large_directory.measured(tmp_path / "store", 10_000)
    assert found["entries"] == 10_000 and found["edit_blocks"] <= found["levels"] + 2
