"""Faults around a mount: full disks, flipped bits, dead daemons, busy mount points."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from monofs_fuse import mountpoint
from monofs_fuse.errors import MountError
from store import check
from store.cid import parse
from store.repository import Repository
from tests.suites.machine import Machine, until, wait_gone

pytestmark = [pytest.mark.mounted, pytest.mark.slow]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Machine]:
    """A store on a disk of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "none", disk], check=True)
    machine = Machine(tmp_path, disk / "store")
    yield machine
    machine.end()
    print(machine.log())
    subprocess.run(["umount", "-l", disk], check=True)


def report(machine: Machine) -> check.Report:
    repository = Repository.open(machine.store, create=False)
    try:
        return check.examine(repository.store)
    finally:
        repository.close()


def test_full_disk_keeps_the_edits_and_saves_them_once_there_is_room(small: Machine) -> None:
    mnt = small.start()
    (mnt / "old").write_bytes(b"old" * 1000)
    before = small.checkpoint()
    data = os.urandom(40 << 20)
    fd = os.open(mnt / "big", os.O_CREAT | os.O_RDWR)
    with pytest.raises(OSError) as raised:
        os.write(fd, data[: 20 << 20])
        os.write(fd, data[20 << 20 :])
        os.fsync(fd)
    assert raised.value.errno == errno.ENOSPC
    assert (mnt / "old").read_bytes() == b"old" * 1000
    assert str(small.status()["head"]) == before
    assert "no space" in str(small.status()["problem"])
    with pytest.raises(MountError, match="no space"):
        small.umount()
    subprocess.run(["mount", "-o", "remount,size=200M", small.store.parent], check=True)
    os.pwrite(fd, data, 0)
    os.fsync(fd)
    os.close(fd)
    assert small.status()["problem"] is None
    small.umount()
    assert report(small).is_clean
    mnt = small.start()
    assert (mnt / "big").read_bytes() == data
    small.umount()


def test_sigkill_keeps_what_was_synced(machine: Machine) -> None:
    mnt = machine.start()
    data = os.urandom(3_000_000)
    fd = os.open(mnt / "synced", os.O_CREAT | os.O_WRONLY)
    os.write(fd, data)
    os.fsync(fd)
    os.mkdir(mnt / "later")
    machine.kill()
    with pytest.raises(OSError, match="Transport endpoint"):
        os.listdir(mnt)
    mnt = machine.start()  # finds the dead mount point, clears it, goes on from the last commit
    assert (mnt / "synced").read_bytes() == data
    machine.umount()
    assert report(machine).is_clean


def test_umount_clears_a_dead_mount(machine: Machine) -> None:
    machine.start()
    machine.kill()
    assert machine.umount() is None
    assert mountpoint.mounted(os.fspath(machine.dir)) is None


def test_a_name_has_one_writer(machine: Machine, tmp_path: Path) -> None:
    machine.start()
    other = tmp_path / "other"
    other.mkdir()
    first, machine.dir = machine.dir, other
    with pytest.raises(RuntimeError, match=f"'t' is mounted on .* by process .*umount {first}"):
        machine.start()
    machine.dir = first
    machine.umount()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_everything(machine: Machine, number: int) -> None:
    mnt = machine.start()
    (mnt / "file").write_bytes(b"unsynced" * 5000)
    pid = machine.pid
    os.kill(pid, number)
    wait_gone(pid)
    assert mountpoint.mounted(os.fspath(mnt)) is None
    mnt = machine.start()
    assert (mnt / "file").read_bytes() == b"unsynced" * 5000
    machine.umount()


def test_fusermount_saves_everything(machine: Machine) -> None:
    mnt = machine.start()
    pid = machine.pid
    (mnt / "file").write_bytes(b"unsynced" * 5000)
    subprocess.run(["fusermount3", "-u", mnt], check=True)
    wait_gone(pid)
    repository = Repository.open(machine.store)
    name = repository.name("t")
    assert name is not None and name.head is None, "the name points at a version of what was there"
    assert repository.version(name).previous
    repository.close()
    mnt = machine.start()
    assert (mnt / "file").read_bytes() == b"unsynced" * 5000
    machine.umount()


def test_busy_umount_says_who(machine: Machine) -> None:
    mnt = machine.start()
    (mnt / "file").write_bytes(b"one")
    with (mnt / "file").open("r+b") as held:
        holder = subprocess.Popen(["sleep", "60"], cwd=mnt)
        try:
            with pytest.raises(MountError, match=rf"in use by .*sleep \({holder.pid}\)"):
                machine.umount()
            assert (mnt / "file").read_bytes() == b"one", "still mounted"
            pid = machine.pid
            machine.umount(lazy=True)
            assert mountpoint.mounted(os.fspath(mnt)) is None
            held.write(b"two")
        finally:
            holder.kill()
            holder.wait()
    wait_gone(pid)
    mnt = machine.start()
    assert (mnt / "file").read_bytes() == b"two", "written after the lazy umount, saved when it was closed"
    machine.umount()


def test_forced_umount_ends_at_once(machine: Machine) -> None:
    mnt = machine.start()
    (mnt / "file").write_bytes(b"one")
    with (mnt / "file").open("rb"):
        pid = machine.pid
        machine.umount(force=True)
        wait_gone(pid)
    mnt = machine.start()
    assert (mnt / "file").read_bytes() == b"one"
    machine.umount()


def test_an_open_file_without_a_name_stays_readable(machine: Machine) -> None:
    mnt = machine.start()
    data = os.urandom(1_000_000)
    (mnt / "file").write_bytes(data)
    machine.checkpoint()
    fd = os.open(mnt / "file", os.O_RDWR)
    os.unlink(mnt / "file")
    for _ in range(3):  # commits and garbage collection in between
        (mnt / "other").write_bytes(os.urandom(100))
        machine.checkpoint()
    os.pwrite(fd, b"edit", 5)
    machine.checkpoint()
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, len(data), 0) == data[:5] + b"edit" + data[9:]
    os.close(fd)
    machine.umount()
    assert report(machine).is_clean


def test_a_corrupt_chunk_is_an_io_error_for_that_file_only(machine: Machine) -> None:
    mnt = machine.start()
    (mnt / "good").write_bytes(os.urandom(50_000))
    (mnt / "bad").write_bytes(os.urandom(50_000))
    machine.checkpoint()
    cid = parse(os.getxattr(mnt / "bad", "user.monofs.cid").decode())
    machine.umount()
    env = lmdb.open(os.fspath(machine.store / "lmdb"), max_dbs=8)
    blocks = env.open_db(b"blocks")
    with env.begin(write=True, db=blocks) as txn:
        value = bytearray(txn.get(cid))
        value[-1] ^= 1
        txn.put(cid, bytes(value))
    env.close()
    mnt = machine.start()
    with pytest.raises(OSError) as raised:
        (mnt / "bad").read_bytes()
    assert raised.value.errno == errno.EIO
    assert len((mnt / "good").read_bytes()) == 50_000
    (mnt / "new").write_bytes(b"still writable")
    machine.checkpoint()
    machine.umount()
    found = report(machine)
    assert not found.is_clean
    assert any(str(cid) in str(problem) and "bad" in str(problem) for problem in found.problems)


def test_edits_over_a_corrupt_chunk_do_not_stop_other_files(machine: Machine) -> None:
    mnt = machine.start()
    (mnt / "bad").write_bytes(os.urandom(900_000))
    machine.checkpoint()
    cid = parse(os.getxattr(mnt / "bad", "user.monofs.cid").decode())
    machine.umount()
    repository = Repository.open(machine.store)
    chunk = repository.cache.node(cid).items[0][1]
    repository.close()
    env = lmdb.open(os.fspath(machine.store / "lmdb"), max_dbs=8)
    with env.begin(write=True, db=env.open_db(b"blocks")) as txn:
        txn.put(chunk, b"\0rubbish")
    env.close()
    mnt = machine.start()
    fd = os.open(mnt / "bad", os.O_WRONLY)
    os.pwrite(fd, b"x" * 4096, 0)
    (mnt / "fine").write_bytes(b"fine")
    other = os.open(mnt / "fine", os.O_RDONLY)
    os.fsync(other)
    with pytest.raises(OSError) as raised:
        os.fsync(fd)
    assert raised.value.errno == errno.EIO
    os.close(fd)
    os.close(other)
    machine.kill()
    mnt = machine.start()
    assert (mnt / "fine").read_bytes() == b"fine"
    machine.umount(force=True)


def test_foreground_ends_with_ctrl_c(machine: Machine) -> None:
    code = (
        "from pathlib import Path; from monofs_fuse import mounts\n"
        f"mounts.start(Path({os.fspath(machine.store)!r}), 't', {os.fspath(machine.dir)!r}, foreground=True)"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    assert "mounted on" in server.stderr.readline()
    (machine.dir / "file").write_bytes(b"data")
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0
    until(lambda: mountpoint.mounted(os.fspath(machine.dir)) is None)
    mnt = machine.start()
    assert (mnt / "file").read_bytes() == b"data"
    machine.umount()


def test_mount_points_that_cannot_be_used(machine: Machine, tmp_path: Path) -> None:
    keep = machine.dir
    for directory, word in ((tmp_path / "none", "no directory"), (tmp_path / "file", "not a directory")):
        (tmp_path / "file").touch()
        machine.dir = directory
        with pytest.raises(RuntimeError, match=word):
            machine.start()
    machine.dir = keep
    (keep / "occupied").touch()
    with pytest.raises(RuntimeError, match="not empty"):
        machine.start()
    (keep / "occupied").unlink()
    machine.start()
    with pytest.raises(RuntimeError, match="mount point already"):
        machine.start()
    machine.umount()
