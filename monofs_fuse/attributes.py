"""Attributes: mode, owner, times, extended attributes and access lists of an inode."""

from __future__ import annotations

import errno
import functools
import os
import stat
from typing import Final, Protocol

from monofs_fuse import limits
from monofs_fuse.errors import Errno
from monofs_fuse.inodes import Directory, Inode
from store import acl
from store import entry as entries
from store.batch import Nodes
from store.cid import Cid
from store.entry import Entry

_CAPABILITY: Final = b"security.capability"


class Tree(Protocol):
    """What is needed of a worktree here."""

    @property
    def blocks(self) -> Nodes: ...

    def mark(self, inode: Inode) -> None: ...


def now() -> int:
    """Return the time in ns since 1970 by the clock from which the kernel gives times to the files it caches.

    It is coarse, and no other call tells it. By any other clock a directory made before a file was written could be
    newer than the file, and make would never be done.
    """
    file = _stamped()
    os.utime(file)
    return os.fstat(file).st_mtime_ns


@functools.cache
def _stamped() -> int:
    return os.memfd_create("clock")


os.register_at_fork(after_in_child=_stamped.cache_clear)  # a daemon closes all that its parent had open


def set_mode(tree: Tree, inode: Inode, mode: int) -> None:
    inode.mode = mode & 0o7777
    if inode.xattrs and (value := xattrs(tree, inode).get(acl.ACCESS)) is not None:
        set_xattr(tree, inode, acl.ACCESS, acl.encode(acl.with_mode(acl.decode(value), mode)))
    _attributes_changed(tree, inode)


def set_owner(tree: Tree, inode: Inode, uid: int | None, gid: int | None) -> None:
    inode.uid = inode.uid if uid is None else uid
    inode.gid = inode.gid if gid is None else gid
    _attributes_changed(tree, inode)
    # File capabilities are taken off by the kernel, but only for a chown: overlayfs sets them before the owner.
    _drop_set_id(tree, inode)


def drop_privileges(tree: Tree, inode: Inode) -> None:
    """Clear what a write must clear: setuid, setgid of an executable, file capabilities."""
    _drop_set_id(tree, inode)
    if not inode.is_dir and inode.xattrs and _CAPABILITY in xattrs(tree, inode):
        set_xattr(tree, inode, _CAPABILITY, None)


def _drop_set_id(tree: Tree, inode: Inode) -> None:
    if inode.is_dir:
        return
    mode = inode.mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    if mode != inode.mode:
        inode.mode = mode
        _attributes_changed(tree, inode)


def set_times(tree: Tree, inode: Inode, atime: int | None, mtime: int | None, ctime: int | None) -> None:
    inode.atime = inode.atime if atime is None else atime
    inode.mtime = inode.mtime if mtime is None else mtime
    inode.ctime = now() if ctime is None else ctime
    tree.mark(inode)


def xattrs(tree: Tree, inode: Inode) -> dict[bytes, bytes]:
    if isinstance(inode.xattrs, Cid):
        return dict(entries.unpack_xattrs(tree.blocks, inode.entry()))
    return dict(inode.xattrs)


def set_xattr(tree: Tree, inode: Inode, name: bytes, value: bytes | None) -> None:
    """Set, or with None remove. Raises ENODATA, ENOSPC."""
    values = xattrs(tree, inode)
    if value is None:
        if values.pop(name, None) is None:
            raise Errno(errno.ENODATA)
    else:
        values[name] = value
    if sum(len(n) + len(v) + 8 for n, v in values.items()) > limits.xattr_set_bytes_max:
        raise Errno(errno.ENOSPC)
    inode.xattrs = tuple(sorted(values.items()))
    _attributes_changed(tree, inode)


def set_acl(tree: Tree, inode: Inode, name: bytes, new: acl.Acl) -> None:
    """Set an access or a default list; () removes it. An access list that the mode can say is only the mode."""
    if name == acl.DEFAULT and not inode.is_dir:
        raise Errno(errno.EACCES)
    if name == acl.ACCESS and new:
        inode.mode = (inode.mode & ~0o777) | acl.mode_of(new)
        new = () if acl.is_mode(new) else new
    if new:
        set_xattr(tree, inode, name, acl.encode(new))
    elif name in xattrs(tree, inode):
        set_xattr(tree, inode, name, None)
    _attributes_changed(tree, inode)


def _attributes_changed(tree: Tree, inode: Inode) -> None:
    inode.ctime = now()
    tree.mark(inode)


def inherited(tree: Tree, parent: Directory, entry: Entry) -> Entry:
    """A setgid directory gives its group to what is made in it, one with a default access list gives that."""
    if parent.mode & stat.S_ISGID:
        entry = entry._replace(gid=parent.gid, mode=entry.mode | (stat.S_ISGID if entry.is_dir else 0))
    default = xattrs(tree, parent).get(acl.DEFAULT) if parent.xattrs else None
    if default is None or entry.kind == "symlink":
        return entry
    access, bits = acl.inherited(acl.decode(default), entry.mode)
    lists = {} if acl.is_mode(access) else {acl.ACCESS: acl.encode(access)}
    if entry.is_dir:
        lists[acl.DEFAULT] = default
    return entry._replace(mode=entry.mode & ~0o777 | bits, xattrs=tuple(sorted(lists.items())))
