"""A store in memory: the small reference model for the others, and for tests."""

from __future__ import annotations

from collections.abc import Iterator

from store import cid as cids
from store import ledger
from store.blocks import Change, Freed, Usage
from store.cid import Algorithm, Cid
from store.errors import NotFound


class _Tables:
    """A ledger.Transaction over dicts."""

    def __init__(self) -> None:
        self.blocks: dict[Cid, bytes] = {}
        self.counts: dict[Cid, int] = {}
        self.waiting: dict[Cid, None] = {}
        self.records: dict[bytes, bytes] = {}

    def copy(self) -> _Tables:
        other = _Tables()
        other.blocks, other.counts = dict(self.blocks), dict(self.counts)
        other.waiting, other.records = dict(self.waiting), dict(self.records)
        return other

    def put(self, cid: Cid, data: bytes) -> None:
        self.blocks[cid] = data

    def peek(self, cid: Cid) -> bytes:
        return self.blocks[cid]

    def delete(self, cid: Cid) -> int:
        del self.counts[cid]
        return len(self.blocks.pop(cid))

    def count(self, cid: Cid) -> int | None:
        return self.counts.get(cid)

    def set_count(self, cid: Cid, count: int) -> None:
        self.counts[cid] = count

    def queue(self, cid: Cid) -> None:
        self.waiting[cid] = None

    def unqueue(self, cid: Cid) -> None:
        self.waiting.pop(cid, None)

    def queued(self) -> Iterator[Cid]:
        return iter(list(self.waiting))

    def queue_length(self) -> int:
        return len(self.waiting)

    def root(self, key: bytes) -> bytes | None:
        return self.records.get(key)

    def set_root(self, key: bytes, record: bytes | None) -> None:
        if record is None:
            self.records.pop(key, None)
        else:
            self.records[key] = record


class MemoryStore:
    def __init__(self, algorithm: Algorithm = cids.BLAKE3) -> None:
        self.algorithm = algorithm
        self._tables = _Tables()

    def get(self, cid: Cid) -> bytes:
        data = self.peek(cid)
        cids.verify(cid, data)
        return data

    def peek(self, cid: Cid) -> bytes:
        try:
            return self._tables.blocks[cid]
        except KeyError:
            raise NotFound(f"no block {cid} in this store") from None

    def has(self, cid: Cid) -> bool:
        return cid in self._tables.blocks

    def count(self, cid: Cid) -> int | None:
        return self._tables.counts.get(cid)

    def cids(self) -> Iterator[Cid]:
        return iter(list(self._tables.blocks))

    def root(self, key: bytes) -> bytes | None:
        return self._tables.root(key)

    def roots(self, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        return sorted((k, r) for k, r in self._tables.records.items() if k.startswith(prefix))

    def apply(self, change: Change) -> int:
        tables = self._tables.copy()
        new = ledger.apply(tables, change)
        self._tables = tables
        return new

    def gc(self, blocks_max: int) -> Freed:
        tables = self._tables.copy()
        freed = ledger.gc(tables, blocks_max)
        self._tables = tables
        return freed

    def usage(self) -> Usage:
        size = sum(map(len, self._tables.blocks.values()))
        return Usage(len(self._tables.blocks), size, size, size, self._tables.queue_length())

    def close(self) -> None:
        pass
