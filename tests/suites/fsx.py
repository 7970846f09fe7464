"""A data fuzzer in the manner of fsx: one file, read and written in every way there is, beside a bytearray.

Offsets and sizes crowd around pages, 64 KiB, the sizes of chunks and the end of the file. It knows nothing of monofs.
"""

from __future__ import annotations

import mmap
import os
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

KIB: Final = 1024
PAGE: Final = mmap.PAGESIZE
SIZE_MAX: Final = 2500 * KIB
HELD_BYTES: Final = 256 * KIB  # mapped for a long time
_EDGES: Final = (PAGE, 16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB)
_HISTORY: Final = 12


class Fsx:
    """The file at `path`, which is made. `direct` also opens it with O_DIRECT."""

    def __init__(self, path: Path, seed: int, *, direct: bool = False) -> None:
        self.path = path
        self.seed = seed
        self.model = bytearray()
        self.count = 0
        self._rng = random.Random(seed)
        self._history: deque[str] = deque(maxlen=_HISTORY)
        self._direct = direct
        self._fd = self._other = -1
        self._held: mmap.mmap | None = None
        self._operations: dict[Callable[[], str], int] = {
            self._read: 14,
            self._read_elsewhere: 4,
            self._write: 22,
            self._append: 4,
            self._map_read: 8,
            self._map_write: 10,
            self._held_write: 6,
            self._held_read: 4,
            self._cut: 4,
            self._extend: 4,
            self._empty: 1,
            self._write_beyond: 3,
            self._sync: 2,
            self._reopen: 3,
            **({self._direct_read: 3, self._direct_write: 4} if direct else {}),
        }
        path.touch(exist_ok=False)
        self.open()

    # Running

    def run(self, count: int) -> None:
        """Do `count` random operations; then everything must be as it should."""
        for _ in range(count):
            self.step()
        self.check()

    def step(self) -> None:
        operation = self._rng.choices(list(self._operations), list(self._operations.values()))[0]
        self.count += 1
        self._history.append(f"{self.count}: {operation.__name__} (unfinished)")
        self._history[-1] = f"{self.count}: {operation()}"
        self._same_size()

    def open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR)
        self._other = os.open(self.path, os.O_RDWR | os.O_APPEND)
        if len(self.model) >= PAGE:
            length = min(len(self.model), HELD_BYTES) // PAGE * PAGE
            self._held = mmap.mmap(self._fd, length)

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
        os.close(self._fd)
        os.close(self._other)

    def sync(self) -> None:
        os.fsync(self._fd)

    def check(self) -> None:
        """Hold all of the file to the model."""
        self._same(os.pread(self._fd, len(self.model) + 1, 0), 0, len(self.model) + 1, "at the end")
        self._same_size()

    # Reading

    def _read(self) -> str:
        offset, length = self._range(SIZE_MAX)
        self._same(os.pread(self._fd, length, offset), offset, length, "read")
        return f"read {length} at {offset}"

    def _read_elsewhere(self) -> str:
        """Through another descriptor, and one that is opened for this alone."""
        offset, length = self._range(len(self.model))
        self._same(os.pread(self._other, length, offset), offset, length, "read by another descriptor")
        with self.path.open("rb") as file:
            file.seek(offset)
            self._same(file.read(length), offset, length, "read by a new descriptor")
        return f"read {length} at {offset} by other descriptors"

    def _map_read(self) -> str:
        offset, length = self._range(len(self.model))
        length = min(length, len(self.model) - offset)
        if length:
            with self._mapped(offset, length) as (mapping, at):
                self._same(mapping[at : at + length], offset, length, "mapped read")
        return f"mapped read of {length} at {offset}"

    def _held_read(self) -> str:
        end = self._held_end()
        offset, length = self._range(end)
        length = min(length, end - offset)
        if self._held is not None and length:
            self._same(self._held[offset : offset + length], offset, length, "read of the held mapping")
        return f"read of the held mapping, {length} at {offset}"

    def _direct_read(self) -> str:
        offset, length = (n // PAGE * PAGE for n in self._range(len(self.model)))
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, length or PAGE) as buffer:
                count = os.preadv(fd, [memoryview(buffer)[:length]], offset)
                self._same(buffer[:count], offset, length, "direct read")
        finally:
            os.close(fd)
        return f"direct read of {length} at {offset}"

    # Writing

    def _write(self) -> str:
        offset, length = self._range(min(len(self.model) + 1, SIZE_MAX))
        data = self._data(length)
        assert os.pwrite(self._fd, data, offset) == length
        self._put(offset, data)
        return f"write {length} at {offset}"

    def _write_beyond(self) -> str:
        """Leave a hole before it."""
        offset = min(len(self.model) + self._length(), SIZE_MAX)
        data = self._data(self._length())
        assert os.pwrite(self._fd, data, offset) == len(data)
        self._put(offset, data)
        return f"write {len(data)} at {offset}, beyond the end"

    def _append(self) -> str:
        if len(self.model) > SIZE_MAX:
            return "no append"
        offset, data = len(self.model), self._data(self._length())
        assert os.write(self._other, data) == len(data)
        self._put(offset, data)
        return f"append {len(data)} at {offset}"

    def _map_write(self) -> str:
        """A file has to be large enough before it is written through a mapping."""
        offset, length = self._range(SIZE_MAX)
        data = self._data(length)
        if offset + length > len(self.model):
            os.ftruncate(self._fd, offset + length)
            self._resize(offset + length)
        synced = self._rng.random() < 0.3
        with self._mapped(offset, length) as (mapping, at):
            mapping[at : at + length] = data
            if synced:
                mapping.flush()
        self._put(offset, data)
        return f"mapped write of {length} at {offset}{', msync' if synced else ''}"

    def _held_write(self) -> str:
        """Where the file was cut off under the mapping, touching it would be a SIGBUS."""
        end = self._held_end()
        offset, length = self._range(end)
        length = min(length, end - offset)
        if self._held is not None and length:
            data = self._data(length)
            self._held[offset : offset + length] = data
            self._put(offset, data)
        return f"write to the held mapping, {length} at {offset}"

    def _direct_write(self) -> str:
        offset, length = (n // PAGE * PAGE for n in self._range(min(len(self.model) + 1, SIZE_MAX)))
        data = self._data(length)
        fd = os.open(self.path, os.O_WRONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, length or PAGE) as buffer:
                buffer[:length] = data
                assert os.pwritev(fd, [memoryview(buffer)[:length]], offset) == length
        finally:
            os.close(fd)
        if length:
            self._put(offset, data)
        return f"direct write of {length} at {offset}"

    # Size

    def _cut(self) -> str:
        size = self._place(len(self.model))
        os.ftruncate(self._fd, size)
        self._resize(size)
        return f"cut off at {size}"

    def _extend(self) -> str:
        size = min(len(self.model) + self._length(), SIZE_MAX + 256 * KIB)
        if size > len(self.model):
            os.truncate(self.path, size)
            self._resize(size)
        return f"extend to {size}"

    def _empty(self) -> str:
        os.close(os.open(self.path, os.O_WRONLY | os.O_TRUNC))
        self._resize(0)
        return "empty"

    # Keeping

    def _sync(self) -> str:
        call = self._rng.choice((os.fsync, os.fdatasync))
        call(self._fd)
        return call.__name__

    def _reopen(self) -> str:
        self.close()
        self.open()
        return "close and open"

    # The model

    def _put(self, offset: int, data: bytes) -> None:
        self._resize(max(len(self.model), offset + len(data)))
        self.model[offset : offset + len(data)] = data

    def _resize(self, size: int) -> None:
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def _same(self, found: bytes, offset: int, length: int, what: str) -> None:
        expected = self.model[offset : offset + length]
        if found != expected:
            pairs = enumerate(zip(found, expected, strict=False))
            at = next((i for i, (one, two) in pairs if one != two), min(len(found), len(expected)))
            self._fail(
                f"{what}: {len(found)} bytes at {offset} where {len(expected)} should be; the first that differs is "
                f"at {offset + at}: {found[at : at + 16].hex()} for {bytes(expected[at : at + 16]).hex()}"
            )

    def _same_size(self) -> None:
        size = os.fstat(self._fd).st_size
        if size != len(self.model):
            self._fail(f"fstat says {size} bytes, where {len(self.model)} should be")

    def _fail(self, what: str) -> None:
        history = "\n".join(self._history)
        raise AssertionError(f"{self.path}, seed {self.seed}, operation {self.count}: {what}\nlast:\n{history}")

    # Choosing

    def _range(self, end: int) -> tuple[int, int]:
        return self._place(end), self._length()

    def _place(self, end: int) -> int:
        """An offset up to `end`: next to an edge, the end of the file, or anywhere."""
        rng = self._rng
        edge = rng.choice(_EDGES)
        at = rng.choice((rng.randint(0, end), len(self.model), edge * rng.randint(0, end // edge)))
        return min(max(0, at + rng.choice((0, 0, -1, 1, rng.randint(-300, 300)))), end)

    def _length(self) -> int:
        rng = self._rng
        near = rng.choice((PAGE, 16 * KIB, 64 * KIB)) + rng.choice((-1, 0, 1))
        return rng.choice((rng.randint(1, 200), rng.randint(1, 9000), near, rng.randint(1, 200 * KIB)))

    def _data(self, length: int) -> bytes:
        """Random, zero, all the same, or what the file has elsewhere."""
        kind = self._rng.random()
        if kind < 0.15:
            return bytes(length)
        if kind < 0.25:
            return b"A" * length
        if kind < 0.35 and len(self.model) > length:
            start = self._rng.randint(0, len(self.model) - length)
            return bytes(self.model[start : start + length])
        return self._rng.randbytes(length)

    def _held_end(self) -> int:
        return 0 if self._held is None else min(len(self._held), len(self.model))

    def _mapped(self, offset: int, length: int) -> _Mapped:
        return _Mapped(self._fd, offset, length)


class _Mapped:
    """A mapping of a range, from the page where it begins; gives that and where the range is in it."""

    def __init__(self, fd: int, offset: int, length: int) -> None:
        start = offset // PAGE * PAGE
        self._at = offset - start
        self._mapping = mmap.mmap(fd, self._at + length, offset=start)

    def __enter__(self) -> tuple[mmap.mmap, int]:
        return self._mapping, self._at

    def __exit__(self, *_: object) -> None:
        self._mapping.close()
