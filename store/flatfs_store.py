"""A store of plain files: a file for each block, and one SQLite database for counts, queue and roots.

The database says which blocks there are. A file is in place, synced, before the transaction that makes it a block is
committed, and goes only after the one that lets go of it: so every block of the database has its file, after any
crash. Files that may be no block's are written down as `loose` first and removed later; see FORMAT.md.
"""

from __future__ import annotations

import errno
import functools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Final, TypeVar

from store import cid as cids
from store import ledger, limits
from store.block_files import BlockFiles, Written
from store.blocks import Change, Freed, Usage
from store.cid import Algorithm, Cid
from store.errors import Corrupt, FutureStore, NoSpace, NotFound, StoreError
from store.gate import Gate
from store.owner import Owner
from store.tables import Tables

_T = TypeVar("_T")
_VERSION: Final = 1
_SCHEMA: Final = """
create table blocks (cid blob primary key, plain integer not null, stored integer not null) without rowid;
create table counts (cid blob primary key, count integer not null) without rowid;
create table queue (cid blob primary key) without rowid;
create table roots (key blob primary key, record blob not null) without rowid;
create table loose (cid blob, owner text, primary key (cid, owner)) without rowid;
create table sums (blocks integer, plain integer, stored integer, disk integer, waiting integer);
insert into sums values (0, 0, 0, 0, 0);
"""
_NONE: Final[Mapping[Cid, Written]] = {}
_NOBODY: Final = ""  # owns what is loose because it was let go
_DISK_UNIT: Final = 4096  # what most filesystems give a file at a time


class FlatFsStore:
    """Files under `directory`. Thread-safe; open it after a fork, never before.

    Raises NoSpace when the disk is full and StoreError for any other failure; nothing is changed then.
    """

    def __init__(self, directory: Path, algorithm: Algorithm = cids.BLAKE3) -> None:
        self.algorithm = algorithm
        self._directory = directory
        self._files = BlockFiles(directory)
        self._writing = Gate(directory / "write.lock")
        self._viewing = Gate(directory / "view.lock")  # no file of a block goes while somebody looks at all of them
        self._abandoned: set[Cid] = set()  # loose files of ours, of changes that failed
        self._writer, self._lock = threading.Lock(), threading.Lock()  # of the two connections
        with self._translated():
            self._open()

    def _open(self) -> None:
        path = self._directory / "ledger.db"
        with self._writing.exclusive():
            if not path.exists():
                self._files.make()
            self._db = _connected(path)
            version = self._db.execute("pragma user_version").fetchone()[0]
            if version > _VERSION:
                raise FutureStore(f"{path} has version {version}; use a newer monofs")
            if version == 0:
                self._db.executescript(f"begin immediate; {_SCHEMA} pragma user_version = {_VERSION}; commit;")
        self._reader = _connected(path)
        self._files.sweep()
        with suppress(NoSpace):
            self._clear()

    # Reading

    def get(self, cid: Cid) -> bytes:
        data = self.peek(cid)
        cids.verify(cid, data)
        return data

    def peek(self, cid: Cid) -> bytes:
        try:
            return self._files.read(cid)
        except FileNotFoundError:
            raise NotFound(f"no block {cid} in this store") from None
        except OSError as error:
            raise Corrupt(cid, f"its file cannot be read: {error.strerror}") from None

    def has(self, cid: Cid) -> bool:
        return self._read(lambda tables: tables.has(cid))

    def count(self, cid: Cid) -> int | None:
        return self._read(lambda tables: tables.count(cid))

    def cids(self) -> Iterator[Cid]:
        position = b""
        while page := self._read(lambda tables, after=position: tables.cids_after(after, 4096)):  # type: ignore[misc]
            yield from page
            position = page[-1]

    def root(self, key: bytes) -> bytes | None:
        return self._read(lambda tables: tables.root(key))

    def roots(self, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        return self._read(lambda tables: list(tables.roots_below(prefix)))

    def root_keys(self, prefix: bytes = b"") -> list[bytes]:
        return self._read(lambda tables: [key for key, _ in tables.roots_below(prefix)])

    def usage(self) -> Usage:
        blocks, plain, stored, disk, waiting = self._read(lambda tables: tables.sums())
        disk += sum(_disk_bytes(self._directory / name) for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"))
        return Usage(blocks, plain, stored, disk, waiting)

    def view(self, work: Callable[[Tables], _T]) -> _T:
        def run(tables: _Tables) -> _T:
            self._reader.execute("begin")
            try:
                tables.sums()  # SQLite takes its snapshot with the first read
                return work(tables)
            finally:
                self._reader.execute("rollback")

        with self._viewing.shared():
            return self._read(run)

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Files of blocks that others delete stay until a gc finds nobody here."""
        with self._viewing.shared():
            yield

    def _read(self, work: Callable[[_Tables], _T]) -> _T:
        with self._lock, self._translated():
            return work(_Tables(self._reader, self._files))

    # Writing

    def apply(self, change: Change) -> int:
        def run(tables: _Tables) -> int:
            for cid in new:
                if tables.has(cid):  # its file had been lost, or somebody has just stored the same
                    tables.give_file(cid)
            return ledger.apply(tables, change)

        with self._translated(), self._files.written(self._absent(change.blocks)) as new:
            if not new:
                return self._transact(run)
            self._abandoned.difference_update(new)
            self._transact(lambda tables: tables.set_loose(new, str(Owner.current())))
            try:
                return self._transact(run, new)
            except BaseException:
                self._abandoned.update(new)
                with suppress(StoreError):
                    # A commit that failed may still be found in the log after a crash; one that follows it may not.
                    self._transact(lambda tables: tables.touch())
                    self._clear()
                raise

    def gc(self, blocks_max: int) -> Freed:
        try:
            freed = self._transact(lambda tables: ledger.gc(tables, blocks_max))
        except NoSpace:
            if blocks_max == 1:
                raise
            return self.gc(max(1, blocks_max // 16))  # a smaller step needs less room, and makes some
        self._clear()
        return freed

    def repair(self, work: Callable[[Tables], _T]) -> _T:
        result = self._transact(work)
        self._clear()
        return result

    def compact(self) -> None:
        """Remove files that no block has, and give back what the database does not need."""
        with self._viewing.exclusive(), self._writer, self._writing.exclusive(), self._translated():
            tables = _Tables(self._db, self._files)
            stray = [cid for cid in self._files.every() if not tables.has(cid)]
            for cid in stray:
                self._files.remove(cid)
            self._db.execute("vacuum")
            self._db.execute("pragma wal_checkpoint(truncate)")

    def close(self) -> None:
        with self._writer, self._lock:
            self._reader.close()
            self._db.close()
        self._files.close()

    def _absent(self, blocks: Mapping[Cid, bytes]) -> dict[Cid, bytes]:
        """Return the blocks whose files will most likely have to be written."""
        if not blocks:
            return {}
        here = self._read(lambda tables: {cid for cid in blocks if tables.has(cid)})
        return {cid: data for cid, data in blocks.items() if cid not in here or not self._files.has(cid)}

    def _transact(self, work: Callable[[_Tables], _T], new: Mapping[Cid, Written] = _NONE) -> _T:
        with self._writer, self._translated(), self._writing.exclusive():
            tables = _Tables(self._db, self._files, new)
            self._db.execute("begin immediate")
            try:
                result = work(tables)
                tables.settle()
                self._db.execute("commit")
                return result
            finally:
                if self._db.in_transaction:
                    self._db.execute("rollback")

    def _clear(self) -> None:
        """Remove loose files that nobody is about to make blocks of. While somebody views the store that must wait."""
        me = str(Owner.current())
        found = self._read(lambda tables: tables.loose(me))
        wanted = [(cid, owner) for cid, owner in found if owner != me or cid in self._abandoned]
        for start in range(0, len(wanted), limits.gc_blocks_per_step):
            some = wanted[start : start + limits.gc_blocks_per_step]
            with self._viewing.exclusive_now() as is_alone:
                if not is_alone:
                    return
                self._transact(lambda tables, some=some: tables.remove_loose(some))  # type: ignore[misc]
                self._abandoned.difference_update(cid for cid, _ in some)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of SQLite and the disk as ours."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            cut_short = code == sqlite3.SQLITE_IOERR and self._free_bytes() < limits.disk_full_bytes
            if code == sqlite3.SQLITE_FULL or cut_short:
                raise NoSpace(_FULL) from None
            if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise StoreError(f"cannot open the store: {self._directory}: {error}") from None
            raise StoreError(f"the store's database failed: {error}") from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(_FULL) from None
            raise StoreError(f"the store failed: {error.filename or self._directory}: {error.strerror}") from None

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize


class _Tables:
    """Tables in one SQLite transaction. Files of `new` blocks are written already and only have to be moved."""

    def __init__(self, db: sqlite3.Connection, files: BlockFiles, new: Mapping[Cid, Written] = _NONE) -> None:
        self._db, self._files, self._new = db, files, new
        self._moved: set[Cid] = set()
        self._more = [0, 0, 0, 0, 0]

    def put(self, cid: Cid, data: bytes) -> None:
        size = self.give_file(cid, data)
        self._db.execute("insert or replace into blocks values (?, ?, ?)", (cid, len(data), size))
        self._add(1, len(data), size)

    def give_file(self, cid: Cid, data: bytes | None = None) -> int:
        """Put the block's file in place; returns its size."""
        written = self._new.get(cid)
        if written is None or cid in self._moved:
            assert data is not None
            written = self._files.write(data)
        self._files.place(cid, written)
        self._moved.add(cid)
        self._db.execute("delete from loose where cid = ?", (cid,))
        return written.size

    def has(self, cid: Cid) -> bool:
        return self._one("select 1 from blocks where cid = ?", cid) is not None

    def load(self, cid: Cid) -> Callable[[], bytes]:
        if not self.has(cid):
            raise NotFound(f"no block {cid} in this store")
        return functools.partial(_loaded, self._files, cid)

    def stored_bytes(self, cid: Cid) -> int:
        return self._one("select stored from blocks where cid = ?", cid) or 0

    def lose(self, cid: Cid) -> int:
        found = self._db.execute("delete from blocks where cid = ? returning plain, stored", (cid,)).fetchall()
        if not found:
            return 0
        plain, stored = found[0]
        self._add(-1, -plain, -stored)
        self.set_loose([cid], _NOBODY)
        return int(stored)

    def count(self, cid: Cid) -> int | None:
        return self._one("select count from counts where cid = ?", cid)

    def set_count(self, cid: Cid, count: int) -> None:
        self._db.execute("insert or replace into counts values (?, ?)", (cid, count))

    def drop_count(self, cid: Cid) -> None:
        self._db.execute("delete from counts where cid = ?", (cid,))

    def queue(self, cid: Cid) -> None:
        self._more[4] += self._db.execute("insert or ignore into queue values (?)", (cid,)).rowcount

    def unqueue(self, cid: Cid) -> None:
        self._more[4] -= self._db.execute("delete from queue where cid = ?", (cid,)).rowcount

    def queued(self) -> Iterator[Cid]:
        return self._cids("select cid from queue order by cid")

    def queue_length(self) -> int:
        return self.sums()[4] + self._more[4]

    def root(self, key: bytes) -> bytes | None:
        found = self._db.execute("select record from roots where key = ?", (key,)).fetchone()
        return None if found is None else bytes(found[0])

    def set_root(self, key: bytes, record: bytes | None) -> None:
        if record is None:
            self._db.execute("delete from roots where key = ?", (key,))
        else:
            self._db.execute("insert or replace into roots values (?, ?)", (key, record))

    def cids(self) -> Iterator[Cid]:
        return self._cids("select cid from blocks order by cid")

    def cids_after(self, cid: bytes, count: int) -> list[Cid]:
        return list(self._cids("select cid from blocks where cid > ? order by cid limit ?", cid, count))

    def counts(self) -> Iterator[tuple[Cid, int]]:
        with closing(self._db.execute("select cid, count from counts order by cid")) as rows:
            for cid, count in rows:
                yield Cid(cid), count

    def roots(self) -> Iterator[tuple[bytes, bytes]]:
        return self.roots_below(b"")

    def roots_below(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with closing(self._db.execute("select key, record from roots where key >= ? order by key", (prefix,))) as rows:
            yield from takewhile(lambda row: row[0].startswith(prefix), rows)

    def sums(self) -> tuple[int, int, int, int, int]:
        blocks, plain, stored, disk, waiting = self._db.execute("select * from sums").fetchone()
        return blocks, plain, stored, disk, waiting

    def touch(self) -> None:
        """Change nothing, in a transaction that is written all the same."""
        self._db.execute("update sums set blocks = blocks")

    # Loose files

    def set_loose(self, cids: Iterable[Cid], owner: str) -> None:
        self._db.executemany("insert or ignore into loose values (?, ?)", ((cid, owner) for cid in cids))

    def loose(self, owner: str) -> list[tuple[Cid, str]]:
        """Return what is loose and belongs to `owner`, to nobody, or to a process that is no more."""
        owners = [found for (found,) in self._db.execute("select distinct owner from loose")]
        free = [found for found in owners if found in (owner, _NOBODY) or not Owner.parse(found).is_alive()]
        query = "select cid from loose where owner = ?"
        return [(Cid(cid), found) for found in free for (cid,) in self._db.execute(query, (found,))]

    def remove_loose(self, some: list[tuple[Cid, str]]) -> None:
        """Remove the files that are still no block's."""
        for cid, owner in some:
            gone = self._db.execute("delete from loose where cid = ? and owner = ?", (cid, owner)).rowcount
            others = self._one("select 1 from loose where cid = ?", cid)
            if gone and not others and not self.has(cid):
                self._files.remove(cid)
                self._moved.add(cid)

    # The end of the transaction

    def settle(self) -> None:
        """Make all that the disk must know before the commit be there."""
        self._files.sync(self._moved)
        if any(self._more):
            self._db.execute(
                "update sums set blocks = blocks + ?, plain = plain + ?, stored = stored + ?,"
                " disk = disk + ?, waiting = waiting + ?",
                self._more,
            )

    def _add(self, blocks: int, plain: int, stored: int) -> None:
        disk = -(-abs(stored) // _DISK_UNIT) * _DISK_UNIT
        for place, more in enumerate((blocks, plain, stored, disk if stored > 0 else -disk)):
            self._more[place] += more

    def _one(self, query: str, cid: Cid) -> int | None:
        found = self._db.execute(query, (cid,)).fetchone()
        return None if found is None else int(found[0])

    def _cids(self, query: str, *values: object) -> Iterator[Cid]:
        with closing(self._db.execute(query, values)) as rows:
            for (cid,) in rows:
                yield Cid(cid)


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=limits.ledger_seconds_max, isolation_level=None, check_same_thread=False)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    return db


def _loaded(files: BlockFiles, cid: Cid) -> bytes:
    try:
        return files.read(cid)
    except OSError as error:
        raise Corrupt(cid, f"its file cannot be read: {error.strerror}") from None


def _disk_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


_FULL: Final = "no space left on the store's disk; nothing was changed"
