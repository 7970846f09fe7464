"""Random reads and writes of every kind on a mount, with checkpoints, commits and remounts thrown in."""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from store.batch import Batch
from store.cache import Cache
from store.importer import import_directory
from store.memory_store import MemoryStore
from tests.mounted.conftest import Mount
from tests.suites.fsx import Fsx


@contextmanager
def tmpfs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="monofs-fsx-", dir="/dev/shm") as path:
        yield Path(path)


def test_fsx_is_right_on_tmpfs(rng: random.Random) -> None:
    with tmpfs() as directory:
        for number in range(4):
            fsx = Fsx(directory / str(number), rng.randrange(1 << 32))
            fsx.run(2500)
            fsx.close()


def test_fsx_notices_one_wrong_byte(rng: random.Random) -> None:
    with tmpfs() as directory:
        fsx = Fsx(directory / "file", rng.randrange(1 << 32))
        fsx.run(200)
        while len(fsx.model) < 10:
            fsx.step()
        at = rng.randrange(len(fsx.model))
        with fsx.path.open("r+b") as file:
            file.seek(at)
            file.write(bytes((fsx.model[at] ^ 1,)))
        with pytest.raises(AssertionError, match=rf"seed {fsx.seed}.*the first that differs is at {at}:"):
            fsx.check()
        fsx.close()


@pytest.mark.mounted
@pytest.mark.slow
def test_fsx_on_a_mount(machine: Mount, rng: random.Random) -> None:
    """Some files are worked on at once; in the end the tree is what importing it afresh gives."""
    mnt = machine.start()
    every = [Fsx(mnt / f"file {number}", rng.randrange(1 << 32), direct=number == 1) for number in range(3)]
    for turn in range(40):
        with saving(mnt / "ticker") if turn % 2 else nullcontext():
            for fsx in every:
                for _ in range(rng.randint(1, 50)):
                    fsx.step()
        happen(machine, every, rng)
    for fsx in every:
        fsx.check()
    compare(machine, every)
    assert sum(fsx.count for fsx in every) > 2000
    for fsx in every:
        fsx.close()


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Commit all the time, so that edits come while others are being written. A commit saves all files."""
    done = threading.Event()

    def work() -> None:
        with path.open("wb", buffering=0) as file:
            while not done.is_set():
                file.write(b".")
                os.fsync(file.fileno())

    with ThreadPoolExecutor(1) as pool:
        saved = pool.submit(work)
        try:
            yield
        finally:
            done.set()
        saved.result()


def happen(machine: Mount, every: list[Fsx], rng: random.Random) -> None:
    """Something that must not change what anybody reads."""
    match rng.choice(("nothing", "fsync", "checkpoint", "checkpoint", "remount", "forget")):
        case "fsync":
            rng.choice(every).sync()
        case "checkpoint":
            machine.checkpoint()
        case "remount":
            for fsx in every:
                fsx.close()
            machine.remount()
            for fsx in every:
                fsx.open()
        case "forget":  # the kernel reads again from us what it has had written
            fd = os.open(rng.choice(every).path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def compare(machine: Mount, every: list[Fsx]) -> None:
    """The checkpoint's CID is that of the same tree imported from nothing, now and after a remount."""
    cid = machine.checkpoint()
    batch = Batch(Cache(MemoryStore()))
    assert str(import_directory(batch, os.fsencode(machine.dir)).cid) == cid
    for fsx in every:
        fsx.close()
    assert machine.remount() == cid
    for fsx in every:
        fsx.open()
        fsx.check()


@pytest.mark.mounted
@pytest.mark.slow
def test_fsx_survives_kills(machine: Mount, rng: random.Random) -> None:
    """What was synced is there after kill -9, byte for byte."""
    mnt = machine.start()
    seed = rng.randrange(1 << 32)
    fsx = Fsx(mnt / "file", seed)
    for _ in range(6):
        fsx.run(rng.randint(20, 200))
        fsx.sync()
        fsx.close()
        machine.kill()
        machine.start()
        fsx.open()
        fsx.check()
    fsx.close()
