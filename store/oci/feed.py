"""A Feed: a compressed stream that is read decompressed, hashed on the way and held to its bounds."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import IO, Final, cast

import zstandard

from store.oci import limits
from store.oci.digest import Running
from store.oci.errors import BadImage

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = bytes(range(0x50, 0x60))  # how a zstd frame to be skipped begins
_SKIPPABLE_REST: Final = b"\x2a\x4d\x18"


class Feed:
    """Reads exactly as asked, from pieces of any size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self._before = 0  # bytes in the pieces before this one

    @property
    def position(self) -> int:
        """How many bytes were taken."""
        return self._before + self._at

    def pieces(self, length: int) -> Iterator[bytes]:
        """Yield the next `length` bytes in pieces. Raises BadImage if there are fewer."""
        while length:
            if self._at == len(self._piece) and not self._more():
                raise BadImage("the layer ends too early")
            data = self._piece[self._at : self._at + length] if self._at or length < len(self._piece) else self._piece
            self._at += len(data)
            length -= len(data)
            yield data

    def exactly(self, length: int) -> bytes:
        if len(self._piece) - self._at >= length:
            self._at += length
            return self._piece[self._at - length : self._at]
        return b"".join(self.pieces(length))

    def up_to(self, length: int) -> bytes:
        """Return `length` bytes; fewer only at the end."""
        while len(self._piece) - self._at < length:
            rest = self._piece[self._at :]
            if not self._more():
                self._piece, self._at = b"", 0
                return rest
            self._piece = rest + self._piece
            self._before -= len(rest)
        return self.exactly(length)

    def skip(self, length: int) -> None:
        for _ in self.pieces(length):
            pass

    def drain(self, length_max: int) -> None:
        """Read to the end. Raises BadImage if that is further than `length_max` bytes."""
        left = length_max - (len(self._piece) - self._at)
        while left >= 0 and self._more():
            left -= len(self._piece)
        if left < 0:
            raise BadImage(f"there are over {length_max} bytes behind the end of an archive")
        self._at = len(self._piece)

    def _more(self) -> bool:
        self._before += len(self._piece)
        self._piece, self._at = next(self._pieces, b""), 0
        return bool(self._piece)


def decompressed(source: Iterator[bytes], hashed: Running) -> Iterator[bytes]:
    """Yield what `source` holds, gzip, zstd or plain as its first bytes say, hashing it. Raises BadImage.

    Bounded: by `layer_bytes_max`, and by `ratio_max` times what was read once it is more than `ratio_free_bytes`.
    """
    read = made = 0

    def counted() -> Iterator[bytes]:
        nonlocal read
        for data in source:
            read += len(data)
            yield data

    for data in _decompressed(counted()):
        made += len(data)
        if made > limits.layer_bytes_max:
            raise BadImage(f"a layer is over {limits.layer_bytes_max} bytes when decompressed")
        if made > limits.ratio_free_bytes and made > read * limits.ratio_max:
            raise BadImage(f"a layer grows over {limits.ratio_max} times when decompressed; it is not believed")
        hashed.update(data)
        yield data


def _decompressed(source: Iterator[bytes]) -> Iterator[bytes]:
    first = b""
    for data in source:
        first += data
        if len(first) >= 4:
            break
    whole = _chained(first, source)
    if first.startswith(_GZIP):
        return _gunzipped(whole)
    if first.startswith(_ZSTD) or (first[:1] in _SKIPPABLE and first[1:4] == _SKIPPABLE_REST):
        return _unzstd(whole)
    return whole


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from filter(None, rest)


def _gunzipped(source: Iterator[bytes]) -> Iterator[bytes]:
    """A layer may be several gzip streams in a row: a lazily loaded one has one for each file."""
    stream = None
    try:
        for piece in source:
            data = piece
            while data:
                stream = stream or zlib.decompressobj(31)
                made = stream.decompress(data, limits.feed_bytes)
                if made:
                    yield made
                data = stream.unconsumed_tail
                if stream.eof:
                    data, stream = stream.unused_data, None
        while stream is not None and (made := stream.decompress(b"", limits.feed_bytes)):
            yield made
    except zlib.error as error:
        raise BadImage(f"the compressed layer is damaged ({error})") from None
    if stream is not None and not stream.eof:
        raise BadImage("the compressed layer ends too early")


def _unzstd(source: Iterator[bytes]) -> Iterator[bytes]:
    """One that is broken off is found by its digests: this reader does not tell."""
    unpacker = zstandard.ZstdDecompressor(max_window_size=limits.zstd_window_bytes_max)
    try:
        with unpacker.stream_reader(cast(IO[bytes], _File(source)), read_across_frames=True) as stream:
            while data := stream.read(limits.feed_bytes):
                yield data
    except zstandard.ZstdError as error:
        raise BadImage(f"the compressed layer is damaged ({error})") from None


class _File(io.RawIOBase):
    """What zstandard reads from."""

    def __init__(self, source: Iterator[bytes]) -> None:
        super().__init__()
        self._source = source
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        data = self._rest or next(self._source, b"")
        self._rest = data[size:] if size >= 0 else b""
        return data[:size] if size >= 0 else data
