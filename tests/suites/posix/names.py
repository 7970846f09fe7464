"""Names: made, linked, removed, and spelled in any bytes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tests.suites.posix.tools import AT_FDCWD, call, case, child, ended, fails, file, mode, moved, opened

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
