"""The mount and a plain directory side by side: every system call is made on both and must end alike."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
NAMES = [b"a", b"b", b"c", b"\xff\xfe", b"long" * 63 + b"..."]
SIZES = [0, 1, 100, 4095, 4096, 5000, 70_000, 200_000, 1_000_000]


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    if LIBC.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Twins:
    def __init__(self, rng: random.Random, *roots: Path) -> None:
        self.rng = rng
        self.roots = [os.fsencode(root) for root in roots]
        self.held: list[list[int]] = []  # open files: a descriptor for each root
        self.done: list[tuple[Any, ...]] = []

    def both(self, what: str, call: Callable[[bytes], Any], *about: object) -> list[Any]:
        """Make one call on each root; the errno, or else the result, must be the same."""
        self.done.append((what, *(a.replace(NAMES[-1], b"LONG") if isinstance(a, bytes) else a for a in about)))
        results: list[Any] = []
        for root in self.roots:
            try:
                results.append((None, call(root)))
            except OSError as error:
                results.append((errno.errorcode[error.errno or 0], None))
        assert len({number for number, _ in results}) == 1, f"{results} for {self.done[-1]}"
        return [result for number, result in results if number is None]

    def same(self, what: str, call: Callable[[bytes], Any], *about: object) -> None:
        results = self.both(what, call, *about)
        assert not results or all(result == results[0] for result in results), (results, what, about)

    # Choosing

    def path(self) -> bytes:
        """A path that is there, as seen in the first root, or one next to it."""
        at = b""
        while True:
            here = os.path.join(self.roots[0], at)
            if not stat.S_ISDIR(os.lstat(here).st_mode) if os.path.lexists(here) else True:
                return at
            there = sorted(os.listdir(here))
            name = self.rng.choice(there) if there and self.rng.random() < 0.7 else self.rng.choice(NAMES)
            at = os.path.join(at, name)
            if self.rng.random() < 0.4 or at.count(b"/") > 4:
                return at

    def content_path(self) -> bytes:
        """A path for open(2). Not of a device: a mount may refuse to open those (nodev), as it should."""
        while True:
            path = self.path()
            here = os.path.join(self.roots[0], path)
            mode = os.lstat(here).st_mode if os.path.lexists(here) else 0
            if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
                return path

    def step(self) -> None:
        name, weight = zip(*STEPS.items(), strict=True)
        getattr(self, self.rng.choices(name, weight)[0])()

    # Names

    def create(self) -> None:
        path, mode = self.path(), self.rng.choice([0o644, 0o755, 0o4755, 0o600, 0])

        def call(root: bytes) -> None:
            os.close(os.open(os.path.join(root, path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))

        self.both("create", call, path, oct(mode))

    def mkdir(self) -> None:
        path, mode = self.path(), self.rng.choice([0o755, 0o700, 0o1777])
        self.both("mkdir", lambda root: os.mkdir(os.path.join(root, path), mode), path, oct(mode))

    def symlink(self) -> None:
        path, target = self.path(), self.rng.choice([b"a", b"../b", b"\xff", b"x" * 300, b"/nowhere"])
        self.both("symlink", lambda root: os.symlink(target, os.path.join(root, path)), path, target)

    def mknod(self) -> None:
        path, kind = self.path(), self.rng.choice([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
        device = os.makedev(1, 3) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        self.both("mknod", lambda root: os.mknod(os.path.join(root, path), kind | 0o640, device), path, oct(kind))

    def link(self) -> None:
        old, new = self.path(), self.path()

        def call(root: bytes) -> None:
            os.link(os.path.join(root, old), os.path.join(root, new), follow_symlinks=False)

        self.both("link", call, old, new)

    def unlink(self) -> None:
        path = self.path()
        self.both("unlink", lambda root: os.unlink(os.path.join(root, path)), path)

    def rmdir(self) -> None:
        path = self.path()
        self.both("rmdir", lambda root: os.rmdir(os.path.join(root, path)), path)

    def rename(self) -> None:
        old, new, flags = self.path(), self.path(), self.rng.choice([0, 0, 0, 1, 2])
        self.both(
            "rename", lambda root: renameat2(os.path.join(root, old), os.path.join(root, new), flags), old, new, flags
        )

    # Content

    def write(self) -> None:
        path, offset, data = self.content_path(), self._offset(), self._data()
        append = self.rng.choice([0, 0, os.O_APPEND, os.O_TRUNC])

        def call(root: bytes) -> int:
            fd = os.open(os.path.join(root, path), os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | append)
            try:
                return os.pwrite(fd, data, offset) if self.is_file(fd) else 0
            finally:
                os.close(fd)

        self.both("write", call, path, offset, len(data), append)

    def truncate(self) -> None:
        path, size = self.content_path(), self._offset()

        def call(root: bytes) -> None:
            fd = os.open(os.path.join(root, path), os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if self.is_file(fd):
                    os.ftruncate(fd, size)
            finally:
                os.close(fd)

        self.both("truncate", call, path, size)

    def read(self) -> None:
        path, offset, length = self.content_path(), self._offset(), self._offset()

        def call(root: bytes) -> bytes:
            fd = os.open(os.path.join(root, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return os.pread(fd, length, offset) if self.is_file(fd) else b""
            finally:
                os.close(fd)

        self.same("read", call, path, offset, length)

    def _offset(self) -> int:
        return max(0, self.rng.choice(SIZES) + self.rng.randrange(-3, 4))

    def _data(self) -> bytes:
        size = self.rng.choice(SIZES)
        kind = self.rng.randrange(4)
        return bytes(size) if kind == 0 else b"x" * size if kind == 1 else self.rng.randbytes(size)

    @staticmethod
    def is_file(fd: int) -> bool:
        return stat.S_ISREG(os.fstat(fd).st_mode)

    # Open files

    def hold(self) -> None:
        path = self.content_path()

        def call(root: bytes) -> int:
            fd = os.open(os.path.join(root, path), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            if self.is_file(fd):
                return fd
            os.close(fd)
            raise OSError(errno.EINVAL, "not a file")

        if fds := self.both("hold", call, path):
            self.held.append(fds)
        if len(self.held) > 8:
            self.let_go()

    def let_go(self) -> None:
        if self.held:
            for fd in self.held.pop(self.rng.randrange(len(self.held))):
                os.close(fd)

    def release(self) -> None:
        while self.held:
            self.let_go()

    def use(self) -> None:
        """Read and write a file that is open, which may have lost its name."""
        if not self.held:
            return
        fds, offset, data = self.rng.choice(self.held), self._offset(), self._data()
        kind = self.rng.randrange(4)
        for fd in fds:
            if kind == 0:
                os.pwrite(fd, data, offset)
            elif kind == 1:
                os.ftruncate(fd, offset)
            elif kind == 2:
                os.fsync(fd)
            elif size := os.fstat(fd).st_size:
                with mmap.mmap(fd, size) as memory:
                    start = min(offset, size - 1)
                    memory[start : start + len(data)] = data[: size - start]
        sizes = [os.fstat(fd).st_size for fd in fds]
        self.done.append(("use", kind, offset, len(data), sizes))
        assert len(set(sizes)) == 1
        contents = [os.pread(fd, 300_000, max(0, offset - 1000)) for fd in fds]
        assert all(content == contents[0] for content in contents), f"content differs after {self.done[-1]}"
        links = [os.fstat(fd).st_nlink for fd in fds]
        assert len(set(links)) == 1, links

    # Attributes

    def chmod(self) -> None:
        path, mode = self.path(), self.rng.choice([0o644, 0o755, 0o6777, 0o1777, 0])
        if not os.path.islink(os.path.join(self.roots[0], path)):
            self.both("chmod", lambda root: os.chmod(os.path.join(root, path), mode), path, oct(mode))

    def chown(self) -> None:
        path, uid, gid = self.path(), self.rng.choice([-1, 0, 1000]), self.rng.choice([-1, 0, 1000])
        self.both("chown", lambda root: os.lchown(os.path.join(root, path), uid, gid), path, uid, gid)

    def utime(self) -> None:
        path, time = self.path(), self.rng.choice([0, 1_500_000_000_123_456_789, 4_000_000_000_000_000_001])

        def call(root: bytes) -> None:
            os.utime(os.path.join(root, path), ns=(time, time + 1), follow_symlinks=False)

        self.both("utime", call, path, time)

    def setxattr(self) -> None:
        path = self.path()
        name, value = self.rng.choice([b"user.a", b"user.b", b"trusted.c"]), self.rng.choice([b"", b"v", b"x" * 900])
        flags = self.rng.choice([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])

        def call(root: bytes) -> None:
            os.setxattr(os.path.join(root, path), name, value, flags, follow_symlinks=False)

        self.both("setxattr", call, path, name, len(value), flags)

    def removexattr(self) -> None:
        path, name = self.path(), self.rng.choice([b"user.a", b"user.b", b"trusted.c"])

        def call(root: bytes) -> None:
            os.removexattr(os.path.join(root, path), name, follow_symlinks=False)

        self.both("removexattr", call, path, name)

    # Looking

    def look(self) -> None:
        path = self.path()
        self.same("listdir", lambda root: sorted(os.listdir(os.path.join(root, path))), path)
        self.same("stat", lambda root: facts(os.path.join(root, path)), path)

    def sync(self) -> None:
        os.sync()

    def settle(self) -> None:
        """Close what is open and give everything one time, so that both trees must be the same to the CID."""
        self.release()
        for root in self.roots:
            for at, _, files in os.walk(root, topdown=False):
                for name in files + os.listdir(at):
                    with suppress(FileNotFoundError):
                        os.utime(os.path.join(at, name), ns=(1, 1), follow_symlinks=False)
            os.chmod(root, 0o755)
            os.utime(root, ns=(1, 1))


def facts(path: bytes) -> tuple[Any, ...]:
    """What stat says that must not differ; a directory's size and the numbers of links on it do between filesystems."""
    found = os.lstat(path)
    common = (found.st_mode, found.st_uid, found.st_gid, found.st_rdev)
    return common if stat.S_ISDIR(found.st_mode) else (*common, found.st_size, found.st_nlink)


STEPS = {
    "create": 10,
    "mkdir": 8,
    "symlink": 3,
    "mknod": 2,
    "link": 8,
    "unlink": 6,
    "rmdir": 3,
    "rename": 14,
    "write": 20,
    "truncate": 6,
    "read": 6,
    "hold": 5,
    "let_go": 2,
    "use": 12,
    "chmod": 3,
    "chown": 3,
    "utime": 3,
    "setxattr": 4,
    "removexattr": 2,
    "look": 6,
}
