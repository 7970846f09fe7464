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
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size()}[whence]
        if at < 0:
            raise ValueError(f"cannot seek to {at}")
        self._at = at
        return at

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        data = self._read_at(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Reader(_Seekable):
    """A stored file, open for reading."""

    def __init__(self, source: Nodes, file: File) -> None:
        super().__init__()
        self._source, self._file = source, file

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
        self._draft.write(self._at, bytes(data))
        self._at += len(data)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        self._draft.truncate(self._at if size is None else size)
        return self._draft.size

    def seal(self) -> File:
        """Put the file's blocks into the batch and return it; more edits may follow."""
        file = drafts.seal(self._draft, self._batch, self._chunker)
        self._draft = Draft(file)
        return file


def open_reader(source: Nodes, cid: Cid) -> Reader:
    """Open the content `cid`. Raises NotFound, WrongKind, Corrupt."""
    return Reader(source, files.of_cid(source, cid))


def open_writer(batch: Batch, cid: Cid | None, chunker: Chunker | None = None) -> Writer:
    """Open the content `cid`, or an empty file, for edits at any offset."""
    file = EMPTY if cid is None else files.of_cid(batch, cid)
    return Writer(batch, file, chunker or FastCdc())
