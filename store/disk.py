"""What the disk says about one file: its metadata, extended attributes, data and holes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from store import entry as entries
from store import limits
from store.batch import Batch
from store.chunker import Piece
from store.entry import Entry, Xattrs
from store.file import EMPTY, File

Facts = os.stat_result

# Labels that belong to this machine's security policy, or are signed with its key, and not to the tree.
_HOST_XATTRS: Final = frozenset((b"security.selinux", b"security.evm"))
_NO_XATTRS: Final = (errno.ENOTSUP, errno.EOPNOTSUPP)
_GONE_XATTR: Final = (errno.ENODATA, errno.EACCES, errno.EPERM)


def entry(batch: Batch, facts: Facts, xattrs: Xattrs, content: File = EMPTY, nlink: int = 1) -> Entry:
    """Return what a directory says about this file. Raises TooLarge if it has too many attributes."""
    mode, rdev = facts.st_mode, facts.st_rdev
    return Entry(
        kind=entries.kind_of(mode),
        mode=stat.S_IMODE(mode),
        uid=facts.st_uid,
        gid=facts.st_gid,
        mtime=facts.st_mtime_ns,
        size=content.size,
        holes=content.holes,
        nlink=nlink,
        data=content.content,
        rdev=(os.major(rdev), os.minor(rdev)) if rdev else (0, 0),
        xattrs=entries.pack_xattrs(batch, xattrs) if xattrs else (),
    )


def xattrs(file: int | bytes) -> Xattrs:
    """Return the attributes of an open file, or of the one at a path (a link is not followed)."""
    follow = isinstance(file, int)
    try:
        names = os.listxattr(file, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    found = []
    for name in map(os.fsencode, names):
        if name in _HOST_XATTRS:
            continue
        try:
            found.append((name, os.getxattr(file, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno not in _GONE_XATTR:  # removed since it was listed, or not for this user
                raise
    return tuple(found)


def beside(directory: int, name: bytes) -> bytes:
    """Return a path for calls that take no directory descriptor; only its last name can still be changed."""
    return b"/proc/self/fd/%d/%s" % (directory, name)


def read(file: int, size: int) -> bytes:
    """Return the first `size` bytes; fewer if the file has become shorter."""
    data = os.read(file, size)
    if len(data) == size:
        return data
    parts = [data]
    while data and (left := size - sum(map(len, parts))):
        data = os.read(file, left)
        parts.append(data)
    return b"".join(parts)


def pieces(file: int, facts: Facts) -> Iterator[Piece]:
    """Yield data and holes up to the size in `facts`, however the file grows; ends early if it has become shorter."""
    size, at = facts.st_size, 0
    # Most files are not sparse, and asking costs two calls for each.
    while at < size:
        start, end = _extent(file, at, size) if facts.st_blocks * 512 < size else (at, size)
        if start > at:
            yield start - at, None
            at = start
        os.lseek(file, at, os.SEEK_SET)
        while at < end:
            data = os.read(file, min(end - at, limits.read_bytes))
            if not data:
                return
            yield len(data), data
            at += len(data)


def _extent(file: int, at: int, size: int) -> tuple[int, int]:
    """Return where the next data after `at` begins and ends."""
    try:
        start = os.lseek(file, at, os.SEEK_DATA)
        end = os.lseek(file, start, os.SEEK_HOLE)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole, or the file has become shorter
            return min(max(os.fstat(file).st_size, at), size), size
        if error.errno in (errno.EINVAL, *_NO_XATTRS):  # a filesystem that does not know its holes
            return at, size
        raise
    return min(start, size), min(max(end, start + 1), size)
