"""What a swap took the names of: a file that is open goes on without one, and what is written to it is not lost.

Who has a file open while a merge replaces or removes it keeps what he has, as with any rename over it or unlink. If he
writes to it after that, nobody else has these bytes. So when it is closed they are merged into what has the name now,
as `store.merge` does it with what both sides changed; where that cannot be, the file gets a name again: its old one if
that is free, else one beside it that says whose it is. Who has it synced cannot wait for that: it gets a name then.
"""

from __future__ import annotations

import errno
import logging

from monofs_fuse import limits
from monofs_fuse.errors import Errno
from monofs_fuse.inodes import Directory, Inode, Lost, path_of
from monofs_fuse.worktree import Worktree
from store import text
from store.directory import printable
from store.entry import Entry
from store.errors import StoreError
from store.limits import name_bytes_max

log = logging.getLogger(__name__)
Place = tuple[Directory, bytes]


def is_edited(inode: Inode) -> bool:
    """True if the file's content was edited since it lost its name."""
    return inode.lost is not None and not inode.names and (inode.draft is not None or inode.file != inode.lost.file)


def rescue(tree: Worktree, inode: Inode, whose: str) -> Place:
    """Have what was written to a file since it lost its name in the tree again, as the last one closes it.

    The next commit saves it. Returns the place of which the kernel knows too little now.
    """
    assert inode.lost is not None
    parent = _there(tree, inode.lost.parent, whose)
    there = tree.lookup(parent, inode.lost.name)
    if there is not None and (data := _merged(tree, inode, there)) is not None:
        _replace(tree, there, data)
        log.info("'%s' was written to after it had been replaced: merged", printable(_path(parent, inode.lost.name)))
        return parent, inode.lost.name
    return _named(tree, inode, parent, whose)


def keep(tree: Worktree, inode: Inode, whose: str) -> Place:
    """Let a file that lost its name have one again, as it is. Returns that."""
    assert inode.lost is not None
    return _named(tree, inode, _there(tree, inode.lost.parent, whose), whose)


def _named(tree: Worktree, inode: Inode, parent: Directory, whose: str) -> Place:
    assert inode.lost is not None
    name = _free(tree, parent, inode.lost.name, whose)
    tree.adopt(inode, parent, name)
    log.warning("what was written to a file after it had been replaced is '%s'", printable(path_of(inode)))
    return parent, name


def _merged(tree: Worktree, late: Inode, there: Inode) -> bytes | None:
    """Return what both made of the file that they began as; None if that cannot be said, or is not for us to change."""
    assert late.lost is not None
    base = late.lost.file
    if base is None or there.file is None or there.opens or len(there.names) > 1:
        return None
    if max(base.size, late.size, there.size) > limits.late_bytes_max:
        return None
    try:
        old = base.read_at(tree.blocks, 0, base.size)
        ours, theirs = (tree.read(one, 0, one.size) for one in (late, there))
    except StoreError:
        return None  # it cannot be read; who wrote it must not suffer from that
    if theirs == old or ours == theirs:
        return ours
    if old == ours:
        return theirs
    if any(b"\0" in data for data in (old, ours, theirs)):
        return None
    return text.merged(text.split(old), text.split(ours), text.split(theirs))


def _replace(tree: Worktree, old: Inode, data: bytes) -> None:
    """Put a new file in the place of one that nobody has open."""
    (parent, name) = old.names[0]
    tree.unlink(parent, name)
    old.lost = Lost(parent, name, old.file)
    made = tree.create(parent, name, Entry("file", old.mode, old.uid, old.gid))
    made.mode, made.uid, made.gid, made.xattrs = old.mode, old.uid, old.gid, old.xattrs
    tree.write(made, 0, data)


def _there(tree: Worktree, directory: Directory, whose: str) -> Directory:
    """Return the directory, or what stands in its place now; it comes back, without what it held, if nothing does."""
    gone = []
    while directory.lost is not None and not directory.names:
        gone.append(directory)
        directory = directory.lost.parent
    for one in reversed(gone):
        assert one.lost is not None
        found = tree.lookup(directory, one.lost.name)
        if not isinstance(found, Directory):
            name = one.lost.name if found is None else _free(tree, directory, one.lost.name, whose)
            found = tree.create(directory, name, Entry("dir", one.mode, one.uid, one.gid, xattrs=one.xattrs))
            assert isinstance(found, Directory)
        directory = found
    if directory is not tree.root and not directory.names:  # somebody removed it himself
        return tree.root
    return directory


def _path(parent: Directory, name: bytes) -> bytes:
    above = path_of(parent)
    return above + b"/" + name if above else name


def _free(tree: Worktree, parent: Directory, name: bytes, whose: str) -> bytes:
    if tree.lookup(parent, name) is None:
        return name
    label = b"~" + whose.encode("utf-8", "surrogateescape").replace(b"/", b"-")[-80:]
    for number in range(1, 1 << 20):
        end = label if number == 1 else label + b".%d" % number
        free = name[: name_bytes_max - len(end)] + end
        if tree.lookup(parent, free) is None:
            return free
    raise Errno(errno.EEXIST)
