"""What the tests of the format share: stores in memory, a tiny format in which every boundary is near, test data."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from store import codec, limits
from store.batch import Batch
from store.blocks import Change
from store.cache import Cache
from store.chunker import Chunker
from store.cid import BLAKE3, Algorithm, Cid
from store.codec import Doc
from store.importer import Imported, import_directory
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
        while at < len(data):
            length = self._length(data[at : at + self.maximum])
            if at + length == len(data) and length < self.maximum and not final:
                return
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
    "inline_bytes_max": TinyCdc.minimum,  # or a file so small could have two chunks
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


# Forged blocks: good nodes with something wrong in them, linked as if nothing were wrong


DEEP = "a list in a list in a list and so on"  # stands for one that no recursion survives, not even that of repr()


def deep() -> list[object]:
    doc: list[object] = []
    for _ in range(3000):
        doc = [doc]
    return doc


JUNK: list[object] = [
    None, True, False, 0, 1, -1, 24, 0o10000, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 64), 0.0, 1.5,
    b"", b".", b"..", b"a/b", b"\0", b"a" * 256, b"zz", b"\xff" * 40, "", "file", "dir", "symlink", "char", "x\n",
    [], [[]], [0, 0], [b"a", b"b"], [[b"a", b"b"]], {}, {"kind": "dir"}, {"mode": 0, "mtime": 0}, DEEP,
    BLAKE3.raw(b"nowhere"), BLAKE3.node(b"nowhere"),
]  # fmt: skip


def places(doc: object, at: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Yield the way to every value in a document, from the outside in."""
    yield at
    if isinstance(doc, (list, dict)) and len(at) < 8:
        for key, inner in doc.items() if isinstance(doc, dict) else enumerate(doc):
            yield from places(inner, (*at, key))


def forged(data: st.DataObject, doc: Doc) -> Doc:
    """Return the document with one thing changed, put in, doubled or taken out."""
    way = data.draw(st.sampled_from(list(places(doc))), "place")
    how = data.draw(st.sampled_from(["replace", "replace", "remove", "double", "swap", "add", "nudge"]), "how")
    junk = data.draw(st.sampled_from(JUNK), "junk")
    return _changed(doc, way, how, deep() if junk is DEEP else junk)


def _changed(doc: Doc, way: tuple[object, ...], how: str, junk: object) -> Doc:
    if not way:
        return junk
    copy = dict(doc) if isinstance(doc, dict) else list(doc)
    key = way[0]
    if len(way) > 1:
        copy[key] = _changed(copy[key], way[1:], how, junk)
    elif how == "remove":
        del copy[key]
    elif how == "nudge" and type(copy[key]) is int:
        copy[key] -= 1
    elif how == "nudge" and type(copy[key]) is bytes:
        copy[key] += b"\0"
    elif how == "add" and isinstance(copy, dict):
        copy["extra"] = junk
    elif how == "swap" and isinstance(copy, list):
        copy[key], copy[-1] = copy[-1], copy[key]
    elif how in ("double", "add") and isinstance(copy, list):
        copy.insert(key, copy[key] if how == "double" else junk)
    else:
        copy[key] = junk
    return copy


def nodes_below(batch: Batch, root: Cid) -> list[Cid]:
    """Return all nodes from `root` down, each once."""
    found: dict[Cid, None] = {root: None}
    for cid in iter_growing(found):
        found.update(dict.fromkeys(sorted(link for link in codec.links(cid, batch.get(cid)) if link.is_node)))
    return list(found)


def iter_growing(found: dict[Cid, None]) -> Iterator[Cid]:
    done = 0
    while done < len(found):
        yield list(found)[done]
        done += 1


def with_forged_node(data: st.DataObject, batch: Batch, root: Cid) -> Cid:
    """Return the root of the same tree, in which one node was forged and all above it link to the forgery."""
    victim = data.draw(st.sampled_from(nodes_below(batch, root)), "node")
    return _relinked(batch, root, victim, batch.put_doc(forged(data, codec.decode(victim, batch.get(victim)))))


def _relinked(batch: Batch, cid: Cid, old: Cid, new: Cid) -> Cid:
    if cid == old:
        return new
    doc = codec.decode(cid, batch.get(cid))
    for link in codec.links(cid, batch.get(cid)):
        if link.is_node:
            doc = _replaced(doc, link, _relinked(batch, link, old, new))
    return batch.put_doc(doc)


def _replaced(doc: Doc, old: Cid, new: Cid) -> Doc:
    match doc:
        case list():
            return [_replaced(item, old, new) for item in doc]
        case dict():
            return {key: _replaced(value, old, new) for key, value in doc.items()}
    return new if isinstance(doc, Cid) and doc == old else doc


def imported(path: Path) -> tuple[Cache, Imported]:
    """Import a directory into a store in memory."""
    batch = Batch(Cache(MemoryStore()))
    got = import_directory(batch, path)
    return stored(batch), got
