"""The law: whatever is done in a mount, its CID is that of the same tree imported from scratch."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from store import check, importer
from store.batch import Batch
from store.cache import Cache
from store.memory_store import MemoryStore
from store.repository import Repository
from tests.mounted.conftest import Mount
from tests.mounted.twins import Twins
from tests.suites.machine import until
from tests.suites.posix.content import drop_caches
from tests.suites.posix.tools import child

pytestmark = pytest.mark.mounted


def imported(path: Path) -> str:
    """Return the CID of a directory imported into a store of its own."""
    found = importer.import_directory(Batch(Cache(MemoryStore())), path)
    assert not found.skipped
    return str(found.cid)


def live(machine: Mount, shadow: Path, rng: random.Random, rounds: int, steps: int, tight: bool = False) -> None:
    """Random system calls on the mount and on a plain directory, with checkpoints and remounts."""
    twins = Twins(rng, machine.dir, shadow)
    try:
        for _ in range(rounds):
            for _ in range(steps):
                twins.step()
            if rng.random() < 0.5:
                assert machine.checkpoint() == imported(machine.dir), "a checkpoint with files open"
            twins.settle()
            cid = machine.checkpoint()
            assert cid == imported(machine.dir), "the mount is not what was saved"
            assert cid == imported(shadow), "the mount is not what the plain directory is"
            if rng.random() < 0.5:
                assert machine.remount(tight) == cid
                assert imported(machine.dir) == cid
    except BaseException:
        print(*twins.done[-60:], sep="\n")
        raise
    finally:
        twins.release()


def test_random_work_gives_the_cid_of_an_import(
    machine: Mount, mount: Path, tmp_path: Path, rng: random.Random
) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    live(machine, shadow, rng, rounds=6, steps=120)


def test_random_work_within_tight_limits(machine: Mount, tmp_path: Path, rng: random.Random) -> None:
    """Commits and forgets after every few calls, and writers that must wait for room."""
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    machine.start_tight()
    live(machine, shadow, rng, rounds=4, steps=120, tight=True)


@pytest.mark.slow
def test_random_work_gives_the_cid_of_an_import_at_length(
    machine: Mount, mount: Path, tmp_path: Path, rng: random.Random
) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    live(machine, shadow, rng, rounds=60, steps=250)


def test_a_checkpoint_has_what_was_written_to_files_that_are_still_open(
    machine: Mount, mount: Path, rng: random.Random
) -> None:
    """The kernel holds it, and puts it in its queue on a sync without waiting for us to take it."""
    for _ in range(6):
        with open(mount / "f", "wb", buffering=0) as file:
            for _ in range(20):
                file.write(rng.randbytes(1 << 20))
            cid = machine.checkpoint()
            assert machine.checkpoint() == cid
            assert imported(mount) == cid


def work_alone(path: Path, seed: int, steps: int) -> None:
    """Random system calls in a directory where others work, too: whatever fails, fails."""
    twins = Twins(random.Random(seed), path)
    for _ in range(steps):
        with suppress(OSError):
            twins.step()
    twins.release()


@pytest.mark.slow
def test_processes_that_work_at_once(machine: Mount, mount: Path, rng: random.Random) -> None:
    """Names that move under one another, while commit follows commit."""
    for _ in range(3):
        seeds = [rng.randrange(1 << 32) for _ in range(4)]
        workers = [child(lambda seed=seed: work_alone(mount, seed, 150)) for seed in seeds]
        while workers:
            machine.checkpoint()
            workers = [pid for pid in workers if not is_over(pid)]
        cid = imported(mount)
        assert machine.checkpoint() == cid
        assert machine.remount() == cid
        assert imported(mount) == cid
    machine.umount()
    repository = Repository.open(machine.store)
    try:
        assert check.examine(repository.store).problems == ()
    finally:
        repository.close()


def is_over(pid: int) -> bool:
    """True if the child has ended, well."""
    found, status = os.waitpid(pid, os.WNOHANG)
    assert status == 0
    return found != 0


def test_inodes_are_forgotten_when_nobody_needs_them(machine: Mount, mount: Path, rng: random.Random) -> None:
    """Every answer that makes the kernel know an inode is counted once, or memory would fill up."""
    work_alone(mount, rng.randrange(1 << 32), 400)
    for _ in range(2):
        for at, _, names in os.walk(mount):
            for name in names:
                os.lstat(os.path.join(at, name))
    machine.checkpoint()
    drop_caches()
    machine.checkpoint()
    until(lambda: machine.status()["inodes"] == 1)


def test_an_untouched_mount_keeps_its_cid(machine: Mount, mount: Path) -> None:
    cid = imported(mount)
    assert machine.checkpoint() == cid
    os.listdir(mount)
    assert machine.umount() == cid
