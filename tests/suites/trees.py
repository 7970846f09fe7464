"""Nasty directory trees, and comparing two of them entry by entry."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import random
import resource
import socket
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from store.chunker import FastCdc

_T = TypeVar("_T")

NOBODY = 65534


# Building


def build(root: Path, rng: random.Random) -> None:
    """Make a directory with everything that the present user can make in one."""
    root.mkdir(mode=0o755)
    for part in (_contents, _modes, _names, _links, _specials, _attributes, _times, _deep, _many):
        (root / part.__name__).mkdir()
        part(root / part.__name__, rng)
    if os.geteuid() == 0:
        (root / "owners").mkdir()
        _owners(root / "owners")
    root.chmod(0o1751)
    os.utime(root, ns=(1, 987654321_123456789))


def _contents(at: Path, rng: random.Random) -> None:
    for size in (0, 1, 127, 128, 129, 4096, 16384, 65535, 65536, 262144, 262145, 1 << 20, (1 << 20) + 1, 3_000_000):
        (at / f"random-{size}").write_bytes(rng.randbytes(size))
    for size in (1, 128, 129, 65535, 65536, 300_000):
        (at / f"zeros-{size}").write_bytes(bytes(size))
    (at / "zeros-inside").write_bytes(rng.randbytes(1000) + bytes(200_000) + rng.randbytes(1000))
    sparse(at / "sparse", 5 << 20, {0: b"begin", 1 << 20: rng.randbytes(100_000), (4 << 20) + 7: b"odd"})
    sparse(at / "sparse-small-holes", 1 << 20, {n * 16384: b"x" for n in range(64)})
    sparse(at / "all-hole", 1 << 20, {})
    sparse(at / "tiny-hole", 100, {})
    sparse(at / "huge", 1 << 40, {1 << 39: b"in the middle", (1 << 40) - 3: b"end"})
    (at / "empty-directory").mkdir()


def sparse(path: Path, size: int, data: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, piece in data.items():
            file.seek(offset)
            file.write(piece)


def _modes(at: Path, rng: random.Random) -> None:
    for bit in [1 << n for n in range(12)] + [0, 0o7777, 0o644, 0o555]:
        file, directory = at / f"file-{bit:04o}", at / f"dir-{bit:04o}"
        file.write_bytes(b"content")
        file.chmod(bit)
        directory.mkdir()
        if os.geteuid() == 0 or bit & 0o500 == 0o500:  # anybody else could not read it himself
            (directory / "inside").write_bytes(b"content")
            (directory / "below").mkdir(mode=0o700)
            directory.chmod(bit)
        else:
            directory.chmod(bit | 0o500)
    if os.geteuid() != 0:
        for path in at.glob("file-*"):
            path.chmod(path.stat().st_mode | 0o400)


def _names(at: Path, rng: random.Random) -> None:
    directory = os.fsencode(at)
    names = [b"\xff\xfe not UTF-8", b"n" * 255, b"\xc3\xa4" * 127, b"new\nline", b"-rf", b" ", b"*", b"\\", b"\x01\x7f"]
    names += [b".hidden", b"...", b"a", b"a.b", b"a-b", b"A", "ä".encode(), "a\u0308".encode(), b"%s", b"=", b"\x80"]
    for name in names:
        Path(os.fsdecode(directory + b"/" + name)).write_bytes(name)
    os.mkdir(directory + b"/" + b"\xfd" * 255)
    Path(os.fsdecode(directory + b"/" + b"\xfd" * 255 + b"/inside")).write_bytes(b"")
    # In the order of paths 'a/x' comes after 'a.b', in that of a walk before it.
    os.mkdir(directory + b"/walk")
    os.link(directory + b"/a.b", directory + b"/walk.b")
    os.link(directory + b"/a.b", directory + b"/walk/x")


def _links(at: Path, rng: random.Random) -> None:
    (at / "one").write_bytes(rng.randbytes(100_000))
    for place in ("here", "read-only", "closed"):
        (at / place).mkdir()
        os.link(at / "one", at / place / "same")
    (at / "within").write_bytes(b"two names side by side")
    os.link(at / "within", at / "within too")
    (at / "zz first in read-only").write_bytes(b"")
    os.link(at / "zz first in read-only", at / "read-only" / "a")
    os.symlink("within", at / "symlink")
    os.link(at / "symlink", at / "symlink, linked", follow_symlinks=False)
    os.mkfifo(at / "fifo")
    os.link(at / "fifo", at / "here" / "fifo, linked")
    for number in range(300):
        os.link(at / "within", at / "here" / f"many-{number}")
    os.symlink("../../../../etc/passwd", at / "outside")
    os.symlink("/etc", at / "outside-directory")
    os.symlink(b"\xff\xfe", os.fsencode(at / "not-utf-8"))
    os.symlink("t" * 4095, at / "long")
    os.symlink("..", at / "up")
    os.symlink("nothing there", at / "dangling")
    (at / "read-only").chmod(0o555)
    (at / "closed").chmod(0 if os.geteuid() == 0 else 0o500)


def _specials(at: Path, rng: random.Random) -> None:
    os.mkfifo(at / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(at):  # the path of a socket must be short
        listener.bind("socket")
    (at / "socket").chmod(0o4711)
    if os.geteuid() == 0:
        os.mknod(at / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(at / "block", stat.S_IFBLK | 0o660, os.makedev(4095, 1048575))


def _attributes(at: Path, rng: random.Random) -> None:
    file, directory = at / "file", at / "directory"
    file.write_bytes(b"with attributes")
    directory.mkdir()
    for path in (file, directory):
        attribute(path, "user.text", b"text")
        attribute(path, "user.binary", bytes(range(256)))
        attribute(path, "user.empty", b"")
        attribute(path, b"user.\xff not UTF-8 = %", b"\n")
        attribute(path, "user.large", rng.randbytes(1000))
        attribute(path, "system.posix_acl_access", ACL)
    attribute(directory, "system.posix_acl_default", ACL)
    attribute(file, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    attribute(file, "trusted.monofs", b"\0\1")
    os.symlink("file", at / "symlink")
    attribute(at / "symlink", "trusted.monofs", b"on the link")
    file.chmod(0o444)
    directory.chmod(0o555)


# Version 2; user::rw-, user:1000:r--, group::r--, mask::r--, other::---
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, allowed, who)
    for tag, allowed, who in (
        (1, 6, 2**32 - 1),
        (2, 4, 1000),
        (4, 4, 2**32 - 1),
        (16, 4, 2**32 - 1),
        (32, 0, 2**32 - 1),
    )
)


def attribute(path: Path, name: str | bytes, value: bytes) -> None:
    """Set an attribute, if this user may and this filesystem can."""
    with suppress(OSError):
        os.setxattr(path, name, value, follow_symlinks=False)


def _times(at: Path, rng: random.Random) -> None:
    for time in (0, 1, 999_999_999, 1_000_000_001, -1, -1_000_000_000, -1_500_000_001, 4_102_444_800_123_456_789):
        (at / str(time)).write_bytes(b"")
        os.utime(at / str(time), ns=(7, time))
        os.symlink("target", at / f"link {time}")
        os.utime(at / f"link {time}", ns=(7, time), follow_symlinks=False)
        (at / f"directory {time}").mkdir()
        os.utime(at / f"directory {time}", ns=(7, time))


def _deep(at: Path, rng: random.Random, levels: int = 1500) -> None:
    fd = os.open(at, os.O_RDONLY)
    for level in range(levels):
        name = "d" if level % 500 else "longer"
        os.mkdir(name, 0o755, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
    os.link("bottom", "bottom, linked", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)


def _many(at: Path, rng: random.Random) -> None:
    for number in range(1000):
        (at / f"{number:x}").write_bytes(b"%d" % number)


def _owners(at: Path) -> None:
    for uid, gid in ((0, 0), (1000, 1001), (2**32 - 2, 2**31)):
        name = f"{uid}-{gid}"
        (at / name).write_bytes(b"")
        (at / f"dir-{name}").mkdir()
        os.symlink("x", at / f"link-{name}")
        os.mkfifo(at / f"fifo-{name}")
        for path in (at / name, at / f"dir-{name}", at / f"link-{name}", at / f"fifo-{name}"):
            os.chown(path, uid, gid, follow_symlinks=False)
        (at / name).chmod(0o6755)
        (at / f"dir-{name}").chmod(0o2775)


# Looking


class Facts(NamedTuple):
    """All that must be the same. `same` is the first path of the same file; atime and ctime are left out.

    Of holes only large ones must stay: the format has its own idea of which zeros are one.
    """

    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    nlink: int
    same: bytes
    rdev: int
    target: bytes
    content: str
    holes: bool
    xattrs: tuple[tuple[str, bytes], ...]


def facts(root: str | os.PathLike[str]) -> dict[bytes, Facts]:
    """Return what is at every path below `root`, and at the root itself (b"")."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found: dict[bytes, Facts] = {}
    first: dict[tuple[int, int], bytes] = {}
    fds = [os.open(root, os.O_RDONLY)]
    waiting = [sorted(os.listdir(fds[0]))]
    path = [b""]
    found[b""] = _facts(fds[0], ".", b"", first)
    while fds:
        if not waiting[-1]:
            os.close(fds.pop())
            waiting.pop()
            path.pop()
            continue
        name = waiting[-1].pop(0)
        below = b"/".join([*path[1:], os.fsencode(name)])
        found[below] = _facts(fds[-1], name, below, first)
        if stat.S_ISDIR(found[below].mode):
            fds.append(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fds[-1]))
            waiting.append(sorted(os.listdir(fds[-1])))
            path.append(os.fsencode(name))
    return found


def _facts(directory: int, name: str, path: bytes, first: dict[tuple[int, int], bytes]) -> Facts:
    st = os.stat(name, dir_fd=directory, follow_symlinks=False)
    here = f"/proc/self/fd/{directory}/{name}"
    regular, is_directory = stat.S_ISREG(st.st_mode), stat.S_ISDIR(st.st_mode)
    return Facts(
        st.st_mode,
        st.st_uid,
        st.st_gid,
        st.st_mtime_ns,
        0 if is_directory else st.st_size,
        0 if is_directory else st.st_nlink,
        path if is_directory else first.setdefault((st.st_dev, st.st_ino), path),
        st.st_rdev,
        os.fsencode(os.readlink(name, dir_fd=directory)) if stat.S_ISLNK(st.st_mode) else b"",
        _digest(here) if regular else "",
        regular and st.st_size > 4 << 20 and st.st_blocks * 512 < st.st_size / 2,
        tuple(
            (x, os.getxattr(here, x, follow_symlinks=False)) for x in sorted(os.listxattr(here, follow_symlinks=False))
        ),
    )


def _digest(path: str) -> str:
    """Return a hash of a file's bytes, quickly also for 1 TiB of holes."""
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY)
    try:
        end, at = os.fstat(fd).st_size, 0
        while at < end:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA) // 4096 * 4096
            except OSError:
                break
            stop = os.lseek(fd, at, os.SEEK_HOLE) if at == os.lseek(fd, at, os.SEEK_DATA) else at + 4096
            while at < stop:
                page = os.pread(fd, 4096, at)
                if page.strip(b"\0"):
                    digest.update(b"%d:" % at + page)
                at += 4096
    finally:
        os.close(fd)
    return digest.hexdigest()


def assert_same(ours: dict[bytes, Facts], theirs: dict[bytes, Facts], ignore: tuple[str, ...] = ()) -> None:
    """Fail with the first few differences between two trees."""
    problems = [f"missing: {path!r}" for path in ours.keys() - theirs.keys()]
    problems += [f"too much: {path!r}" for path in theirs.keys() - ours.keys()]
    for path in sorted(ours.keys() & theirs.keys()):
        for field, a, b in zip(Facts._fields, ours[path], theirs[path], strict=True):
            if a != b and field not in ignore:
                if isinstance(a, tuple) and isinstance(b, tuple):
                    a, b = sorted(set(a) - set(b)), sorted(set(b) - set(a))
                problems.append(f"{path[-80:]!r}: {field} {a!r} became {b!r}"[:500])
    assert not problems, "\n".join(problems[:20])


# Other users


def as_nobody(work: Callable[[], _T]) -> _T:
    """Return what `work` returns when an ordinary user calls it."""

    def demoted() -> _T:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return work()

    found = in_child(demoted)
    assert found is not None, "the child died"
    return found


def in_child(work: Callable[[], _T]) -> _T | None:
    """Return what `work` returns in a process of its own; None if that process is killed."""
    FastCdc()  # compiled modules are loaded before the fork: another user may not reach them
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            answer = pickle.dumps((work(), None))
        except BaseException as error:
            answer = pickle.dumps((None, f"{type(error).__name__}: {error}"))
        with os.fdopen(writer, "wb") as out:
            out.write(answer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answered:
        data = answered.read()
    os.waitpid(pid, 0)
    if not data:
        return None
    result, problem = pickle.loads(data)
    assert problem is None, problem
    return result


# Places


@contextmanager
def ground() -> Iterator[Path]:
    """A directory that every user may use, whose removal does not mind how deep or how closed its trees are."""
    made = Path(tempfile.mkdtemp(prefix="monofs-test-", dir=_memory()))
    made.chmod(0o1777)
    try:
        yield made
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", made], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--one-file-system", made], check=True)


def _memory() -> str | None:
    """Return a directory in memory if it can hold what a tree has; None otherwise."""
    room = "/dev/shm"
    with suppress(OSError):
        space = os.statvfs(room)
        with tempfile.NamedTemporaryFile(dir=room) as probe:
            os.setxattr(probe.name, "user.probe", b"1")  # since Linux 6.6
            return room if space.f_bavail * space.f_frsize > 1 << 30 else None
    return None


@contextmanager
def tmpfs(at: Path, size: str) -> Iterator[Path]:
    """A small disk, mounted on `at`."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)
