"""The floor: a pyfuse3 filesystem that keeps all in memory and does nothing else.

It is no peer: it saves nothing, checks nothing and forgets everything. It shows what a request costs in Python with
pyfuse3 as it comes, so what monofs takes beyond it is monofs's own doing, and where monofs is faster it is because it
drives pyfuse3 differently.

usage: python -m tools.benchmarks.floor MOUNTPOINT [DIRECTORY that is copied into it first]
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields

_FOREVER_SECONDS = 86_400


class Node:
    def __init__(self, ino: int, mode: int, uid: int, gid: int) -> None:
        self.attributes = EntryAttributes()
        self.attributes.st_ino, self.attributes.st_mode = ino, mode
        self.attributes.st_uid, self.attributes.st_gid, self.attributes.st_nlink = uid, gid, 1
        self.attributes.entry_timeout = self.attributes.attr_timeout = _FOREVER_SECONDS
        self.touch(time.time_ns())
        self.data = bytearray()  # a symbolic link's target, too
        self.children: dict[bytes, Node] = {}

    def touch(self, ns: int) -> None:
        self.attributes.st_atime_ns = self.attributes.st_mtime_ns = self.attributes.st_ctime_ns = ns

    def sized(self) -> EntryAttributes:
        self.attributes.st_size = len(self.data)
        self.attributes.st_blocks = (len(self.data) + 511) // 512
        return self.attributes


class Floor(pyfuse3.Operations):  # type: ignore[misc]
    enable_writeback_cache = True
    supports_dot_lookup = False

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[int, Node] = {}
        self.root = self._node(stat.S_IFDIR | 0o755, os.geteuid(), os.getegid())

    def load(self, source: Path, target: Node) -> None:
        for entry in os.scandir(source):
            found = entry.stat(follow_symlinks=False)
            node = self._node(found.st_mode, found.st_uid, found.st_gid)
            node.touch(found.st_mtime_ns)
            target.children[os.fsencode(entry.name)] = node
            if entry.is_symlink():
                node.data = bytearray(os.fsencode(os.readlink(entry.path)))
            elif entry.is_dir():
                self.load(Path(entry.path), node)
            elif entry.is_file():
                node.data = bytearray(Path(entry.path).read_bytes())

    def _node(self, mode: int, uid: int, gid: int) -> Node:
        ino = len(self.nodes) + pyfuse3.ROOT_INODE
        self.nodes[ino] = Node(ino, mode, uid, gid)
        return self.nodes[ino]

    def _make(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> Node:
        node = self._node(mode, ctx.uid, ctx.gid)
        self.nodes[parent].children[name] = node
        return node

    # Finding

    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self.nodes[parent].children.get(name)
        if node is not None:
            return node.sized()
        absent = EntryAttributes()
        absent.st_ino, absent.entry_timeout = 0, _FOREVER_SECONDS
        return absent

    async def getattr(self, ino: int, ctx: RequestContext) -> EntryAttributes:
        return self.nodes[ino].sized()

    async def readlink(self, ino: int, ctx: RequestContext) -> bytes:
        return bytes(self.nodes[ino].data)

    async def opendir(self, ino: int, ctx: RequestContext) -> int:
        return ino

    async def readdir(self, ino: int, start: int, token: ReaddirToken) -> None:
        children = list(self.nodes[ino].children.items())
        for position in range(start, len(children)):
            name, node = children[position]
            if not pyfuse3.readdir_reply(token, name, node.sized(), position + 1):
                return

    # Names

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._make(parent, name, mode | stat.S_IFDIR, ctx).sized()

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        return self._make(parent, name, mode, ctx).sized()

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self._make(parent, name, stat.S_IFLNK | 0o777, ctx)
        node.data = bytearray(target)
        return node.sized()

    async def link(self, ino: int, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self.nodes[parent].children[name] = self.nodes[ino]
        node.attributes.st_nlink += 1
        return node.sized()

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._make(parent, name, mode, ctx)
        return FileInfo(fh=node.attributes.st_ino), node.sized()

    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        self.nodes[parent].children.pop(name).attributes.st_nlink -= 1

    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        if self.nodes[parent].children[name].children:
            raise FUSEError(errno.ENOTEMPTY)
        del self.nodes[parent].children[name]

    async def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, ctx: RequestContext
    ) -> None:
        self.nodes[new_parent].children[new] = self.nodes[old_parent].children.pop(old)

    # Content

    async def open(self, ino: int, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & os.O_TRUNC:
            self.nodes[ino].data = bytearray()
        return FileInfo(fh=ino, keep_cache=True)

    async def read(self, ino: int, offset: int, size: int) -> bytes:
        return bytes(memoryview(self.nodes[ino].data)[offset : offset + size])

    async def write(self, ino: int, offset: int, data: bytes) -> int:
        held = self.nodes[ino].data
        if offset > len(held):
            held.extend(bytes(offset - len(held)))
        held[offset : offset + len(data)] = data
        return len(data)

    async def fsync(self, ino: int, datasync: bool) -> None:
        pass

    async def setattr(
        self, ino: int, attr: EntryAttributes, fields: SetattrFields, handle: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.nodes[ino]
        if fields.update_size:
            del node.data[attr.st_size :]
            node.data.extend(bytes(attr.st_size - len(node.data)))
        if fields.update_mode:
            node.attributes.st_mode = stat.S_IFMT(node.attributes.st_mode) | stat.S_IMODE(attr.st_mode)
        for name, wanted in (("uid", fields.update_uid), ("gid", fields.update_gid)):
            if wanted:
                setattr(node.attributes, f"st_{name}", getattr(attr, f"st_{name}"))
        for name, wanted in (("atime", fields.update_atime), ("mtime", fields.update_mtime)):
            if wanted:
                setattr(node.attributes, f"st_{name}_ns", getattr(attr, f"st_{name}_ns"))
        return node.sized()

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        pass

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = 4096
        found.f_blocks = found.f_bfree = found.f_bavail = 1 << 28
        found.f_namemax = 255
        return found


def main() -> None:
    floor = Floor()
    if len(sys.argv) > 2:
        floor.load(Path(sys.argv[2]), floor.root)
    pyfuse3.init(floor, sys.argv[1], {"fsname=floor", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
