"""Rows about writing in a mount, fresh and empty each time. What is read from outside is in the cache."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.benchmarks import places
from tools.benchmarks.bench import Bench, Row, Sample
from tools.benchmarks.inputs import MB
from tools.benchmarks.rows_read import Measure, Value, quietly, rate_of_each

_MIB = 1024 * 1024
_PAGE = 4096


def _everywhere(measure: Measure) -> Callable[[Bench], Iterator[Sample]]:
    def row(bench: Bench) -> Iterator[Sample]:
        for place in places.installed(bench):
            if place.to_write is not None:
                with bench.failure_of(place.name), place.to_write(bench) as path:
                    for what, value, unit in measure(bench, path):
                        yield Sample(what, place.name, value, unit)

    return row


def untar(bench: Bench, path: Path) -> Iterator[Value]:
    _read(bench.archive)
    os.sync()
    begin = time.perf_counter()
    bench.command("tar", "-xf", bench.archive, "-C", path)
    yield "untar of the tree", bench.tree.files / (time.perf_counter() - begin), "files/s"
    bench.command("sync", "--file-system", path)
    yield "untar of the tree, and sync", bench.tree.files / (time.perf_counter() - begin), "files/s"
    seconds = quietly("find", path, "-mindepth", "1", "-delete")
    yield "delete of the tree", bench.tree.files / seconds, "files/s"


def write(bench: Bench, path: Path) -> Iterator[Value]:
    """The bytes are new each time: what a store has already, it need not write."""
    data = memoryview(os.urandom(bench.large.bytes))
    os.sync()
    begin = time.perf_counter()
    fd = os.open(path / "large", os.O_WRONLY | os.O_CREAT)
    for start in range(0, len(data), _MIB):
        os.write(fd, data[start : start + _MIB])
    os.fsync(fd)
    os.close(fd)
    yield "write a large file, fsync", len(data) / MB / (time.perf_counter() - begin), "MB/s"


def randwrite(bench: Bench, path: Path) -> Iterator[Value]:
    size, count, synced = (8 * _MIB, 1000, 50) if bench.quick else (256 * _MIB, 16_384, 1000)
    fd = os.open(path / "file", os.O_RDWR | os.O_CREAT)
    for _ in range(size // _MIB):
        os.write(fd, os.urandom(_MIB))
    os.fsync(fd)
    os.sync()
    offsets = random.Random(7).sample(range(0, size, _PAGE), count)
    data = memoryview(os.urandom(count * _PAGE))
    begin = time.perf_counter()
    for number, offset in enumerate(offsets):
        os.pwrite(fd, data[number * _PAGE : (number + 1) * _PAGE], offset)
    os.fsync(fd)
    yield "random write 4 KiB, fsync at the end", count / (time.perf_counter() - begin), "/s"
    begin = time.perf_counter()
    for number, offset in enumerate(reversed(offsets[:synced])):
        os.pwrite(fd, data[number * _PAGE : (number + 1) * _PAGE], offset)
        os.fsync(fd)
    yield "random write 4 KiB, fsync after each", synced / (time.perf_counter() - begin), "/s"
    os.close(fd)


def git(bench: Bench, path: Path) -> Iterator[Value]:
    _read(bench.repository)
    os.sync()
    clone = path / "clone"
    yield "git clone", bench.timed("git", "clone", "--quiet", "--no-local", bench.repository, clone), "s"
    bench.command("git", "status", cwd=clone)  # looks again at files as young as its index, and notes that it did
    yield "git status", bench.timed("git", "status", cwd=clone), "s"


def create(bench: Bench, path: Path) -> Iterator[Value]:
    files = [os.fspath(path / f"file{number}") for number in range(500 if bench.quick else 5000)]
    data = os.urandom(1024)
    os.sync()

    def make(file: str) -> None:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(fd, file.encode() + data[len(file) :])
        os.close(fd)

    yield "create 1 KiB", rate_of_each(make, files), "/s"
    yield "rename", rate_of_each(lambda file: os.rename(file, f"{file}-moved"), files), "/s"
    yield "unlink", rate_of_each(lambda file: os.unlink(f"{file}-moved"), files), "/s"


def _read(path: Path) -> None:
    """Have the kernel know what a program is about to read from outside."""
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            with file.open("rb", buffering=0) as opened:
                while opened.read(_MIB):
                    pass


ROWS = (
    Row("untar", "unpack the tree, sync, delete it", _everywhere(untar)),
    Row("write", "write a file of 500 MiB from end to end", _everywhere(write)),
    Row("randwrite", "write 4 KiB at random places of a file of 256 MiB", _everywhere(randwrite)),
    Row(
        "git", "git clone (packed, through a pipe) and git status; it is slow, so twice", _everywhere(git), repeat_max=2
    ),
    Row("create", "create, rename, unlink in one directory", _everywhere(create)),
)
