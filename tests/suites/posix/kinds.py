"""Special files, directories and inode numbers."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import socket
import stat
import struct
from pathlib import Path

from tests.suites.posix.content import drop_caches
from tests.suites.posix.tools import LIBC, USER, as_user, case, child, ended, fails, file, mode, slow

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
