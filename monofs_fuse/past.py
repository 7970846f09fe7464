"""The past: `.monofs` in the root of every mount, where versions and other trees lie open as read-only directories.

    .monofs/versions/TIME/    every version of the mounted name
    .monofs/cid/CID/          any tree or version of the store; only for whoever mounted it
    .monofs/head, status      the tree of the last commit; what `monofs status --json` says

Each tree is a worktree of its own that nobody edits. No listing of the root shows `.monofs`, so no program walks into
it by itself. A confined mount has none of this.
"""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple

from monofs_fuse import attributes, limits
from monofs_fuse.errors import Errno
from monofs_fuse.inodes import PAST, Directory, Inode, past_number, tree_number
from monofs_fuse.listing import Named
from monofs_fuse.worktree import Worktree
from store import cid as cids
from store import history, revision, version
from store.cache import Cache
from store.cid import Cid
from store.entry import Entry
from store.errors import BadCid, NotFound, WrongKind
from store.file import EMPTY

NAME: Final = b".monofs"
_TOP, _VERSIONS, _ANY, _HEAD, _STATUS = (PAST | number for number in range(1, 6))


class Sources(NamedTuple):
    """What the virtual files and directories show."""

    line: Callable[[], Cid | None]  # the version that the mounted name is at
    head: Callable[[], Cid]
    status: Callable[[], Mapping[str, object]]


class Past:
    """All that lies below `.monofs`: for those who only read, what a Worktree is."""

    def __init__(self, blocks: Cache, sources: Sources, uid: int, *, is_shown: bool = True) -> None:
        self.blocks = blocks
        self._sources = sources
        self._trees: dict[int, Worktree] = {}  # by the number that all inodes in them share
        self._cids: dict[int, Cid] = {}
        self._named: tuple[Cid | None, dict[bytes, Cid]] = (None, {})
        self.top = Directory(_TOP, Entry("dir", 0o555, uid))
        self.shown = self.top if is_shown else None
        self._virtual: dict[int, Inode] = {_TOP: self.top}
        for inode, name in (
            (Directory(_VERSIONS, Entry("dir", 0o555, uid)), b"versions"),
            (Directory(_ANY, Entry("dir", 0o700, uid)), b"cid"),  # what is in the store is not everybody's business
            (Inode(_HEAD, Entry("file", 0o444, uid)), b"head"),
            (Inode(_STATUS, Entry("file", 0o400, uid)), b"status"),
        ):
            inode.names.append((self.top, name))
            self.top.children[name] = self._virtual[inode.ino] = inode
            self.top.subdirectories += inode.is_dir
        for inode in self._virtual.values():
            inode.atime = inode.mtime = inode.ctime = attributes.now()

    def tree(self, ino: int) -> Worktree | None:
        """Return the worktree of an inode; None if it is a virtual one. Raises ESTALE if it has been closed."""
        if ino in self._virtual:
            return None
        found = self._trees.get(tree_number(ino))
        if found is None:
            raise Errno(errno.ESTALE)
        return found

    def inode(self, ino: int) -> Inode:
        tree = self.tree(ino)
        return self._virtual[ino] if tree is None else tree.inode(ino)

    def directory(self, ino: int) -> Directory:
        found = self.inode(ino)
        if not isinstance(found, Directory):
            raise Errno(errno.ENOTDIR)
        return found

    # Finding

    def lookup(self, parent: Directory, name: bytes) -> Inode | None:
        tree = self.tree(parent.ino)
        if tree is not None:
            return tree.lookup(parent, name)
        if parent is self.top:
            return self.top.children.get(name)
        cid = self._versions().get(name) if parent.ino == _VERSIONS else _parsed(name)
        return None if cid is None else self._opened(cid)

    def names(self, parent: Directory, after: bytes, unsaved: list[bytes]) -> Iterator[Named]:
        tree = self.tree(parent.ino)
        if tree is not None:
            return tree.names(parent, after, unsaved)
        virtual = self._versions() if parent.ino == _VERSIONS else parent.children
        return (Named(name, None) for name in sorted(virtual) if name > after)

    def listed(self, parent: Directory, found: Named) -> Inode | None:
        tree = self.tree(parent.ino)
        return self.lookup(parent, found.name) if tree is None else tree.listed(parent, found)

    def is_fleeting(self, ino: int) -> bool:
        """True if the kernel should ask each time what is there, and how much of it."""
        return ino in (_HEAD, _STATUS)

    def _versions(self) -> dict[bytes, Cid]:
        """Return the trees of the newest versions by when they were made."""
        line = self._sources.line()
        if self._named[0] != line:
            found = () if line is None else islice(history.ancestors(self.blocks, line), limits.past_versions_max)
            self._named = line, _by_time((one.time, one.tree) for _, one in found)
        return self._named[1]

    def _opened(self, cid: Cid) -> Directory | None:
        """Return the root of a tree; None if the store does not have it."""
        try:
            cid = version.tree_cid(self.blocks, cid)
            number = past_number(cid)
            while number in self._cids and self._cids[number] != cid:
                number += 1
            if number not in self._trees:
                self._trees[number] = Worktree(self.blocks, version.load_tree(self.blocks, cid), number)
                self._cids[number] = cid
        except (NotFound, WrongKind):
            return None
        return self._trees[number].root

    # What the kernel holds

    def opened(self, inode: Inode) -> None:
        inode.opens += 1

    def closed(self, inode: Inode) -> None:
        tree = self.tree(inode.ino)
        if tree is None:
            inode.opens -= 1
        else:
            tree.closed(inode)
            self._close(inode.ino, tree)

    def forget(self, ino: int, count: int) -> None:
        tree = self.tree(ino)
        if tree is None:
            self._virtual[ino].lookups = max(0, self._virtual[ino].lookups - count)
        else:
            tree.forget(ino, count)
            self._close(ino, tree)

    def _close(self, ino: int, tree: Worktree) -> None:
        """Let go of a tree that nobody looks at any more."""
        if len(tree.table) == 1 and not tree.root.lookups and not tree.root.opens:
            del self._trees[tree_number(ino)]  # but its number stays its own, as long as the mount lives

    def surplus(self, count_max: int, most: int) -> list[tuple[int, bytes]]:
        """Return (directory, name) of inodes over `count_max` that the kernel may be asked to forget."""
        trees = list(self._trees.values())
        return [place for tree in trees for place in tree.table.surplus(count_max // len(trees), most)]

    # Content

    def read(self, inode: Inode, offset: int, length: int) -> bytes:
        if inode.ino in self._virtual:
            return self.text(inode.ino)[offset : offset + length]
        return (inode.file or EMPTY).read_at(self.blocks, offset, length)

    def text(self, ino: int) -> bytes:
        """Return what a virtual file says now."""
        if ino == _HEAD:
            return f"{self._sources.head()}\n".encode()
        return json.dumps(self._sources.status(), indent=2).encode() + b"\n"


def _parsed(name: bytes) -> Cid | None:
    try:
        return cids.parse(name.decode("ascii"))
    except (BadCid, UnicodeDecodeError):
        return None


def _by_time(versions: Iterator[tuple[int, Cid]]) -> dict[bytes, Cid]:
    """Return trees by the second they were made in (UTC); those that share it with others by the nanosecond."""
    found = [(revision.moment(when), tree) for when, tree in versions]
    alike = Counter(text[:19] for text, _ in found)
    names: dict[bytes, Cid] = {}
    for text, tree in found:
        names.setdefault((text if alike[text[:19]] > 1 else text[:19] + "Z").encode(), tree)
    return names
