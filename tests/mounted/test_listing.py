"""Listing a directory while others change it: a name that stays is given out exactly once, to every reader."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import struct
from pathlib import Path
from typing import Final

import pytest

from store import directory, version
from store.entry import Entry
from store.repository import Repository
from tests.mounted.conftest import Mount
from tests.suites import counted
from tests.suites.posix.kinds import Directory

pytestmark = pytest.mark.mounted

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_GETDENTS64: Final = {"x86_64": 217}.get(os.uname().machine, 61)
_NAME_AT: Final = 19  # in a linux_dirent64, behind number, offset, length and type


class Reader:
    """One open directory, read with the system call itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.found: list[tuple[str, int]] = []  # names, and the place behind each

    def read(self, size: int) -> bool:
        """Return True if there may be more."""
        buffer = ctypes.create_string_buffer(size)
        got = _LIBC.syscall(_GETDENTS64, self.fd, buffer, size)
        if got < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        at = 0
        while at < got:
            _, place, length, _ = struct.unpack_from("=QqHB", buffer, at)
            self.found.append((os.fsdecode(buffer.raw[at + _NAME_AT : at + length].split(b"\0")[0]), place))
            at += length
        return got > 0

    def rest(self) -> list[str]:
        """Read to the end; returns all names since the beginning."""
        while self.read(4096):
            pass
        return self.names()

    def names(self) -> list[str]:
        return [name for name, _ in self.found if name not in (".", "..")]

    def seek(self, count: int) -> None:
        """Go back to where `count` names had been read."""
        del self.found[count:]
        os.lseek(self.fd, self.found[-1][1] if self.found else 0, os.SEEK_SET)

    def reopen(self) -> None:
        """Go on in a directory that is opened anew, as NFS servers do."""
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self.seek(len(self.found))

    def close(self) -> None:
        os.close(self.fd)


def make(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("tight", [False, True], ids=["", "commits all the time"])
def test_a_name_that_stays_is_given_out_once(machine: Mount, rng: random.Random, tight: bool) -> None:
    mnt = machine.start_tight() if tight else machine.start()
    top = mnt / "d"
    top.mkdir()
    stay = {f"{rng.randrange(1000):03}-stay" for _ in range(300)}
    change = [f"{n:03}-change" for n in range(0, 1000, 3)]
    for name in (*stay, *change[::2]):
        make(top / name)
    machine.checkpoint()
    readers = [Reader(top) for _ in range(3)]
    rounds = 0
    try:
        for _ in range(4000):
            match rng.randrange(16):
                case 0 | 1 | 2:
                    make(top / rng.choice(change))
                case 3 | 4 | 5:
                    (top / rng.choice(change)).unlink(missing_ok=True)
                case 6:
                    old, new = rng.sample(change, 2)
                    if (top / old).exists():
                        os.rename(top / old, top / new)
                case 7:
                    os.chmod(top / rng.choice(sorted(stay)), rng.choice((0o600, 0o640)))
                case 8:
                    rng.choice(readers).reopen()
                case 9 if rng.randrange(8) == 0:
                    machine.checkpoint()
                case 10:
                    reader = rng.choice(readers)
                    reader.seek(max(0, len(reader.found) - rng.randrange(40)))
                case _:
                    reader = rng.choice(readers)
                    if not reader.read(rng.choice((48, 80, 200, 1000))):
                        names = reader.names()
                        assert len(names) == len(set(names)), "a name twice"
                        assert stay <= set(names), f"missing: {sorted(stay - set(names))}"
                        rounds += 1
                        reader.seek(0)
        for reader in readers:
            names = reader.rest()
            assert len(names) == len(set(names)) and stay <= set(names)
        assert rounds > 3
    finally:
        for reader in readers:
            reader.close()


def test_a_place_outlives_its_name(mount: Path) -> None:
    """For the reader who has it, and for one who opens the directory anew."""
    names = [f"{n:04}" for n in range(2000)]
    for name in names:
        make(mount / name)
    reader = Reader(mount)
    other = Reader(mount)
    try:
        while len(reader.found) < 300 and reader.read(500):
            pass
        at, place = len(reader.found), reader.found[-1]
        reader.rest()
        for name in names[: at + 5]:
            os.unlink(mount / name)
        left = names[at + 5 :]
        reader.seek(at)
        assert reader.rest()[at - 2 :] == left
        reader.reopen()
        reader.seek(at)
        assert reader.rest()[at - 2 :] == left
        other.found = [place]
        other.seek(1)
        assert other.rest()[1:] == left
    finally:
        reader.close()
        other.close()


def test_a_place_that_never_was(mount: Path) -> None:
    make(mount / "a")
    reader = Reader(mount)
    try:
        os.lseek(reader.fd, 12345, os.SEEK_SET)
        with pytest.raises(OSError) as caught:
            reader.read(1000)
        assert caught.value.errno == errno.EINVAL
        reader.seek(0)
        assert reader.rest() == ["a"]
    finally:
        reader.close()


def test_names_come_in_order_whether_saved_or_not(machine: Mount, mount: Path) -> None:
    for n in range(0, 100, 2):
        make(mount / f"{n:02}")
    machine.checkpoint()
    for n in range(1, 100, 2):
        make(mount / f"{n:02}")
    (mount / "50").unlink()
    assert os.listdir(mount) == [f"{n:02}" for n in range(100) if n != 50]


def test_the_first_names_of_a_large_directory(machine: Mount) -> None:
    """They cost a few blocks, however many follow, and no memory for those."""
    repository = Repository.open(machine.store)
    batch, stage = repository.batch("large")
    builder = directory.Builder(batch)
    for number in range(100_000):
        builder.add(b"%06d" % number, Entry("file", 0o644, mtime=number, size=3, data=b"abc"))
    tree = version.Tree(builder.finish(Entry("dir", 0o755)))
    repository.publish("large", version.put_tree(batch, tree), batch, stage)
    repository.close()
    mnt = machine.start_counted("large")
    before, memory = counted.counts(mnt), _anonymous_kib(machine.pid)
    with Directory(mnt) as listed:
        assert [listed.read() is not None for _ in range(100)] == [True] * 100
        assert (counted.counts(mnt) - before)["blocks"] < 20
        assert _anonymous_kib(machine.pid) - memory < 16 * 1024
        assert len(listed.names()) == 100_000 + 2 - 100


def _anonymous_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
