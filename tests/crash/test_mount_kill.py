"""kill -9 of the mount's daemon at any moment: what was synced is there, the tree is whole, nothing leaks."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from store import check, staging
from store.blocks import collect
from store.repository import Repository
from tests.suites.machine import Machine

pytestmark = [pytest.mark.mounted, pytest.mark.slow]

KILLS = 12

# Makes f0, f1, ... in order, each with bytes that its number gives; every third is synced and logged as such; every
# fifth gets its name by a rename; older ones are edited in the middle.
WORKLOAD = """
import os, random, sys
mnt, log, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def content(i):
    return random.Random(i).randbytes(random.Random(i).choice((10, 3000, 120_000, 700_000)))
for i in range(first, 1 << 30):
    path = f"{mnt}/f{i}"
    made = f"{mnt}/.tmp" if i % 5 == 0 else path
    fd = os.open(made, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(fd, content(i))
    if made != path:
        os.rename(made, path)
    if i % 3 == 0:
        os.fsync(fd)
        os.write(out, b"%d\\n" % i)
    os.close(fd)
"""


def content(i: int) -> bytes:
    return random.Random(i).randbytes(random.Random(i).choice((10, 3000, 120_000, 700_000)))


def made(mnt: Path) -> list[int]:
    return sorted(int(name[1:]) for name in os.listdir(mnt) if name.startswith("f"))


def test_kills(machine: Machine, tmp_path: Path, rng: random.Random) -> None:
    kill_often(machine, tmp_path / "synced", KILLS, rng.randrange(1 << 30))


def kill_often(machine: Machine, log: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    log.touch()
    first = 0
    for kill in range(kills):
        mnt = machine.start()
        workload = subprocess.Popen([sys.executable, "-c", WORKLOAD, mnt, log, str(first)], stderr=subprocess.DEVNULL)
        size = log.stat().st_size
        while log.stat().st_size == size:  # it is at work
            assert workload.poll() is None, "the workload failed; the mount's log says why"
            time.sleep(0.002)
        time.sleep(rng.random() * 0.4)
        machine.kill()
        workload.kill()
        workload.wait()
        where = f"seed {seed}, kill {kill}"

        mnt = machine.start()
        there = made(mnt)
        synced = [int(line) for line in log.read_text().split()]
        assert set(synced) <= set(there), f"{where}: synced files are missing"
        assert there == list(range(len(there))), f"{where}: the names are not a prefix of those made"
        for i in synced:
            assert (mnt / f"f{i}").read_bytes() == content(i), f"{where}: f{i} is not what was synced"
        # A name that was never synced may be there with less than its content, never with other bytes.
        for i in set(there) - set(synced):
            data = (mnt / f"f{i}").read_bytes()
            assert len(data) <= len(content(i)), f"{where}: f{i}"
        machine.umount()
        first = len(there)
        verify(machine, where)


def verify(machine: Machine, where: str) -> None:
    repository = Repository.open(machine.store, create=False)
    try:
        found = check.examine(repository.store)
        assert found.is_clean, f"{where}: {found.problems}"
        assert not repository.store.roots(staging.PREFIX), f"{where}: staged blocks of the dead are still held"
        list(collect(repository.store, 1000))
        assert repository.store.usage().waiting == 0
    finally:
        repository.close()
