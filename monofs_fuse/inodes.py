"""Inodes: the files and directories of a mount that the kernel knows or that have edits to be saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import blake3

from store.cid import Cid
from store.draft import Draft
from store.entry import Entry, Xattrs
from store.file import File
from store.links import Group

ROOT: Final = 1
PAST: Final = 1 << 63  # what the numbers of everything below .monofs begin with
_PAST_SHIFT: Final = 40  # bits of a number that tell inodes of one tree apart; those above tell the tree
_OVERRIDES_MAX: Final = 200_000


class Inode:
    """One file of any kind. `names` are the directory entries it has now, as (directory, name)."""

    __slots__ = (
        "atime",
        "ctime",
        "draft",
        "file",
        "gid",
        "ino",
        "is_cached",
        "kind",
        "linked",
        "lookups",
        "lost",
        "mode",
        "mtime",
        "names",
        "opens",
        "rdev",
        "regrouped",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(self, ino: int, entry: Entry) -> None:
        self.ino = ino
        self.kind = entry.kind
        self.mode = entry.mode
        self.uid = entry.uid
        self.gid = entry.gid
        self.atime = self.mtime = self.ctime = entry.mtime
        self.rdev = entry.rdev
        self.xattrs: Xattrs | Cid = entry.xattrs
        self.target: bytes = bytes(entry.data or b"") if entry.kind == "symlink" else b""
        self.file: File | None = File(entry.size, entry.holes, entry.data) if entry.kind == "file" else None
        self.draft: Draft | None = None
        self.names: list[tuple[Directory, bytes]] = []
        self.linked: Group = ()  # its paths in the committed tree of hard links
        self.regrouped = False  # its paths are to be written into that tree
        self.lookups = 0  # references the kernel holds
        self.opens = 0
        self.is_cached = False  # the kernel may have pages of it: it was opened, or made
        self.lost: Lost | None = None  # the place from which a swap took it

    @property
    def is_dir(self) -> bool:
        return False

    @property
    def nlink(self) -> int:
        return len(self.names)

    @property
    def size(self) -> int:
        """Bytes, as stat shows them."""
        if self.draft is not None:
            return self.draft.size
        return len(self.target) if self.file is None else self.file.size

    @property
    def stored_bytes(self) -> int:
        """Bytes that are not in holes; for a file with edits, at most that."""
        if self.file is None:
            return 0
        stored = self.file.size - self.file.holes
        return stored if self.draft is None else min(self.draft.size, stored + self.draft.bytes)

    def entry(self) -> Entry:
        """Return what a directory says about this file, without the edits to its content."""
        size, holes, data = self.file or (len(self.target), 0, self.target or None)
        return Entry(
            self.kind, self.mode, self.uid, self.gid, self.mtime, size, holes, max(1, self.nlink), data,
            self.rdev, self.xattrs,
        )  # fmt: skip


class Directory(Inode):
    """`base` is the tree last committed. Names in `dirty` or `committing` are as `children` says: there, or gone."""

    __slots__ = ("base", "children", "committing", "dirty", "subdirectories", "total")

    def __init__(self, ino: int, entry: Entry) -> None:
        super().__init__(ino, entry)
        self.base: Cid | None = entry.tree
        self.total = entry.total
        self.subdirectories = entry.total[2]
        self.children: dict[bytes, Inode] = {}
        self.dirty: set[bytes] = set()
        self.committing: set[bytes] = set()

    @property
    def is_dir(self) -> bool:
        return True

    @property
    def nlink(self) -> int:
        return 2 + self.subdirectories if self.names or self.ino == ROOT or self.ino >= PAST else 0

    @property
    def size(self) -> int:
        return 4096

    def is_unsettled(self, name: bytes) -> bool:
        """True if the committed tree does not know about `name` yet."""
        return name in self.dirty or name in self.committing

    def unsaved(self) -> list[bytes]:
        """Return the names here that the committed tree may not know about yet, in order."""
        return sorted(name for name in self.dirty | self.committing if name in self.children)

    def entry(self) -> Entry:
        return Entry(
            "dir", self.mode, self.uid, self.gid, self.mtime, data=self.base, xattrs=self.xattrs, total=self.total
        )

    @property
    def parent(self) -> Directory | None:
        return self.names[0][0] if self.names else None


class Lost(NamedTuple):
    """Where a file or directory was that a swap has taken its name from, and the content that it had."""

    parent: Directory
    name: bytes
    file: File | None


class Table:
    """All inodes by number. A number is made from the directory's and the name, so it is found again after a forget.

    With a `tree` from `past_number` it is a table of another range of numbers, without the reference that the kernel
    always holds to the root of a mount.
    """

    def __init__(self, root: Entry, tree: int = 0) -> None:
        self._prefix = tree << _PAST_SHIFT
        self.root = Directory(self._prefix or ROOT, root)
        self.root.lookups = 0 if tree else 1
        self._inodes: dict[int, Inode] = {self.root.ino: self.root}
        self._overrides: dict[tuple[int, bytes], int] = {}  # forgotten inodes whose number is not that of their name
        self._reserved: set[int] = set()  # the numbers in there: nobody else may have them

    def __len__(self) -> int:
        return len(self._inodes)

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._inodes.values()))

    def __getitem__(self, ino: int) -> Inode:
        return self._inodes[ino]

    def get(self, ino: int) -> Inode | None:
        return self._inodes.get(ino)

    def add(self, parent: Directory, name: bytes, entry: Entry) -> Inode:
        """Make the inode for `name` in `parent`."""
        ino = self._overridden(parent, name)
        if not ino:
            ino = self._number(parent, name)
            while ino in self._inodes or ino in self._reserved:  # a file that lost this name, or a chance in 2^63
                ino += 1
        inode = Directory(ino, entry) if entry.is_dir else Inode(ino, entry)
        self._inodes[ino] = inode
        self.attach(inode, parent, name)
        return inode

    def attach(self, inode: Inode, parent: Directory, name: bytes) -> None:
        inode.names.append((parent, name))
        parent.children[name] = inode

    def detach(self, inode: Inode, parent: Directory, name: bytes) -> None:
        inode.names.remove((parent, name))
        del parent.children[name]
        self._overridden(parent, name)

    def drop(self, inode: Inode) -> None:
        """Forget an inode and, going up, every directory that was only here for it."""
        while self._is_needless(inode):
            del self._inodes[inode.ino]
            if not inode.names:
                return
            # It comes back by its smallest path, as the committed tree of links has it.
            first = min(inode.names, key=lambda place: _below(*place)) if len(inode.names) > 1 else inode.names[0]
            self._remember(inode.ino, *first)
            for parent, name in inode.names:
                if (parent, name) != first:
                    del parent.children[name]
                    self.drop(parent)
            first_parent, first_name = first
            del first_parent.children[first_name]
            inode = first_parent

    def _remember(self, ino: int, parent: Directory, name: bytes) -> None:
        if ino != self._number(parent, name) and len(self._overrides) < _OVERRIDES_MAX:
            self._overrides[parent.ino, name] = ino
            self._reserved.add(ino)

    def _overridden(self, parent: Directory, name: bytes) -> int:
        """Return the number remembered for a name, or 0, and remember it no more."""
        ino = self._overrides.pop((parent.ino, name), 0)
        self._reserved.discard(ino)
        return ino

    def forget_number(self, parent: Directory, name: bytes) -> None:
        """Another file has this name now: it is not to come back with the number of the one that had it."""
        self._overridden(parent, name)

    def _is_needless(self, inode: Inode) -> bool:
        if inode.lookups > 0 or inode.opens or inode.draft is not None or inode.regrouped or inode is self.root:
            return False
        if self._inodes.get(inode.ino) is not inode or any(parent.is_unsettled(name) for parent, name in inode.names):
            return False
        return not (isinstance(inode, Directory) and (inode.children or inode.dirty or inode.committing))

    def _number(self, parent: Directory, name: bytes) -> int:
        """From 2 to 2^63, or of the past tree: the same for the same name there, also after a remount."""
        digest = blake3.blake3(parent.ino.to_bytes(8, "little") + name).digest(8)
        number = (int.from_bytes(digest, "little") >> 1) | 2
        return self._prefix | number >> (64 - _PAST_SHIFT) | 2 if self._prefix else number

    def surplus(self, count_max: int, most: int) -> list[tuple[int, bytes]]:
        """Return (directory, name) of inodes over `count_max` that the kernel may be asked to forget, `most` at a time.

        The oldest first; those that were returned come again after all others.
        """
        found: list[tuple[int, bytes]] = []
        looked: list[Inode] = []
        wanted = min(most, len(self._inodes) - count_max)
        for inode in self._inodes.values():
            if len(found) >= wanted:
                break
            looked.append(inode)
            busy = inode.opens or inode.draft is not None or inode.is_dir or not inode.names
            if not busy and not any(parent.is_unsettled(name) for parent, name in inode.names):
                found += [(parent.ino, name) for parent, name in inode.names]
        for inode in looked:
            self._inodes[inode.ino] = self._inodes.pop(inode.ino)
        return found


def path_of(inode: Inode) -> bytes:
    """Return the path from the root of the mount by its first name; b"" for the root itself."""
    parts: list[bytes] = []
    while inode.names:
        parent, name = inode.names[0]
        parts.append(name)
        inode = parent
    return b"/".join(reversed(parts))


def depth_of(directory: Directory) -> int:
    """Return the number of directories above."""
    depth, at = 0, directory.parent
    while at is not None:
        depth, at = depth + 1, at.parent
    return depth


def paths_of(inode: Inode) -> Group:
    """Return all paths of a file, in the order of their bytes."""
    return tuple(sorted(_below(parent, name) for parent, name in inode.names))


def _below(parent: Directory, name: bytes) -> bytes:
    above = path_of(parent)
    return above + b"/" + name if above else name


def past_number(tree: Cid) -> int:
    """Return the number that tells the inodes of a past tree from those of others, if no other has it already."""
    bits = 63 - _PAST_SHIFT
    return (PAST >> _PAST_SHIFT) | 1 | int.from_bytes(tree[4:8], "little") >> (32 - bits)


def tree_number(ino: int) -> int:
    """Return the number of the past tree that an inode is in."""
    return ino >> _PAST_SHIFT
