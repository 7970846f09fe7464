"""Cutting file bytes into chunks: where a chunk ends depends on the bytes before its end and on nothing else."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Final, Protocol

from store import limits


class Chunker(Protocol):
    """`lengths(data, final)` yields the lengths of the chunks that `data` begins with.

    Only cuts that no later byte could move are made, so some bytes may remain at the end;
    with `final` the data ends here and everything is cut.
    """

    def lengths(self, data: memoryview, final: bool) -> Iterator[int]: ...


class FastCdc:
    """FastCDC (Xia et al., USENIX ATC 2016) as the compiled part of the `fastcdc` package does it.

    The hash starts anew at every cut, so cutting can start at any earlier cut.
    """

    def __init__(
        self,
        minimum: int = limits.chunk_bytes_min,
        average: int = limits.chunk_bytes_avg,
        maximum: int = limits.chunk_bytes_max,
    ) -> None:
        # The package's __init__ falls back to pure Python in silence; that would be 300 times slower.
        from fastcdc.fastcdc_cy import fastcdc_cy

        self._cut = fastcdc_cy
        self._sizes = (minimum, average, maximum)

    def lengths(self, data: memoryview, final: bool) -> Iterator[int]:
        minimum, average, maximum = self._sizes
        left = len(data)
        for chunk in self._cut(data, minimum, average, maximum):
            if chunk.length == left < maximum and not final:
                return  # the end of the data may have ended this chunk
            yield chunk.length
            left -= chunk.length


class Fixed:
    """Chunks of one size, for comparison in the benchmark."""

    def __init__(self, size: int = limits.chunk_bytes_avg) -> None:
        self._size = size

    def lengths(self, data: memoryview, final: bool) -> Iterator[int]:
        whole, rest = divmod(len(data), self._size)
        yield from [self._size] * whole
        if final and rest:
            yield rest


Piece = tuple[int, bytes | None]
"""(length, bytes), or (length, None) for a hole."""


class Cutter:
    """Turns a stream of bytes and holes into the one list of pieces that format v1 has for them.

    A run of zero bytes of at least `hole_bytes_min` is a hole, whether it was fed as bytes or as a hole;
    what lies between two holes is cut by the chunker, which starts anew after each hole.
    """

    def __init__(self, chunker: Chunker) -> None:
        self._chunker = chunker
        self._data = bytearray()  # not cut yet; does not end in a zero byte
        self._zeros = 0  # zero bytes after `_data`
        self._hole = _zeros(limits.hole_bytes_min)

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Add bytes; yields the pieces that are certain now."""
        position, size = 0, len(data)
        while position < size:
            start = _skip_zeros(data, position, self._hole)
            self._zeros += start - position
            if start == size:
                return
            if self._zeros:
                yield from self._end_zeros()
            end = data.find(self._hole, start)
            end = size if end < 0 else end
            body = data[start:end] if (start, end) != (0, size) else data
            stripped = body.rstrip(b"\0") if body[-1] == 0 else body
            self._zeros = len(body) - len(stripped)
            self._data += stripped
            yield from self._cut(final=False)
            position = end

    def settle(self) -> Iterator[Piece]:
        """Yield what is certain by now, also if little was fed since: `feed` waits until it is worth the time."""
        if self._data and not self._zeros:
            # A cut at the very end is certain too if any byte behind it leaves it where it is.
            yield from self._take(bytes(self._data), self._chunker.lengths(memoryview(self._data + b"\1"), False))

    def feed_hole(self, length: int) -> None:
        """Add `length` zero bytes without naming them."""
        self._zeros += length

    def finish(self) -> Iterator[Piece]:
        """The stream ends here: yields the pieces that are left."""
        if self._zeros:
            yield from self._end_zeros()
        yield from self._cut(final=True)

    def _end_zeros(self) -> Iterator[Piece]:
        if self._zeros >= limits.hole_bytes_min:
            yield from self._cut(final=True)
            yield self._zeros, None
        else:
            self._data += bytes(self._zeros)
        self._zeros = 0

    def _cut(self, final: bool) -> Iterator[Piece]:
        if not final and len(self._data) < limits.chunk_bytes_max:
            return
        data = bytes(self._data)
        yield from self._take(data, self._chunker.lengths(memoryview(data), final))

    def _take(self, data: bytes, lengths: Iterator[int]) -> Iterator[Piece]:
        done = 0
        for length in lengths:
            if done + length > len(data):
                break
            yield length, data[done : done + length]
            done += length
        del self._data[:done]


def whole(chunker: Chunker, data: bytes) -> Iterator[Piece]:
    """Yield the pieces of data that is all there: the same as a Cutter makes of it, with less copying."""
    if _zeros(limits.hole_bytes_min) in data:
        cutter = Cutter(chunker)
        yield from cutter.feed(data)
        yield from cutter.finish()
        return
    done = 0
    for length in chunker.lengths(memoryview(data), True):
        yield length, data[done : done + length]
        done += length


_zeros: Final = functools.lru_cache(maxsize=2)(bytes)  # the same zeros for every file


def _skip_zeros(data: bytes, position: int, zeros: bytes) -> int:
    """Return the offset of the first byte from `position` that is not zero."""
    if data[position]:
        return position
    step, size = len(zeros), len(data)
    while data.startswith(zeros, position):
        position += step
    tail = data[position : position + step]
    return min(position + len(tail) - len(tail.lstrip(b"\0")), size)
