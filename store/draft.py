"""Edits to one file that are not stored yet."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from store import file as files
from store import limits, tree
from store.batch import Batch, Nodes
from store.chunker import Chunker, Cutter, Piece
from store.cid import Cid
from store.errors import Corrupt, TooLarge
from store.file import EMPTY, File, Span
from store.nodes import FILE, Item

Range = tuple[int, int]


class Draft:
    """A file as it is now: `base`, with bytes written over it.

    The extents are sorted and never overlap. Of the base only the first `base_end` bytes can be seen; what lies
    beyond them and in no extent is zero.
    """

    def __init__(self, base: File | Draft = EMPTY) -> None:
        self.base: File | Draft = base
        self.size: int = base.size
        self.bytes = 0  # held in memory
        self._base_end = base.size
        self._starts: list[int] = []
        self._extents: list[bytearray] = []

    @property
    def is_clean(self) -> bool:
        """True if this is the same as its base."""
        return not self._starts and self.size == self._base_end == self.base.size

    # Editing

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`, extending the file with zeros if it starts beyond the end. Raises TooLarge."""
        if not data:
            return
        end = offset + len(data)
        if end > limits.file_bytes_max:
            raise TooLarge(f"a file cannot hold {end} bytes")
        if not self._write_inside(offset, data):
            self._clear(offset, end)
            self._insert(offset, data)
        self.size = max(self.size, end)

    def truncate(self, size: int) -> None:
        """Cut the file off at `size`, or extend it with zeros. Raises TooLarge."""
        if size > limits.file_bytes_max:
            raise TooLarge(f"a file cannot hold {size} bytes")
        if size < self.size:
            self._clear(size, self.size)
            self._base_end = min(self._base_end, size)
        self.size = size

    def _write_inside(self, offset: int, data: bytes) -> bool:
        """Overwrite within the extent that holds all of the range, or append to the one that ends there."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return False
        start, extent = self._starts[index], self._extents[index]
        at, end = offset - start, offset - start + len(data)
        if end <= len(extent):
            extent[at:end] = data
            return True
        if (
            at == len(extent)
            and end <= limits.draft_extent_bytes_max
            and not self._overlaps(index + 1, offset + len(data))
        ):
            extent += data
            self.bytes += len(data)
            return True
        return False

    def _overlaps(self, index: int, end: int) -> bool:
        return index < len(self._starts) and self._starts[index] < end

    def _insert(self, offset: int, data: bytes) -> None:
        index = bisect_left(self._starts, offset)
        self._starts.insert(index, offset)
        self._extents.insert(index, bytearray(data))
        self.bytes += len(data)

    def _clear(self, start: int, end: int) -> None:
        """Forget what extents hold between `start` and `end`."""
        first = bisect_right(self._starts, start) - 1
        if first < 0 or self._starts[first] + len(self._extents[first]) <= start:
            first += 1
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        kept: list[tuple[int, bytearray]] = []
        head_start, head = self._starts[first], self._extents[first]
        if head_start < start:
            kept.append((head_start, head[: start - head_start]))
        tail_start, tail = self._starts[last - 1], self._extents[last - 1]
        if tail_start + len(tail) > end:
            kept.append((end, tail[end - tail_start :]))
        self.bytes -= sum(map(len, self._extents[first:last])) - sum(len(data) for _, data in kept)
        self._starts[first:last] = [at for at, _ in kept]
        self._extents[first:last] = [data for _, data in kept]

    # Reading

    def read_at(self, source: Nodes, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer only at the end of the file."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        return b"".join(bytes(n) if data is None else data for n, data in self.pieces(source, offset, end))

    def pieces(self, source: Nodes, start: int, end: int) -> Iterator[Piece]:
        """Yield the bytes and holes from `start` to `end`."""
        end = min(end, self.size)
        index = bisect_right(self._starts, start) - 1
        if index < 0 or self._starts[index] + len(self._extents[index]) <= start:
            index += 1
        while start < end:
            if index == len(self._starts) or self._starts[index] >= end:
                yield from self._below(source, start, end)
                return
            extent_start, extent = self._starts[index], self._extents[index]
            if start < extent_start:
                yield from self._below(source, start, extent_start)
                start = extent_start
            stop = min(end, extent_start + len(extent))
            yield stop - start, bytes(extent[start - extent_start : stop - extent_start])
            start = stop
            index += 1

    def instead_of(self, source: Nodes, old: Span) -> Iterator[Piece]:
        """Yield what lies where the base has `old`."""
        start, end = old.start, min(old.end, self.size)
        first = bisect_right(self._starts, start) - 1
        if first < 0 or self._starts[first] + len(self._extents[first]) <= start:
            first += 1
        last = bisect_left(self._starts, end)
        extents = self._extents[first:last]
        if old.cid is None or old.end > self._base_end or sum(map(len, extents)) >= end - start:
            yield from self.pieces(source, start, end)
            return
        data = bytearray(old.bytes(source))
        for at, extent in zip(self._starts[first:last], extents, strict=True):
            left, right = max(at, start), min(at + len(extent), end)
            data[left - start : right - start] = memoryview(extent)[left - at : right - at]
        yield len(data), bytes(data)

    def _below(self, source: Nodes, start: int, end: int) -> Iterator[Piece]:
        visible = min(end, self._base_end)
        if start < visible:
            yield from self.base.pieces(source, start, visible)
        if visible < end:
            yield end - max(start, visible), None

    # What changed

    def touched(self) -> list[Range]:
        """Return the ranges where this may differ from its base, in order and apart.

        If the size is another one, a range begins at the end of the base or before.
        """
        ranges = [(at, at + len(data)) for at, data in zip(self._starts, self._extents, strict=True)]
        if self._base_end < self.base.size or self.size != self.base.size:
            ranges.append((min(self._base_end, self.size), max(self.size, self.base.size)))
        return _joined(sorted(ranges))

    def rebased(self, base: File) -> Draft:
        """Return the same edits over `base`, which must have the content of the present base."""
        self.base = base
        return self

    def folded(self) -> Draft:
        """Return this draft and the draft it lies on as one; both must not be used any more."""
        below = self.base
        assert isinstance(below, Draft)
        if self._base_end < below.size:
            below.truncate(self._base_end)
        for start, extent in zip(self._starts, self._extents, strict=True):
            below.write(start, bytes(extent))
        below.truncate(self.size)
        return below


def seal(draft: Draft, batch: Batch, chunker: Chunker) -> File:
    """Store the file that `draft` shows; chunks that the edits did not reach are neither read nor cut again.

    The result is the same, to the CID, as storing these bytes afresh.
    """
    base = draft.base
    assert isinstance(base, File)
    if draft.is_clean:
        return base
    if not (isinstance(base.content, Cid) and base.content.is_node) or not draft.size:
        return files.from_stream(batch, chunker, _streamed(draft.pieces(batch, 0, draft.size)))
    changes: dict[int, Item | None] = {}
    ranges, done = draft.touched(), 0
    while done < len(ranges):
        done = _recut(draft, base, batch, chunker, ranges, done, changes)
    return _collapsed(batch, draft.size, tree.edit(batch, FILE, base.content, changes))


def _recut(
    draft: Draft,
    base: File,
    batch: Batch,
    chunker: Chunker,
    ranges: list[Range],
    done: int,
    changes: dict[int, Item | None],
) -> int:
    """Cut anew from the first range that is not done until new cuts meet old ones. Returns how many are done then."""
    start = at = _first_cut(base, batch, ranges[done][0])
    old_ends: set[int] = set()
    for length, data in _cut(draft, base, batch, chunker, start, ranges, done, old_ends):
        at += length
        changes[at] = [length, None if data is None else batch.put_raw(data)]
        while done < len(ranges) and ranges[done][1] <= at:
            done += 1
        if at in old_ends and at < base.size and not _is_due(base, batch, ranges, done, at):
            break
    else:
        at, done = max(draft.size, base.size), len(ranges)
    for end, _ in base.items(batch, start, at):
        changes.setdefault(end, None)
    return done


def _is_due(base: File, batch: Batch, ranges: list[Range], done: int, at: int) -> bool:
    """True if the next range is begun already, or would have cutting start again from `at` or before."""
    return done < len(ranges) and (ranges[done][0] <= at or _first_cut(base, batch, ranges[done][0]) <= at)


def _first_cut(base: File, batch: Batch, touched: int) -> int:
    """Return the last old boundary that stays one whatever becomes of the bytes from `touched` on.

    A run of zeros that ends at `touched` may become a hole, or part of one: a chunk that begins inside it will not.
    And a chunk that ends there may have done so because of the hole behind it.
    """
    if not touched:
        return 0
    span = base.span_at(batch, touched - 1)
    if span.cid is not None and span.bytes(batch)[: touched - span.start].rstrip(b"\0"):
        return span.start
    return base.span_at(batch, max(0, touched - limits.hole_bytes_min)).start


def _cut(
    draft: Draft,
    base: File,
    batch: Batch,
    chunker: Chunker,
    start: int,
    ranges: list[Range],
    done: int,
    old_ends: set[int],
) -> Iterator[Piece]:
    """Yield the new pieces from `start` on; tells in `old_ends` where the old ones end that it has passed."""
    cutter = Cutter(chunker)
    for old in base.spans(batch, start):
        if old.start >= draft.size:
            break
        yield from _fed(cutter, draft.instead_of(batch, old))
        old_ends.add(old.end)
        while done < len(ranges) and ranges[done][1] <= old.end:
            done += 1
        if done == len(ranges) or ranges[done][0] >= old.end:  # the edits are behind us: maybe here
            yield from cutter.settle()
    yield from _fed(cutter, _streamed(draft.pieces(batch, max(start, base.size), draft.size)))
    yield from cutter.finish()


def _fed(cutter: Cutter, pieces: Iterator[Piece]) -> Iterator[Piece]:
    for length, data in pieces:
        if data is None:
            cutter.feed_hole(length)
        else:
            yield from cutter.feed(data)


def _streamed(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Join small pieces of bytes: the cutter copies what it holds at each feed."""
    held: list[bytes] = []
    size = 0
    for length, data in pieces:
        if data is not None and size + length <= limits.chunk_bytes_max:
            held.append(data)
            size += length
            continue
        if held:
            yield size, b"".join(held)
            held, size = [], 0
        if data is None or length > limits.chunk_bytes_max:
            yield length, data
        else:
            held, size = [data], length
    if held:
        yield size, b"".join(held)


def _collapsed(batch: Batch, size: int, root: Cid | None) -> File:
    """A tree of a single piece is not a tree: it is the chunk, the hole or the tiny file."""
    assert root is not None
    node = tree.load(batch, FILE, root)
    if node.level == 0 and len(node.items) == 1:
        cid = node.items[0][1]
        if cid is None:
            return File(size, size, None)
        return File(size, 0, batch.get(cid) if size <= limits.inline_bytes_max else cid)
    length, holes = node.totals
    if length != size:
        raise Corrupt(root, f"a file of {size} bytes has content of {length}")
    return File(size, holes, root)


def _joined(ranges: list[Range]) -> list[Range]:
    out: list[Range] = []
    for start, end in ranges:
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out
