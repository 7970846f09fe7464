"""Seekable reading and writing of stored files, as Python's own io does it."""

from __future__ import annotations

import io
import os

from store import draft as drafts
from store import file as files
from store.batch import Batch, Nodes
from store.chunker import Chunker, FastCdc
from store.cid import Cid
from store.draft import Draft
from store.file import EMPTY, File


class _Seekable(io.RawIOBase):
    def __init__(self) -> None:
        super().__init__()
        self._at = 0

    def _size(self) -> int:
        raise NotImplementedError

    def _read_at(self, offset: int, length: int) -> bytes:
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size()}.get(whence)
        if start is None:
            raise ValueError(f"whence may be 0, 1 or 2, not {whence}")
        at = start + offset
        if at < 0:
            raise ValueError(f"cannot seek to {at}")
        self._at = at
        return at

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        self._check_open()
        with memoryview(buffer).cast("B") as view:
            data = self._read_at(self._at, len(view))
            view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        self._check_open()
        data = self._read_at(self._at, max(0, self._size() - self._at))
        self._at += len(data)
        return data

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")


class Reader(_Seekable):
    """A stored file, open for reading."""

    def __init__(self, source: Nodes, file: File) -> None:
        super().__init__()
        self._source, self._file = source, file

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        raise io.UnsupportedOperation("open for reading; open_writer makes a new version")

    def truncate(self, size: int | None = None) -> int:
        raise io.UnsupportedOperation("open for reading; open_writer makes a new version")

    def _size(self) -> int:
        return self._file.size

    def _read_at(self, offset: int, length: int) -> bytes:
        return self._file.read_at(self._source, offset, length)


class Writer(_Seekable):
    """A file open for reading and writing. Edits stay in memory until `seal`; closing without it drops them."""

    def __init__(self, batch: Batch, file: File, chunker: Chunker) -> None:
        super().__init__()
        self._batch, self._chunker = batch, chunker
        self._draft = Draft(file)

    def _size(self) -> int:
        return self._draft.size

    def _read_at(self, offset: int, length: int) -> bytes:
        return self._draft.read_at(self._batch, offset, length)

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        self._check_open()
        data = bytes(data)
        self._draft.write(self._at, data)
        self._at += len(data)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        self._check_open()
        if size is not None and size < 0:
            raise ValueError(f"a file cannot have {size} bytes")
        self._draft.truncate(self._at if size is None else size)
        return self._draft.size

    def seal(self) -> File:
        """Put the file's blocks into the batch and return it; more edits may follow."""
        self._check_open()
        file = drafts.seal(self._draft, self._batch, self._chunker)
        self._draft = Draft(file)
        return file


def open_reader(source: Nodes, cid: Cid) -> Reader:
    """Open the content `cid`. Raises NotFound, WrongKind, Corrupt."""
    return Reader(source, files.of_cid(source, cid))


def open_writer(batch: Batch, cid: Cid | None, chunker: Chunker | None = None) -> Writer:
    """Open the content `cid`, or an empty file, for edits at any offset. Raises NotFound, WrongKind, Corrupt."""
    file = EMPTY if cid is None else files.of_cid(batch, cid)
    return Writer(batch, file, chunker or FastCdc())
