"""Memory maps and locks."""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import mmap
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.suites.posix.content import drop_caches
from tests.suites.posix.tools import PAGE, as_user, case, child, ended, file, opened

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
