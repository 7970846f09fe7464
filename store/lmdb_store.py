"""The default store: one LMDB environment that any number of processes may use at once."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb

from store import cid as cids
from store import ledger, limits, place
from store.blocks import Change, Freed, Usage
from store.cid import Algorithm, Cid
from store.errors import Held, NoSpace, NotFound, StoreError
from store.packing import Compressors, packed, plain_bytes, unpacked
from store.tables import Tables

_T = TypeVar("_T")
Transaction = Any  # lmdb.Transaction; its types know nothing of buffers=False
Database = Any  # an LMDB named database; `lmdb` gives its class no public name
_COUNT: Final = struct.Struct("<Q")
_SUMS: Final = struct.Struct("<QQ")
_READER_BYTES: Final = 64  # of the lock file, for each reader
_NOTHING: Final[Mapping[int, bytes]] = {}
_TABLES: Final = (b"blocks", b"counts", b"queue", b"roots", b"sums")


class LmdbStore:
    """Blocks under `directory`. Thread-safe; open it after a fork, never before.

    Raises NoSpace when the disk is full and StoreError for any other failure of LMDB; the transaction is undone.
    """

    def __init__(
        self,
        directory: Path,
        algorithm: Algorithm = cids.BLAKE3,
        *,
        map_bytes: int = limits.map_bytes_start,
    ) -> None:
        self.algorithm = algorithm
        self._directory = directory
        self._map_step = map_bytes
        self._lock = threading.Lock()  # held while reading, so that the map never moves under a reader
        self._writer = threading.Lock()  # held while writing: nor under a writer. Taken before `_lock`
        self._pool = Compressors()
        self._dbs: dict[bytes, Database] = {}
        self._is_broken = False  # LMDB does nothing any more until it is opened anew
        self._steady: Transaction | None = None  # in which all is read now
        self._in_use = _in_use(directory, fcntl.LOCK_SH)
        try:
            with self._writer, _translated(directory):
                self._open()
        except BaseException:
            os.close(self._in_use)
            raise

    # Reading

    def get(self, cid: Cid) -> bytes:
        data = self.peek(cid)
        cids.verify(cid, data)
        return data

    def peek(self, cid: Cid) -> bytes:
        value = self._read(lambda txn: txn.get(cid, db=self._dbs[b"blocks"]))
        if value is None:
            raise NotFound(f"no block {cid} in this store")
        return unpacked(cid, value)

    def has(self, cid: Cid) -> bool:
        return self._read(lambda txn: _has(txn, self._dbs[b"blocks"], cid))

    def count(self, cid: Cid) -> int | None:
        value = self._read(lambda txn: txn.get(cid, db=self._dbs[b"counts"]))
        return None if value is None else int(_COUNT.unpack(value)[0])

    def root(self, key: bytes) -> bytes | None:
        record: bytes | None = self._read(lambda txn: txn.get(key, db=self._dbs[b"roots"]))
        return record

    def roots(self, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        def scan(txn: Transaction) -> list[tuple[bytes, bytes]]:
            return [(key, txn.get(key, db=self._dbs[b"roots"])) for key in self._keys_below(txn, prefix)]

        return self._read(scan)

    def root_keys(self, prefix: bytes = b"") -> list[bytes]:
        return self._read(lambda txn: list(self._keys_below(txn, prefix)))

    def _keys_below(self, txn: Transaction, prefix: bytes) -> Iterator[bytes]:
        with txn.cursor(db=self._dbs[b"roots"]) as cursor:
            if cursor.set_range(prefix):
                yield from takewhile(lambda key: key.startswith(prefix), cursor.iternext(values=False))

    def cids(self) -> Iterator[Cid]:
        def scan(txn: Transaction) -> list[bytes]:
            with txn.cursor(db=self._dbs[b"blocks"]) as cursor:
                if not cursor.set_range(position):
                    return []
                return [key for key, _ in zip(cursor.iternext(values=False), range(4096))]

        position = b"\0"
        while page := self._read(scan):
            yield from map(Cid, page)
            position = page[-1] + b"\0"

    def usage(self) -> Usage:
        def scan(txn: Transaction) -> Usage:
            plain, stored = _sums(txn, self._dbs[b"sums"])
            blocks = txn.stat(self._dbs[b"blocks"])["entries"]
            waiting = txn.stat(self._dbs[b"queue"])["entries"]
            return Usage(blocks, plain, stored, _file_bytes(self._directory / "data.mdb"), waiting)

        return self._read(scan)

    def view(self, work: Callable[[Tables], _T]) -> _T:
        return self._read(lambda txn: work(_Tables(txn, self._dbs, _NOTHING)))

    @contextmanager
    def steady(self) -> Iterator[None]:
        """All is read from one moment. Until the end, pages that others free are not used again: the file grows."""
        with self._lock, _translated(self._directory):
            assert self._steady is None, "steady does not nest"
            self._steady = self._begun()
        try:
            yield
        finally:
            with self._lock:
                if self._steady is not None:  # not closed yet
                    self._steady.abort()
                    self._steady = None

    # Writing

    def apply(self, change: Change) -> int:
        packed = self._pool.pack(self._absent(change.blocks))
        return self._write(lambda tables: ledger.apply(tables, change), packed)

    def gc(self, blocks_max: int) -> Freed:
        def work(tables: _Tables) -> Freed:
            self._env.reader_check()  # what processes that died while reading have seen may be used again
            return ledger.gc(tables, blocks_max)

        try:
            return self._write(work)
        except NoSpace:
            if blocks_max == 1:
                raise
            return self.gc(max(1, blocks_max // 16))  # a smaller step needs less room, and makes some

    def repair(self, work: Callable[[Tables], _T]) -> _T:
        return self._write(work)

    def close(self) -> None:
        with self._writer, self._lock:
            if self._steady is not None:
                self._steady.abort()
                self._steady = None
            self._env.close()
            self._is_broken = False
            if self._in_use >= 0:
                os.close(self._in_use)
                self._in_use = -1
        self._pool.close()

    def _absent(self, blocks: Mapping[Cid, bytes]) -> list[bytes]:
        """Return the blocks that will most likely have to be stored."""
        if not blocks:
            return []

        def scan(txn: Transaction) -> list[bytes]:
            table = self._dbs[b"blocks"]
            return [data for cid, data in blocks.items() if not _has(txn, table, cid)]

        return self._read(scan)

    # The environment

    def _open(self) -> None:
        _reserve(self._directory / "lock.mdb")
        self._env = lmdb.open(
            os.fspath(self._directory),
            map_size=max(self._map_step, self._rounded(_file_bytes(self._directory / "data.mdb"))),
            max_dbs=len(_TABLES),
            max_readers=limits.readers_max,
            mode=0o600,
        )
        self._env.reader_check()  # slots of dead processes would keep old pages from being used again
        self._dbs = self._transact_now(lambda txn: {name: self._env.open_db(name, txn=txn) for name in _TABLES})

    def _mend(self) -> None:
        """Open LMDB anew if it is broken: when it could not write its meta page, it refuses all work from then on.

        The caller holds `_writer`. If this fails, the next caller tries again.
        """
        if self._is_broken:
            with self._lock:
                self._env.close()
            self._open()
            self._is_broken = False

    # Transactions

    def _read(self, work: Callable[[Transaction], _T]) -> _T:
        with self._lock, _translated(self._directory):
            if not self._is_broken:
                try:
                    return self._read_now(work)
                except lmdb.PanicError:
                    self._is_broken = True
        with self._writer, _translated(self._directory):
            self._mend()
        with self._lock, _translated(self._directory):
            return self._read_now(work)

    def _read_now(self, work: Callable[[Transaction], _T]) -> _T:
        if self._steady is not None:
            return work(self._steady)
        with self._begun() as txn:
            return work(txn)

    def _begun(self) -> Transaction:
        try:
            return self._env.begin()  # cheap: lmdb keeps a spare read transaction to renew
        except lmdb.MapResizedError:  # another process made the map larger
            self._env.set_mapsize(0)
            return self._env.begin()

    def _write(self, work: Callable[[_Tables], _T], packed: Mapping[int, bytes] = _NOTHING) -> _T:
        def run(txn: Transaction) -> _T:
            tables = _Tables(txn, self._dbs, packed)
            result = work(tables)
            tables.write_sums()
            return result

        try:
            return self._transact(run)
        except NoSpace:
            # What the last transaction freed can be used only after one more.
            self._transact(lambda txn: _add_to_sums(txn, self._dbs[b"sums"], 0, 0))
            return self._transact(run)

    def _transact(self, work: Callable[[Transaction], _T]) -> _T:
        if self._steady is not None:  # whoever writes may have to move the map under it
            raise StoreError("nothing can be written while the store is read as it was")
        with self._writer, _translated(self._directory):
            self._mend()
            try:
                return self._transact_now(work)
            except lmdb.PanicError:
                self._is_broken = True
                self._mend()
                return self._transact_now(work)

    def _transact_now(self, work: Callable[[Transaction], _T]) -> _T:
        for _ in range(limits.map_growths_max):
            try:
                with self._env.begin(write=True) as txn:
                    return work(txn)
            except lmdb.MapResizedError:
                with self._lock:
                    self._env.set_mapsize(0)
            except lmdb.MapFullError:
                with self._lock:
                    self._grow()
        raise StoreError("the LMDB map cannot grow any further")

    def _grow(self) -> None:
        size = self._env.info()["map_size"]
        self._env.set_mapsize(self._rounded(size + min(size, limits.map_bytes_step_max)))

    def _rounded(self, size: int) -> int:
        """A multiple of the map's starting size, so of the page size too."""
        return -(-size // self._map_step) * self._map_step


def compact(directory: Path) -> None:
    """Write the database anew without the room that deleted blocks left, and put it in place of the old one at once.

    Needs as much room on the disk as the blocks take. Raises Held if a process has the store open, NoSpace.
    """
    try:
        lock = _in_use(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Held("the store is in use: unmount what is mounted from it, and let other commands end") from None
    made = directory / "compact.new"
    try:
        made.unlink(missing_ok=True)
        with _translated(directory), lmdb.open(os.fspath(directory), max_dbs=len(_TABLES)) as env:
            file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                env.copyfd(file, compact=True)
                os.fsync(file)
            finally:
                os.close(file)
        made.rename(directory / "data.mdb")
        place.sync(directory)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(_FULL) from None
        raise StoreError(f"cannot compact the store: {error.strerror}") from None
    finally:
        made.unlink(missing_ok=True)
        os.close(lock)


class _Tables:
    """Tables in one LMDB transaction."""

    def __init__(self, txn: Transaction, dbs: dict[bytes, Database], packed: Mapping[int, bytes]) -> None:
        self._txn = txn
        self._packed = packed
        self._plain_more = self._stored_more = 0
        self._blocks, self._counts, self._queue, self._roots, self._sums = (dbs[name] for name in _TABLES)

    def put(self, cid: Cid, data: bytes) -> None:
        value = self._packed.get(id(data)) or packed(data)
        self._txn.put(cid, value, db=self._blocks)
        self._add(len(data), len(value))

    def has(self, cid: Cid) -> bool:
        return _has(self._txn, self._blocks, cid)

    def load(self, cid: Cid) -> Callable[[], bytes]:
        value = self._txn.get(cid, db=self._blocks)
        if value is None:
            raise NotFound(f"no block {cid} in this store")
        return functools.partial(unpacked, cid, value)

    def stored_bytes(self, cid: Cid) -> int:
        return len(self._txn.get(cid, db=self._blocks) or b"")

    def lose(self, cid: Cid) -> int:
        value = self._txn.pop(cid, db=self._blocks)
        if value is None:
            return 0
        self._add(-plain_bytes(value), -len(value))
        return len(value)

    def count(self, cid: Cid) -> int | None:
        value = self._txn.get(cid, db=self._counts)
        return None if value is None else int(_COUNT.unpack(value)[0])

    def set_count(self, cid: Cid, count: int) -> None:
        self._txn.put(cid, _COUNT.pack(count), db=self._counts)

    def drop_count(self, cid: Cid) -> None:
        self._txn.delete(cid, db=self._counts)

    def queue(self, cid: Cid) -> None:
        self._txn.put(cid, b"", db=self._queue)

    def unqueue(self, cid: Cid) -> None:
        self._txn.delete(cid, db=self._queue)

    def queued(self) -> Iterator[Cid]:
        return self._keys(self._queue)

    def queue_length(self) -> int:
        return int(self._txn.stat(self._queue)["entries"])

    def root(self, key: bytes) -> bytes | None:
        record: bytes | None = self._txn.get(key, db=self._roots)
        return record

    def set_root(self, key: bytes, record: bytes | None) -> None:
        if record is None:
            self._txn.delete(key, db=self._roots)
        else:
            self._txn.put(key, record, db=self._roots)

    def cids(self) -> Iterator[Cid]:
        return self._keys(self._blocks)

    def counts(self) -> Iterator[tuple[Cid, int]]:
        with self._txn.cursor(db=self._counts) as cursor:
            for key, value in cursor:
                yield Cid(key), _COUNT.unpack(value)[0]

    def roots(self) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=self._roots) as cursor:
            yield from cursor

    def write_sums(self) -> None:
        if self._plain_more or self._stored_more:  # a transaction that writes nothing costs nothing
            _add_to_sums(self._txn, self._sums, self._plain_more, self._stored_more)

    def _keys(self, table: Database) -> Iterator[Cid]:
        with self._txn.cursor(db=table) as cursor:
            for key in cursor.iternext(values=False):
                yield Cid(key)

    def _add(self, plain: int, stored: int) -> None:
        self._plain_more += plain
        self._stored_more += stored


def _sums(txn: Transaction, db: Database) -> tuple[int, int]:
    value = txn.get(b"sums", db=db)
    return (0, 0) if value is None else _SUMS.unpack(value)


def _add_to_sums(txn: Transaction, db: Database, plain_more: int, stored_more: int) -> None:
    plain, stored = _sums(txn, db)
    txn.put(b"sums", _SUMS.pack(max(0, plain + plain_more), max(0, stored + stored_more)), db=db)


def _has(txn: Transaction, table: Database, cid: Cid) -> bool:
    with txn.cursor(db=table) as cursor:
        return bool(cursor.set_key(cid))  # unlike `get`, copies no value


def _in_use(directory: Path, how: int) -> int:
    """Return a descriptor that tells others, while it is open, that the database is in use. Waits for `compact`."""
    try:
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"cannot open the store: {directory}: {error.strerror}") from None
    try:
        fcntl.flock(file, how)
    except BaseException:
        os.close(file)
        raise
    return file


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _reserve(path: Path) -> None:
    """Give a new lock file its room on the disk: LMDB maps it, and a map without room kills the process by SIGBUS.

    Never while LMDB has it open: closing a file drops all locks that the process has on it.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(file).st_size == 0:
                os.posix_fallocate(file, 0, (limits.readers_max + 64) * _READER_BYTES)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(_FULL) from None
        raise StoreError(f"cannot open the store: {path}: {error.strerror}") from None


class _translated:
    """LMDB's errors as ours. MapFull and MapResized are the store's own business and pass through."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, lmdb.Error) or isinstance(error, (lmdb.MapFullError, lmdb.MapResizedError)):
            return
        # LMDB reports a write that the disk cut short as an I/O error.
        short = _IO_ERROR in str(error) and self._free_bytes() < limits.disk_full_bytes
        if isinstance(error, lmdb.DiskError) or _QUOTA in str(error) or short:
            raise NoSpace(_FULL) from None
        if isinstance(error, lmdb.ReadonlyError):
            raise StoreError(f"cannot open the store: {error}") from None
        raise StoreError(f"the store's database failed: {error}") from None

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize


_FULL: Final = "no space left on the store's disk; nothing was changed"
_IO_ERROR: Final = os.strerror(errno.EIO)
_QUOTA: Final = os.strerror(errno.EDQUOT)  # LMDB tells this error by its text alone
