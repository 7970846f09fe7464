"""Rows about the mount's hot paths, beside a plain directory on the same disk and a FUSE filesystem that adds nothing.

Every row begins on a mount that has just been made. The plain directory's caches are warm by then, so "first"
compares a mount that knows nothing with a kernel that knows everything: an upper bound for what the mount costs.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from tools.benchmarks import inputs
from tools.benchmarks.bench import Bench, Row, Sample
from tools.benchmarks.inputs import MB

Value = tuple[str, float, str]  # what, value, unit
Measure = Callable[[Bench, Path, Path], Iterator[Value]]  # a tree to read, an empty directory to write in

_T = TypeVar("_T")
_MIB = 1024 * 1024


# Places


@contextmanager
def _monofs(bench: Bench) -> Iterator[Path]:
    store, mountpoint = bench.work / "monofs", bench.empty("mnt")
    if not store.exists() or "hot " not in bench.command("monofs", "--store", store, "names"):
        bench.command("monofs", "--store", store, "import", bench.tree.path, "--name", "hot")
    bench.command("monofs", "--store", store, "mount", "hot", mountpoint, "--name", "fork")
    try:
        yield mountpoint
    finally:
        bench.command("monofs", "--store", store, "umount", mountpoint)
        bench.command("monofs", "--store", store, "forget", "fork")


@contextmanager
def _bindfs(bench: Bench) -> Iterator[Path]:
    mountpoint = bench.empty("mnt")
    bench.command("bindfs", bench.tree.path, mountpoint)
    try:
        yield mountpoint
    finally:
        bench.unmount(mountpoint)


@contextmanager
def _plain(bench: Bench) -> Iterator[Path]:
    yield bench.tree.path


_PLACES: dict[str, Callable[[Bench], AbstractContextManager[Path]]] = {
    "monofs": _monofs,
    "bindfs": _bindfs,
    "plain": _plain,
}


def _everywhere(measure: Measure) -> Callable[[Bench], Iterator[Sample]]:
    def row(bench: Bench) -> Iterator[Sample]:
        for tool, place in _PLACES.items():
            if tool == "bindfs" and not bench.has("bindfs", "bindfs"):
                continue
            with place(bench) as tree:
                scratch = tree / "bench-scratch"
                scratch.mkdir()
                try:
                    for what, value, unit in measure(bench, tree, scratch):
                        yield Sample(what, tool, value, unit)
                finally:
                    shutil.rmtree(scratch)

    return row


def _rate(count: float, work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return count / (time.perf_counter() - begin)


def _rate_of_each(work: Callable[[_T], object], items: list[_T]) -> float:
    begin = time.perf_counter()
    for item in items:
        work(item)
    return len(items) / (time.perf_counter() - begin)


def _paths(bench: Bench, tree: Path) -> list[str]:
    """Return 5,000 paths of the tree in an order that no directory has. They come from the original tree."""
    original = bench.tree.path
    names = [
        os.fspath(file.relative_to(original)) for file in inputs.files(original) if "bench-scratch" not in file.parts
    ]
    random.Random(4).shuffle(names)
    return [os.fspath(tree / name) for name in names[:5000]]


# Looking


def lookup(bench: Bench, tree: Path, scratch: Path) -> Iterator[Value]:
    paths = _paths(bench, tree)
    missing = [f"{path}.missing" for path in paths]
    for when in ("first", "again"):
        yield f"stat of {len(paths)} files, {when}", _rate_of_each(os.stat, paths), "per s"
    for when in ("first", "again"):
        yield f"stat of names that are not there, {when}", _rate_of_each(os.path.lexists, missing), "per s"


def find(bench: Bench, tree: Path, scratch: Path) -> Iterator[Value]:
    count = sum(1 + len(names) for _, _, names in os.walk(bench.tree.path))
    for when in ("first", "again"):
        yield f"find with sizes, {when}", _rate(count, lambda: bench.command("find", tree, "-size", "+1G")), "names/s"


# Reading


def open_(bench: Bench, tree: Path, scratch: Path) -> Iterator[Value]:
    paths = _paths(bench, tree)
    for when in ("first", "again"):
        rate = _rate_of_each(lambda path: os.close(os.open(path, os.O_RDONLY)), paths)
        yield f"open and close of {len(paths)} files, {when}", rate, "per s"


def grep(bench: Bench, tree: Path, scratch: Path) -> Iterator[Value]:
    for when in ("first", "again"):
        work = lambda: subprocess.run(["grep", "-r", "-c", "no such text", tree], stdout=subprocess.DEVNULL)  # noqa: E731
        yield f"grep -r, {when}", _rate(bench.tree.files, work), "files/s"


def read(bench: Bench, tree: Path, scratch: Path) -> Iterator[Value]:
    size = (20 if bench.quick else 200) * _MIB
    file = scratch / "large"
    inputs.noise(file, size)
    fd = os.open(file, os.O_RDWR)
    try:
        os.fsync(fd)
        _evict(bench, tree, fd)
        yield "read one large file, first", _rate(size / MB, lambda: _read_all(fd)), "MB/s"
        yield "read one large file, again", _rate(size / MB, lambda: _read_all(fd)), "MB/s"
        _evict(bench, tree, fd)
        offsets = random.Random(5).choices(range(0, size - 4096, 4096), k=2000)
        yield "read 4 KiB at random places", _rate_of_each(lambda at: os.pread(fd, 4096, at), offsets), "per s"
    finally:
        os.close(fd)


def _evict(bench: Bench, tree: Path, fd: int) -> None:
    """Have the kernel forget a mount's pages. Not the plain directory's: what lies below a mount stays cached too."""
    if tree != bench.tree.path:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _read_all(fd: int) -> None:
    os.lseek(fd, 0, os.SEEK_SET)
    while os.read(fd, _MIB):
        pass


# Writing


def write(bench: Bench, tree: Path, scratch: Path) -> Iterator[Value]:
    pieces = 20 if bench.quick else 200
    piece = random.Random(6).randbytes(_MIB)
    fd = os.open(scratch / "large", os.O_RDWR | os.O_CREAT)
    try:
        yield (
            "write one large file, and fsync",
            _rate(pieces * _MIB / MB, lambda: _write_all(fd, piece, pieces)),
            "MB/s",
        )
        offsets = random.Random(7).choices(range(0, pieces * _MIB - 4096, 4096), k=1000)
        rate = _rate(len(offsets), lambda: _write_at(fd, piece[:4096], offsets))
        yield "write 4 KiB at 1000 random places, and fsync", rate, "per s"
    finally:
        os.close(fd)


def _write_all(fd: int, piece: bytes, count: int) -> None:
    for number in range(count):
        os.write(fd, number.to_bytes(8, "little") + piece[8:])
    os.fsync(fd)


def _write_at(fd: int, piece: bytes, offsets: list[int]) -> None:
    for offset in offsets:
        os.pwrite(fd, piece, offset)
    os.fsync(fd)


def fsync(bench: Bench, tree: Path, scratch: Path) -> Iterator[Value]:
    fd = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append(data: bytes) -> None:
        os.write(fd, data)
        os.fsync(fd)

    try:
        yield "append 100 bytes and fsync", _rate_of_each(append, [bytes(100)] * (20 if bench.quick else 200)), "per s"
    finally:
        os.close(fd)


def create(bench: Bench, tree: Path, scratch: Path) -> Iterator[Value]:
    paths = [os.fspath(scratch / f"file{number}") for number in range(500 if bench.quick else 5000)]
    moved = [f"{path}-moved" for path in paths]

    def make(path: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, path.encode())
        os.close(fd)

    yield "create small files in one directory", _rate_of_each(make, paths), "per s"
    yield "rename them", _rate_of_each(lambda path: os.rename(path, f"{path}-moved"), paths), "per s"
    yield "unlink them", _rate_of_each(os.unlink, moved), "per s"


def untar(bench: Bench, tree: Path, scratch: Path) -> Iterator[Value]:
    archive = bench.work / "tree.tar"
    if not archive.exists():
        bench.command("tar", "--exclude=bench-scratch", "-cf", archive, "-C", bench.tree.path, ".")
    files = bench.tree.files
    (scratch / "tree").mkdir()
    begin = time.perf_counter()
    bench.command("tar", "-xf", archive, "-C", scratch / "tree")
    yield "tar -x of the tree", files / (time.perf_counter() - begin), "files/s"
    bench.command("sync", "--file-system", scratch)
    yield "tar -x of the tree, and sync", files / (time.perf_counter() - begin), "files/s"
    yield "rm -rf of the tree", _rate(files, lambda: bench.command("rm", "-rf", scratch / "tree")), "files/s"


def git(bench: Bench, tree: Path, scratch: Path) -> Iterator[Value]:
    who = ("-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "gc.auto=0")
    part = bench.tree.path / "kernel" if (bench.tree.path / "kernel").is_dir() else bench.tree.path
    shutil.copytree(part, scratch / "work", ignore=shutil.ignore_patterns("bench-scratch"))
    bench.command("git", "init", "--quiet", cwd=scratch / "work")
    files = len(inputs.files(scratch / "work"))
    yield "git add", _rate(files, lambda: bench.command("git", "add", "-Af", cwd=scratch / "work")), "files/s"
    work = lambda: bench.command("git", *who, "commit", "-qm", "all", cwd=scratch / "work")  # noqa: E731
    yield "git commit", _rate(files, work), "files/s"
    yield "git status", _rate(files, lambda: bench.command("git", "status", cwd=scratch / "work")), "files/s"


ROWS = (
    Row("lookup", "stat, of names that are there and of others", _everywhere(lookup)),
    Row("find", "find over the whole tree", _everywhere(find)),
    Row("open", "open and close", _everywhere(open_)),
    Row("grep", "read every file of the tree", _everywhere(grep)),
    Row("read", "read a large file, from end to end and at random", _everywhere(read)),
    Row("write", "write a large file, from end to end and at random", _everywhere(write)),
    Row("fsync", "small appends, each one safe on the disk", _everywhere(fsync)),
    Row("create", "create, rename, unlink", _everywhere(create)),
    Row("untar", "unpack the tree, remove it", _everywhere(untar)),
    Row("git", "git add, commit, status", _everywhere(git)),
)
