"""The saver: when it is time to commit."""

from __future__ import annotations

import pytest

from monofs_fuse import limits
from monofs_fuse.saver import Saver
from monofs_fuse.worktree import Worktree
from store.cache import Cache
from store.entry import Entry
from store.memory_store import MemoryStore
from store.version import Tree

FILE = Entry("file", 0o644)


@pytest.mark.parametrize(
    ("size", "limit"),
    [(limits.MIB, limits.unsaved_bytes_soft), (4096, limits.unsaved_bytes_scattered)],
    ids=["large writes", "small and scattered ones"],
)
def test_a_commit_begins_when_there_is_much_to_save(size: int, limit: int) -> None:
    tree = Worktree(Cache(MemoryStore()), Tree(Entry("dir", 0o755)))
    saver = Saver(tree, None)
    file = tree.create(tree.root, b"file", FILE)
    data = bytes(size)
    for number in range(limit // size):
        tree.write(file, 3 * number * size, data)
        saver.poke()
        assert not saver.is_wanted, number
    tree.write(file, 0, data)  # over what is there already
    saver.poke()
    assert not saver.is_wanted
    tree.write(file, size, data)
    saver.poke()
    assert saver.is_wanted and not saver.is_full
