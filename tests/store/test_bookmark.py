"""A check that is interrupted anywhere goes on there, finds the same, and reads what it has read no second time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from store import bookmark, check
from store.blocks import Store
from store.bookmark import Bookmark
from store.cid import Cid
from store.flatfs_store import FlatFsStore
from store.lmdb_store import LmdbStore
from store.memory_store import MemoryStore
from tests.suites.blocks import hold, node, raw, spoil


class Interrupt:
    """Stands for the person who watches the progress and presses Ctrl-C after so many blocks."""

    def __init__(self, after: int) -> None:
        self._left = after

    def totals(self, files: int, size: int) -> None:
        pass

    def file(self, path: bytes, size: int) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt

    def advance(self, size: int) -> None:
        pass


class Counted:
    """Counts the bytes that are read, and those told as done."""

    def __init__(self) -> None:
        self.read = self.done = 0

    def totals(self, files: int, size: int) -> None:
        self.total = size

    def file(self, path: bytes, size: int) -> None:
        self.read += size

    def advance(self, size: int) -> None:
        self.done += size


@pytest.fixture(params=["memory", "lmdb", "flatfs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    makers = {"memory": MemoryStore, "lmdb": lambda: LmdbStore(tmp_path), "flatfs": lambda: FlatFsStore(tmp_path)}
    return makers[request.param]()


def filled(store: Store, rng: random.Random) -> list[Cid]:
    leaves = [raw(rng.randbytes(1000)) for _ in range(200)]
    nodes = [node(*leaves[i : i + 20], label=str(i)) for i in range(0, 200, 20)]
    hold(store, b"r", *nodes, blocks=(*leaves, *nodes))
    return [leaf.cid for leaf in leaves]


@pytest.mark.parametrize("blocks", [1, 50, 150, 199, 205])
def test_an_interrupted_check_goes_on(store: Store, rng: random.Random, blocks: int, tmp_path: Path) -> None:
    leaves = filled(store, rng)
    bad = rng.sample(leaves, 5)
    for cid in bad:
        spoil(store, cid, b"bad")
    whole = check.examine(store)
    path = tmp_path / "check.json"
    with pytest.raises(KeyboardInterrupt):
        check.examine(store, Interrupt(blocks), save=lambda mark: bookmark.save(path, mark))
    mark = bookmark.load(path)
    if mark is None:
        assert blocks == 1, "nothing was done"
        return
    watch = Counted()
    again = check.examine(store, watch, mark)
    assert again == whole and again.corrupt == frozenset(bad)
    assert watch.done == whole.bytes, "what was read before counts as done"
    assert watch.read == whole.bytes - mark.size
    assert mark.size >= 1000 * (min(blocks, 200) - 6)


def test_a_second_interruption_goes_further(store: Store, rng: random.Random, tmp_path: Path) -> None:
    filled(store, rng)
    marks: list[Bookmark] = []
    with pytest.raises(KeyboardInterrupt):
        check.examine(store, Interrupt(100), save=marks.append)
    with pytest.raises(KeyboardInterrupt):
        check.examine(store, Interrupt(180), marks[-1], marks.append)
    assert marks[1].size > marks[0].size > 90_000
    assert check.examine(store, None, marks[1]).is_clean


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', '{"format": 1, "after": "x", "size": 1, "bad": []}'])
def test_a_damaged_bookmark_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "check.json"
    assert bookmark.load(path) is None
    path.write_text(text)
    assert bookmark.load(path) is None
    bookmark.clear(path)
    bookmark.clear(path)
    mark = Bookmark(raw(b"x").cid, 7, frozenset([raw(b"y").cid]))
    bookmark.save(path, mark)
    assert bookmark.load(path) == mark
