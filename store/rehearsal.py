"""A rehearsal: what a change would free, found by carrying it out on tables that forget it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from store import ledger
from store.blocks import Change, Freed, Store
from store.cid import Cid
from store.errors import NotFound
from store.layered_store import LayeredStore
from store.tables import Tables


def freed_by(store: Store, change: Change) -> Freed:
    """Return what garbage collection would delete because of `change`, and not what waits for it anyway.

    Exact for the store as it is at this moment; nothing is written. Takes time and memory in proportion to what
    would be freed. Raises RootMoved, MissingLink.
    """
    if isinstance(store, LayeredStore):
        change = store.planned(change)
    return store.view(lambda tables: _freed(tables, change))


def _freed(tables: Tables, change: Change) -> Freed:
    waiting = _collected(_Overlay(tables))
    overlay = _Overlay(tables)
    ledger.apply(overlay, change)
    total = _collected(overlay)
    return Freed(total.blocks - waiting.blocks, total.bytes - waiting.bytes, 0)


def _collected(overlay: _Overlay) -> Freed:
    total = Freed(0, 0, 1)
    while total.waiting:
        total = total + ledger.gc(overlay, 1024)
    return total


class _Overlay:
    """Tables that keep what is written to them for themselves."""

    def __init__(self, under: Tables) -> None:
        self._under = under
        self._blocks: dict[Cid, bytes | None] = {}
        self._counts: dict[Cid, int | None] = {}
        self._roots: dict[bytes, bytes | None] = {}
        self._queue = dict.fromkeys(under.queued())

    def put(self, cid: Cid, data: bytes) -> None:
        self._blocks[cid] = data

    def has(self, cid: Cid) -> bool:
        return self._blocks[cid] is not None if cid in self._blocks else self._under.has(cid)

    def load(self, cid: Cid) -> Callable[[], bytes]:
        if cid not in self._blocks:
            return self._under.load(cid)
        data = self._blocks[cid]
        if data is None:
            raise NotFound(f"no block {cid} in this store")
        return lambda: data

    def stored_bytes(self, cid: Cid) -> int:
        return len(self._blocks[cid] or b"") if cid in self._blocks else self._under.stored_bytes(cid)

    def lose(self, cid: Cid) -> int:
        size = self.stored_bytes(cid)
        self._blocks[cid] = None
        return size

    def count(self, cid: Cid) -> int | None:
        return self._counts[cid] if cid in self._counts else self._under.count(cid)

    def set_count(self, cid: Cid, count: int) -> None:
        self._counts[cid] = count

    def drop_count(self, cid: Cid) -> None:
        self._counts[cid] = None

    def queue(self, cid: Cid) -> None:
        self._queue[cid] = None

    def unqueue(self, cid: Cid) -> None:
        self._queue.pop(cid, None)

    def queued(self) -> Iterator[Cid]:
        return iter(list(self._queue))

    def queue_length(self) -> int:
        return len(self._queue)

    def root(self, key: bytes) -> bytes | None:
        return self._roots[key] if key in self._roots else self._under.root(key)

    def set_root(self, key: bytes, record: bytes | None) -> None:
        self._roots[key] = record

    def cids(self) -> Iterator[Cid]:
        yield from (cid for cid, data in self._blocks.items() if data is not None)
        yield from (cid for cid in self._under.cids() if cid not in self._blocks)

    def counts(self) -> Iterator[tuple[Cid, int]]:
        yield from ((cid, count) for cid, count in self._counts.items() if count is not None)
        yield from ((cid, count) for cid, count in self._under.counts() if cid not in self._counts)

    def roots(self) -> Iterator[tuple[bytes, bytes]]:
        yield from ((key, record) for key, record in self._roots.items() if record is not None)
        yield from ((key, record) for key, record in self._under.roots() if key not in self._roots)
