"""What reading costs, in counts that do not depend on the machine: a change that makes it dearer breaks this.

A budget is an upper bound; behind it stands what was measured when it was set. Who makes something cheaper lowers
its budget.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from store.importer import import_directory
from store.repository import Repository
from tests.mounted.conftest import Mount, needs_root
from tests.suites import counted

pytestmark = pytest.mark.mounted

MIB: Final = 1024 * 1024
FILES: Final = 360  # in 24 directories, which are in 4, which are in the root: 29
GIT: Final = ("git", "-c", "safe.directory=*", "-c", "gc.auto=0", "-c", "user.name=a", "-c", "user.email=a@example.org")

READ: Final = ("find", ".", "-type", "f", "-exec", "cat", "{}", "+")
TAR: Final = ("tar", "-cf", "/dev/stdout", ".")  # to /dev/null it would not read

# What nobody counts to the last: looking at the mount's root, cleaning up.
ALWAYS: Final = {"getattr": 4, "lookup": 3, "getxattr": 4, "forget": 20, "statfs": 2, "flush": 1}

DIRECTORIES: Final = {
    "opendir": 31,  # 29 or 30: find begins with one more
    "releasedir": 31,
    "readdir": 62,  # 58: one that answers and one that ends for each
}
OPENED: Final = {"open": FILES, "release": FILES}
NODES: Final = {"blocks": 36, "transactions": 36}  # 29: each directory is one node


@pytest.fixture
def source(tmp_path: Path, rng: random.Random) -> Path:
    """A tree with small files, which is not in the store yet."""
    top = tmp_path / "source"
    for d in range(24):
        directory = top / f"d{d % 4}" / f"d{d}"
        directory.mkdir(parents=True)
        for n in range(FILES // 24):
            (directory / f"file{n}").write_bytes(rng.randbytes(rng.randrange(1, 40_000)))
            os.utime(directory / f"file{n}", ns=(0, 1_600_000_000_123_456_789))
    return top


Work = Callable[[Path], None]


def measure(machine: Mount, source: Path, work: Work, before: Work = lambda mnt: None) -> None:
    """Import `source`, and do `work` in a new mount of it, in which the kernel knows nothing yet.

    Somebody else on this machine may have the kernel drop what it knows: nobody is over budget who keeps it later.
    """
    repository = Repository.open(machine.store)
    batch, stage = repository.batch("test")
    repository.publish("source", import_directory(batch, source).cid, batch, stage)
    repository.close()
    before(machine.start("source"))
    machine.umount()
    for is_last in (False, False, True):
        try:
            work(machine.start_counted("source"))
            return
        except AssertionError:
            if is_last:
                raise
        finally:
            machine.umount()


def run(mnt: Path, *argv: str) -> None:
    subprocess.run(argv, cwd=mnt, check=True, capture_output=True)


def done(mnt: Path, *argv: str) -> Counter[str]:
    """Run a program in the mount's root. Returns what it cost."""
    before = counted.counts(mnt)
    run(mnt, *argv)
    return counted.counts(mnt) - before


def check(found: Counter[str], **budget: int) -> None:
    over = {name: count for name, count in found.items() if count > budget.get(name, ALWAYS.get(name, 0))}
    assert not over, f"over budget: {over}; all that was counted: {dict(found)}"


def test_find(machine: Mount, source: Path) -> None:
    def work(mnt: Path) -> None:
        check(done(mnt, "find", ".", "-size", "+1G"), **DIRECTORIES, **NODES)
        check(done(mnt, "find", ".", "-size", "+1G"), **DIRECTORIES)

    measure(machine, source, work)


def test_ls(machine: Mount, source: Path) -> None:
    """ls asks for two extended attributes of everything, which the kernel does not keep when names are listed again."""
    attributes = {"getxattr": 860}  # 804

    def work(mnt: Path) -> None:
        check(done(mnt, "ls", "-lR"), **DIRECTORIES, **NODES, **attributes)
        check(done(mnt, "ls", "-lR"), **DIRECTORIES, **attributes)

    measure(machine, source, work)


def test_reading_every_file(machine: Mount, source: Path) -> None:
    """The kernel asks for few of the files: most are in its cache when they are open."""
    content = {"blocks": 430, "transactions": 430, "read": 30}  # 412, 412, 23

    def work(mnt: Path) -> None:
        check(done(mnt, *READ), **DIRECTORIES, **OPENED, **content)
        check(done(mnt, *READ), **DIRECTORIES, **OPENED)

    measure(machine, source, work)


def test_tar(machine: Mount, source: Path) -> None:
    content = {"blocks": 430, "transactions": 430, "read": 40, "getattr": 70}  # 413, 413, 31, 52

    def work(mnt: Path) -> None:
        check(done(mnt, *TAR), **DIRECTORIES, **OPENED, **content)
        check(done(mnt, *TAR), **DIRECTORIES, **OPENED, getattr=36)  # 29

    measure(machine, source, work)


def test_git_status(machine: Mount, source: Path) -> None:
    """In a new mount every name is looked up once, and no file is read to see that it has not changed."""
    for argv in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "all")):
        run(source, *GIT, *argv)
    git = {"open": 24, "release": 25, "read": 20, "blocks": 60, "transactions": 60}
    index = {"create": 1, "setattr": 1, "unlink": 1}

    def work(mnt: Path) -> None:
        check(done(mnt, *GIT, "status", "--porcelain"), **DIRECTORIES, **git, **index, lookup=480, getattr=20)
        check(done(mnt, *GIT, "status", "--porcelain"), **DIRECTORIES, **git, **index, getattr=60)

    # What inode number a file has is in the index, too.
    measure(machine, source, work, lambda mnt: run(mnt, *GIT, "status"))


@needs_root  # who may set the kernel's read-ahead
def test_a_large_file(machine: Mount, source: Path, rng: random.Random) -> None:
    (source / "large").write_bytes(rng.randbytes(32 * MIB))
    chunks = {"blocks": 530, "transactions": 530, "read": 40}  # 512, 512, 37

    def work(mnt: Path) -> None:
        check(done(mnt, "dd", "if=large", "of=/dev/null", "bs=4k"), open=1, release=1, **chunks)
        check(done(mnt, "dd", "if=large", "of=/dev/null", "bs=4k"), open=1, release=1)

    measure(machine, source, work)
