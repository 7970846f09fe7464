"""A store in memory: the small reference model for the others, and for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from store import cid as cids
from store import ledger
from store.blocks import Change, Freed, Usage
from store.cid import Algorithm, Cid
from store.errors import NotFound
from store.tables import Tables

_T = TypeVar("_T")


class _Tables:
    """Tables as dicts."""

    def __init__(self) -> None:
        self.blocks: dict[Cid, bytes] = {}
        self.counted: dict[Cid, int] = {}
        self.waiting: dict[Cid, None] = {}
        self.records: dict[bytes, bytes] = {}

    def copy(self) -> _Tables:
        other = _Tables()
        other.blocks, other.counted = dict(self.blocks), dict(self.counted)
        other.waiting, other.records = dict(self.waiting), dict(self.records)
        return other

    def put(self, cid: Cid, data: bytes) -> None:
        self.blocks[cid] = data

    def has(self, cid: Cid) -> bool:
        return cid in self.blocks

    def load(self, cid: Cid) -> Callable[[], bytes]:
        data = self.blocks.get(cid)
        if data is None:
            raise NotFound(f"no block {cid} in this store")
        return lambda: data

    def stored_bytes(self, cid: Cid) -> int:
        return len(self.blocks.get(cid, b""))

    def lose(self, cid: Cid) -> int:
        return len(self.blocks.pop(cid, b""))

    def count(self, cid: Cid) -> int | None:
        return self.counted.get(cid)

    def set_count(self, cid: Cid, count: int) -> None:
        self.counted[cid] = count

    def drop_count(self, cid: Cid) -> None:
        self.counted.pop(cid, None)

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

    def cids(self) -> Iterator[Cid]:
        return iter(sorted(self.blocks))

    def counts(self) -> Iterator[tuple[Cid, int]]:
        return iter(self.counted.items())

    def roots(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.records.items())


class MemoryStore:
    def __init__(self, algorithm: Algorithm = cids.BLAKE3) -> None:
        self.algorithm = algorithm
        self._tables = _Tables()
        self._steady: _Tables | None = None  # what is read now, while somebody wants it so

    @property
    def _seen(self) -> _Tables:
        return self._tables if self._steady is None else self._steady

    def get(self, cid: Cid) -> bytes:
        data = self.peek(cid)
        cids.verify(cid, data)
        return data

    def peek(self, cid: Cid) -> bytes:
        return self._seen.load(cid)()

    def has(self, cid: Cid) -> bool:
        return self._seen.has(cid)

    def count(self, cid: Cid) -> int | None:
        return self._seen.count(cid)

    def cids(self) -> Iterator[Cid]:
        return iter(list(self._seen.blocks))

    def root(self, key: bytes) -> bytes | None:
        return self._seen.root(key)

    def roots(self, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        return sorted((k, r) for k, r in self._seen.records.items() if k.startswith(prefix))

    def root_keys(self, prefix: bytes = b"") -> list[bytes]:
        return [key for key, _ in self.roots(prefix)]

    def apply(self, change: Change) -> int:
        return self.repair(lambda tables: ledger.apply(tables, change))

    def gc(self, blocks_max: int) -> Freed:
        return self.repair(lambda tables: ledger.gc(tables, blocks_max))

    def view(self, work: Callable[[Tables], _T]) -> _T:
        return work(self._seen.copy())

    @contextmanager
    def steady(self) -> Iterator[None]:
        self._steady = self._tables
        try:
            yield
        finally:
            self._steady = None

    def repair(self, work: Callable[[Tables], _T]) -> _T:
        tables = self._tables.copy()
        result = work(tables)
        self._tables = tables
        return result

    def usage(self) -> Usage:
        size = sum(map(len, self._seen.blocks.values()))
        return Usage(len(self._seen.blocks), size, size, size, self._seen.queue_length())

    def close(self) -> None:
        pass
