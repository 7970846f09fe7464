"""The law: whatever is done in a mount, its CID is that of the same tree imported from scratch."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from store import importer
from store.batch import Batch
from store.cache import Cache
from store.memory_store import MemoryStore
from tests.mounted.conftest import Mount
from tests.mounted.twins import Twins

pytestmark = pytest.mark.mounted


def imported(path: Path) -> str:
    """Return the CID of a directory imported into a store of its own."""
    found = importer.import_directory(Batch(Cache(MemoryStore())), path)
    assert not found.skipped
    return str(found.cid)


def live(machine: Mount, shadow: Path, rng: random.Random, rounds: int, steps: int) -> None:
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
                assert machine.remount() == cid
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


def test_an_untouched_mount_keeps_its_cid(machine: Mount, mount: Path) -> None:
    cid = imported(mount)
    assert machine.checkpoint() == cid
    os.listdir(mount)
    assert machine.umount() == cid
