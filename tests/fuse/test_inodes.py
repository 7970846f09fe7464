"""Inode numbers: the same file keeps its number whatever the kernel forgets, and no two files share one."""

from __future__ import annotations

import errno
from unittest import mock

import pytest

from monofs_fuse import inodes
from monofs_fuse.errors import Errno
from monofs_fuse.inodes import Directory, Inode, Table, path_of, paths_of
from monofs_fuse.worktree import Worktree
from store.cache import Cache
from store.entry import Entry
from store.memory_store import MemoryStore
from store.version import Tree

FILE, DIRECTORY = Entry("file", 0o644), Entry("dir", 0o755)


def known(table: Table, parent: Directory, name: bytes, entry: Entry = FILE) -> Inode:
    """Add an inode that the kernel knows."""
    inode = table.add(parent, name, entry)
    inode.lookups = 1
    return inode


def directory(table: Table, parent: Directory, name: bytes) -> Directory:
    made = known(table, parent, name, DIRECTORY)
    assert isinstance(made, Directory)
    return made


def forget(table: Table, *forgotten: Inode) -> None:
    for inode in forgotten:
        inode.lookups = 0
        table.drop(inode)


def rename(table: Table, inode: Inode, parent: Directory, name: bytes) -> None:
    table.detach(inode, *inode.names[0])
    table.attach(inode, parent, name)


@pytest.fixture
def table() -> Table:
    return Table(DIRECTORY)


def test_a_number_comes_back_after_a_forget_and_in_another_mount(table: Table) -> None:
    first = known(table, table.root, b"a").ino
    forget(table, table[first])
    assert len(table) == 1
    assert known(table, table.root, b"a").ino == first
    other = Table(DIRECTORY)
    assert known(other, other.root, b"a").ino == first


def test_a_renamed_file_keeps_its_number_and_its_old_name_gets_another(table: Table) -> None:
    inode = known(table, table.root, b"old")
    rename(table, inode, table.root, b"new")
    forget(table, inode)
    usurper = known(table, table.root, b"old")
    assert usurper.ino != inode.ino
    assert known(table, table.root, b"new").ino == inode.ino


def test_what_is_below_a_renamed_directory_keeps_its_numbers(table: Table) -> None:
    parent = directory(table, table.root, b"d")
    child = known(table, parent, b"f")
    rename(table, parent, table.root, b"e")
    forget(table, child, parent)
    assert len(table) == 1
    again = directory(table, table.root, b"e")
    assert again.ino == parent.ino
    assert known(table, again, b"f").ino == child.ino


@pytest.mark.parametrize("order", [(b"a", b"b"), (b"b", b"a")])
def test_a_hard_linked_file_comes_back_by_its_smallest_path(table: Table, order: tuple[bytes, bytes]) -> None:
    inode = known(table, table.root, order[0])
    table.attach(inode, table.root, order[1])
    forget(table, inode)
    assert table.root.children == {}
    assert known(table, table.root, b"a").ino == inode.ino


def test_a_removed_file_gives_its_number_free(table: Table) -> None:
    inode = known(table, table.root, b"a")
    rename(table, inode, table.root, b"b")
    forget(table, inode)
    again = known(table, table.root, b"b")
    table.detach(again, table.root, b"b")
    forget(table, again)
    assert known(table, table.root, b"a").ino == inode.ino


def test_a_file_that_is_open_without_a_name_keeps_its_number_to_itself(table: Table) -> None:
    inode = known(table, table.root, b"a")
    inode.opens = 1
    table.detach(inode, table.root, b"a")
    forget(table, inode)
    assert known(table, table.root, b"a").ino != inode.ino
    assert table.get(inode.ino) is inode


def test_memory_of_renamed_files_is_bounded(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inodes, "_OVERRIDES_MAX", 3)
    renamed = [known(table, table.root, b"%d" % n) for n in range(9)]
    for inode in renamed:
        rename(table, inode, table.root, b"new-" + inode.names[0][1])
    forget(table, *renamed)
    found = [known(table, table.root, b"new-%d" % n).ino for n in range(9)]
    assert found[:3] == [inode.ino for inode in renamed[:3]]
    assert len(set(found)) == 9


def test_dropping_a_file_drops_the_directories_that_were_there_for_it(table: Table) -> None:
    outer = table.add(table.root, b"d", DIRECTORY)
    assert isinstance(outer, Directory)
    inner = table.add(outer, b"e", DIRECTORY)
    assert isinstance(inner, Directory)
    inode = known(table, inner, b"f")
    table.attach(inode, outer, b"g")
    table.attach(inode, table.root, b"h")
    assert path_of(inode) == b"d/e/f"
    assert paths_of(inode) == (b"d/e/f", b"d/g", b"h")
    forget(table, inode)
    assert list(table) == [table.root]


def test_surplus_is_the_oldest_that_nobody_needs(table: Table) -> None:
    busy = known(table, table.root, b"busy")
    busy.opens = 1
    known(table, table.root, b"dirty")
    table.root.dirty.add(b"dirty")
    directory(table, table.root, b"d")
    for number in range(4):
        known(table, table.root, b"%d" % number)
    assert table.surplus(6, 10) == [(1, b"0"), (1, b"1")]
    assert table.surplus(5, 10) == [(1, b"2"), (1, b"3"), (1, b"0")]  # asked for again after all others
    assert table.surplus(5, 2) == [(1, b"1"), (1, b"2")]
    assert table.surplus(100, 10) == []


def test_a_file_that_was_dropped_already_does_not_take_its_successor_along(table: Table) -> None:
    gone = known(table, table.root, b"a")
    table.detach(gone, table.root, b"a")
    forget(table, gone)
    successor = known(table, table.root, b"a")
    assert successor.ino == gone.ino
    table.drop(gone)  # a commit under way still knew it
    assert table.get(successor.ino) is successor


def test_directories_end_where_nobody_could_walk_them() -> None:
    """As deep as an import takes them, and no deeper."""
    tree = Worktree(Cache(MemoryStore()), Tree(Entry("dir", 0o755)))
    at: Inode = tree.root
    with mock.patch("monofs_fuse.worktree.depth_max", 40):
        for _ in range(39):
            assert isinstance(at, Directory)
            at = tree.create(at, b"d", DIRECTORY)
        assert isinstance(at, Directory)
        with pytest.raises(Errno) as raised:
            tree.create(at, b"d", DIRECTORY)
        assert raised.value.number == errno.ENAMETOOLONG
        tree.create(at, b"file", FILE)
