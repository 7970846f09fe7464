"""rename(2) in all its cases."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from tests.suites.posix.tools import (
    EXCHANGE,
    NOREPLACE,
    WHITEOUT,
    case,
    child,
    ended,
    fails,
    file,
    moved,
    opened,
    renameat2,
)


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
def rename_whiteout(at: Path) -> None:
    """What overlayfs does to its upper layer: a device 0:0 says that the name is gone."""
    file(at / "a")
    file(at / "b")
    ino = os.stat(at / "a").st_ino
    assert moved(at, lambda: renameat2(at / "a", at / "b", WHITEOUT)) == "mc"
    assert os.stat(at / "b").st_ino == ino and sorted(os.listdir(at)) == ["a", "b"]
    found = os.stat(at / "a")
    assert stat.S_ISCHR(found.st_mode) and found.st_rdev == 0 and found.st_nlink == 1
    with fails(errno.EEXIST):
        renameat2(at / "b", at / "a", WHITEOUT | NOREPLACE)
    with fails(errno.EINVAL):
        renameat2(at / "b", at / "a", WHITEOUT | EXCHANGE)
    renameat2(at / "b", at / "a", WHITEOUT)
    assert (at / "a").read_bytes() == b"data" and stat.S_ISCHR(os.stat(at / "b").st_mode)


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
