"""A tree in the store becomes a tar archive, written as a stream.

It is a PAX archive as GNU tar and bsdtar read it. The same tree gives the same bytes.
"""

from __future__ import annotations

import errno
import tarfile
import unicodedata
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from store import acl, directory, links
from store import entry as entries
from store.batch import Nodes
from store.cid import Cid
from store.directory import printable
from store.entry import Entry
from store.errors import NoSpace
from store.file import File
from store.progress import SILENT, Progress, Skip
from store.version import Tree

_TYPES: Final = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "fifo": tarfile.FIFOTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}
_XATTR: Final = "SCHILY.xattr."

Segment = tuple[int, int]  # (offset, length) of data between holes


class Archived(NamedTuple):
    """`skipped` names what a tar archive cannot hold. `files` counts all that is not a directory."""

    skipped: tuple[Skip, ...]
    files: int
    bytes: int


def write_tar(source: Nodes, tree: Tree, out: BinaryIO, *, progress: Progress = SILENT) -> Archived:
    """Write `tree` to `out`, which may be a pipe. Raises NoSpace, OSError, Corrupt; then the archive is broken off."""
    count, size, _ = tree.root.total
    progress.totals(count, size)
    work = _Archive(source, tree.links, out, progress)
    try:
        work.add(b".", tree.root)
        for path, entry in directory.walk(source, tree.root):
            work.add(path, entry)
        work.finish()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace("no space left for the archive, which is not whole") from None
        raise
    return Archived(tuple(work.skipped), work.files, work.bytes)


class _Archive:
    def __init__(self, source: Nodes, tree_links: Cid | None, out: BinaryIO, progress: Progress) -> None:
        self.files = self.bytes = 0
        self.skipped: list[Skip] = []
        self._source, self._links, self._out, self._progress = source, tree_links, out, progress
        self._written = 0
        self._first: dict[bytes, bytes] = {}  # path still to come -> the path of the same file that is in the archive

    def add(self, path: bytes, entry: Entry) -> None:
        self._progress.file(path, entry.size)
        if entry.kind not in _TYPES:
            self._skip(path, f"a tar archive cannot hold a {entry.kind}")
            return
        member = self._member(path, entry)
        first = self._linked(path) if entry.nlink > 1 else None
        if first is not None:
            member.type, member.linkname = tarfile.LNKTYPE, _text(first)
            self._write_header(member)
        elif entry.kind == "file":
            self._add_file(member, File.of(entry))
        else:
            self._write_header(member)
        self._progress.advance(entry.size)
        if not entry.is_dir:
            self.files += 1
            self.bytes += entry.size

    def finish(self) -> None:
        """Two blocks of zeros end an archive, and it is made of whole records."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._pad(tarfile.RECORDSIZE)

    # Headers

    def _member(self, path: bytes, entry: Entry) -> tarfile.TarInfo:
        member = tarfile.TarInfo(_text(path))
        member.type, member.mode = _TYPES[entry.kind], entry.mode
        member.uid, member.gid = entry.uid, entry.gid
        member.devmajor, member.devminor = entry.rdev
        if entry.kind == "symlink":
            assert isinstance(entry.data, bytes)
            member.linkname = _text(entry.data)
        seconds, rest = divmod(entry.mtime, 10**9)
        member.mtime = seconds
        member.pax_headers = dict(self._attributes(path, entry))
        if not unicodedata.is_normalized("NFC", member.name + member.linkname):
            member.pax_headers = {"hdrcharset": "BINARY", **member.pax_headers}  # or bsdtar changes the name
        if rest or seconds < 0:
            whole, part = divmod(abs(entry.mtime), 10**9)
            member.pax_headers["mtime"] = f"{'-' if entry.mtime < 0 else ''}{whole}.{part:09d}"
        return member

    def _attributes(self, path: bytes, entry: Entry) -> Iterator[tuple[str, str]]:
        for name, value in entries.unpack_xattrs(self._source, entry):
            try:
                keyword = name.decode().replace("%", "%25").replace("=", "%3D")  # as GNU tar does
            except UnicodeDecodeError:
                self._skip(path, f"a tar archive cannot hold the attribute {printable(name)}")
                continue
            yield _XATTR + keyword, _text(value)
            if name in acl.KEYWORDS:
                try:
                    yield acl.KEYWORDS[name], acl.text(value)
                except acl.BadAcl as error:
                    self._skip(path, str(error))

    def _linked(self, path: bytes) -> bytes | None:
        """Return an earlier path of the same file; None if this is the first."""
        first = self._first.pop(path, None)
        if first is None:
            others = links.group(self._source, self._links, path)
            self._first.update((other, path) for other in others if other != path)
        return first

    # Content

    def _add_file(self, member: tarfile.TarInfo, content: File) -> None:
        if not content.holes:
            member.size = content.size
            self._write_header(member)
            self._write_data(content, 0, content.size)
            self._pad(tarfile.BLOCKSIZE)
            return
        segments = list(_segments(self._source, content))
        table = _sparse_map(segments, content.size)
        member.size = len(table) + sum(length for _, length in segments)
        member.pax_headers = {
            **member.pax_headers,
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": member.name,
            "GNU.sparse.realsize": str(content.size),
        }
        above, _, name = member.name.rpartition("/")
        member.name = f"{above}/GNUSparseFile.0/{name}" if above else f"GNUSparseFile.0/{name}"
        self._write_header(member)
        self._write(table)
        for start, length in segments:
            self._write_data(content, start, start + length)
        self._pad(tarfile.BLOCKSIZE)

    def _write_data(self, content: File, start: int, end: int) -> None:
        for length, data in content.pieces(self._source, start, end):
            self._write(bytes(length) if data is None else data)

    def _write_header(self, member: tarfile.TarInfo) -> None:
        self._write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _pad(self, unit: int) -> None:
        self._write(bytes(-self._written % unit))

    def _write(self, data: bytes) -> None:
        done = self._out.write(data)
        while done < len(data):  # an unbuffered file may take less
            done += self._out.write(data[done:])
        self._written += len(data)

    def _skip(self, path: bytes, reason: str) -> None:
        self.skipped.append(Skip(path, reason))


def _text(data: bytes) -> str:
    """What tarfile turns into the same bytes again."""
    return data.decode("utf-8", "surrogateescape")


def _segments(source: Nodes, content: File) -> Iterator[Segment]:
    """Yield where there is data, in order and apart. GNU tar wants whole blocks: some of a hole comes with them."""
    block = tarfile.BLOCKSIZE
    start = content.size if content.content is None else 0
    for end, (length, cid) in content.items(source, 0, content.size):
        if cid is None:
            hole = end - length
            if start < hole:
                yield start // block * block, -(-hole // block) * block - start // block * block
            start = end
    if start < content.size:
        yield start // block * block, content.size - start // block * block


def _sparse_map(segments: list[Segment], size: int) -> bytes:
    """GNU's sparse format 1.0: the number of segments, then their offsets and lengths, in whole blocks.

    A file that ends in a hole has an empty segment at its end.
    """
    if not segments or sum(segments[-1]) < size:
        segments = [*segments, (size, 0)]
    numbers = [len(segments), *(number for segment in segments for number in segment)]
    table = "".join(f"{number}\n" for number in numbers).encode()
    return table + bytes(-len(table) % tarfile.BLOCKSIZE)
