"""What a mount knows of a tree that is looked at stays within its limits."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.mounted.conftest import Mount
from tests.suites.machine import until

pytestmark = pytest.mark.mounted


def test_inodes_are_forgotten_also_when_nothing_is_written(machine: Mount) -> None:
    mnt = machine.start()
    for n in range(300):
        (mnt / f"d{n % 10}").mkdir(exist_ok=True)
        (mnt / f"d{n % 10}/f{n}").touch()
    machine.umount()
    machine.start_tight()  # 15 inodes, of which directories are only let go when nothing is below
    subprocess.run(["find", mnt, "-size", "+1G"], check=True)
    until(lambda: int(str(machine.status()["inodes"])) <= 15)
    assert sum(len(names) for _, _, names in os.walk(mnt)) == 300
