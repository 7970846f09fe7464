"""What every case uses: who runs, what must fail, what must have moved."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Case = Callable[[Path], None]
CASES: list[Case] = []
SLOW_CASES: list[Case] = []

USER, FRIEND, STRANGER = (4001, 4001), (4002, 4001), (4003, 4003)  # uid and gid; the first two share a group
LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, NOREPLACE, EXCHANGE, WHITEOUT = -100, 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # CAP_NET_BIND_SERVICE, permitted and effective
PAGE = mmap.PAGESIZE


def case(function: Case) -> Case:
    CASES.append(function)
    return function


def slow(function: Case) -> Case:
    SLOW_CASES.append(function)
    return function


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
