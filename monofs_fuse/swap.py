"""A swap: another committed tree is put under a live worktree, in one step that nobody sees half of.

`between` reads what differs, on any thread. `swap` runs on the mount's thread between two requests; it reads nothing,
so nothing can stop it in the middle. It returns what the kernel must be told.

Who has something open notices as little as if a careful person had done it with rename(2): an inode stays for what
did not change, or only in its metadata, or moved; a name whose content changed gets a new inode, and the old one goes
on without a name for those who have it open (see `lost`).
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Set
from functools import partial
from typing import NamedTuple

import pyfuse3

from monofs_fuse import attributes
from monofs_fuse.inodes import Directory, Inode, Lost, path_of
from monofs_fuse.worktree import Worktree
from store import apart, diff, directory, renames
from store.batch import Nodes
from store.diff import Pair
from store.entry import Entry
from store.nodes import LINKS
from store.version import Tree

log = logging.getLogger(__name__)


class Turned(NamedTuple):
    """A directory that both trees have and that differs, or something below it does. `names` are those that differ."""

    path: bytes
    new: Entry
    names: tuple[Pair, ...]


class Move(NamedTuple):
    """What was at `old` is called `name` now, in the directory that `way` leads to."""

    old: bytes
    way: tuple[tuple[bytes, Entry], ...]
    name: bytes
    entry: Entry


class Difference(NamedTuple):
    """From one tree to another. `directories` come before those in them; `regrouped` are paths with other links."""

    new: Tree
    directories: tuple[Turned, ...]
    moves: tuple[Move, ...]
    regrouped: frozenset[bytes]


class Stale(NamedTuple):
    """What the kernel may know and must not believe any more: names in directories, and attributes of inodes."""

    entries: list[tuple[int, bytes]]
    inodes: list[int]


# What differs


def busy(tree: Worktree) -> frozenset[bytes]:
    """Return the paths of what somebody may notice to have moved."""
    return frozenset(path_of(inode) for inode in tree.table if inode.names and (inode.is_dir or inode.opens))


def between(source: Nodes, old: Tree, new: Tree, busy: Set[bytes]) -> Difference:
    """Return what differs; of what moved only what is `busy`. Raises Corrupt, NotFound."""
    links = apart.items(source, LINKS, old.links, new.links)
    regrouped = frozenset(one.key for one in links if one.old != one.new)
    turned = tuple(_turned(source, old.root, new.root))
    return Difference(new, turned, tuple(_moves(source, old, new, busy)), regrouped)


def _turned(source: Nodes, old: Entry, new: Entry) -> Iterator[Turned]:
    waiting = [(b"", old, new)]
    while waiting:
        path, before, after = waiting.pop()
        names = tuple(diff.pairs(source, before.tree, after.tree))
        yield Turned(path, after, names)
        for name, one, other in names:
            if one is not None and other is not None and one.is_dir and other.is_dir and one.data != other.data:
                waiting.append((path + b"/" + name if path else name, one, other))


def _moves(source: Nodes, old: Tree, new: Tree, busy: Set[bytes]) -> Iterator[Move]:
    for path, was_at in renames.between(source, old.root, new.root).old_of.items():
        if was_at not in busy:
            continue
        above, _, name = path.rpartition(b"/")
        way = []
        at = new.root
        for part in above.split(b"/") if above else ():
            at = directory.resolve(source, at, part)
            way.append((part, at))
        yield Move(was_at, tuple(way), name, directory.resolve(source, at, name))


# Swapping


def swap(tree: Worktree, difference: Difference) -> Stale:
    """Put the new tree in place. The worktree must have nothing that is not committed, but in files without names."""
    assert not tree.dirty_directories and not tree.root_is_dirty and not tree.regrouped and not tree.regrouping
    swapping = _Swap(tree)
    swapping.run(difference)
    return swapping.stale


def tell_kernel(stale: Stale) -> None:
    """Blocks until the kernel has forgotten it, so never call it on the mount's own thread."""
    for parent, name in stale.entries:
        _told(partial(pyfuse3.invalidate_entry, parent, name))
    for ino in stale.inodes:
        _told(partial(pyfuse3.invalidate_inode, ino, attr_only=True))


def _told(notice: Callable[[], None]) -> None:
    try:
        notice()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # that is: it knows nothing of it
            log.warning("the kernel did not hear of a change: %s", error)


class _Swap:
    def __init__(self, tree: Worktree) -> None:
        self.stale = Stale([], [])
        self._tree = tree
        self._touched: list[Inode] = []  # they may be needless now
        self._now = attributes.now()

    def run(self, difference: Difference) -> None:
        for path in difference.regrouped:
            inode = self._at(path)
            if inode is not None and not inode.is_dir:
                self._lose(inode)
        moving = [(move, inode) for move in difference.moves if (inode := self._at(move.old)) is not None]
        for _, inode in moving:
            self._detach(inode)
        for turned in difference.directories:
            at = self._at(turned.path)
            if isinstance(at, Directory):
                self._turn(at, turned)
        for move, inode in moving:
            self._arrive(inode, move)
        self._tree.links = difference.new.links
        for inode in self._touched:
            self._tree.table.drop(inode)

    def _at(self, path: bytes) -> Inode | None:
        """Return what is known of a path; None if nobody has looked at it."""
        at: Inode | None = self._tree.root
        for name in path.split(b"/") if path else ():
            at = at.children.get(name) if isinstance(at, Directory) else None
        return at

    def _turn(self, at: Directory, turned: Turned) -> None:
        for name, old, new in turned.names:
            child = at.children.get(name)
            if child is not None and old is not None and new is not None and _is_same_file(old, new):
                self._describe(child, new)
            elif child is None:
                self._tree.table.forget_number(at, name)
                if old is None:  # the kernel may know that it is not there
                    self.stale.entries.append((at.ino, name))
            elif isinstance(child, Directory):
                self._discard(child)
            else:
                self._lose(child)
        at.base, at.total, at.subdirectories = turned.new.tree, turned.new.total, turned.new.total[2]
        self._describe(at, turned.new, has_changed=any(old is None or new is None for _, old, new in turned.names))
        self._touched.append(at)

    def _describe(self, inode: Inode, entry: Entry, *, has_changed: bool = False) -> None:
        """Let an inode be as an entry says that has the same content, or, if it `has_changed`, that of a directory."""
        was = inode.mode, inode.uid, inode.gid, inode.mtime, inode.xattrs
        inode.mode, inode.uid, inode.gid, inode.xattrs = entry.mode, entry.uid, entry.gid, entry.xattrs
        if inode.mtime != entry.mtime and inode.kind == "file":
            # For as long as the kernel knows a file it believes nobody else about its time: let it forget the file.
            self.stale.entries.extend((parent.ino, name) for parent, name in inode.names)
        inode.mtime = entry.mtime
        if has_changed or was != (inode.mode, inode.uid, inode.gid, inode.mtime, inode.xattrs):
            inode.ctime = self._now
            self.stale.inodes.append(inode.ino)

    def _detach(self, inode: Inode) -> None:
        for parent, name in list(inode.names):
            self.stale.entries.append((parent.ino, name))
            self._tree.table.detach(inode, parent, name)
            self._touched.append(parent)

    def _lose(self, inode: Inode) -> None:
        """A file has no name any more; who has it open keeps it."""
        parent, name = inode.names[0]
        self._detach(inode)
        inode.lost, inode.linked, inode.ctime = Lost(parent, name, inode.file), (), self._now
        self.stale.inodes.append(inode.ino)
        if inode.opens:
            self._tree.orphans[inode] = None
            self._tree.root_is_dirty = True  # the next commit holds what it has
        self._touched.append(inode)

    def _discard(self, top: Directory) -> None:
        """A directory is gone, and all in it."""
        parent, name = top.names[0]
        waiting = [top]
        while waiting:
            at = waiting.pop()
            above, own = at.names[0]
            for child in list(at.children.values()):
                if isinstance(child, Directory):
                    waiting.append(child)
                else:
                    self._lose(child)
            at.lost = Lost(above, own, None)
            at.base, at.total, at.subdirectories, at.ctime = None, (0, 0, 0), 0, self._now
            self.stale.inodes.append(at.ino)
            self._touched.append(at)
            if at is not top:
                self._tree.table.detach(at, above, own)
        self._tree.table.detach(top, parent, name)
        self.stale.entries.append((parent.ino, name))

    def _arrive(self, inode: Inode, move: Move) -> None:
        at: Inode = self._tree.root
        for name, entry in move.way:
            assert isinstance(at, Directory), "what the new tree has on the way is a directory here too by now"
            at = at.children.get(name) or self._tree.table.add(at, name, entry)
        assert isinstance(at, Directory) and move.name not in at.children
        self._tree.table.attach(inode, at, move.name)
        self.stale.entries.append((at.ino, move.name))
        self._describe(inode, move.entry)


def _is_same_file(old: Entry, new: Entry) -> bool:
    """True if whoever has the old one open may go on with the new one, and find only metadata changed."""
    if old.kind != new.kind:
        return False
    return old.is_dir or (old.data, old.size, old.holes, old.rdev) == (new.data, new.size, new.holes, new.rdev)
