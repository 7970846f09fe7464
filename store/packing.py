"""How a store keeps a block's bytes: plain, or compressed with zstd. The CID is over the plain bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import zstandard

from store import limits
from store.cid import Cid
from store.errors import Corrupt

_PLAIN, _ZSTD = b"\0", b"\1"
_LEVEL: Final = 1
_WORTH_IT: Final = 0.95  # a block that zstd leaves larger than this stays plain


class Compressors:
    """zstd on every core for a batch, on this thread for a few blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: _Threads | None = None

    def pack(self, blocks: list[bytes]) -> dict[int, bytes]:
        """Return the stored form of each block by the id() of its bytes (the caller keeps them alive)."""
        if sum(map(len, blocks)) < 4 * limits.MIB:
            return _all_packed(blocks)
        share = 4 * len(os.sched_getaffinity(0))  # a few turns for each core: one block at a time costs more than zstd
        done: dict[int, bytes] = {}
        for some in self._started().map(_all_packed, [blocks[i::share] for i in range(share)]):
            done.update(some)
        return done

    def close(self) -> None:
        with self._lock:
            if self._threads is not None:
                self._threads.shutdown()

    def _started(self) -> _Threads:
        with self._lock:
            if self._threads is None:
                from concurrent.futures import ThreadPoolExecutor

                self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="monofs-zstd")
            return self._threads


class _Threads(Protocol):
    def map(
        self, fn: Callable[[list[bytes]], dict[int, bytes]], blocks: Iterable[list[bytes]]
    ) -> Iterator[dict[int, bytes]]: ...
    def shutdown(self) -> None: ...


_local = threading.local()


def _all_packed(blocks: list[bytes]) -> dict[int, bytes]:
    return {id(data): packed(data) for data in blocks}


def packed(data: bytes) -> bytes:
    """The stored form: one byte that says how, then the bytes."""
    if not hasattr(_local, "zstd"):
        _local.zstd = zstandard.ZstdCompressor(level=_LEVEL)
    small: bytes = _local.zstd.compress(data)
    if len(small) < len(data) * _WORTH_IT:
        return _ZSTD + small
    return _PLAIN + data


def unpacked(cid: Cid, value: bytes) -> bytes:
    if value[:1] == _PLAIN:
        return value[1:]
    if value[:1] != _ZSTD:
        raise Corrupt(cid, f"unknown storage form {value[:1].hex() or 'none'}")
    if not hasattr(_local, "unzstd"):
        _local.unzstd = zstandard.ZstdDecompressor()
    try:
        if plain_bytes(value) > limits.block_bytes_max:
            raise Corrupt(cid, "it would unpack to more than a block may hold")
        data: bytes = _local.unzstd.decompress(memoryview(value)[1:])
        return data
    except zstandard.ZstdError as error:
        raise Corrupt(cid, str(error)) from None


def plain_bytes(value: bytes) -> int:
    if value[:1] != _ZSTD:
        return max(0, len(value) - 1)
    try:
        return int(zstandard.frame_content_size(memoryview(value)[1:]))
    except zstandard.ZstdError:
        return 0
