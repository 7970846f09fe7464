"""What POSIX and Linux promise of a filesystem: plain functions, each of which takes an empty directory.

They hold on ext4 and tmpfs, which proves the suite, and so they must on a mount. Run as root.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import fcntl
import mmap
import os
import random
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Case = Callable[[Path], None]
CASES: list[Case] = []
SLOW_CASES: list[Case] = []

USER, FRIEND, STRANGER = (4001, 4001), (4002, 4001), (4003, 4003)  # uid and gid; the first two share a group
LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, NOREPLACE, EXCHANGE = -100, 1, 2
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # CAP_NET_BIND_SERVICE, permitted and effective
PAGE = mmap.PAGESIZE


def case(function: Case) -> Case:
    CASES.append(function)
    return function


def slow(function: Case) -> Case:
    SLOW_CASES.append(function)
    return function


# Tools


@contextmanager
def fails(number: int) -> Iterator[None]:
    """The block must fail with exactly this errno."""
    try:
        yield
    except OSError as error:
        assert error.errno == number, f"{errno.errorcode[error.errno or 0]} for {errno.errorcode[number]}"
        return
    raise AssertionError(f"succeeded, but should have failed with {errno.errorcode[number]}")


@contextmanager
def opened(path: Path | bytes, flags: int = os.O_RDWR | os.O_CREAT, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def call(function: str, *args: object) -> int:
    """Call the C library. Raises OSError."""
    result: int = getattr(LIBC, function)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(old: Path, new: Path, flags: int) -> None:
    call("renameat2", AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def as_user(who: tuple[int, int], function: Callable[[], object]) -> None:
    """Run `function` in a child that is this user. Raises the OSError that it raised there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        number = -1
        try:
            os.setgroups([])
            os.setresgid(who[1], who[1], who[1])
            os.setresuid(who[0], who[0], who[0])
            function()
            number = 0
        except OSError as error:
            number = error.errno or -1
        finally:
            os.write(writer, struct.pack("i", number))
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        (number,) = struct.unpack("i", answer.read())
    os.waitpid(child, 0)
    if number > 0:
        raise OSError(number, os.strerror(number))
    assert number == 0, "the child failed, and not with an OSError"


def child(function: Callable[[], object]) -> int:
    """Run `function` in a child; returns its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"


def tick() -> None:
    """Let the clock that filesystems take their times from move on; it stands still for up to 10 ms."""
    before = time.clock_gettime_ns(time.CLOCK_REALTIME_COARSE if hasattr(time, "CLOCK_REALTIME_COARSE") else 5)
    while time.clock_gettime_ns(5) == before:
        pass


class Moved:
    """Which of a file's times move while the block runs: a string of 'm' and 'c'."""

    def __init__(self, path: Path | int) -> None:
        self.path = path
        self.what = ""

    def times(self) -> tuple[int, int]:
        found = os.fstat(self.path) if isinstance(self.path, int) else os.lstat(self.path)
        return found.st_mtime_ns, found.st_ctime_ns

    def __enter__(self) -> Moved:
        self.before = self.times()
        tick()
        return self

    def __exit__(self, *_: object) -> None:
        after = self.times()
        self.what = "".join(name for name, old, new in zip("mc", self.before, after) if old != new)
        assert all(new >= old for old, new in zip(self.before, after)) or not self.what


def moved(path: Path | int, function: Callable[[], object]) -> str:
    with Moved(path) as found:
        function()
    return found.what


def file(path: Path, data: bytes = b"data", mode: int = 0o644) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


# open


@case
def open_creates_only_with_o_creat(at: Path) -> None:
    with fails(errno.ENOENT):
        os.open(at / "f", os.O_RDWR)
    with opened(at / "f", os.O_RDWR | os.O_CREAT, 0o640):
        assert stat.S_ISREG(os.lstat(at / "f").st_mode) and mode(at / "f") == 0o640


@case
def open_applies_the_umask(at: Path) -> None:
    old = os.umask(0o027)
    try:
        with opened(at / "f", mode=0o666):
            os.mkdir(at / "d", 0o777)
            os.mkfifo(at / "p", 0o666)
    finally:
        os.umask(old)
    assert (mode(at / "f"), mode(at / "d"), mode(at / "p")) == (0o640, 0o750, 0o640)


@case
def open_with_a_mode_that_forbids_writing_still_writes_the_new_file(at: Path) -> None:
    def create() -> None:
        with opened(at / "f", os.O_WRONLY | os.O_CREAT, 0o400) as fd:
            assert os.write(fd, b"x") == 1
        with fails(errno.EACCES):
            os.open(at / "f", os.O_WRONLY)

    os.chmod(at, 0o777)
    as_user(USER, create)
    assert (at / "f").read_bytes() == b"x"


@case
def o_excl_refuses_what_is_there(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    os.symlink("nowhere", at / "dangling")
    for name in ("f", "d", "dangling"):
        with fails(errno.EEXIST):
            os.open(at / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert not (at / "nowhere").exists()


@case
def o_creat_follows_a_dangling_link(at: Path) -> None:
    os.symlink("there", at / "l")
    with opened(at / "l", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x")
    assert (at / "there").read_bytes() == b"x" and os.readlink(at / "l") == "there"


@case
def o_nofollow_and_o_directory(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    os.symlink("f", at / "l")
    os.symlink("d", at / "ld")
    with fails(errno.ELOOP):
        os.open(at / "l", os.O_RDONLY | os.O_NOFOLLOW)
    with fails(errno.ENOTDIR):
        os.open(at / "f", os.O_RDONLY | os.O_DIRECTORY)
    with fails(errno.ENOTDIR):
        os.open(at / "ld", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    with opened(at / "ld", os.O_RDONLY | os.O_DIRECTORY) as fd:
        assert os.fstat(fd).st_ino == os.stat(at / "d").st_ino


@case
def o_trunc_empties_and_moves_the_times(at: Path) -> None:
    file(at / "f")
    assert moved(at / "f", lambda: os.close(os.open(at / "f", os.O_WRONLY | os.O_TRUNC))) == "mc"
    assert os.stat(at / "f").st_size == 0
    assert moved(at / "f", lambda: os.close(os.open(at / "f", os.O_WRONLY | os.O_TRUNC))) == "mc"
    assert (at / "f").read_bytes() == b""


@case
def directories_cannot_be_written(at: Path) -> None:
    os.mkdir(at / "d")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        with fails(errno.EISDIR):
            os.open(at / "d", flags)
    with opened(at / "d", os.O_RDONLY) as fd, fails(errno.EISDIR):
        os.read(fd, 1)


@case
def a_slash_at_the_end_means_a_directory(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    with fails(errno.ENOTDIR):
        os.open(os.fsencode(at / "f") + b"/", os.O_RDONLY)
    with fails(errno.EISDIR):
        os.open(os.fsencode(at / "new") + b"/", os.O_CREAT | os.O_WRONLY)
    os.rename(os.fsencode(at / "d") + b"/", os.fsencode(at / "e") + b"/")
    with fails(errno.ENOTDIR):
        os.rename(at / "f", os.fsencode(at / "g") + b"/")
    with fails(errno.ENOTDIR):
        os.unlink(os.fsencode(at / "f") + b"/")


@case
def access_modes_of_descriptors(at: Path) -> None:
    file(at / "f")
    with opened(at / "f", os.O_RDONLY) as fd:
        with fails(errno.EBADF):
            os.write(fd, b"x")
        with fails(errno.EINVAL):
            os.ftruncate(fd, 1)
    with opened(at / "f", os.O_WRONLY) as fd, fails(errno.EBADF):
        os.read(fd, 1)
    with opened(at / "f", os.O_PATH) as fd:
        with fails(errno.EBADF):
            os.read(fd, 1)
        assert os.fstat(fd).st_size == 4
        assert Path(f"/proc/self/fd/{fd}").read_bytes() == b"data"


@case
def o_append_always_writes_at_the_end(at: Path) -> None:
    with opened(at / "f", os.O_RDWR | os.O_CREAT | os.O_APPEND) as one, opened(at / "f", os.O_RDWR) as two:
        os.write(one, b"aa")
        os.pwrite(two, b"bbbb", 2)
        os.lseek(one, 0, os.SEEK_SET)
        os.write(one, b"cc")
        assert os.pread(two, 100, 0) == b"aabbbbcc"
        os.ftruncate(two, 1)
        os.write(one, b"d")
        assert os.pread(two, 100, 0) == b"ad"
        assert os.lseek(one, 0, os.SEEK_CUR) == 2


@case
def o_append_of_two_processes_loses_nothing(at: Path) -> None:
    lines = 300

    def write(who: bytes) -> None:
        with opened(at / "f", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
            for number in range(lines):
                line = b"%s%06d%s\n" % (who, number, who * (number % 50))
                assert os.write(fd, line) == len(line)

    for pid in [child(lambda who=who: write(who)) for who in (b"a", b"b")]:
        ended(pid)
    found = (at / "f").read_bytes().splitlines()
    assert len(found) == 2 * lines
    for who in (b"a", b"b"):
        mine = [line for line in found if line.startswith(who)]
        assert mine == [b"%s%06d%s" % (who, number, who * (number % 50)) for number in range(lines)]


@case
def o_tmpfile_works_or_is_refused_cleanly(at: Path) -> None:
    try:
        os.close(os.open(at, os.O_TMPFILE | os.O_RDWR))
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
    with tempfile.TemporaryFile(dir=at) as out:
        out.write(b"x")
    assert os.listdir(at) == []


@case
def o_direct_and_o_sync(at: Path) -> None:
    with mmap.mmap(-1, 2 * PAGE) as buffer:
        buffer.write(b"d" * 2 * PAGE)
        with opened(at / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
            assert os.pwritev(fd, [buffer], 0) == 2 * PAGE
            buffer[:] = bytes(2 * PAGE)
            assert os.preadv(fd, [buffer], 0) == 2 * PAGE
        assert buffer[:] == b"d" * 2 * PAGE
    with opened(at / "f", os.O_RDWR | os.O_SYNC) as fd:
        os.pwrite(fd, b"s", 1)
    assert (at / "f").read_bytes() == b"ds" + b"d" * (2 * PAGE - 2)


# rename


@case
def rename_moves_and_keeps_the_file(at: Path) -> None:
    file(at / "old")
    before = os.stat(at / "old")
    os.rename(at / "old", at / "new")
    after = os.stat(at / "new")
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)
    assert not os.path.lexists(at / "old") and (at / "new").read_bytes() == b"data"
    with fails(errno.ENOENT):
        os.rename(at / "old", at / "new")


@case
def rename_replaces_a_file(at: Path) -> None:
    file(at / "old", b"old")
    file(at / "new", b"new")
    with opened(at / "new", os.O_RDONLY) as fd:
        os.rename(at / "old", at / "new")
        assert os.pread(fd, 10, 0) == b"new" and os.fstat(fd).st_nlink == 0
    assert (at / "new").read_bytes() == b"old" and os.listdir(at) == ["new"]


@case
def rename_onto_directories(at: Path) -> None:
    for name in ("d", "empty", "full"):
        os.mkdir(at / name)
    file(at / "full" / "f")
    file(at / "f")
    with fails(errno.ENOTEMPTY):
        os.rename(at / "d", at / "full")
    with fails(errno.ENOTDIR):
        os.rename(at / "d", at / "f")
    with fails(errno.EISDIR):
        os.rename(at / "f", at / "d")
    ino = os.stat(at / "full").st_ino
    os.rename(at / "full", at / "empty")
    assert os.stat(at / "empty").st_ino == ino and os.listdir(at / "empty") == ["f"]


@case
def rename_to_itself_or_to_another_name_of_it_does_nothing(at: Path) -> None:
    file(at / "a")
    os.link(at / "a", at / "b")
    os.mkdir(at / "d")
    assert moved(at, lambda: os.rename(at / "a", at / "a")) == ""
    assert moved(at, lambda: os.rename(at / "a", at / "b")) == ""
    assert moved(at, lambda: os.rename(at / "d", at / "d")) == ""
    assert sorted(os.listdir(at)) == ["a", "b", "d"] and os.stat(at / "a").st_nlink == 2


@case
def rename_into_its_own_subtree_is_refused(at: Path) -> None:
    os.makedirs(at / "d/e/f")
    for new in ("d/x", "d/e/x", "d/e/f/x"):
        with fails(errno.EINVAL):
            os.rename(at / "d", at / new)
    with fails(errno.ENOTEMPTY):
        os.rename(at / "d/e/f", at / "d")
    with fails(errno.EINVAL):
        renameat2(at / "d", at / "d/e", EXCHANGE)
    with fails(errno.EBUSY):
        os.rename(os.fsencode(at / "d") + b"/.", at / "x")
    os.rename(at / "d/e/f", at / "f")
    assert os.listdir(at / "d/e") == []


@case
def rename_noreplace(at: Path) -> None:
    file(at / "a")
    file(at / "b")
    os.mkdir(at / "d")
    for new in ("b", "a", "d"):
        with fails(errno.EEXIST):
            renameat2(at / "a", at / new, NOREPLACE)
    renameat2(at / "a", at / "c", NOREPLACE)
    assert sorted(os.listdir(at)) == ["b", "c", "d"]
    with fails(errno.EINVAL):
        renameat2(at / "b", at / "c", NOREPLACE | EXCHANGE)
    with fails(errno.ENOENT):
        renameat2(at / "gone", at / "x", NOREPLACE)


@case
def rename_exchange(at: Path) -> None:
    os.makedirs(at / "d/sub")
    os.mkdir(at / "e")
    file(at / "e" / "f")
    ino = os.stat(at / "d").st_ino
    renameat2(at / "d", at / "e/f", EXCHANGE)
    assert os.stat(at / "e/f").st_ino == ino and os.listdir(at / "e/f") == ["sub"]
    assert (at / "d").read_bytes() == b"data"
    assert os.stat(at / "e").st_nlink == 3 and os.stat(at).st_nlink == 3
    assert os.stat(at / "e/f/..").st_ino == os.stat(at / "e").st_ino
    with fails(errno.ENOENT):
        renameat2(at / "d", at / "none", EXCHANGE)
    renameat2(at / "d", at / "d", EXCHANGE)


@case
def rename_of_a_directory_moves_its_parent(at: Path) -> None:
    os.makedirs(at / "a/d")
    os.mkdir(at / "b")
    with opened(at / "a/d", os.O_RDONLY) as fd:
        os.rename(at / "a/d", at / "b/d")
        assert (os.stat(at / "a").st_nlink, os.stat(at / "b").st_nlink) == (2, 3)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        assert os.stat("..", dir_fd=fd).st_ino == os.stat(at / "b").st_ino
    assert os.listdir(at / "b/d") == ["f"]


@case
def rename_moves_the_times(at: Path) -> None:
    os.mkdir(at / "a")
    os.mkdir(at / "b")
    file(at / "a/f")
    with opened(at / "a/f", os.O_RDONLY) as fd:
        assert moved(fd, lambda: os.rename(at / "a/f", at / "a/g")) == "c"
    assert moved(at / "a", lambda: os.rename(at / "a/g", at / "b/g")) == "mc"
    assert moved(at / "a", lambda: os.rename(at / "b/g", at / "a/g")) == "mc"
    assert moved(at / "a", lambda: os.rename(at / "b", at / "c")) == ""
    file(at / "f")
    with opened(at / "a/g", os.O_RDONLY) as fd:
        assert moved(fd, lambda: os.rename(at / "f", at / "a/g")) == "c", "its last name went"


@case
def rename_and_link_do_not_leave_the_filesystem(at: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if os.stat(other).st_dev == os.stat(at).st_dev:
            other = "/run"
        file(at / "f")
        with fails(errno.EXDEV):
            os.rename(at / "f", Path(other) / "monofs-test")
        with fails(errno.EXDEV):
            os.link(at / "f", Path(other) / "monofs-test")


@case
def rename_keeps_the_working_directory(at: Path) -> None:
    os.makedirs(at / "a/b")

    def inside() -> None:
        os.chdir(at / "a/b")
        os.rename(at / "a", at / "c")
        assert os.getcwd() == str(at / "c/b")
        file(Path("f"))

    ended(child(inside))
    assert (at / "c/b/f").exists()


# link, unlink, mkdir, rmdir, symlink


@case
def link_counts(at: Path) -> None:
    file(at / "a")
    os.mkdir(at / "d")
    os.link(at / "a", at / "d/b")
    os.link(at / "d/b", at / "c")
    one, two = os.stat(at / "a"), os.stat(at / "d/b")
    assert one.st_ino == two.st_ino and one.st_nlink == two.st_nlink == 3
    (at / "c").write_bytes(b"through c")
    assert (at / "a").read_bytes() == b"through c" and os.stat(at / "d/b").st_size == 9
    os.chmod(at / "a", 0o600)
    assert mode(at / "c") == 0o600
    os.unlink(at / "a")
    assert os.stat(at / "c").st_nlink == 2
    os.rename(at / "c", at / "e")
    assert os.stat(at / "d/b").st_nlink == 2
    os.unlink(at / "e")
    assert os.stat(at / "d/b").st_nlink == 1 and (at / "d/b").read_bytes() == b"through c"


@case
def link_refuses(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    with fails(errno.EPERM):
        os.link(at / "d", at / "x")
    with fails(errno.EEXIST):
        os.link(at / "f", at / "d")
    with fails(errno.EEXIST):
        os.link(at / "f", at / "f")
    with fails(errno.ENOENT):
        os.link(at / "none", at / "x")
    with fails(errno.ENOENT):
        os.link(at / "f", at / "none/x")
    with fails(errno.ENOTDIR):
        os.link(at / "f", at / "f/x")
    with opened(at / "f", os.O_RDONLY) as fd:
        os.unlink(at / "f")
        with fails(errno.ENOENT):
            call("linkat", AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, os.fsencode(at / "x"), 0x400)


@case
def link_of_anything_but_a_directory(at: Path) -> None:
    os.symlink("nowhere", at / "l")
    os.mkfifo(at / "p")
    for name in ("l", "p"):
        os.link(at / name, at / f"{name}2", follow_symlinks=False)
        assert os.lstat(at / name).st_ino == os.lstat(at / f"{name}2").st_ino
        assert os.lstat(at / name).st_nlink == 2
    assert os.readlink(at / "l2") == "nowhere"


@case
def links_move_the_times(at: Path) -> None:
    file(at / "f")
    assert moved(at / "f", lambda: os.link(at / "f", at / "g")) == "c"
    assert moved(at / "f", lambda: os.unlink(at / "g")) == "c"
    assert moved(at, lambda: os.link(at / "f", at / "g")) == "mc"
    assert moved(at, lambda: os.unlink(at / "g")) == "mc"


@case
def directories_count_their_subdirectories(at: Path) -> None:
    assert os.stat(at).st_nlink == 2
    os.mkdir(at / "a")
    os.mkdir(at / "a/b")
    file(at / "f")
    assert (os.stat(at).st_nlink, os.stat(at / "a").st_nlink) == (3, 3)
    os.rename(at / "a/b", at / "b")
    assert (os.stat(at).st_nlink, os.stat(at / "a").st_nlink) == (4, 2)
    os.rename(at / "b", at / "a")
    assert os.stat(at).st_nlink == 3
    os.rmdir(at / "a")
    assert os.stat(at).st_nlink == 2


@case
def directories_move_their_times(at: Path) -> None:
    for make in (
        lambda: file(at / "f"),
        lambda: os.mkdir(at / "d"),
        lambda: os.symlink("x", at / "l"),
        lambda: os.mkfifo(at / "p"),
        lambda: os.unlink(at / "l"),
        lambda: os.rmdir(at / "d"),
        lambda: os.rename(at / "f", at / "g"),
    ):
        assert moved(at, make) == "mc"
    os.mkdir(at / "d")
    assert moved(at, lambda: os.chmod(at / "g", 0o600)) == ""
    assert moved(at, lambda: (at / "g").write_bytes(b"more")) == ""
    assert moved(at, lambda: file(at / "d/f")) == ""


@case
def an_open_file_outlives_its_name(at: Path) -> None:
    with opened(at / "f") as fd:
        os.write(fd, b"one")
        os.unlink(at / "f")
        assert os.fstat(fd).st_nlink == 0
        os.write(fd, b"two")
        os.fsync(fd)
        file(at / "f", b"another")
        assert os.fstat(fd).st_ino != os.stat(at / "f").st_ino
        assert os.pread(fd, 100, 0) == b"onetwo"
        os.ftruncate(fd, 3)
        os.fchmod(fd, 0o600)
        os.utime(fd, ns=(1, 2))
        assert (os.fstat(fd).st_size, os.fstat(fd).st_mtime_ns) == (3, 2)
        with opened(f"/proc/self/fd/{fd}".encode(), os.O_RDWR) as again:
            assert os.pread(again, 100, 0) == b"one"
            os.pwrite(again, b"last", 3)
        assert os.pread(fd, 100, 0) == b"onelast"
    assert (at / "f").read_bytes() == b"another"


@case
def a_removed_directory_stays_open(at: Path) -> None:
    os.mkdir(at / "d")

    def inside() -> None:
        os.chdir(at / "d")
        fd = os.open(".", os.O_RDONLY)
        os.rmdir(at / "d")
        assert os.listdir(fd) == [] and os.fstat(fd).st_nlink == 0
        with fails(errno.ENOENT):
            os.open("f", os.O_CREAT | os.O_WRONLY)
        with fails(errno.ENOENT):
            os.mkdir("e")
        with fails(errno.ENOENT):
            os.getcwd()
        os.mkdir(at / "d")
        assert os.fstat(fd).st_ino != os.stat(at / "d").st_ino

    ended(child(inside))
    assert os.listdir(at / "d") == []


@case
def unlink_and_rmdir_refuse(at: Path) -> None:
    file(at / "f")
    os.makedirs(at / "d/e")
    with fails(errno.EISDIR):
        os.unlink(at / "d")
    with fails(errno.ENOTDIR):
        os.rmdir(at / "f")
    with fails(errno.ENOTEMPTY):
        os.rmdir(at / "d")
    with fails(errno.EINVAL):
        os.rmdir(os.fsencode(at / "d") + b"/.")
    with fails(errno.ENOTEMPTY):
        os.rmdir(at / "d/e/..")
    with fails(errno.ENOENT):
        os.rmdir(at / "none")
    with fails(errno.ENOENT):
        os.unlink(at / "none")
    os.symlink("d", at / "l")
    with fails(errno.ENOTDIR):
        os.rmdir(at / "l")
    os.unlink(at / "l")
    assert (at / "d/e").is_dir()


@case
def mkdir_refuses(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    os.symlink("nowhere", at / "l")
    for name in (b"f", b"d", b"l", b"d/..", b"d/."):
        with fails(errno.EEXIST):
            os.mkdir(os.path.join(os.fsencode(at), name))
    with fails(errno.ENOTDIR):
        os.mkdir(at / "f/x")
    with fails(errno.ENOENT):
        os.mkdir(at / "none/x")


@case
def symlinks_keep_any_target(at: Path) -> None:
    for number, target in enumerate([b"x", b"/", b"../..", b"\xff\xfe\n", b"t" * 4095, b"a/" * 2000]):
        path = os.fsencode(at / str(number))
        os.symlink(target, path)
        assert os.readlink(path) == target
        found = os.lstat(path)
        assert found.st_size == len(target) and stat.S_ISLNK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o777
    with fails(errno.ENOENT):
        os.symlink(b"", at / "empty")
    with fails(errno.ENAMETOOLONG):
        os.symlink(b"t" * 4096, at / "long")
    with fails(errno.EEXIST):
        os.symlink(b"x", at / "0")
    file(at / "f")
    with fails(errno.EINVAL):
        os.readlink(at / "f")


@case
def symlink_loops(at: Path) -> None:
    os.symlink("b", at / "a")
    os.symlink("a", at / "b")
    for try_it in (os.stat, os.listdir, lambda p: os.open(p, os.O_RDONLY), lambda p: os.chmod(p, 0o600)):
        with fails(errno.ELOOP):
            try_it(at / "a")
    with fails(errno.ELOOP):
        os.stat(at / "a/x")


# Names


@case
def names_too_long(at: Path) -> None:
    long = at / ("n" * 256)
    file(at / "f")
    for try_it in (
        os.lstat,
        os.mkdir,
        os.unlink,
        os.rmdir,
        os.mkfifo,
        os.readlink,
        lambda p: os.open(p, os.O_RDONLY),
        lambda p: os.open(p, os.O_WRONLY | os.O_CREAT),
        lambda p: os.rename(at / "f", p),
        lambda p: os.rename(p, at / "f"),
        lambda p: os.link(at / "f", p),
        lambda p: os.symlink("x", p),
        lambda p: os.lstat(p / "x"),
        lambda p: os.truncate(p, 0),
    ):
        with fails(errno.ENAMETOOLONG):
            try_it(long)
    with fails(errno.ENAMETOOLONG):
        os.lstat(os.fsencode(at) + b"/." * 2100)


@case
def names_of_any_bytes(at: Path) -> None:
    root = os.fsencode(at)
    names = [bytes((n,)) for n in range(1, 256) if n not in b"/."]
    names += [b"n" * 255, b"\xff" * 255, b"...", b"..a", b"  ", b"-rf", b"a\nb", "e\u0301é".encode(), b"\xed\xa0\x80"]
    for name in names:
        with opened(root + b"/" + name) as fd:
            os.write(fd, name)
    assert sorted(os.listdir(root)) == sorted(names)
    for name in names:
        with opened(root + b"/" + name, os.O_RDONLY) as fd:
            assert os.read(fd, 300) == name


@case
def names_differ_by_case_and_by_form(at: Path) -> None:
    names = ["a", "A", "é", "e\u0301", "ß", "SS", "ı", "i", "I"]
    for name in names:
        file(at / name, name.encode())
    assert sorted(os.listdir(at)) == sorted(names)


@case
def paths_through_files(at: Path) -> None:
    file(at / "f")
    for try_it in (os.stat, os.mkdir, os.unlink, os.rmdir, lambda p: os.open(p, os.O_CREAT | os.O_RDWR)):
        with fails(errno.ENOTDIR):
            try_it(at / "f/x")
    with fails(errno.ENOTDIR):
        os.stat(os.fsencode(at / "f") + b"/.")


@case
def deep_paths(at: Path) -> None:
    def inside() -> None:
        os.chdir(at)
        for _ in range(60):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
        file(Path("f"))
        with fails(errno.ENAMETOOLONG):
            os.stat(os.fsencode(at) + (b"/" + b"d" * 100) * 60)
        for _ in range(60):
            os.chdir("..")
        assert os.stat(".").st_ino == os.stat(at).st_ino

    ended(child(inside))


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


# Attributes


@case
def modes_have_twelve_bits(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    for bits in (0, 0o7777, 0o4000, 0o2000, 0o1000, 0o755):
        for name in ("f", "d"):
            os.chmod(at / name, bits)
            assert mode(at / name) == bits
    assert moved(at / "f", lambda: os.chmod(at / "f", 0o640)) == "c"
    assert moved(at / "f", lambda: os.chown(at / "f", 1, 1)) == "c"
    os.chmod(at / "d", 0o700)


@case
def owners(at: Path) -> None:
    file(at / "f")
    os.symlink("f", at / "l")
    os.chown(at / "f", 1 << 31, 77)
    os.lchown(at / "l", 3, 4)
    os.chown(at / "f", -1, 5)
    assert (os.stat(at / "f").st_uid, os.stat(at / "f").st_gid) == (1 << 31, 5)
    assert (os.lstat(at / "l").st_uid, os.lstat(at / "l").st_gid) == (3, 4)


@case
def only_the_owner_changes_attributes(at: Path) -> None:
    file(at / "f", mode=0o666)
    os.chown(at / "f", *USER)
    for try_it in (
        lambda: os.chmod(at / "f", 0o777),
        lambda: os.chown(at / "f", STRANGER[0], -1),
        lambda: os.utime(at / "f", ns=(1, 1)),
    ):
        with fails(errno.EPERM):
            as_user(STRANGER, try_it)
    as_user(STRANGER, lambda: os.utime(at / "f"))  # to now: whoever may write
    as_user(USER, lambda: os.chmod(at / "f", 0o600))
    as_user(USER, lambda: os.utime(at / "f", ns=(1, 1)))
    with fails(errno.EPERM):
        as_user(USER, lambda: os.chown(at / "f", STRANGER[0], -1))
    with fails(errno.EPERM):
        as_user(USER, lambda: os.chown(at / "f", -1, STRANGER[1]))
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.utime(at / "f"))


@case
def permissions_of_files(at: Path) -> None:
    file(at / "f", b"#!/bin/sh\n")
    os.chown(at / "f", *USER)
    reads = lambda: os.close(os.open(at / "f", os.O_RDONLY))  # noqa: E731
    writes = lambda: os.close(os.open(at / "f", os.O_WRONLY))  # noqa: E731
    executes = lambda: os.execv(at / "f", ["f"])  # noqa: E731
    for who, shift in ((USER, 6), (FRIEND, 3), (STRANGER, 0)):
        for try_it, bit in ((reads, 4), (writes, 2)):
            os.chmod(at / "f", 0o777 & ~(bit << shift))
            with fails(errno.EACCES):
                as_user(who, try_it)
            os.chmod(at / "f", bit << shift)
            as_user(who, try_it)
        os.chmod(at / "f", 0o777 & ~(1 << shift))
        with fails(errno.EACCES):
            as_user(who, executes)
    os.chmod(at / "f", 0)
    reads()
    writes()
    with fails(errno.EACCES):
        executes()


@case
def permissions_of_directories(at: Path) -> None:
    os.mkdir(at / "d")
    file(at / "d/f")
    os.chown(at / "d", *USER)
    for who, shift in ((USER, 6), (FRIEND, 3), (STRANGER, 0)):
        os.chmod(at / "d", 4 << shift)
        as_user(who, lambda: os.listdir(at / "d"))
        with fails(errno.EACCES):
            as_user(who, lambda: os.stat(at / "d/f"))
        os.chmod(at / "d", 1 << shift)
        as_user(who, lambda: os.stat(at / "d/f"))
        with fails(errno.EACCES):
            as_user(who, lambda: os.listdir(at / "d"))
        for try_it in (
            lambda: os.mkdir(at / "d/x"),
            lambda: os.unlink(at / "d/f"),
            lambda: os.rename(at / "d/f", at / "d/g"),
            lambda: os.symlink("f", at / "d/g"),
        ):
            os.chmod(at / "d", 5 << shift)
            with fails(errno.EACCES):
                as_user(who, try_it)
        os.chmod(at / "d", 3 << shift)
        as_user(who, lambda: (os.mkdir(at / "d/x"), os.rmdir(at / "d/x")))
    os.chmod(at / "d", 0)
    assert os.listdir(at / "d") == ["f"]
    os.chmod(at / "d", 0o700)


@case
def a_directory_that_moves_needs_to_be_writable(at: Path) -> None:
    """Its '..' changes."""
    os.chmod(at, 0o777)
    os.makedirs(at / "a/d")
    os.mkdir(at / "b")
    for name in ("a", "b"):
        os.chown(at / name, *USER)
    with fails(errno.EACCES):
        as_user(USER, lambda: os.rename(at / "a/d", at / "b/d"))
    os.chown(at / "a/d", *USER)
    as_user(USER, lambda: os.rename(at / "a/d", at / "b/d"))


@case
def access_tells_the_truth(at: Path) -> None:
    file(at / "f", mode=0o640)
    os.chown(at / "f", *USER)

    def check(expected: tuple[bool, ...]) -> None:
        found = tuple(os.access(at / "f", how) for how in (os.F_OK, os.R_OK, os.W_OK, os.X_OK))
        if found != expected:
            raise OSError(errno.EDOM, str(found))

    as_user(USER, lambda: check((True, True, True, False)))
    as_user(FRIEND, lambda: check((True, True, False, False)))
    as_user(STRANGER, lambda: check((True, False, False, False)))
    check((True, True, True, False))


@case
def sticky_directories(at: Path) -> None:
    os.mkdir(at / "t")
    os.chmod(at / "t", 0o1777)
    for who, name in ((USER, "mine"), (STRANGER, "theirs")):
        file(at / "t" / name, mode=0o666)
        os.chown(at / "t" / name, *who)
    for try_it in (
        lambda: os.unlink(at / "t/theirs"),
        lambda: os.rename(at / "t/theirs", at / "t/x"),
        lambda: os.rename(at / "t/mine", at / "t/theirs"),
    ):
        with fails(errno.EPERM):
            as_user(USER, try_it)
    as_user(USER, lambda: os.rename(at / "t/mine", at / "t/renamed"))
    as_user(USER, lambda: os.unlink(at / "t/renamed"))
    os.chown(at / "t", *USER)
    as_user(USER, lambda: os.unlink(at / "t/theirs"))


@case
def setgid_directories_give_their_group(at: Path) -> None:
    os.mkdir(at / "d")
    os.chown(at / "d", 0, 77)
    os.chmod(at / "d", 0o2777)
    as_user(
        USER, lambda: (file(at / "d/f"), os.mkdir(at / "d/sub"), os.mkfifo(at / "d/p"), os.symlink("f", at / "d/l"))
    )
    for name in ("f", "sub", "p", "l"):
        assert os.lstat(at / "d" / name).st_gid == 77, name
    assert mode(at / "d/sub") & stat.S_ISGID and not mode(at / "d/f") & stat.S_ISGID
    os.mkdir(at / "d/sub/deeper")
    assert os.stat(at / "d/sub/deeper").st_gid == 77
    as_user(USER, lambda: os.close(os.open(at / "d/x", os.O_CREAT | os.O_WRONLY, 0o2755)))
    assert mode(at / "d/x") == 0o755, "the setgid bit is only for members of the group"


@case
def setgid_is_lost_when_a_stranger_to_the_group_changes_the_mode(at: Path) -> None:
    file(at / "f")
    os.chown(at / "f", USER[0], 77)
    as_user(USER, lambda: os.chmod(at / "f", 0o2755))
    assert mode(at / "f") == 0o755
    os.chown(at / "f", *USER)
    as_user(USER, lambda: os.chmod(at / "f", 0o2755))
    assert mode(at / "f") == 0o2755


def privileged(path: Path, bits: int = 0o6777) -> None:
    os.chown(path, *USER)
    os.chmod(path, bits)


@case
def setuid_is_cleared_by_a_write(at: Path) -> None:
    file(at / "f")
    for try_it in (
        lambda: (at / "f").write_bytes(b"x"),
        lambda: os.truncate(at / "f", 0),
        lambda: os.close(os.open(at / "f", os.O_WRONLY | os.O_TRUNC)),
    ):
        (at / "f").write_bytes(b"something")
        privileged(at / "f")
        as_user(STRANGER, try_it)
        assert mode(at / "f") == 0o777
    privileged(at / "f", 0o4755)
    as_user(USER, lambda: (at / "f").write_bytes(b"x"))
    assert mode(at / "f") == 0o755, "the owner's own write, too"
    privileged(at / "f")
    (at / "f").write_bytes(b"root may")
    assert mode(at / "f") == 0o6777
    as_user(STRANGER, lambda: (at / "f").read_bytes())
    assert mode(at / "f") == 0o6777


@case
def setuid_is_cleared_by_a_new_owner(at: Path) -> None:
    file(at / "f")
    privileged(at / "f")
    os.chown(at / "f", 5, 6)
    assert mode(at / "f") == 0o777
    privileged(at / "f")
    as_user(USER, lambda: os.chown(at / "f", -1, USER[1]))
    assert mode(at / "f") == 0o777
    os.mkdir(at / "d")
    os.chmod(at / "d", 0o6755)
    os.chown(at / "d", 5, 6)
    assert mode(at / "d") == 0o6755, "not that of a directory"


@case
def capabilities_are_cleared_like_setuid(at: Path) -> None:
    file(at / "f", mode=0o777)
    for change in (
        lambda: os.chown(at / "f", 5, 6),
        lambda: as_user(STRANGER, lambda: (at / "f").write_bytes(b"x")),
        lambda: as_user(STRANGER, lambda: os.truncate(at / "f", 0)),
    ):
        os.setxattr(at / "f", "security.capability", CAPABILITY)
        assert os.getxattr(at / "f", "security.capability") == CAPABILITY
        change()
        with fails(errno.ENODATA):
            os.getxattr(at / "f", "security.capability")


# Extended attributes


@case
def xattrs_come_and_go(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    for name in ("f", "d"):
        path = at / name
        for key in ("user.a", "user." + "k" * 250, "trusted.t", "security.s"):
            for value in (b"", b"v", bytes(range(256))):
                os.setxattr(path, key, value)
                assert os.getxattr(path, key) == value
        assert {key for key in os.listxattr(path) if key != "security.selinux"} == {
            "user.a",
            "user." + "k" * 250,
            "trusted.t",
            "security.s",
        }
        os.removexattr(path, "user.a")
        with fails(errno.ENODATA):
            os.getxattr(path, "user.a")
        with fails(errno.ENODATA):
            os.removexattr(path, "user.a")
    assert moved(at / "f", lambda: os.setxattr(at / "f", "user.a", b"1")) == "c"
    assert moved(at / "f", lambda: os.removexattr(at / "f", "user.a")) == "c"


@case
def xattrs_refuse(at: Path) -> None:
    file(at / "f")
    os.setxattr(at / "f", "user.a", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(at / "f", "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(at / "f", "user.a", b"3", os.XATTR_REPLACE)
    with fails(errno.ENODATA):
        os.setxattr(at / "f", "user.b", b"4", os.XATTR_REPLACE)
    with fails(errno.ERANGE):
        os.setxattr(at / "f", "user." + "n" * 251, b"")
    with fails(errno.E2BIG):
        os.setxattr(at / "f", "user.big", bytes((1 << 16) + 1))
    with fails(errno.EOPNOTSUPP):
        os.setxattr(at / "f", "nonsense", b"")
    with fails(errno.ERANGE):
        call("getxattr", os.fsencode(at / "f"), b"user.long", None, 0) if os.setxattr(
            at / "f", "user.long", b"x" * 100
        ) else call("getxattr", os.fsencode(at / "f"), b"user.long", ctypes.create_string_buffer(10), 10)
    assert call("getxattr", os.fsencode(at / "f"), b"user.long", None, 0) == 100


@case
def user_xattrs_are_for_files_and_directories(at: Path) -> None:
    os.symlink("x", at / "l")
    os.mkfifo(at / "p")
    for name in ("l", "p"):
        with fails(errno.EPERM):
            os.setxattr(at / name, "user.a", b"1", follow_symlinks=False)
        os.setxattr(at / name, "trusted.a", b"1", follow_symlinks=False)
        assert os.listxattr(at / name, follow_symlinks=False) == ["trusted.a"]


@case
def xattrs_have_permissions(at: Path) -> None:
    file(at / "f", mode=0o644)
    os.setxattr(at / "f", "user.a", b"1")
    os.setxattr(at / "f", "trusted.t", b"1")

    def sees_user_attributes_only() -> None:
        if os.listxattr(at / "f") != ["user.a"]:
            raise OSError(errno.EDOM, "trusted attributes are not for everybody")

    as_user(STRANGER, lambda: os.getxattr(at / "f", "user.a"))
    as_user(STRANGER, sees_user_attributes_only)
    for key, number in (("user.a", errno.EACCES), ("trusted.t", errno.EPERM), ("security.x", errno.EPERM)):
        with fails(number):
            as_user(STRANGER, lambda key=key: os.setxattr(at / "f", key, b"2"))
    with fails(errno.ENODATA):
        as_user(STRANGER, lambda: os.getxattr(at / "f", "trusted.t"))
    os.chmod(at / "f", 0o600)
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.getxattr(at / "f", "user.a"))


# Special files


@case
def fifos_carry_data(at: Path) -> None:
    os.mkfifo(at / "p", 0o640)
    assert stat.S_ISFIFO(os.stat(at / "p").st_mode) and mode(at / "p") == 0o640
    pid = child(lambda: (at / "p").write_bytes(b"through"))
    assert (at / "p").read_bytes() == b"through"
    ended(pid)


@case
def sockets_can_be_bound_and_reached(at: Path) -> None:
    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            os.chdir(at)
            client.connect("s")
            client.sendall(b"hello")

    here = os.open(".", os.O_RDONLY)
    os.chdir(at)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s")
            server.listen()
            assert stat.S_ISSOCK(os.stat("s").st_mode)
            pid = child(connect)
            with server.accept()[0] as peer:
                assert peer.recv(100) == b"hello"
            ended(pid)
    finally:
        os.fchdir(here)
        os.close(here)
    with fails(errno.ENXIO):
        os.open(at / "s", os.O_RDONLY)


@case
def device_nodes(at: Path) -> None:
    for name, kind, major, minor in (("c", stat.S_IFCHR, 1, 3), ("b", stat.S_IFBLK, 259, 1_000_000)):
        os.mknod(at / name, kind | 0o640, os.makedev(major, minor))
        found = os.lstat(at / name)
        assert stat.S_IFMT(found.st_mode) == kind and stat.S_IMODE(found.st_mode) == 0o640
        assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (major, minor)
    os.chmod(at, 0o777)
    with fails(errno.EPERM):
        as_user(USER, lambda: os.mknod(at / "x", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
    as_user(USER, lambda: os.mkfifo(at / "x"))
    os.mknod(at / "f", stat.S_IFREG | 0o600)
    (at / "f").write_bytes(b"a file like any other")


# Directories


LIBC.opendir.restype = LIBC.readdir64.restype = ctypes.c_void_p
LIBC.readdir64.argtypes = LIBC.closedir.argtypes = LIBC.rewinddir.argtypes = LIBC.telldir.argtypes = [ctypes.c_void_p]
LIBC.telldir.restype = ctypes.c_long
LIBC.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


class Directory:
    """A directory as the C library reads it."""

    def __init__(self, path: Path) -> None:
        self.stream = LIBC.opendir(os.fsencode(path))
        assert self.stream

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        LIBC.closedir(self.stream)

    def read(self) -> tuple[str, int, int] | None:
        """Return the next name, inode number and type."""
        found = LIBC.readdir64(self.stream)
        if not found:
            return None
        ino, _, _, kind = struct.unpack("=QqHB", ctypes.string_at(found, 19))
        return os.fsdecode(ctypes.string_at(found + 19)), ino, kind

    def names(self) -> list[str]:
        names = []
        while (found := self.read()) is not None:
            names.append(found[0])
        return names

    def tell(self) -> int:
        return int(LIBC.telldir(self.stream))

    def seek(self, position: int) -> None:
        LIBC.seekdir(self.stream, position)

    def rewind(self) -> None:
        LIBC.rewinddir(self.stream)


@case
def directories_list_everything_with_its_number_and_type(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    os.symlink("x", at / "l")
    os.mkfifo(at / "p")
    os.mkdir(at / "d/sub")
    with Directory(at / "d") as directory:
        found = {}
        while (entry := directory.read()) is not None:
            found[entry[0]] = entry[1]
    assert found == {name: os.stat(at / "d" / name).st_ino for name in (".", "..", "sub")}
    types = {"f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "p": stat.S_IFIFO}
    with Directory(at) as directory:
        while (entry := directory.read()) is not None:
            name, ino, kind = entry
            if name in types:
                assert (ino, kind << 12) == (os.lstat(at / name).st_ino, types.pop(name))
    assert not types


@case
def listing_while_entries_come_and_go(at: Path) -> None:
    stay = {f"stay-{n}" for n in range(600)}
    go = {f"go-{n}" for n in range(600)}
    for name in sorted(stay | go):
        os.close(os.open(at / name, os.O_CREAT | os.O_WRONLY))
    found: list[str] = []
    with Directory(at) as directory:
        while (entry := directory.read()) is not None:
            found.append(entry[0])
            if len(found) % 3 == 0 and go:
                os.unlink(at / go.pop())
            if len(found) % 5 == 0:
                os.close(os.open(at / f"new-{len(found)}", os.O_CREAT | os.O_WRONLY))
            if len(found) == 400:
                for name in stay:
                    os.chmod(at / name, 0o600)
    assert len(found) == len(set(found)), "a name twice"
    assert stay <= set(found), "a name that was there all the time is missing"


@case
def telldir_and_seekdir(at: Path) -> None:
    for n in range(500):
        os.close(os.open(at / f"file-{n}", os.O_CREAT | os.O_WRONLY))
    with Directory(at) as directory:
        places = []
        while True:
            place = directory.tell()
            entry = directory.read()
            if entry is None:
                break
            places.append((place, entry[0]))
        rng = random.Random(2)
        for place, name in rng.sample(places, 60):
            directory.seek(place)
            entry = directory.read()
            assert entry is not None and entry[0] == name
        for _, name in places[2:250]:
            if name not in (".", ".."):
                os.unlink(at / name)
        directory.seek(places[300][0])
        rest = directory.names()
        assert rest == [name for _, name in places[300:]]


@case
def rewinddir_sees_what_is_new(at: Path) -> None:
    file(at / "old")
    with Directory(at) as directory:
        assert sorted(directory.names()) == [".", "..", "old"]
        file(at / "new")
        os.unlink(at / "old")
        directory.rewind()
        assert sorted(directory.names()) == [".", "..", "new"]


@case
def removing_all_while_reading(at: Path) -> None:
    """What rm -r does."""
    for n in range(2000):
        os.close(os.open(at / f"file-{n}", os.O_CREAT | os.O_WRONLY))
    with os.scandir(at) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(at) == []


@case
def renaming_all_while_reading(at: Path) -> None:
    for n in range(500):
        file(at / f"{n}.txt", b"%d" % n)
    for name in os.listdir(at):
        os.rename(at / name, at / name.replace(".txt", ".md"))
    assert sorted(os.listdir(at)) == sorted(f"{n}.md" for n in range(500))


@slow
def a_directory_of_100_000_entries(at: Path) -> None:
    count = 100_000
    for n in range(count):
        os.close(os.open(at / f"{n:06}", os.O_CREAT | os.O_WRONLY))
    expected = [f"{n:06}" for n in range(count)]
    assert sorted(os.listdir(at)) == expected
    with fails(errno.ENOTEMPTY):
        os.rmdir(at)
    assert os.stat(at / "054321").st_size == 0
    for name in os.listdir(at)[::2]:
        os.unlink(at / name)
    rest = os.listdir(at)
    assert len(rest) == len(set(rest)) == count // 2
    for name in rest:
        os.rename(at / name, at / f"r{name}")
    assert sorted(os.listdir(at)) == sorted(f"r{name}" for name in rest)
    for name in rest:
        os.unlink(at / f"r{name}")
    assert os.listdir(at) == []


# Inode numbers


@case
def inode_numbers_are_stable_and_distinct(at: Path) -> None:
    os.makedirs(at / "a/b")
    names = ["a", "a/b"]
    for n in range(30):
        names.append(f"a/b/{n}" if n % 2 else f"{n}")
        file(at / names[-1])
    for n in range(0, 30, 3):
        os.rename(at / names[n + 2], at / "moved")
        os.rename(at / "moved", at / f"{names[n + 2]}-renamed")
        names[n + 2] += "-renamed"
        file(at / names[n + 2].removesuffix("-renamed"))
        names.append(names[n + 2].removesuffix("-renamed"))
    os.rename(at / "a", at / "c")
    names = ["c" + name[1:] if name == "a" or name.startswith("a/") else name for name in names]
    os.link(at / names[-1], at / "linked")
    numbers = {name: os.stat(at / name).st_ino for name in names}
    assert len(set(numbers.values())) == len(names)
    drop_caches()
    assert {name: os.stat(at / name).st_ino for name in reversed(names)} == numbers
    assert os.stat(at / "linked").st_ino == numbers[names[-1]]


# Memory maps


@case
def shared_maps_are_the_file(at: Path) -> None:
    file(at / "f", bytes(3 * PAGE))
    with opened(at / "f") as fd, mmap.mmap(fd, 3 * PAGE) as memory:
        memory[PAGE : PAGE + 5] = b"hello"
        assert os.pread(fd, 5, PAGE) == b"hello"
        os.pwrite(fd, b"world", 2 * PAGE)
        assert memory[2 * PAGE : 2 * PAGE + 5] == b"world"
        memory.flush()
        memory[:3] = b"end"
    assert (at / "f").read_bytes()[:3] == b"end"
    drop_caches()
    assert (at / "f").read_bytes()[PAGE : PAGE + 5] == b"hello"


@case
def maps_outlive_descriptor_and_name(at: Path) -> None:
    file(at / "f", b"x" * PAGE)
    fd = os.open(at / "f", os.O_RDWR)
    with mmap.mmap(fd, PAGE) as memory:
        os.close(fd)
        os.rename(at / "f", at / "g")
        memory[0:1] = b"y"
        memory.flush()
        assert (at / "g").read_bytes()[:2] == b"yx"
        os.unlink(at / "g")
        memory[1:2] = b"z"
        assert memory[:3] == b"yzx"


@case
def maps_are_shared_between_processes(at: Path) -> None:
    file(at / "f", bytes(PAGE))
    with opened(at / "f") as fd, mmap.mmap(fd, PAGE) as memory:

        def other() -> None:
            with opened(at / "f") as mine, mmap.mmap(mine, PAGE) as again:
                again[10:15] = b"child"
                deadline = time.monotonic() + 20
                while again[20:26] != b"parent":
                    assert time.monotonic() < deadline

        pid = child(other)
        deadline = time.monotonic() + 20
        while memory[10:15] != b"child":
            assert time.monotonic() < deadline
        memory[20:26] = b"parent"
        ended(pid)
    assert (at / "f").read_bytes()[20:26] == b"parent"


@case
def private_maps_stay_private(at: Path) -> None:
    file(at / "f", b"x" * PAGE)
    with opened(at / "f") as fd, mmap.mmap(fd, PAGE, access=mmap.ACCESS_COPY) as memory:
        memory[:4] = b"mine"
    assert (at / "f").read_bytes() == b"x" * PAGE


@case
def a_map_beyond_the_end_is_a_bus_error(at: Path) -> None:
    file(at / "f", b"x" * 2 * PAGE)

    def touch() -> None:
        faulthandler.disable()  # this death is wanted
        with opened(at / "f") as fd, mmap.mmap(fd, 2 * PAGE) as memory:
            os.ftruncate(fd, PAGE // 2)
            assert memory[PAGE // 2 : PAGE] == bytes(PAGE - PAGE // 2)
            memory[PAGE]

    pid = child(touch)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS


@case
def maps_of_holes_can_be_written(at: Path) -> None:
    with opened(at / "f") as fd:
        os.ftruncate(fd, 100 * PAGE)
        with mmap.mmap(fd, 100 * PAGE) as memory:
            assert memory[50 * PAGE] == 0
            memory[70 * PAGE : 70 * PAGE + 4] = b"page"
    data = (at / "f").read_bytes()
    assert data[70 * PAGE :][:4] == b"page" and data.count(0) == 100 * PAGE - 4


# Locks


def locked_elsewhere(path: Path, lock: Callable[[int], object]) -> bool:
    """True if another process cannot have the lock now."""

    def attempt() -> None:
        with opened(path) as fd:
            lock(fd)

    try:
        as_user((0, 0), attempt)
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.EACCES)
        return True
    return False


@case
def flocks_between_processes(at: Path) -> None:
    file(at / "f")
    exclusive = lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # noqa: E731
    shared = lambda fd: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # noqa: E731
    with opened(at / "f") as fd:
        exclusive(fd)
        assert locked_elsewhere(at / "f", shared)
        shared(fd)
        assert not locked_elsewhere(at / "f", shared) and locked_elsewhere(at / "f", exclusive)
        fcntl.flock(fd, fcntl.LOCK_UN)
        assert not locked_elsewhere(at / "f", exclusive)
        exclusive(fd)
    assert not locked_elsewhere(at / "f", exclusive), "closing lets go"


@case
def record_locks_between_processes(at: Path) -> None:
    file(at / "f", bytes(100))
    first = lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)  # noqa: E731
    second = lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)  # noqa: E731
    with opened(at / "f") as fd:
        first(fd)
        assert locked_elsewhere(at / "f", first) and not locked_elsewhere(at / "f", second)
        with opened(at / "f"):
            pass
        assert not locked_elsewhere(at / "f", first), "closing any descriptor of it lets go"


@case
def a_waiting_lock_is_given_on(at: Path) -> None:
    file(at / "f")
    reader, writer = os.pipe()
    with opened(at / "f") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)

        def wait() -> None:
            os.close(fd)  # the lock belongs to the open file, which a child has too
            with opened(at / "f") as mine:
                fcntl.flock(mine, fcntl.LOCK_EX)
                os.write(writer, b"got it")

        pid = child(wait)
        assert not select.select([reader], [], [], 0.05)[0]
    assert select.select([reader], [], [], 20)[0] and os.read(reader, 10) == b"got it"
    ended(pid)
    os.close(reader)
    os.close(writer)


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
