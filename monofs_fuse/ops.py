"""The FUSE operations: each translates one request of the kernel to the worktree and back."""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

from monofs_fuse import attributes, limits, listing, lost, mountpoint, past
from monofs_fuse.ahead import Ahead
from monofs_fuse.errors import Errno, number_of
from monofs_fuse.inodes import PAST, ROOT, Directory, Inode
from monofs_fuse.listing import Kept, Listing
from monofs_fuse.past import Past
from monofs_fuse.saver import Saver
from monofs_fuse.worktree import Worktree, check_name
from store import acl
from store import entry as entries
from store.cid import Cid
from store.entry import Entry
from store.errors import MonofsError

log = logging.getLogger(__name__)
_F = TypeVar("_F", bound=Callable[..., Awaitable[Any]])
_VIRTUAL: Final = b"user.monofs."
# The kernel asks for no permission to read those of system, so this one can be had from a root that its user may not
# read, too.
SOCKET: Final = b"system.monofs.socket"
_NO_ATTRIBUTE: Final = errno.ENODATA
_TRUSTED: Final = b"trusted."  # for root's eyes only
_NAMESPACES: Final = (b"user.", b"security.", _TRUSTED)


def _answering(handler: _F) -> _F:
    """Turn our errors into errnos; whatever nobody thought of is logged and becomes EIO, so that the mount goes on."""

    @functools.wraps(handler)
    async def wrapped(*args: Any) -> Any:
        try:
            return await handler(*args)
        except FUSEError:
            raise
        except Errno as error:
            raise FUSEError(error.number) from None
        except (MonofsError, MemoryError) as error:
            log.warning("%s: %s", handler.__name__, error)
            raise FUSEError(number_of(error)) from None
        except Exception:
            log.exception("%s failed", handler.__name__)
            raise FUSEError(errno.EIO) from None

    return wrapped  # type: ignore[return-value]


class Operations(pyfuse3.Operations):  # type: ignore[misc]
    enable_writeback_cache = True
    enable_acl = True
    supports_dot_lookup = False

    def __init__(self, tree: Worktree, saver: Saver, past: Past, store_path: str, about: dict[bytes, bytes]) -> None:
        super().__init__()
        self.tree = tree
        self._past = past
        self._saver = saver
        self._store_path = store_path
        self._about = about  # virtual attributes of the root
        self._label = about.get(b"user.monofs.name", b"").decode()
        self._ahead = Ahead(tree)
        self._listings: dict[int, Listing] = {}
        self._next_listing = 1
        self._trails = Kept()
        self._released: dict[int, trio.Event] = {}  # open directory -> somebody waits for its release
        self._flushing: dict[int, trio.Event] = {}  # thread that is about to open the root -> when that is closed again
        self._waiting: set[trio.Event] = set()  # edits that wait for room

    # Finding

    @_answering
    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        tree = self._tree(parent)
        inode = tree.lookup(tree.directory(parent), name)
        if inode is None and parent == ROOT and name == past.NAME:
            inode = self._past.shown
        if inode is None:
            check_name(name)
            if tree is self._past:  # more versions may come
                raise Errno(errno.ENOENT)
            return _absent()
        return self._known(inode)

    @_answering
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            self._tree(ino).forget(ino, count)

    @_answering
    async def getattr(self, ino: int, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(self._tree(ino).inode(ino))

    @_answering
    async def readlink(self, ino: int, ctx: RequestContext) -> bytes:
        return self._tree(ino).inode(ino).target

    @_answering
    async def opendir(self, ino: int, ctx: RequestContext) -> int:
        tree = self._tree(ino)
        directory = tree.directory(ino)
        tree.opened(directory)
        handle, self._next_listing = self._next_listing, self._next_listing + 1
        self._listings[handle] = Listing(tree, directory, self._trails)
        if (released := self._flushing.get(ctx.pid)) is not None:
            self._released[handle] = released
        return handle

    @_answering
    async def readdir(self, handle: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        found = self._listings[handle]
        directory = found.directory
        tree = self._tree(directory.ino)
        for position, name, dot in (
            (listing.DOT, b".", directory),
            (listing.DOT_DOT, b"..", directory.parent or directory),
        ):
            if start < position and not pyfuse3.readdir_reply(token, name, _attributes(dot), position):
                return
        for named in found.read(start):
            inode = tree.listed(directory, named)
            if inode is None:
                continue
            place = listing.cookie(named.name)
            if not pyfuse3.readdir_reply(token, named.name, self._attributes(inode), place):
                tree.forget(inode.ino, 0)
                return
            found.sent(named.name, place)
            inode.lookups += 1

    @_answering
    async def releasedir(self, handle: int) -> None:
        found = self._listings.pop(handle)
        found.close()
        if (released := self._released.pop(handle, None)) is not None:
            released.set()
        self._tree(found.directory.ino).closed(found.directory)

    # Names

    @_answering
    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        device = (os.major(rdev), os.minor(rdev)) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else (0, 0)
        entry = Entry(entries.kind_of(mode), stat.S_IMODE(mode), ctx.uid, ctx.gid, rdev=device)
        return await self._create(parent, name, entry)

    @_answering
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return await self._create(parent, name, Entry("dir", stat.S_IMODE(mode), ctx.uid, ctx.gid))

    @_answering
    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        entry = Entry("symlink", 0o777, ctx.uid, ctx.gid, size=len(target), data=target)
        return await self._create(parent, name, entry)

    @_answering
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        try:
            attributes = await self._create(parent, name, Entry("file", stat.S_IMODE(mode), ctx.uid, ctx.gid))
        except Errno as error:
            if error.number == errno.EEXIST and not flags & os.O_EXCL:
                raise Errno(errno.ESTALE) from None  # it came with a swap just now: the kernel is to look again
            raise
        inode = self.tree.inode(attributes.st_ino)
        inode.is_cached = True
        self.tree.opened(inode)
        return FileInfo(fh=inode.ino), attributes

    async def _create(self, parent: int, name: bytes, entry: Entry) -> EntryAttributes:
        await self._ready()
        inode = self.tree.create(self._editable(parent, name), name, entry)
        self._saver.poke()
        return self._known(inode)

    @_answering
    async def link(self, ino: int, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        await self._ready()
        if ino >= PAST:
            raise Errno(errno.EXDEV)
        inode = self.tree.inode(ino)
        self.tree.link(inode, self._editable(parent, name), name)
        return self._known(inode)

    @_answering
    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        await self._ready(more=False)
        self.tree.unlink(self._editable(parent, name), name)
        self._saver.poke()

    @_answering
    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        await self._ready(more=False)
        self.tree.rmdir(self._editable(parent, name), name)
        self._saver.poke()

    @_answering
    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, ctx: RequestContext
    ) -> None:
        await self._ready(more=False)
        source, target = self._editable(old_parent, old), self._editable(new_parent, new)
        self.tree.rename(source, old, target, new, flags, (ctx.uid, ctx.gid))
        self._saver.poke()

    # Content

    @_answering
    async def open(self, ino: int, flags: int, ctx: RequestContext) -> FileInfo:
        if ino >= PAST:
            return self._open_past(ino, flags)
        is_cut = bool(flags & os.O_TRUNC and flags & os.O_ACCMODE != os.O_RDONLY)
        if is_cut:
            await self._ready(more=False)
        inode = self.tree.inode(ino)
        if is_cut:
            self._truncate(inode, 0, ctx)
        self.tree.opened(inode)
        self._ahead.opening(inode, flags)
        return FileInfo(fh=ino)

    def _open_past(self, ino: int, flags: int) -> FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise Errno(errno.EROFS)
        self._past.opened(self._past.inode(ino))
        return FileInfo(fh=ino, direct_io=self._past.is_fleeting(ino))

    @_answering
    async def read(self, ino: int, offset: int, size: int) -> bytes:
        self._ahead.read(ino)
        tree = self._tree(ino)
        return tree.read(tree.inode(ino), offset, size)

    @_answering
    async def write(self, ino: int, offset: int, data: bytes) -> int:
        await self._ready()
        self.tree.write(self._editable_inode(ino), offset, data)
        self._saver.poke()
        return len(data)

    @_answering
    async def flush(self, ino: int) -> None:
        # close() has nothing to report: edits are in memory, and it is fsync that says whether they were saved.
        raise Errno(errno.ENOSYS)

    @_answering
    async def release(self, ino: int) -> None:
        self._ahead.closed(ino)
        tree = self._tree(ino)
        inode = tree.inode(ino)
        if tree is self.tree and inode.opens == 1 and lost.is_edited(inode):
            await self._rescue(inode, lost.rescue)
        tree.closed(inode)

    def rescue_all(self) -> None:
        """The mount is gone, and nobody will close anything any more."""
        for inode in list(self.tree.orphans):
            if lost.is_edited(inode):
                try:
                    lost.rescue(self.tree, inode, self._label)
                except MonofsError as error:
                    log.error("what was written to a file after it had been replaced is lost: %s", error)

    async def _rescue(self, inode: Inode, how: Callable[[Worktree, Inode, str], lost.Place]) -> None:
        await self._ready(more=False)
        if lost.is_edited(inode):
            parent, name = how(self.tree, inode, self._label)
            pyfuse3.invalidate_entry_async(parent.ino, name, ignore_enoent=True)

    @_answering
    async def fsync(self, ino: int, datasync: bool) -> None:
        if ino < PAST:
            inode = self.tree.inode(ino)
            if lost.is_edited(inode):  # what is in no tree would not outlive us
                await self._rescue(inode, lost.keep)
            await self._saver.save(inode)

    @_answering
    async def fsyncdir(self, handle: int, datasync: bool) -> None:
        directory = self._listings[handle].directory
        if directory.ino < PAST:
            await self._saver.save(directory)

    async def flush_kernel(self, path: str) -> None:
        """Return once all that was written to the mount on `path` so far has come to us, also by mmap.

        Syncing sees to it that the kernel has put it in its queue, and does not wait for our answers. But what is in
        the queue before the release of the directory that the sync was done on also gets here before it.
        """
        released = trio.Event()
        try:
            await trio.to_thread.run_sync(partial(self._sync, path, released))
        except PermissionError:  # the tree's root is not ours to read: only what is written but not closed is missed
            return
        await released.wait()
        for done in tuple(self._waiting):
            await done.wait()

    def _sync(self, path: str, released: trio.Event) -> None:
        """Runs on a thread of its own; the kernel tells us which thread a request is from."""
        thread = threading.get_native_id()
        self._flushing[thread] = released
        try:
            mountpoint.flush(path)
        finally:
            del self._flushing[thread]

    async def _ready(self, *, more: bool = True) -> None:
        """Wait until an edit may be made, which must then be made without waiting again; `more` is to be kept by it."""
        if not self._saver.is_ready(more=more):
            done = trio.Event()
            self._waiting.add(done)
            try:
                await self._saver.ready(more=more)
            finally:
                self._waiting.discard(done)
                done.set()

    # Attributes

    @_answering
    async def setattr(
        self, ino: int, attr: EntryAttributes, fields: SetattrFields, handle: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        await self._ready(more=fields.update_size)
        inode = self._editable_inode(ino)
        if fields.update_size:
            self._truncate(inode, attr.st_size, ctx)
        if fields.update_mode:
            attributes.set_mode(self.tree, inode, stat.S_IMODE(attr.st_mode))
        if fields.update_uid or fields.update_gid:
            uid = attr.st_uid if fields.update_uid else None
            attributes.set_owner(self.tree, inode, uid, attr.st_gid if fields.update_gid else None)
        if fields.update_atime or fields.update_mtime or fields.update_ctime:
            attributes.set_times(
                self.tree,
                inode,
                attr.st_atime_ns if fields.update_atime else None,
                attr.st_mtime_ns if fields.update_mtime else None,
                attr.st_ctime_ns if fields.update_ctime else None,
            )
        return _attributes(inode)

    def _truncate(self, inode: Inode, size: int, ctx: RequestContext) -> None:
        self.tree.truncate(inode, size)
        attributes.set_times(self.tree, inode, None, attributes.now(), None)
        if ctx.uid != 0:
            attributes.drop_privileges(self.tree, inode)

    @_answering
    async def getxattr(self, ino: int, name: bytes, ctx: RequestContext) -> bytes:
        inode = self._tree(ino).inode(ino)
        # Ours come first: a tree from somebody else must not tell `monofs umount` which socket to talk to.
        if name.startswith(_VIRTUAL) and (virtual := self._virtual(inode, name)) is not None:
            return virtual
        if name == SOCKET and inode is self.tree.root:
            if ctx.uid not in (0, os.geteuid()):
                raise Errno(errno.EACCES)
            return self._about[SOCKET]
        if inode.xattrs and (value := attributes.xattrs(self.tree, inode).get(name)) is not None:
            return value
        raise FUSEError(_NO_ATTRIBUTE)

    def _virtual(self, inode: Inode, name: bytes) -> bytes | None:
        """Attributes that can be read and are never listed, so that no copy takes them along."""
        if name == b"user.monofs.cid":
            data = inode.base if isinstance(inode, Directory) else inode.file.content if inode.file else None
            is_saved = inode.draft is None and not (isinstance(inode, Directory) and inode.dirty)
            return str(data).encode() if isinstance(data, Cid) and is_saved else None
        if name == b"user.monofs.head" and inode is self.tree.root:
            return str(self._saver.tree).encode()
        return self._about.get(name) if inode is self.tree.root else None

    @_answering
    async def listxattr(self, ino: int, ctx: RequestContext) -> list[bytes]:
        names = attributes.xattrs(self.tree, self._tree(ino).inode(ino))
        return [name for name in names if ctx.uid == 0 or not name.startswith(_TRUSTED)]

    @_answering
    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        if name.startswith(_VIRTUAL):
            raise Errno(errno.EPERM)
        await self._ready(more=False)
        inode = self._editable_inode(ino)
        if name in (acl.ACCESS, acl.DEFAULT):
            attributes.set_acl(self.tree, inode, name, acl.decode(value))
        elif not name.startswith(_NAMESPACES):
            raise Errno(errno.EOPNOTSUPP)
        else:
            attributes.set_xattr(self.tree, inode, name, value)

    @_answering
    async def removexattr(self, ino: int, name: bytes, ctx: RequestContext) -> None:
        await self._ready(more=False)
        inode = self._editable_inode(ino)
        if name in (acl.ACCESS, acl.DEFAULT):
            attributes.set_acl(self.tree, inode, name, ())
        else:
            attributes.set_xattr(self.tree, inode, name, None)

    @_answering
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        disk = os.statvfs(self._store_path)
        used = self.tree.root.total
        data = StatvfsData()
        data.f_bsize, data.f_frsize = disk.f_bsize, disk.f_frsize
        data.f_blocks, data.f_bfree, data.f_bavail = disk.f_blocks, disk.f_bfree, disk.f_bavail
        data.f_files, data.f_ffree = used[0] + 1 + disk.f_ffree, disk.f_ffree
        data.f_favail = disk.f_favail
        data.f_namemax = 255
        return data

    def _known(self, inode: Inode) -> EntryAttributes:
        """The answer to whatever makes the kernel know an inode: it will forget it some day."""
        inode.lookups += 1
        return self._attributes(inode)

    # What may be edited, and what is past

    def _tree(self, ino: int) -> Worktree | Past:
        """Return where an inode is, for those who only read."""
        return self.tree if ino < PAST else self._past

    def _editable_inode(self, ino: int) -> Inode:
        if ino >= PAST:
            raise Errno(errno.EROFS)
        return self.tree.inode(ino)

    def _editable(self, parent: int, name: bytes) -> Directory:
        """Return the directory in which a name is about to change. Raises EROFS for what is past."""
        if parent >= PAST:
            raise Errno(errno.EROFS)
        if name == past.NAME and parent == ROOT and self.tree.lookup(self.tree.root, name) is None:
            raise Errno(errno.EROFS)
        return self.tree.directory(parent)

    def _attributes(self, inode: Inode) -> EntryAttributes:
        found = _attributes(inode)
        if inode.ino >= PAST and self._past.is_fleeting(inode.ino):
            found.st_size = len(self._past.text(inode.ino))
            found.entry_timeout = found.attr_timeout = 0
        return found


def _attributes(inode: Inode) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = inode.ino
    entry.entry_timeout = entry.attr_timeout = limits.entry_seconds
    entry.st_mode = entries.type_bits(inode.kind) | inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    if inode.rdev != (0, 0):
        entry.st_rdev = os.makedev(*inode.rdev)
    entry.st_size = inode.size
    entry.st_blocks = (inode.stored_bytes + 511) // 512
    entry.st_atime_ns = inode.atime
    entry.st_mtime_ns = inode.mtime
    entry.st_ctime_ns = inode.ctime
    return entry


def _absent() -> EntryAttributes:
    """A name that is not there, for the kernel to remember: inode number 0."""
    entry = EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = limits.entry_seconds
    return entry
