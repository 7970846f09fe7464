"""Decompression as a stream, and its bounds."""

from __future__ import annotations

import gzip
import random
import struct
import subprocess
from collections.abc import Iterator

import pytest
import zstandard

from store.oci import limits
from store.oci.digest import Running
from store.oci.errors import BadImage
from store.oci.feed import Feed, decompressed
from tests.oci.layouts import sha


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def unpacked(data: bytes, size: int = 1000) -> bytes:
    return b"".join(decompressed(pieces(data, size), Running(sha(b""))))


def frames(data: bytes) -> bytes:
    """Zstandard as `zstd:chunked` writes it: several frames, and some to be skipped."""
    skip = b"\x50\x2a\x4d\x18" + struct.pack("<I", 5) + b"hello"
    half = len(data) // 2
    pack = zstandard.ZstdCompressor().compress
    return skip + pack(data[:half]) + skip + pack(data[half:]) + skip


def members(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(b"") + gzip.compress(data[half:])


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
@pytest.mark.parametrize("form", [bytes, gzip.compress, members, zstandard.ZstdCompressor().compress, frames])
def test_every_form_in_pieces_of_every_size(form: object, size: int, rng: random.Random) -> None:
    data = b"start" + rng.randbytes(3000) + bytes(50_000)
    assert callable(form)
    assert unpacked(form(data), size) == data


def test_what_is_hashed_is_what_comes_out() -> None:
    data = bytes(range(256)) * 100
    running = Running(sha(data))
    for _ in decompressed(iter([gzip.compress(data)]), running):
        pass
    running.verify("it")
    with pytest.raises(BadImage, match="not what was promised"):
        Running(sha(data)).verify("it")


def test_what_is_damaged() -> None:
    whole = gzip.compress(random.Random(1).randbytes(10_000))
    for bad in (whole[:-1], whole[:100], whole[:-4] + b"\0\0\0\0", whole[:500] + b"\xff" * 10 + whole[510:]):
        with pytest.raises(BadImage):
            unpacked(bad)
    with pytest.raises(BadImage):
        unpacked(whole + b"garbage")
    zstd = zstandard.ZstdCompressor(write_checksum=True).compress(random.Random(1).randbytes(10_000))
    with pytest.raises(BadImage):
        unpacked(zstd[:-2] + b"\0\0")
    assert unpacked(b"") == b""


def test_a_window_that_would_fill_memory() -> None:
    """The program asks for 1 GiB here, for its reader's memory."""
    made = subprocess.run(["zstd", "--ultra", "-22", "--long=30"], input=bytes(1000), capture_output=True, check=True)
    with pytest.raises(BadImage, match="too much memory"):
        unpacked(made.stdout)


@pytest.mark.parametrize("form", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_bomb_is_stopped_while_it_goes_off(form: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ratio_free_bytes", 1 << 20)
    assert callable(form)
    bomb = form(bytes(20 << 20))
    made = largest = 0
    with pytest.raises(BadImage, match="over 200 times"):
        for data in decompressed(iter([bomb]), Running(sha(b""))):
            made += len(data)
            largest = max(largest, len(data))
    assert made < 9 << 20
    assert largest <= limits.feed_bytes
    monkeypatch.setattr(limits, "ratio_max", 1 << 30)
    monkeypatch.setattr(limits, "layer_bytes_max", 3 << 20)
    with pytest.raises(BadImage, match="is over"):
        unpacked(bomb)


def test_reading_exactly(rng: random.Random) -> None:
    data = rng.randbytes(5000)
    feed = Feed(pieces(data, 333))
    at = 0
    while at < 4000:
        size = rng.randrange(400)
        take = rng.choice([feed.exactly, feed.up_to, lambda n: b"".join(feed.pieces(n))])
        assert take(size) == data[at : at + size]
        at += size
        assert feed.position == at
    assert feed.up_to(10_000) == data[at:]
    assert feed.position == 5000
    assert feed.up_to(1) == b""
    with pytest.raises(BadImage, match="too early"):
        feed.exactly(1)


def test_draining_has_a_bound() -> None:
    Feed(pieces(bytes(1000), 10)).drain(1000)
    with pytest.raises(BadImage):
        Feed(pieces(bytes(1001), 10)).drain(1000)
    with pytest.raises(BadImage):
        Feed(pieces(bytes(1001), 5000)).drain(1000)
