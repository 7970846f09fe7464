"""A worktree and a plain model of it side by side: every operation is done on both and must end alike.

The model is what POSIX says about names and files, in dicts and bytearrays. `Pair` plays the kernel as well: it looks
names up from the root, counts what it was told, and forgets.
"""

from __future__ import annotations

import errno
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from monofs_fuse import attributes, commit
from monofs_fuse.commit import Frozen, Written
from monofs_fuse.errors import Errno
from monofs_fuse.head import Head
from monofs_fuse.inodes import Directory, Inode
from monofs_fuse.worktree import RENAME_EXCHANGE, RENAME_NOREPLACE, Worktree
from store import directory as directories
from store import entry as entries
from store import file as files
from store import links, version
from store.batch import Batch
from store.blocks import Change
from store.cache import Cache
from store.chunker import Chunker
from store.cid import Cid
from store.entry import Entry
from store.errors import NoSpace
from store.file import File
from store.memory_store import MemoryStore
from store.repository import Repository
from store.version import Tree
from tests.store.models import TinyCdc

CAPABILITY = b"security.capability"


@dataclass(eq=False)
class Node:
    """A file of any kind. Names that lead to one Node are hard links."""

    kind: str
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    rdev: tuple[int, int] = (0, 0)
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    names: dict[bytes, Node] = field(default_factory=dict)
    nlink: int = 1  # of what is no directory
    opens: int = 0
    ino: int = 0  # as first seen since the mount began

    @property
    def is_dir(self) -> bool:
        return self.kind == "dir"


@dataclass(frozen=True)
class Known:
    """All of a Node that a tree must say about one path. `group` has all the paths of the file."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    rdev: tuple[int, int]
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    data: bytes
    group: tuple[bytes, ...]


Snapshot = dict[bytes, Known]


def snapshot(root: Node) -> Snapshot:
    """Return what is at every path below `root`, which is at b""."""
    nodes = dict(walk(root))
    groups: dict[Node, list[bytes]] = {}
    for path, node in nodes.items():
        groups.setdefault(node, []).append(path)
    return {
        path: Known(
            node.kind, node.mode, node.uid, node.gid, node.mtime, node.rdev, node.target,
            tuple(sorted(node.xattrs.items())), bytes(node.data), tuple(sorted(groups[node])),
        )
        for path, node in nodes.items()
    }  # fmt: skip


def walk(node: Node, path: bytes = b"") -> Iterator[tuple[bytes, Node]]:
    yield path, node
    for name, child in node.names.items():
        yield from walk(child, path + b"/" + name if path else name)


def committed(cache: Cache, tree: Tree) -> Snapshot:
    """Read a whole tree, and hold its link counts and its directories' totals to what is there."""
    found: Snapshot = {}
    for path, entry in [(b"", tree.root), *directories.walk(cache, tree.root)]:
        group = links.group(cache, tree.links, path) if path else (path,)
        assert entry.is_dir or entry.nlink == len(group), (path, entry.nlink, group)
        data = File.of(entry).read_at(cache, 0, entry.size) if entry.kind == "file" else b""
        target = bytes(entry.data or b"") if entry.kind == "symlink" else b""
        assert entry.is_dir or entry.size == len(data or target)
        xattrs = entries.unpack_xattrs(cache, entry)
        found[path] = Known(
            entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime, entry.rdev, target, xattrs, data, group
        )
        if entry.is_dir:
            assert entry.total == total(cache, entry), path
    in_groups = {path for known in found.values() if len(known.group) > 1 for path in known.group}
    assert in_groups == {path for group in links.groups_below(cache, tree.links, b"") for path in group}
    return found


def total(cache: Cache, directory: Entry) -> tuple[int, int, int]:
    """Count once more, without believing the totals of the directories below."""
    below = [entry for _, entry in directories.walk(cache, directory)]
    here = [entry for _, entry in directories.entries(cache, directory)]
    return len(below), sum(e.size for e in below if not e.is_dir), sum(e.is_dir for e in here)


def built(snap: Snapshot, chunker: Chunker, rng: random.Random) -> Cid:
    """Return the CID of the same tree made from nothing, its names added one by one in a random order."""
    batch = Batch(Cache(MemoryStore()))
    made: dict[bytes, Entry] = {}
    for path in sorted(snap, key=lambda p: (-_depth(p), p)):
        entry = _entry(batch, chunker, snap[path])
        if entry.is_dir:
            names = [p.rpartition(b"/")[2] for p in made if p and p.rpartition(b"/")[0] == path and p != path]
            rng.shuffle(names)
            for name in names:
                below = made[path + b"/" + name if path else name]
                entry = directories.with_entries(batch, entry, {name: below})
        made[path] = entry
    groups = list({known.group for known in snap.values() if len(known.group) > 1})
    rng.shuffle(groups)
    tree: Cid | None = None
    for group in groups:
        tree = links.changed(batch, tree, (), [group])
    return version.put_tree(batch, Tree(made[b""], tree))


def _entry(batch: Batch, chunker: Chunker, known: Known) -> Entry:
    file = files.from_bytes(batch, chunker, known.data)
    data = known.target or file.content
    return Entry(
        known.kind, known.mode, known.uid, known.gid, known.mtime, len(known.target) or file.size, file.holes,
        len(known.group), data, known.rdev, entries.pack_xattrs(batch, known.xattrs),
    )  # fmt: skip


def _depth(path: bytes) -> int:
    return path.count(b"/") + bool(path)


class FlakyStore(MemoryStore):
    """Refuses its `fail_in`th change from now on with NoSpace."""

    fail_in = 0

    def apply(self, change: Change) -> int:
        self.fail_in -= 1
        if self.fail_in == 0:
            raise NoSpace("the disk is full (so says the test)")
        return super().apply(change)


@dataclass
class InFlight:
    frozen: Frozen
    expected: Snapshot
    written: Written | None = None


class Pair:
    name = "t"

    def __init__(self, chunker: Chunker | None = None) -> None:
        self.now = 1_000
        self.store = FlakyStore()
        self.repository = Repository(Path(__file__).parent, self.store)  # a path only to lock
        self.repository.cache = Cache(self.store, chunk_bytes=0, node_count=0)  # what gc took is gone at once
        self.chunker = chunker or TinyCdc()
        batch, stage = self.repository.batch("test")
        root = Entry("dir", 0o755, mtime=self.now)
        self.repository.publish("t", version.put_tree(batch, Tree(root)), batch, stage)
        self.root = Node("dir", 0o755, mtime=self.now)
        self.flight: InFlight | None = None
        self.saved = snapshot(self.root)
        self._mount()

    def _mount(self) -> None:
        self.head = Head(self.repository, self.name)
        self.head._chunker = self.chunker
        self.tree = Worktree(self.repository.cache, self.head.load())
        self.lookups: dict[int, int] = {}
        self.opened: list[Node] = []
        for _, node in walk(self.root):
            node.ino, node.opens = 0, 0
        self.root.ino = self.tree.root.ino

    def do(self, step: tuple[str, *tuple[Any, ...]]) -> None:
        """Run one of the methods below, by name."""
        getattr(self, step[0])(*step[1:])

    @contextmanager
    def clock(self) -> Iterator[None]:
        """One operation: time moves on by one and stays there."""
        self.now += 1
        with mock.patch("monofs_fuse.attributes.now", lambda: self.now):
            yield

    # The kernel's part

    def find(self, path: bytes) -> Node | None:
        """Return what the model has at `path`."""
        node = self.root
        for name in path.split(b"/") if path else ():
            if name not in node.names:
                return None
            node = node.names[name]
        return node

    def parent(self, path: bytes) -> tuple[Node, bytes] | None:
        above, _, name = path.rpartition(b"/")
        node = self.find(above)
        return None if node is None or not node.is_dir else (node, name)

    def walk_to(self, path: bytes) -> Inode:
        """Look `path` up name by name as the kernel does. It must be there, and be what it was before."""
        inode: Inode = self.tree.root
        node = self.root
        for name in path.split(b"/") if path else ():
            found = self.tree.lookup(self.tree.directory(inode.ino), name)
            assert found is not None, f"{path!r} is gone"
            inode, node = found, node.names[name]
            self.seen(inode, node)
        return inode

    def walk_to_parent(self, path: bytes) -> Directory:
        """Look up the directory that `path` lies in, and the name itself, which need not be there."""
        above, _, name = path.rpartition(b"/")
        directory = self.tree.directory(self.walk_to(above).ino)
        found = self.tree.lookup(directory, name)
        parent = self.find(above)
        assert parent is not None
        assert (found is not None) == (name in parent.names), path
        if found is not None:
            self.seen(found, parent.names[name])
        return directory

    def seen(self, inode: Inode, node: Node) -> None:
        inode.lookups += 1
        self.lookups[inode.ino] = self.lookups.get(inode.ino, 0) + 1
        if not node.ino:
            live = {n.ino for _, n in walk(self.root) if n.ino} | {n.ino for n in self.opened}
            assert inode.ino not in live, "two files with one inode number"
            node.ino = inode.ino
        assert inode.ino == node.ino, "another inode number than before"
        self.compare(inode, node)

    def compare(self, inode: Inode, node: Node) -> None:
        """Hold what stat and listxattr show of a file to the model."""
        assert self.tree.inode(inode.ino) is inode
        shown = (inode.kind, inode.mode, inode.uid, inode.gid, inode.mtime, inode.rdev, inode.target)
        assert shown == (node.kind, node.mode, node.uid, node.gid, node.mtime, node.rdev, node.target)
        assert attributes.xattrs(self.tree, inode) == node.xattrs
        if node.is_dir:
            assert inode.nlink == 2 + sum(child.is_dir for child in node.names.values())
        else:
            assert inode.nlink == node.nlink
            assert inode.size == len(node.target or node.data)

    def forget(self, ino: int) -> None:
        """The kernel lets go of an inode. Never of one that is open."""
        if ino in self.lookups and not any(node.ino == ino for node in self.opened):
            self.tree.forget(ino, self.lookups.pop(ino))

    def forget_all(self) -> None:
        for ino in list(self.lookups):
            self.forget(ino)

    def forget_one(self, index: int) -> None:
        if known := list(self.lookups):
            self.forget(known[index % len(known)])

    def look(self, path: bytes = b"") -> None:
        """Look at everything: list, look up, read."""
        node = self.find(path)
        if node is None:
            return
        inode = self.walk_to(path)
        if isinstance(inode, Directory):
            self.check_listing(inode, node)
            for name in sorted(node.names):
                self.look(path + b"/" + name if path else name)
        elif node.kind == "file":
            assert self.tree.read(inode, 0, len(node.data) + 10) == node.data

    def check_listing(self, inode: Directory, node: Node) -> None:
        listed = list(self.tree.names(inode, b"", inode.unsaved()))
        assert [found.name for found in listed] == sorted({found.name for found in listed})
        there = {found.name: child for found in listed if (child := self.tree.listed(inode, found)) is not None}
        assert there.keys() == node.names.keys()
        assert self.tree.is_empty(inode) == (not node.names)
        for name, child in there.items():
            self.seen(child, node.names[name])

    def check_open(self) -> None:
        for node in self.opened:
            inode = self.tree.inode(node.ino)
            self.compare(inode, node)
            assert self.tree.read(inode, 0, len(node.data) + 10) == node.data

    def check_counts(self) -> None:
        drafts = sum(inode.draft.bytes for inode in self.tree.table if inode.draft is not None)
        assert self.tree.unsaved_bytes == drafts
        assert len({inode.ino for inode in self.tree.table}) == len(self.tree.table)

    # Operations: the model says what must happen, then both do it

    def expect(self, number: int | None, operation: Callable[[], object]) -> object:
        """Do `operation`; it must fail with the errno `number`, or not at all."""
        with self.clock():
            if number is None:
                return operation()
            try:
                operation()
            except Errno as error:
                assert error.number == number, f"{errno.errorcode[error.number]} for {errno.errorcode[number]}"
                return None
            raise AssertionError(f"succeeded, but should have failed with {errno.errorcode[number]}")

    def create(self, path: bytes, entry: Entry) -> bool:
        """Make a file of any kind; True if there is one now that was not."""
        place = self.parent(path)
        if place is None:
            return False
        (parent, name), directory = place, self.walk_to_parent(path)
        if name in parent.names:
            self.expect(errno.EEXIST, lambda: self.tree.create(directory, name, entry))
            return False
        inode = self.expect(None, lambda: self.tree.create(directory, name, entry))
        assert isinstance(inode, Inode)
        node = Node(entry.kind, entry.mode, entry.uid, entry.gid, self.now, entry.rdev)
        if entry.kind == "symlink":
            node.target = bytes(entry.data or b"")
        if parent.mode & stat.S_ISGID:
            node.gid = parent.gid
            node.mode |= stat.S_ISGID if node.is_dir else 0
        parent.names[name] = node
        parent.mtime = self.now
        self.seen(inode, node)
        return True

    def link(self, old: bytes, new: bytes) -> None:
        node, place = self.find(old), self.parent(new)
        if node is None or place is None:
            return
        (parent, name), inode, directory = place, self.walk_to(old), self.walk_to_parent(new)
        number = errno.EPERM if node.is_dir else errno.EEXIST if name in parent.names else None
        self.expect(number, lambda: self.tree.link(inode, directory, name))
        if number is None:
            parent.names[name] = node
            node.nlink += 1
            parent.mtime = self.now

    def unlink(self, path: bytes) -> None:
        place = self.parent(path)
        if place is None:
            return
        (parent, name), directory = place, self.walk_to_parent(path)
        node = parent.names.get(name)
        number = errno.ENOENT if node is None else errno.EISDIR if node.is_dir else None
        self.expect(number, lambda: self.tree.unlink(directory, name))
        if number is None:
            self._gone(parent, name)

    def rmdir(self, path: bytes) -> None:
        place = self.parent(path)
        if place is None:
            return
        (parent, name), directory = place, self.walk_to_parent(path)
        node = parent.names.get(name)
        number = None
        if node is None:
            number = errno.ENOENT
        elif not node.is_dir:
            number = errno.ENOTDIR
        elif node.names:
            number = errno.ENOTEMPTY
        self.expect(number, lambda: self.tree.rmdir(directory, name))
        if number is None:
            self._gone(parent, name)

    def _gone(self, parent: Node, name: bytes) -> None:
        parent.names.pop(name).nlink -= 1
        parent.mtime = self.now

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        here, there = self.parent(old), self.parent(new)
        if here is None or there is None:
            return
        (old_parent, old_name), (new_parent, new_name) = here, there
        old_directory, new_directory = self.walk_to_parent(old), self.walk_to_parent(new)
        number = self._rename_error(old_parent, old_name, new_parent, new_name, flags)
        self.expect(number, lambda: self.tree.rename(old_directory, old_name, new_directory, new_name, flags))
        if number is not None:
            return
        moved, replaced = old_parent.names[old_name], new_parent.names.get(new_name)
        if moved is replaced:
            return
        if flags & RENAME_EXCHANGE:
            assert replaced is not None
            old_parent.names[old_name], new_parent.names[new_name] = replaced, moved
        else:
            del old_parent.names[old_name]
            new_parent.names[new_name] = moved
            if replaced is not None:
                replaced.nlink -= 1
        old_parent.mtime = new_parent.mtime = self.now

    def _rename_error(self, old_parent: Node, old: bytes, new_parent: Node, new: bytes, flags: int) -> int | None:
        moved, there = old_parent.names.get(old), new_parent.names.get(new)
        if moved is None:
            return errno.ENOENT
        if flags & RENAME_EXCHANGE:
            if there is None:
                return errno.ENOENT
            return errno.EINVAL if _holds(moved, new_parent) or _holds(there, old_parent) else None
        if there is not None and flags & RENAME_NOREPLACE:
            return errno.EEXIST
        if there is moved:
            return None
        if there is not None and there.is_dir:
            if not moved.is_dir:
                return errno.EISDIR
            if there.names:
                return errno.ENOTEMPTY
        elif there is not None and moved.is_dir:
            return errno.ENOTDIR
        return errno.EINVAL if _holds(moved, new_parent) else None

    def write(self, node: Node, inode: Inode, offset: int, data: bytes) -> None:
        if node.kind == "file":
            self.expect(None, lambda: self.tree.write(inode, offset, data))
            if data:
                node.data.extend(bytes(max(0, offset - len(node.data))))
                node.data[offset : offset + len(data)] = data

    def write_at(self, path: bytes, offset: int, data: bytes) -> None:
        if node := self.find(path):
            self.write(node, self.walk_to(path), offset, data)

    def write_open(self, index: int, offset: int, data: bytes) -> None:
        if self.opened:
            node = self.opened[index % len(self.opened)]
            self.write(node, self.tree.inode(node.ino), offset, data)

    def truncate(self, node: Node, inode: Inode, size: int) -> None:
        if node.kind == "file":
            self.expect(None, lambda: self.tree.truncate(inode, size))
            del node.data[size:]
            node.data.extend(bytes(size - len(node.data)))

    def change_mode(self, path: bytes, mode: int) -> None:
        if node := self.find(path):
            self.chmod(node, self.walk_to(path), mode)

    def chmod(self, node: Node, inode: Inode, mode: int) -> None:
        self.expect(None, lambda: attributes.set_mode(self.tree, inode, mode))
        node.mode = mode

    def chown(self, node: Node, inode: Inode, uid: int | None, gid: int | None) -> None:
        self.expect(None, lambda: attributes.set_owner(self.tree, inode, uid, gid))
        node.uid = node.uid if uid is None else uid
        node.gid = node.gid if gid is None else gid
        if not node.is_dir:
            node.mode &= ~(stat.S_ISUID | (stat.S_ISGID if node.mode & stat.S_IXGRP else 0))
            node.xattrs.pop(CAPABILITY, None)

    def utimes(self, node: Node, inode: Inode, mtime: int) -> None:
        self.expect(None, lambda: attributes.set_times(self.tree, inode, 0, mtime, None))
        node.mtime = mtime

    def set_xattr(self, node: Node, inode: Inode, name: bytes, value: bytes | None) -> None:
        missing = value is None and name not in node.xattrs
        self.expect(errno.ENODATA if missing else None, lambda: attributes.set_xattr(self.tree, inode, name, value))
        if value is None:
            node.xattrs.pop(name, None)
        else:
            node.xattrs[name] = value

    def open(self, path: bytes) -> None:
        node = self.find(path)
        if node is not None and not node.is_dir:
            self.tree.opened(self.walk_to(path))
            self.opened.append(node)

    def close(self, index: int) -> None:
        if self.opened:
            node = self.opened.pop(index % len(self.opened))
            self.tree.closed(self.tree.inode(node.ino))

    # Commits

    def freeze(self) -> None:
        if self.flight is not None:
            return
        if self.tree.is_dirty:
            self.flight = InFlight(commit.freeze(self.tree), snapshot(self.root))
        else:
            self.saved = committed(self.repository.cache, self.head.load())
            assert snapshot(self.root) == self.saved, "there is something to save"

    def save(self) -> None:
        """The writer's part; what has been edited since the freeze must not matter."""
        if self.flight is not None and self.flight.written is None:
            self.flight.written = self.head.save(self.flight.frozen)

    def settle(self) -> None:
        self.save()
        flight, self.flight = self.flight, None
        if flight is not None:
            assert flight.written is not None and not flight.written.failed
            commit.settle(self.tree, flight.frozen, flight.written)
            self.saved = flight.expected
            self.check_saved()

    def undo(self, fail_in: int) -> None:
        """The commit fails, at once or at some later change of the store; or it is too late for that."""
        if self.flight is None or self.flight.written is not None:
            return
        self.store.fail_in = fail_in
        try:
            self.save()
        except NoSpace:
            commit.undo(self.tree, self.flight.frozen)
            self.flight = None
        else:
            self.settle()
        finally:
            self.store.fail_in = 0

    def commit(self) -> None:
        """Save everything, also what a commit that is under way does not have."""
        self.settle()
        self.freeze()
        self.settle()
        assert not self.tree.is_dirty
        assert not self.tree.regrouped and not self.tree.regrouping
        assert all(inode.draft is None or not inode.names for inode in self.tree.table)
        assert self.tree.unsaved_bytes == 0

    def check_saved(self) -> None:
        """The committed tree is what the model was at the freeze, to the CID."""
        while self.head.collect().waiting:
            pass
        found = committed(self.repository.cache, self.head.load())
        assert found == self.saved
        assert self.head.tree == built(self.saved, self.chunker, random.Random(self.now))

    def check_forgotten(self) -> None:
        """After a commit nothing stays in memory that the kernel does not know."""
        self.commit()
        while self.opened:
            self.close(0)
        self.commit()
        self.forget_all()
        assert [inode.ino for inode in self.tree.table] == [self.tree.root.ino]

    def remount(self) -> None:
        """A new worktree over what was committed."""
        self.check_forgotten()
        self._mount()


def _holds(directory: Node, inside: Node) -> bool:
    return any(node is inside for _, node in walk(directory))


FLAGS = (0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE)
