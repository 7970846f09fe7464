"""What the tests of the format share: stores in memory, a tiny format in which every boundary is near, test data."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from store import limits
from store.batch import Batch
from store.blocks import Change
from store.cache import Cache
from store.chunker import Chunker
from store.cid import BLAKE3, Algorithm
from store.memory_store import MemoryStore

settings.register_profile(
    "format",
    deadline=None,
    print_blob=True,  # a failure prints what replays it
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def examples(count: int) -> settings:
    """MONOFS_EXAMPLES=20 in the environment tries twenty times as many."""
    return settings(settings.get_profile("format"), max_examples=count * int(os.environ.get("MONOFS_EXAMPLES", "1")))


def new_batch(algorithm: Algorithm = BLAKE3) -> Batch:
    return Batch(Cache(MemoryStore(algorithm)))


def stored(batch: Batch) -> Cache:
    """Return a reader of a store that holds what `batch` made."""
    store = MemoryStore(batch.algorithm)
    store.apply(Change(batch.blocks))
    return Cache(store)


class TinyCdc:
    """A content-defined chunker with the same promises as FastCdc and chunks of 5 to 64 bytes."""

    minimum, maximum, mask = 4, 64, 0x0F
    gear = random.Random(20240229).sample(range(1 << 31), 256)

    def lengths(self, data: memoryview, final: bool) -> Iterator[int]:
        at = 0
        while at < len(data) and (final or len(data) - at >= self.maximum):
            length = self._length(data[at : at + self.maximum])
            yield length
            at += length

    def _length(self, data: memoryview) -> int:
        pattern = 0
        for index in range(self.minimum, len(data)):
            pattern = (pattern >> 1) + self.gear[data[index]]
            if not pattern & self.mask:
                return index + 1
        return len(data)


TINY = {
    "chunk_bytes_max": TinyCdc.maximum,
    "hole_bytes_min": 16,
    "inline_bytes_max": 8,
    "node_items_min": 2,
    "node_boundary_mask": 3,
    "node_bytes_soft": 700,
    "draft_extent_bytes_max": 32,
}


@contextmanager
def tiny(**changes: int) -> Iterator[Chunker]:
    """The format with all sizes cut down, so that a few hundred bytes have many chunks, holes and nodes."""
    with mock.patch.multiple(limits, **{**TINY, **changes}):
        yield TinyCdc()


def mixed(seed: int, size: int) -> bytes:
    """Random bytes that differ with the seed."""
    return random.Random(seed).randbytes(size)


def runs(longest: int, hole: int) -> st.SearchStrategy[bytes]:
    """Bytes that make chunkers and holes sweat: random, constant, and runs of zeros about as long as a hole."""
    size = st.integers(1, longest)
    zeros = st.sampled_from([1, 2, hole - 2, hole - 1, hole, hole + 1, 2 * hole - 1, 2 * hole]).map(bytes)
    noise = st.builds(mixed, st.integers(0, 255), size)
    same = st.builds(lambda byte, n: bytes((byte,)) * n, st.sampled_from([1, 255]), size)
    return st.one_of(noise, zeros, size.map(bytes), same)
