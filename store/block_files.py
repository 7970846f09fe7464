"""Blocks as files: one each, in 256 folders. A file is written whole beside its place, synced, and moved there."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from store import limits, packing
from store import place as places
from store.cid import Cid
from store.errors import BadCid, Corrupt
from store.owner import Owner

_T = TypeVar("_T")
_numbers: Final = itertools.count()  # two files of one process must not share a name


class Written(NamedTuple):
    """A block on disk that is not in its place yet. `size` is that of its stored form."""

    path: str
    size: int


class BlockFiles:
    """Below `directory`: `blocks/<first digest byte>/<CID>` and `new/`, for files under way. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._blocks, self._new = os.fspath(directory / "blocks"), os.fspath(directory / "new")
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def make(self) -> None:
        """Make the folders, once and for all: what is put later needs no new folder on disk."""
        for folder in (self._new, self._blocks, *(f"{self._blocks}/{byte:02x}" for byte in range(256))):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        places.sync(Path(self._blocks))
        places.sync(self._directory)

    # Reading

    def has(self, cid: Cid) -> bool:
        return os.path.exists(self._path(cid))

    def read(self, cid: Cid) -> bytes:
        """Return the block, unchecked. Raises FileNotFoundError, Corrupt."""
        with open(self._path(cid), "rb", buffering=0) as file:
            value = file.read(_STORED_MAX + 1)  # whatever may lie there, it is not read into memory without bound
        if len(value) > _STORED_MAX:
            raise Corrupt(cid, "its file is larger than a block can be")
        return packing.unpacked(cid, value)

    def every(self) -> Iterator[Cid]:
        """Yield the CID of every file in place, whether the store knows it or not."""
        from store import cid as cids

        for byte in range(256):
            for name in sorted(os.listdir(f"{self._blocks}/{byte:02x}")):
                with suppress(BadCid):
                    yield cids.parse(name)

    # Writing

    @contextmanager
    def written(self, blocks: Mapping[Cid, bytes]) -> Iterator[dict[Cid, Written]]:
        """Write blocks beside their places and sync them; what has not been placed when the block ends is removed."""
        done: dict[Cid, Written] = {}

        def write(block: tuple[Cid, bytes]) -> None:
            done[block[0]] = self.write(block[1])

        try:
            self._each(write, blocks.items())
            yield done
        finally:
            for written in done.values():
                with suppress(OSError):
                    os.unlink(written.path)

    def write(self, data: bytes) -> Written:
        path = f"{self._new}/{Owner.current()}.{next(_numbers)}"
        value = packing.packed(data)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            left = memoryview(value)
            while left:  # a disk that fills up writes less than asked, and then nothing
                left = left[os.write(file, left) :]
            os.fsync(file)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(file)
        return Written(path, len(value))

    def place(self, cid: Cid, written: Written) -> None:
        """Move a file into place. It is there for good after `sync`."""
        os.rename(written.path, self._path(cid))

    def remove(self, cid: Cid) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path(cid))

    def sync(self, changed: Iterable[Cid]) -> None:
        """Return once the names of these blocks, there or gone, are on the disk."""
        self._each(places.sync, {Path(self._path(cid)).parent for cid in changed})

    def sweep(self) -> None:
        """Remove files that dead processes had under way."""
        for name in os.listdir(self._new):
            with suppress(ValueError, FileNotFoundError):
                if not Owner.parse(name.rpartition(".")[0]).is_alive():
                    os.unlink(f"{self._new}/{name}")

    def close(self) -> None:
        with self._lock:
            if self._threads is not None:
                self._threads.shutdown()
                self._threads = None

    def _each(self, work: Callable[[_T], None], items: Iterable[_T]) -> None:
        """Do `work` for every item, many at once: a disk syncs eight files in little more time than one."""
        listed = list(items)
        if len(listed) <= 2:
            for item in listed:
                work(item)
            return
        with self._lock:
            self._threads = threads = self._threads or ThreadPoolExecutor(limits.sync_threads_max, "monofs-sync")
        done = [threads.submit(work, item) for item in listed]
        wait(done)  # all of them, before what they wrote is cleared away
        for one in done:
            one.result()

    def _path(self, cid: Cid) -> str:
        return f"{self._blocks}/{cid[4]:02x}/{cid}"


_STORED_MAX: Final = 1 + limits.block_bytes_max
