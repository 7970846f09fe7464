"""A File: the stored content of one file, readable at any offset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from store import limits, tree
from store.batch import Batch, Nodes
from store.chunker import Chunker, Cutter, Piece, whole
from store.cid import Cid
from store.entry import Entry
from store.errors import Corrupt, WrongKind
from store.nodes import FILE, Item

STREAM_BYTES: Final = 1 * limits.MIB  # bytes are handed on in pieces of this size


class Span(NamedTuple):
    """A chunk of a file in its place; with `cid` None, a hole."""

    start: int
    end: int
    cid: Cid | None

    def bytes(self, source: Nodes) -> bytes:
        """Return the bytes of a chunk. Raises NotFound, Corrupt."""
        assert self.cid is not None
        return _chunk(source, self.cid, self.end - self.start)


class File(NamedTuple):
    """`content` is the bytes of a tiny file, the CID of its one chunk or of a tree of chunks; None: all is hole."""

    size: int = 0
    holes: int = 0
    content: bytes | Cid | None = None

    @classmethod
    def of(cls, entry: Entry) -> File:
        if entry.kind != "file":
            raise WrongKind(f"a {entry.kind}, not a file")
        return cls(entry.size, entry.holes, entry.data)

    def read_at(self, source: Nodes, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer only at the end of the file. Raises NotFound, Corrupt."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        if self.content is None:
            return bytes(end - offset)
        if not isinstance(self.content, Cid):
            return self.content[offset:end]
        if not self.content.is_node:
            return _chunk(source, self.content, self.size)[offset:end]
        return _joined(self._slices(source, offset, end))

    def pieces(self, source: Nodes, start: int, end: int) -> Iterator[Piece]:
        """Yield the bytes and holes from `start` to `end`, each piece of bytes at most `STREAM_BYTES` long."""
        end = min(end, self.size)
        if start >= end:
            return
        if isinstance(self.content, Cid) and self.content.is_node:
            yield from self._slices(source, start, end)
        elif self.content is None:
            yield end - start, None
        else:
            yield end - start, self.read_at(source, start, end - start)

    def _slices(self, source: Nodes, start: int, end: int) -> Iterator[Piece]:
        """Yield what each item of the content tree has between `start` and `end`."""
        assert isinstance(self.content, Cid)
        at = start
        for item_end, (length, cid) in tree.seek(source, FILE, self.content, start + 1):
            stop = min(item_end, end)
            if cid is None:
                yield stop - at, None
            else:
                data = _chunk(source, cid, length)
                item_start = item_end - length
                yield stop - at, data[at - item_start : stop - item_start]
            at = stop
            if at == end:
                return
        raise Corrupt(self.content, f"the content ends at byte {at} of {self.size}")

    def spans(self, source: Nodes, start: int) -> Iterator[Span]:
        """Yield the chunks and holes of a content tree from the one that holds the byte at `start`."""
        assert isinstance(self.content, Cid)
        for end, (length, cid) in tree.seek(source, FILE, self.content, start + 1):
            yield Span(end - length, end, cid)

    def span_at(self, source: Nodes, offset: int) -> Span:
        """Return the chunk or hole of a content tree that holds the byte at `offset`, which is not after the last."""
        for span in self.spans(source, offset):
            return span
        assert isinstance(self.content, Cid)
        raise Corrupt(self.content, f"there is no byte {offset} of {self.size}")

    def items(self, source: Nodes, start: int, end: int) -> Iterator[tuple[int, Item]]:
        """Yield (end, item) of the content between two boundaries, as the leaves of a content tree hold them."""
        if isinstance(self.content, Cid) and self.content.is_node:
            for item_end, item in tree.seek(source, FILE, self.content, start + 1):
                if item_end > end:
                    return
                yield item_end, item


EMPTY: Final = File()


def from_pieces(batch: Batch, pieces: Iterator[Piece]) -> File:
    """Return the File of a stream that a Cutter cut: tiny files inline, one chunk bare, more as a tree."""
    first = next(pieces, None)
    if first is None:
        return EMPTY
    second = next(pieces, None)
    if second is None:
        return _single(batch, *first)
    return _many(batch, first, second, pieces)


def _single(batch: Batch, length: int, data: bytes | None) -> File:
    if data is None:
        return File(length, length, None)
    if length <= limits.inline_bytes_max:
        return File(length, 0, data)
    return File(length, 0, batch.put_raw(data))


def _many(batch: Batch, first: Piece, second: Piece, rest: Iterator[Piece]) -> File:
    size = holes = 0

    def pairs() -> Iterator[tuple[int, Item]]:
        nonlocal size, holes
        for length, data in _chain(first, second, rest):
            size += length
            if data is None:
                holes += length
            yield size, [length, None if data is None else batch.put_raw(data)]

    root = tree.build(batch, FILE, pairs())
    return File(size, holes, root)


def _chain(first: Piece, second: Piece, rest: Iterator[Piece]) -> Iterator[Piece]:
    yield first
    yield second
    yield from rest


def from_bytes(batch: Batch, chunker: Chunker, data: bytes) -> File:
    """Store `data` as a file."""
    return from_pieces(batch, whole(chunker, data))


def from_stream(batch: Batch, chunker: Chunker, stream: Iterator[Piece]) -> File:
    """Store a stream of bytes and holes as a file; holds no more of it in memory than the cutter needs."""
    return from_pieces(batch, cut(chunker, stream))


def cut(chunker: Chunker, stream: Iterator[Piece]) -> Iterator[Piece]:
    """Yield the pieces that a stream of bytes and holes is stored as."""
    cutter = Cutter(chunker)
    for length, data in stream:
        if data is None:
            cutter.feed_hole(length)
        else:
            yield from cutter.feed(data)
    yield from cutter.finish()


def of_cid(source: Nodes, cid: Cid) -> File:
    """Return the File whose content is `cid`: a chunk or a tree of chunks. Raises WrongKind, NotFound, Corrupt."""
    if not cid.is_node:
        return File(len(source.get(cid)), 0, cid)
    size, holes = tree.totals(source, FILE, cid)
    return File(size, holes, cid)


def _chunk(source: Nodes, cid: Cid, length: int) -> bytes:
    data = source.get(cid)
    if len(data) != length:
        raise Corrupt(cid, f"a chunk of {len(data)} bytes where {length} were promised")
    return data


def _joined(slices: Iterator[Piece]) -> bytes:
    return b"".join(bytes(length) if data is None else data for length, data in slices)
