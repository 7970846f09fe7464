"""Bytes: read, written, truncated, appended."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

from tests.suites.posix.tools import AT_FDCWD, PAGE, UTIME_NOW, UTIME_OMIT, call, case, fails, file, moved, opened

# Content


@case
def reads_and_writes_at_any_offset(at: Path) -> None:
    rng = random.Random(1)
    model = bytearray()
    with opened(at / "f") as fd:
        for _ in range(200):
            offset, data = rng.randrange(200_000), rng.randbytes(rng.choice([1, 10, 4096, 40_000]))
            os.pwrite(fd, data, offset)
            model.extend(bytes(max(0, offset - len(model))))
            model[offset : offset + len(data)] = data
            start, length = rng.randrange(250_000), rng.choice([1, 4096, 100_000])
            assert os.pread(fd, length, start) == model[start : start + length]
    assert (at / "f").read_bytes() == model


@case
def beyond_the_end_is_zero(at: Path) -> None:
    with opened(at / "f") as fd:
        assert os.pwrite(fd, b"end", 100_000) == 3
        assert os.pread(fd, 200_000, 0) == bytes(100_000) + b"end"
        assert os.pread(fd, 10, 100_003) == b"" == os.pread(fd, 10, 1 << 40)
        assert os.pwrite(fd, b"", 1 << 20) == 0
        assert os.fstat(fd).st_size == 100_003


@case
def truncate_up_and_down(at: Path) -> None:
    file(at / "f", b"x" * 10_000)
    os.truncate(at / "f", 5000)
    os.truncate(at / "f", 20_000)
    assert (at / "f").read_bytes() == b"x" * 5000 + bytes(15_000)
    with opened(at / "f") as fd:
        os.ftruncate(fd, 100)
        os.pwrite(fd, b"y", 200)
        os.ftruncate(fd, 300)
        assert os.pread(fd, 1000, 0) == b"x" * 100 + bytes(100) + b"y" + bytes(99)
        os.ftruncate(fd, 0)
        assert os.fstat(fd).st_size == os.fstat(fd).st_blocks == 0
        os.ftruncate(fd, 50)
        assert os.pread(fd, 100, 0) == bytes(50)


@case
def truncate_refuses(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    os.mkfifo(at / "p")
    with fails(errno.EINVAL):
        os.truncate(at / "f", -1)
    with fails(errno.EISDIR):
        os.truncate(at / "d", 0)
    with fails(errno.EINVAL):
        os.truncate(at / "p", 0)
    with fails(errno.ENOENT):
        os.truncate(at / "none", 0)


@case
def seeks(at: Path) -> None:
    file(at / "f", b"x" * 100)
    with opened(at / "f") as fd:
        assert os.lseek(fd, -10, os.SEEK_END) == 90
        assert os.lseek(fd, 20, os.SEEK_CUR) == 110 and os.read(fd, 1) == b""
        with fails(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 100
        with fails(errno.ENXIO):
            os.lseek(fd, 100, os.SEEK_DATA)
        os.pwrite(fd, b"y", 1 << 30)
        assert os.lseek(fd, 0, os.SEEK_END) == (1 << 30) + 1
        with fails(errno.EINVAL):
            os.pread(fd, 1, -1)


@case
def sparse_files(at: Path) -> None:
    tib = 1 << 40
    with opened(at / "f") as fd:
        os.ftruncate(fd, tib)
        os.pwrite(fd, b"middle", tib // 2)
        os.fsync(fd)
        found = os.fstat(fd)
        assert found.st_size == tib and found.st_blocks * 512 < 1 << 20
        assert os.pread(fd, 20, tib // 2 - 5) == bytes(5) + b"middle" + bytes(9)
        assert os.pread(fd, 10, tib - 5) == bytes(5)
        os.ftruncate(fd, tib // 2 + 3)
        assert os.pread(fd, 20, tib // 2) == b"mid"
    with opened(at / "g") as fd:
        os.pwrite(fd, b"end", tib - 3)
        assert os.fstat(fd).st_size == tib
    assert os.stat(at / "g").st_blocks * 512 < 1 << 20
    os.unlink(at / "f")
    os.unlink(at / "g")  # or whatever reads all of this directory is busy for a day


@case
def files_take_up_blocks(at: Path) -> None:
    file(at / "f", random.Random(1).randbytes(1 << 20))
    with opened(at / "f") as fd:
        os.fsync(fd)
    assert 1 << 20 <= os.stat(at / "f").st_blocks * 512 <= (1 << 20) + (1 << 17)


@case
def writes_move_the_times(at: Path) -> None:
    file(at / "f")
    with opened(at / "f") as fd:
        assert moved(fd, lambda: os.pwrite(fd, b"x", 0)) == "mc"
        assert moved(fd, lambda: os.ftruncate(fd, 1)) == "mc"
        assert moved(fd, lambda: os.ftruncate(fd, 100)) == "mc"
        assert moved(fd, lambda: os.pwrite(fd, b"", 0)) == ""
        assert moved(fd, lambda: os.pread(fd, 10, 0)) == ""
        assert moved(fd, lambda: os.fsync(fd)) == ""
        before = os.fstat(fd)
    assert moved(at / "f", lambda: os.truncate(at / "f", 7)) == "mc"
    assert before.st_mtime_ns <= os.stat(at / "f").st_mtime_ns


@case
def what_comes_later_is_never_older(at: Path) -> None:
    """Or make would build again what it has just built."""
    for _ in range(100):
        file(at / "f")
        os.mkdir(at / "d")
        (at / "f").write_bytes(b"after d")
        os.symlink("x", at / "l")
        os.utime(at / "f")
        os.mkdir(at / "last")
        order = [os.lstat(at / name) for name in ("d", "l", "f", "last", ".")]
        mtimes = [found.st_mtime_ns for found in order]
        assert mtimes == sorted(mtimes), mtimes
        ctimes = [found.st_ctime_ns for found in order]
        assert ctimes == sorted(ctimes), ctimes
        for name in ("f", "l"):
            os.unlink(at / name)
        for name in ("d", "last"):
            os.rmdir(at / name)


@case
def times_stay_after_the_file_is_closed_and_forgotten(at: Path) -> None:
    file(at / "f")
    with opened(at / "f") as fd:
        os.pwrite(fd, b"x", 0)
        before = os.fstat(fd)
        os.fsync(fd)
        assert os.fstat(fd) == before
    drop_caches()
    after = os.stat(at / "f")
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_ino) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_ino,
    )


def drop_caches() -> None:
    """Have the kernel forget all names and inodes that nobody uses."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2\n")


@case
def utimes_set_what_they_are_told(at: Path) -> None:
    file(at / "f")
    for ns in (0, 1, 1_234_567_890_123_456_789, 4_102_444_800_000_000_001, -1_000_000_001):
        os.utime(at / "f", ns=(ns, ns + 1))
        found = os.stat(at / "f")
        assert (found.st_atime_ns, found.st_mtime_ns) == (ns, ns + 1)
    os.symlink("f", at / "l")
    os.utime(at / "l", ns=(5, 6), follow_symlinks=False)
    assert os.lstat(at / "l").st_mtime_ns == 6 and os.stat(at / "f").st_mtime_ns != 6
    os.utime(at, ns=(7, 8))
    assert os.stat(at).st_mtime_ns == 8
    assert moved(at / "f", lambda: os.utime(at / "f", ns=(1, os.stat(at / "f").st_mtime_ns))) == "c"


def utimensat(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    call("utimensat", AT_FDCWD, os.fsencode(path), struct.pack("qqqq", *atime, *mtime), 0)


@case
def utimes_now_and_omit(at: Path) -> None:
    file(at / "f")
    os.utime(at / "f", ns=(1_000, 2_000))
    utimensat(at / "f", (0, UTIME_OMIT), (5, 6))
    assert (os.stat(at / "f").st_atime_ns, os.stat(at / "f").st_mtime_ns) == (1_000, 5_000_000_006)
    utimensat(at / "f", (7, 8), (0, UTIME_OMIT))
    assert (os.stat(at / "f").st_atime_ns, os.stat(at / "f").st_mtime_ns) == (7_000_000_008, 5_000_000_006)
    assert moved(at / "f", lambda: utimensat(at / "f", (0, UTIME_OMIT), (0, UTIME_OMIT))) == ""
    before = time.time_ns() - 20_000_000  # filesystems may use a coarser clock
    utimensat(at / "f", (0, UTIME_OMIT), (0, UTIME_NOW))
    found = os.stat(at / "f")
    assert found.st_atime_ns == 7_000_000_008 and before <= found.st_mtime_ns <= time.time_ns()
    with fails(errno.EINVAL):
        utimensat(at / "f", (0, 1_000_000_000), (0, 0))


@case
def utimes_win_over_earlier_writes(at: Path) -> None:
    """What tar and cp -p do: write, set the time, close."""
    with opened(at / "f") as fd:
        os.write(fd, b"x" * 100_000)
        os.utime(fd, ns=(1, 2))
    assert os.stat(at / "f").st_mtime_ns == 2
    os.sync()
    drop_caches()
    assert os.stat(at / "f").st_mtime_ns == 2


# Copying and space


@case
def copies_inside_the_kernel(at: Path) -> None:
    data = random.Random(3).randbytes(300_000)
    file(at / "f", data)
    with opened(at / "f", os.O_RDONLY) as source:
        with opened(at / "range") as target:
            copied = 0
            while copied < len(data):
                copied += os.copy_file_range(source, target, len(data) - copied, copied, copied)
        with opened(at / "send") as target:
            sent = 0
            while sent < len(data):
                sent += os.sendfile(target, source, sent, len(data) - sent)
        with opened(at / "splice") as target:
            reader, writer = os.pipe()
            at_byte = 0
            while at_byte < len(data):
                count = os.splice(source, writer, 60_000, offset_src=at_byte)
                at_byte += os.splice(reader, target, count)
            os.close(reader)
            os.close(writer)
    assert all((at / name).read_bytes() == data for name in ("range", "send", "splice"))


@case
def fallocate_works_or_falls_back(at: Path) -> None:
    with opened(at / "f") as fd:
        os.pwrite(fd, b"data", 0)
        os.posix_fallocate(fd, 0, 100_000)
        assert os.fstat(fd).st_size == 100_000 and os.pread(fd, 10, 0) == b"data" + bytes(6)
        punch_hole = 3
        try:
            call("fallocate", fd, punch_hole, ctypes.c_long(0), ctypes.c_long(PAGE))
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP
        else:
            assert os.pread(fd, 4, 0) == bytes(4)


@case
def unknown_ioctls_are_refused(at: Path) -> None:
    file(at / "f")
    with opened(at / "f") as fd, fails(errno.ENOTTY):
        fcntl.ioctl(fd, 0x1234)
    with opened(at, os.O_RDONLY) as fd, fails(errno.ENOTTY):
        fcntl.ioctl(fd, 0x1234)


@case
def statfs_makes_sense(at: Path) -> None:
    found = os.statvfs(at)
    assert found.f_namemax == 255 and found.f_bsize >= 512 and found.f_frsize >= 512
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert found.f_files == 0 or 0 < found.f_ffree <= found.f_files
    file(at / "f")
    with opened(at / "f") as fd:
        assert os.fstatvfs(fd).f_blocks == found.f_blocks


@case
def syncs(at: Path) -> None:
    with opened(at / "f") as fd:
        os.write(fd, b"x")
        os.fdatasync(fd)
        os.fsync(fd)
    with opened(at, os.O_RDONLY) as fd:
        os.fsync(fd)
        call("syncfs", fd)


@case
def programs_run(at: Path) -> None:
    file(at / "script", b"#!/bin/sh\necho ran $1\n", 0o755)
    assert subprocess.run([at / "script", "well"], capture_output=True, check=True).stdout == b"ran well\n"
    (at / "program").write_bytes(Path("/bin/true").read_bytes())
    os.chmod(at / "program", 0o755)
    subprocess.run([at / "program"], check=True)
    os.chmod(at / "script", 0o644)
    with fails(errno.EACCES):
        os.execv(at / "script", ["script"])


@case
def two_processes_see_each_other_at_once(at: Path) -> None:
    """Nothing is cached so long that another process would see something old."""
    code = """
import os, sys
for line in sys.stdin:
    what, path = line.split()
    try:
        print(os.listdir(path) if what == "list" else open(path).read(), flush=True)
    except FileNotFoundError:
        print("none", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdin and other.stdout

        def ask(what: str, path: Path) -> str:
            assert other.stdin and other.stdout
            other.stdin.write(f"{what} {path}\n")
            other.stdin.flush()
            return other.stdout.readline().strip()

        for n in range(20):
            assert ask("read", at / "f") == "none"
            file(at / "f", b"%d" % n)
            assert ask("read", at / "f") == str(n)
            file(at / "f", b"again %d" % n)
            assert ask("read", at / "f") == f"again {n}"
            assert ask("list", at) == "['f']"
            os.unlink(at / "f")
            assert ask("list", at) == "[]"
        other.stdin.close()
