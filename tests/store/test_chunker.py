"""Cutting: a cut depends on the bytes before it alone, holes on nothing but the zeros."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import file as files
from store import limits
from store.chunker import Chunker, Cutter, FastCdc, Fixed, Piece, whole
from tests.store.models import TinyCdc, examples, mixed, runs, tiny
from tests.vectors.reference import fastcdc

MIB = limits.MIB
CHUNKERS = [FastCdc(), FastCdc(64, 256, 1024), Fixed(), Fixed(1000), TinyCdc()]


def lengths(chunker: Chunker, data: bytes) -> list[int]:
    return list(chunker.lengths(memoryview(data), True))


def streamed(chunker: Chunker, data: bytes, sizes: Iterator[int]) -> list[int]:
    """Cut data that arrives in pieces of `sizes`."""
    found, held, at = [], b"", 0
    while at < len(data):
        size = next(sizes)
        held += data[at : at + size]
        at += size
        certain = list(chunker.lengths(memoryview(held), False))
        found += certain
        held = held[sum(certain) :]
    return found + lengths(chunker, held)


@pytest.mark.parametrize("chunker", CHUNKERS, ids=["fastcdc", "small fastcdc", "fixed", "fixed 1000", "tiny"])
@given(st.integers(0, 1 << 32), st.integers(0, 3 * MIB), st.lists(st.integers(1, 700_000), min_size=1, max_size=4))
@examples(25)
def test_streaming_equals_one_shot(chunker: Chunker, seed: int, size: int, feeds: list[int]) -> None:
    data = mixed(seed, size if not isinstance(chunker, TinyCdc) else size % 20_000)
    rng = random.Random(seed)
    assert streamed(chunker, data, iter(lambda: rng.choice(feeds), None)) == lengths(chunker, data)


@pytest.mark.parametrize("chunker", CHUNKERS, ids=["fastcdc", "small fastcdc", "fixed", "fixed 1000", "tiny"])
def test_cutting_starts_again_at_any_own_cut(chunker: Chunker) -> None:
    data = mixed(1, 5_000_000 if chunker is CHUNKERS[0] else 100_000)
    found = lengths(chunker, data)
    assert sum(found) == len(data)
    for index, at in list(enumerate(accumulate(found), 1))[:60]:
        assert lengths(chunker, data[at:]) == found[index:]


@pytest.mark.parametrize("chunker", CHUNKERS, ids=["fastcdc", "small fastcdc", "fixed", "fixed 1000", "tiny"])
def test_no_later_byte_moves_a_cut(chunker: Chunker) -> None:
    scale = 100 if isinstance(chunker, TinyCdc) else 1
    data, other = mixed(1, 2 * MIB // scale), mixed(2, 2 * MIB // scale)
    for size in (0, 1, 999, 65_536 // scale, 262_143 // scale, 262_144 // scale, 262_145 // scale, MIB // scale):
        certain = list(chunker.lengths(memoryview(data[:size]), False))
        for more in (b"", b"\0" * (300_000 // scale), data[size:], other):
            assert lengths(chunker, data[:size] + more)[: len(certain)] == certain


@pytest.mark.parametrize("inserted", [1, 100, 4096, 300_000])
@pytest.mark.parametrize("at", [0, 1, 8_000_000, 15_999_999])
def test_insertion_leaves_all_but_a_few_chunks(inserted: int, at: int) -> None:
    data = mixed(3, 16_000_000)
    changed = data[:at] + mixed(4, inserted) + data[at:]

    def chunks(whole: bytes) -> set[bytes]:
        ends = list(accumulate(lengths(FastCdc(), whole)))
        return {whole[start:end] for start, end in zip([0, *ends], ends)}

    new = chunks(changed) - chunks(data)
    assert len(new) <= 4 + inserted // limits.chunk_bytes_min
    assert sum(map(len, new)) <= inserted + 4 * limits.chunk_bytes_max


def test_fastcdc_is_the_algorithm_of_the_format() -> None:
    """The compiled cutter against the one that FORMAT.md describes, written out in Python."""
    chunker = FastCdc()
    for data in (mixed(5, 400_000), b"\xff" * 600_000, b"ab" * 150_000, mixed(6, 70_000) * 4, b"x" * 16_385, b"", b"x"):
        assert lengths(chunker, data) == list(fastcdc(data))
    for size in (0, 1, 63, 64, 65, 1023, 1024, 1025, 20_000):
        assert lengths(FastCdc(64, 256, 1024), mixed(7, size)) == list(fastcdc(mixed(7, size), 64, 256, 1024))


def test_fastcdc_sizes() -> None:
    found = lengths(FastCdc(), mixed(8, 40_000_000))[:-1]
    assert min(found) > limits.chunk_bytes_min and max(found) <= limits.chunk_bytes_max
    assert 0.9 < sum(found) / len(found) / limits.chunk_bytes_avg < 1.1


def test_fixed() -> None:
    assert lengths(Fixed(10), bytes(25)) == [10, 10, 5]
    assert list(Fixed(10).lengths(memoryview(bytes(25)), False)) == [10, 10]
    assert lengths(Fixed(10), b"") == []
    assert lengths(Fixed(), bytes(200_000)) == [65536, 65536, 65536, 3392]


# Holes


def pieces_of(chunker: Chunker, data: bytes, hole: int) -> list[Piece]:
    """What FORMAT.md says: runs of zeros that are long enough are holes; what is between them is cut by itself."""
    found: list[Piece] = []
    at = 0
    for run in [*re.finditer(rb"\0{%d,}" % hole, data), None]:
        body = data[at : run.start() if run else len(data)]
        start = 0
        for length in lengths(chunker, body):
            found.append((length, body[start : start + length]))
            start += length
        if run:
            found.append((run.end() - run.start(), None))
            at = run.end()
    return found


@given(st.lists(runs(150, 16), max_size=8).map(b"".join), st.data())
@examples(600)
def test_the_cutter_in_any_feeds(data: bytes, draw: st.DataObject) -> None:
    with tiny() as chunker:
        cutter, found, at = Cutter(chunker), list[Piece](), 0
        while at < len(data):
            size = draw.draw(st.integers(1, 90))
            piece = data[at : at + size]
            if not any(piece) and draw.draw(st.booleans()):
                cutter.feed_hole(len(piece))  # zeros may come named or not
            else:
                found += cutter.feed(piece)
            at += size
        found += cutter.finish()
        assert found == pieces_of(chunker, data, limits.hole_bytes_min) == list(whole(chunker, data))


@given(st.lists(runs(200_000, limits.hole_bytes_min), max_size=5).map(b"".join), st.integers(1, 400_000))
@examples(60)
def test_the_cutter_in_the_real_format(data: bytes, feed: int) -> None:
    chunker = FastCdc()
    stream = ((len(part), part) for part in (data[at : at + feed] for at in range(0, len(data), feed)))
    assert list(files.cut(chunker, stream)) == pieces_of(chunker, data, limits.hole_bytes_min)
    assert list(whole(chunker, data)) == pieces_of(chunker, data, limits.hole_bytes_min)


@pytest.mark.parametrize("zeros", [limits.hole_bytes_min - 1, limits.hole_bytes_min, limits.hole_bytes_min + 1])
@pytest.mark.parametrize("before", [0, 1, 16_385, 262_144, 300_000])
@pytest.mark.parametrize("after", [0, 1, 300_000])
def test_a_hole_is_exactly_as_long_as_its_zeros(zeros: int, before: int, after: int) -> None:
    head, tail = b"\1" * before, b"\1" * after
    found = list(files.cut(FastCdc(), iter([(0, head), (zeros, bytes(zeros)), (0, tail)])))
    assert b"".join(bytes(n) if data is None else data for n, data in found) == head + bytes(zeros) + tail
    holes = [length for length, data in found if data is None]
    assert holes == ([zeros] if zeros >= limits.hole_bytes_min else [])


def test_holes_of_any_length_take_no_memory() -> None:
    tib = 1 << 40
    stream = iter([(tib, None), (1, b"\0"), (tib, None), (1, b"x"), (tib, None)])
    assert list(files.cut(FastCdc(), stream)) == [(2 * tib + 1, None), (1, b"x"), (tib, None)]
    assert list(files.cut(FastCdc(), iter([]))) == []
