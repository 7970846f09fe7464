"""A worktree: a committed tree with edits over it in memory. What POSIX says about names and files is done here.

Nothing in here waits. All of it runs on one thread, except for `commit.write`, which only reads what was frozen for it.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

from monofs_fuse import attributes, limits
from monofs_fuse.errors import Errno
from monofs_fuse.inodes import Directory, Inode, Table, depth_of, path_of
from monofs_fuse.listing import Named
from store import directory as directories
from store import entry as entries
from store import links, tree
from store.cache import Cache
from store.cid import Cid
from store.draft import Draft
from store.entry import Entry
from store.file import EMPTY
from store.limits import depth_max
from store.nodes import DIRECTORY
from store.version import Tree

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
_CAPABILITY: Final = b"security.capability"


class Worktree:
    def __init__(self, blocks: Cache, committed: Tree, number: int = 0) -> None:
        self.blocks = blocks
        self.table = Table(committed.root, number)
        self.links: Cid | None = committed.links  # of the committed tree
        self.unsaved_bytes = 0  # in drafts that are not being committed
        self.unsaved_writes = 0  # that brought them
        self.dirty_names = 0
        self.dirty_directories: dict[Directory, None] = {}
        self.root_is_dirty = False
        self.orphans: dict[Inode, None] = {}  # open files without a name
        self.regrouped: dict[Inode, None] = {}  # files whose paths the tree of links does not have yet
        self.regrouping: dict[Inode, None] = {}  # those in the commit that is being written

    @property
    def root(self) -> Directory:
        return self.table.root

    @property
    def is_dirty(self) -> bool:
        """True if a commit would save something."""
        return bool(self.dirty_directories) or self.root_is_dirty or self.unsaved_bytes > 0

    # Finding

    def inode(self, ino: int) -> Inode:
        found = self.table.get(ino)
        if found is None or (found.lost is not None and not found.opens and not found.is_dir):
            raise Errno(errno.ESTALE)  # which has the kernel look the path up again
        return found

    def directory(self, ino: int) -> Directory:
        found = self.inode(ino)
        if not isinstance(found, Directory):
            raise Errno(errno.ENOTDIR)
        return found

    def lookup(self, parent: Directory, name: bytes) -> Inode | None:
        """Return the inode called `name`, or None."""
        child = parent.children.get(name)
        if child is not None:
            return child
        if parent.base is None or parent.is_unsettled(name):
            return None
        item = tree.find(self.blocks, DIRECTORY, parent.base, name)
        return None if item is None else self._add(parent, name, entries.decode(item[1], parent.base))

    def existing(self, parent: Directory, name: bytes) -> Inode:
        child = self.lookup(parent, name)
        if child is None:
            raise Errno(errno.ENOENT)
        return child

    def names(self, parent: Directory, after: bytes, unsaved: list[bytes]) -> Iterator[Named]:
        """Yield the committed names greater than `after` together with `unsaved`, in order; some may be gone.

        Only until the next commit of this directory: it has another tree then.
        """
        index = bisect_right(unsaved, after)
        for name, item in tree.seek(self.blocks, DIRECTORY, parent.base, after + b"\0" if after else b""):
            while index < len(unsaved) and unsaved[index] <= name:
                if unsaved[index] != name:
                    yield Named(unsaved[index], None)
                index += 1
            yield Named(name, item)
        for name in unsaved[index:]:
            yield Named(name, None)

    def listed(self, parent: Directory, found: Named) -> Inode | None:
        """Return the inode of what `names` yielded; None if it is gone."""
        child = parent.children.get(found.name)
        if child is not None:
            return child
        if found.item is None or parent.base is None or parent.is_unsettled(found.name):
            return self.lookup(parent, found.name)
        return self._add(parent, found.name, entries.decode(found.item[1], parent.base))

    def _add(self, parent: Directory, name: bytes, entry: Entry) -> Inode:
        if entry.nlink > 1 and not entry.is_dir:
            path = path_of(parent)
            group = links.group(self.blocks, self.links, path + b"/" + name if path else name)
            if len(group) > 1:
                return self._add_group(group)
        return self.table.add(parent, name, entry)

    def _add_group(self, group: links.Group) -> Inode:
        """Return the inode of a hard-linked file with all its names, so that one is never two."""
        inode: Inode | None = None
        for path in group:
            above, _, name = path.rpartition(b"/")
            parent = self._committed_directory(above)
            if inode is None:
                entry = directories.lookup(self.blocks, parent.entry(), name)
                if entry is None:
                    raise Errno(errno.EIO)  # the tree of links names a path that is not there
                inode = self.table.add(parent, name, entry)
            elif name not in parent.children:
                self.table.attach(inode, parent, name)
        assert inode is not None
        inode.linked = group
        return inode

    def _committed_directory(self, path: bytes) -> Directory:
        at: Inode = self.root
        for name in path.split(b"/") if path else ():
            if not isinstance(at, Directory):
                raise Errno(errno.EIO)
            at = self.existing(at, name)
        if not isinstance(at, Directory):
            raise Errno(errno.EIO)
        return at

    def is_empty(self, directory: Directory) -> bool:
        if directory.children:
            return False
        if directory.base is None:
            return True
        names = tree.items(self.blocks, DIRECTORY, directory.base)
        return all(directory.is_unsettled(name) for name, _ in names)

    # Kernel references

    def forget(self, ino: int, count: int) -> None:
        inode = self.table.get(ino)
        if inode is not None:
            inode.lookups = max(0, inode.lookups - count)
            self.table.drop(inode)

    def opened(self, inode: Inode) -> None:
        """Raises ESTALE for a file whose content went with its last name, as nobody had it open."""
        _check_kept(inode)
        inode.opens += 1

    def closed(self, inode: Inode) -> None:
        inode.opens -= 1
        if not inode.opens and inode in self.orphans:
            del self.orphans[inode]
            if inode.draft is not None:
                self.unsaved_bytes -= inode.draft.bytes
                inode.draft = None
        self.table.drop(inode)

    # What changed

    def mark(self, inode: Inode) -> None:
        """Have the next commit write this inode's entries and the directories above them."""
        if inode is self.root:
            self.root_is_dirty = True
        for parent, name in inode.names:
            self.mark_name(parent, name)

    def mark_name(self, parent: Directory, name: bytes) -> None:
        at: Directory | None = parent
        while at is not None and name not in at.dirty:
            at.dirty.add(name)
            self.dirty_names += 1
            self.dirty_directories[at] = None
            if not at.names:
                break
            at, name = at.names[0]

    def _regroup(self, inode: Inode) -> None:
        if not inode.is_dir and (len(inode.names) > 1 or inode.linked or inode in self.regrouping):
            inode.regrouped = True
            self.regrouped[inode] = None

    # Names

    def create(self, parent: Directory, name: bytes, entry: Entry) -> Inode:
        """Make a new file of any kind."""
        check_name(name)
        if self.lookup(parent, name) is not None:
            raise Errno(errno.EEXIST)
        if not parent.nlink:
            raise Errno(errno.ENOENT)  # the directory was removed
        if entry.is_dir and depth_of(parent) + 2 > depth_max:
            raise Errno(errno.ENAMETOOLONG)  # nobody could walk it
        inode = self.table.add(parent, name, attributes.inherited(self, parent, entry))
        inode.atime = inode.mtime = inode.ctime = attributes.now()
        if inode.is_dir:
            parent.subdirectories += 1
        self._names_changed(parent)
        self.mark(inode)
        return inode

    def link(self, inode: Inode, parent: Directory, name: bytes) -> None:
        check_name(name)
        if inode.is_dir:
            raise Errno(errno.EPERM)
        if self.lookup(parent, name) is not None:
            raise Errno(errno.EEXIST)
        if not parent.nlink or not inode.names:
            raise Errno(errno.ENOENT)
        if len(inode.names) >= limits.links_max:
            raise Errno(errno.EMLINK)
        self.table.attach(inode, parent, name)
        inode.ctime = attributes.now()
        self._regroup(inode)
        self._names_changed(parent)
        self.mark(inode)

    def adopt(self, inode: Inode, parent: Directory, name: bytes) -> None:
        """Give a file that lost its name to a swap a new one."""
        self.orphans.pop(inode, None)
        inode.lost = None
        self.table.attach(inode, parent, name)
        inode.ctime = attributes.now()
        self._names_changed(parent)
        self.mark(inode)

    def unlink(self, parent: Directory, name: bytes) -> None:
        inode = self.existing(parent, name)
        if inode.is_dir:
            raise Errno(errno.EISDIR)
        self._remove(parent, name, inode)

    def rmdir(self, parent: Directory, name: bytes) -> None:
        inode = self.existing(parent, name)
        if not isinstance(inode, Directory):
            raise Errno(errno.ENOTDIR)
        if not self.is_empty(inode):
            raise Errno(errno.ENOTEMPTY)
        self._remove(parent, name, inode)

    def _remove(self, parent: Directory, name: bytes, inode: Inode) -> None:
        self.mark_name(parent, name)
        self.table.detach(inode, parent, name)
        inode.ctime = attributes.now()
        self._regroup(inode)
        self.mark(inode)  # the entries of its other names count them
        if isinstance(inode, Directory):
            parent.subdirectories -= 1
            self.dirty_directories.pop(inode, None)
            inode.dirty.clear()
        elif not inode.names:
            if inode.opens:
                self.orphans[inode] = None
            elif inode.draft is not None:
                self.unsaved_bytes -= inode.draft.bytes
                inode.draft = None
        self._names_changed(parent)
        self.table.drop(inode)

    def rename(
        self,
        old_parent: Directory,
        old: bytes,
        new_parent: Directory,
        new: bytes,
        flags: int,
        owner: tuple[int, int] = (0, 0),
    ) -> None:
        """Raises EINVAL for flags it does not know, EEXIST, ENOTEMPTY, and so on as rename(2) says.

        A whiteout that is asked for is `owner`'s: what overlayfs puts where a name of a lower layer is gone.
        """
        check_name(new)
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
            raise Errno(errno.EINVAL)
        if flags & RENAME_EXCHANGE and flags & RENAME_WHITEOUT:
            raise Errno(errno.EINVAL)
        inode = self.existing(old_parent, old)
        there = self.lookup(new_parent, new)
        if flags & RENAME_EXCHANGE:
            if there is None:
                raise Errno(errno.ENOENT)
            _check_loop(inode, new_parent)
            _check_loop(there, old_parent)
            self._exchange(old_parent, old, inode, new_parent, new, there)
            return
        if there is not None:
            if flags & RENAME_NOREPLACE:
                raise Errno(errno.EEXIST)
            if there is inode:
                return  # two names of one file: POSIX says that nothing happens
            self._check_replace(inode, there)
        _check_loop(inode, new_parent)
        if not new_parent.nlink:
            raise Errno(errno.ENOENT)
        self._moving(inode)
        if there is not None:
            self._remove(new_parent, new, there)
        self._move(inode, old_parent, old, new_parent, new)
        if flags & RENAME_WHITEOUT:
            self.create(old_parent, old, Entry("char", 0, *owner))

    def _check_replace(self, inode: Inode, there: Inode) -> None:
        if isinstance(there, Directory):
            if not inode.is_dir:
                raise Errno(errno.EISDIR)
            if not self.is_empty(there):
                raise Errno(errno.ENOTEMPTY)
        elif inode.is_dir:
            raise Errno(errno.ENOTDIR)

    def _move(self, inode: Inode, old_parent: Directory, old: bytes, new_parent: Directory, new: bytes) -> None:
        self.mark_name(old_parent, old)
        self.table.detach(inode, old_parent, old)
        self.table.attach(inode, new_parent, new)
        if inode.is_dir:
            old_parent.subdirectories -= 1
            new_parent.subdirectories += 1
        inode.ctime = attributes.now()
        self._regroup(inode)
        self.mark(inode)
        self._names_changed(old_parent)
        self._names_changed(new_parent)

    def _exchange(
        self, one_parent: Directory, one: bytes, inode: Inode, two_parent: Directory, two: bytes, other: Inode
    ) -> None:
        if inode is other:
            return
        self._moving(inode)
        self._moving(other)
        self.table.detach(inode, one_parent, one)
        self.table.detach(other, two_parent, two)
        self.table.attach(inode, two_parent, two)
        self.table.attach(other, one_parent, one)
        difference = inode.is_dir - other.is_dir
        one_parent.subdirectories -= difference
        two_parent.subdirectories += difference
        inode.ctime = other.ctime = attributes.now()
        for moved in (inode, other):
            self._regroup(moved)
            self.mark(moved)
        self._names_changed(one_parent)
        self._names_changed(two_parent)

    def _moving(self, inode: Inode) -> None:
        """A directory is about to get another path: so do the hard-linked files below it.

        A path that is not that of the committed tree finds too much at worst: whatever has moved since was found when
        it did, and is live.
        """
        if not isinstance(inode, Directory):
            return
        if self.links is not None:
            live = {i.linked: i for i in (*self.regrouped, *self.regrouping)}
            for group in list(links.groups_below(self.blocks, self.links, path_of(inode))):
                self._regroup(live.get(group) or self._inode_of(group))
        for linked in self.regrouping:
            self._regroup(linked)

    def _inode_of(self, group: links.Group) -> Inode:
        above, _, name = group[0].rpartition(b"/")
        return self.existing(self._committed_directory(above), name)

    def _names_changed(self, directory: Directory) -> None:
        directory.mtime = directory.ctime = attributes.now()
        self.mark(directory)

    # Content

    def read(self, inode: Inode, offset: int, length: int) -> bytes:
        if inode.draft is not None:
            return inode.draft.read_at(self.blocks, offset, length)
        return (inode.file or EMPTY).read_at(self.blocks, offset, length)

    def write(self, inode: Inode, offset: int, data: bytes) -> None:
        # The kernel keeps mtime (writeback cache) and sends it: setting it here would undo a utimes(2) that came first.
        draft = self._draft(inode)
        before = draft.bytes
        draft.write(offset, data)
        self.unsaved_bytes += draft.bytes - before
        self.unsaved_writes += 1
        self.mark(inode)

    def truncate(self, inode: Inode, size: int) -> None:
        draft = self._draft(inode)
        before = draft.bytes
        draft.truncate(size)
        self.unsaved_bytes += draft.bytes - before
        self.mark(inode)

    def _draft(self, inode: Inode) -> Draft:
        _check_kept(inode)
        if inode.draft is None:
            if inode.file is None:
                raise Errno(errno.EISDIR if inode.is_dir else errno.EINVAL)
            inode.draft = Draft(inode.file)
        return inode.draft


def _check_kept(inode: Inode) -> None:
    if inode.file is not None and not inode.names and not inode.opens:
        raise Errno(errno.ESTALE)


def check_name(name: bytes) -> None:
    if len(name) > 255:
        raise Errno(errno.ENAMETOOLONG)


def _check_loop(inode: Inode, new_parent: Directory) -> None:
    """A directory cannot go below itself."""
    at: Directory | None = new_parent
    while at is not None:
        if at is inode:
            raise Errno(errno.EINVAL)
        at = at.parent
