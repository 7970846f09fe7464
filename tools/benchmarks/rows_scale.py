"""Rows about size: a directory, a tree and a file that are very large, and a store that is old.

Each is measured once; what counts is that memory stays bounded, and that what should not grow with the tree does not.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import blake3

from tools.benchmarks import caches, daemon, peers
from tools.benchmarks.bench import Bench, CommandFailed, Row, Sample
from tools.benchmarks.daemon import Daemon
from tools.benchmarks.inputs import MB

_MIB = 1024 * 1024
_SMALL_BYTES = 256  # more than fits into a directory entry, so each file has a block of its own
_FAN_OUT = 3  # subdirectories of a directory of the deep tree
_FILES_PER_DIRECTORY = 30
_AGED_BYTES_MIN, _AGED_BYTES_MAX = 16 * 1024, 256 * 1024
_AGED_ROUNDS = 3
_COMMITS = 9
_WIDE = 10  # times --files
_WIDE_TOLD = (
    ("build_cpu_seconds", "building it, CPU", "s"), ("stored_bytes", "stored", "bytes"), ("nodes", "nodes", ""),
    ("levels", "levels", ""), ("largest_node_bytes", "its largest block", "bytes"),
    ("find_cpu_microseconds", "look up a name, CPU", "us"),
    ("first_1000_names_cpu_milliseconds", "list the first 1,000 names, CPU", "ms"),
    ("edit_cpu_milliseconds", "change one entry, CPU", "ms"), ("edit_bytes", "what that writes", "bytes"),
    ("check_cpu_seconds", "monofs check of it, CPU", "s"), ("peak_mib", "memory, most", "MiB"),
)  # fmt: skip
_LOOKS_MAX = 10_000


# A directory of a million names


def many(bench: Bench) -> Iterator[Sample]:
    count = bench.scale.files
    store = _store(bench)
    yield from _fill_directory(bench, store, count)
    with daemon.mounted(bench, store, "tree") as mount:
        yield _one("mount", mount.seconds, "s")
        directory = mount.path / "many"
        for when in ("first", "again"):
            yield _one(f"ls of {count:,} names with their attributes, {when}", _seconds(lambda: _ls(directory)), "s")
        yield from mount.samples(f"after ls of {count:,} names")
        names = [f"file{number}" for number in random.Random(1).choices(range(count), k=min(count, _LOOKS_MAX))]
        seconds = _seconds(lambda: [os.stat(directory / name) for name in names])
        yield _one("stat of names in it", len(names) / seconds, "per s")
        yield from _one_byte_commits(directory / "file0")
        for number in range(0, count, 2):
            os.unlink(directory / f"file{number}")
        _commit(mount.path)
        yield from mount.samples(f"after unlink of {count // 2:,} names")
        if len(os.listdir(directory)) != count // 2:
            raise CommandFailed("the directory does not have the names that were left in it")
    bench.remove(store)


def _fill_directory(bench: Bench, store: Path, count: int) -> Iterator[Sample]:
    with daemon.mounted(bench, store, "tree") as mount:
        directory = mount.path / "many"
        directory.mkdir()
        begin = time.perf_counter()
        for number in range(count):
            fd = os.open(directory / f"file{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(fd, _noise(number, _SMALL_BYTES))
            os.close(fd)
        _commit(mount.path)
        yield _one("create through the mount, with fsync at the end", count / (time.perf_counter() - begin), "per s")
        yield from mount.samples(f"after {count:,} files in one directory")
        yield _one("its database", peers.disk_bytes(store) / MB, "MB")


def _ls(directory: Path) -> None:
    subprocess.run(["ls", "-lU", directory], stdout=subprocess.DEVNULL, check=True)


# A directory of ten million names, straight in the store


def wide(bench: Bench) -> Iterator[Sample]:
    """In a process of its own, so that its memory can be told."""
    count = bench.scale.files * _WIDE
    words = [
        sys.executable,
        "-m",
        "tools.benchmarks.large_directory",
        "--count",
        str(count),
        "--place",
        os.fspath(bench.work),
    ]
    found = json.loads(bench.command(*words, cwd=Path(__file__).parents[2]))
    what = f"a directory of {count:,} names: "
    for key, title, unit in _WIDE_TOLD:
        yield _one(what + title, found[key], unit)


# What grows with a tree, and what must not


def tree(bench: Bench) -> Iterator[Sample]:
    for count in bench.scale.sizes:
        source = bench.empty("deep")
        deepest = _deep_tree(source, count)
        store = bench.empty("store")
        seconds, peak = _import(bench, store, source)
        yield Sample("import of a deep tree", f"{count:,} files", count / seconds, "files/s")
        yield Sample("memory of import, anonymous, the most", f"{count:,} files", peak / MB, "MB")
        bench.remove(source)
        os.sync()  # a million files made and removed: what that left to write is not for the mount to wait for
        yield from (one._replace(tool=f"{count:,} files") for one in _tree_of(bench, store, deepest))
        bench.remove(store)


def _tree_of(bench: Bench, store: Path, deepest: str) -> Iterator[Sample]:
    seconds = []
    for _ in range(1 if bench.quick else 3):
        with daemon.mounted(bench, store, "tree") as mount:
            seconds.append(mount.seconds)
    yield _one("from command to usable mount", median(seconds), "s")
    with daemon.mounted(bench, store, "tree") as mount:
        yield _one("memory of the daemon, just mounted, anonymous", mount.memory().anonymous / MB, "MB")
        file = mount.path / deepest
        yield _one("first ls, of the root", _seconds(lambda: _ls(mount.path)), "s")
        yield _one("first stat of the deepest file", _seconds(lambda: os.stat(file)), "s")
        yield from _one_byte_commits(file)
        yield from _new_name_commits(file.parent)
        yield _one("memory of the daemon, after these commits, anonymous", mount.memory().anonymous / MB, "MB")
        find = lambda: subprocess.run(["find", mount.path, "-newer", file], stdout=subprocess.DEVNULL, check=True)  # noqa: E731
        yield _one("find -newer through all of it", _seconds(find), "s")
        yield from mount.samples("after find")


def _deep_tree(top: Path, count: int) -> str:
    """Make a tree of `count` files, each directory with files and three subdirectories; returns the deepest file."""
    level, left, deepest = [top], count, ""
    while left:
        below = []
        for directory in level:
            for number in range(min(left, _FILES_PER_DIRECTORY)):
                path = directory / f"file{number}"
                path.write_bytes(_noise(left, _SMALL_BYTES))
                left, deepest = left - 1, os.fspath(path.relative_to(top))
            if left:
                below += [directory / f"directory{number}" for number in range(_FAN_OUT)]
        for directory in below[:left]:
            directory.mkdir()
        level = below[:left]
    return deepest


# A very large file


def large(bench: Bench) -> Iterator[Sample]:
    pieces = max(1, int(bench.scale.gib * 1024))
    writes = min(pieces * 16, 100_000)
    store = _store(bench)
    offsets = random.Random(2).sample(range(0, pieces * _MIB, 4096), writes)
    with daemon.mounted(bench, store, "tree") as mount:
        fd = os.open(mount.path / "large", os.O_RDWR | os.O_CREAT)
        yield _one(
            f"write {pieces / 1024:g} GiB, and fsync", pieces * _MIB / MB / _seconds(lambda: _fill(fd, pieces)), "MB/s"
        )
        yield from mount.samples("after writing it")
        seconds = _seconds(lambda: _write_at(fd, offsets))
        os.close(fd)
        yield _one(f"write 4 KiB at {writes:,} random places, and fsync", writes / seconds, "per s")
        yield from mount.samples("after the random writes")
        yield _one("its database", peers.disk_bytes(store) / MB, "MB")
    with daemon.mounted(bench, store, "tree") as mount:
        yield _one("mount", mount.seconds, "s")
        yield from _one_byte_commits(mount.path / "large")
        yield _one(
            "read it whole, and compare", pieces * _MIB / MB / _seconds(lambda: _compare(mount, offsets)), "MB/s"
        )
        yield from mount.samples("after reading it")
    bench.remove(store)


def _fill(fd: int, pieces: int) -> None:
    for number in range(pieces):
        os.write(fd, _noise(number, _MIB))
    os.fsync(fd)


def _write_at(fd: int, offsets: list[int]) -> None:
    for offset in offsets:
        os.pwrite(fd, _page(offset), offset)
    os.fsync(fd)


def _compare(mount: Daemon, offsets: list[int]) -> None:
    """Raise CommandFailed unless every byte is what was written last. The byte at 0 was changed since."""
    changed: dict[int, list[int]] = {}
    for offset in offsets:
        changed.setdefault(offset // _MIB, []).append(offset)
    with (mount.path / "large").open("rb", buffering=0) as file:
        number = 0
        while piece := file.read(_MIB):
            expected = bytearray(_noise(number, _MIB))
            for offset in changed.get(number, ()):
                expected[offset % _MIB : offset % _MIB + 4096] = _page(offset)
            if piece[1:] != expected[1:] or (number and piece != expected):
                raise CommandFailed(f"the large file is wrong in MiB {number}")
            number += 1


def _page(offset: int) -> bytes:
    return _noise(-offset - 1, 4096)


# An old store


def aged(bench: Bench) -> Iterator[Sample]:
    """One mount for all rounds: an unmount makes a version, which would keep what is deleted after it."""
    store = _store(bench)
    full = int(bench.scale.aged_gib * 1024 * _MIB)
    numbers = random.Random(3)
    sizes: dict[str, int] = {}
    with daemon.mounted(bench, store, "tree") as mount:
        for age in range(_AGED_ROUNDS + 1):
            tool = f"round {age}" if age else "fresh"
            for name in numbers.sample(sorted(sizes), len(sizes) // 2):
                os.unlink(mount.path / name)
                del sizes[name]
            _commit(mount.path)
            bench.command("monofs", "--store", store, "gc")
            before = sum(sizes.values())
            seconds = _seconds(partial(_refill, mount.path, sizes, full, numbers))
            yield Sample("fill with files of 16 to 256 KiB", tool, (full - before) / MB / seconds, "MB/s")
            yield Sample("its database", tool, peers.disk_bytes(store) / MB, "MB")
            yield from (one._replace(tool=tool) for one in mount.samples("after it"))
            os.sync()
            caches.drop()
            seconds = _seconds(partial(_read_all, mount.path, sorted(sizes)))
            yield Sample("read all its files, in any order, cold", tool, sum(sizes.values()) / MB / seconds, "MB/s")
    bench.command("monofs", "--store", store, "check")
    bench.remove(store)


def _read_all(directory: Path, names: list[str]) -> None:
    for name in names:
        (directory / name).read_bytes()


def _refill(directory: Path, sizes: dict[str, int], full: int, numbers: random.Random) -> None:
    missing = full - sum(sizes.values())
    while missing > 0:
        name, size = f"{numbers.getrandbits(63):x}", numbers.randint(_AGED_BYTES_MIN, _AGED_BYTES_MAX)
        (directory / name).write_bytes(_noise(len(sizes) << 64 | numbers.getrandbits(63), size))
        sizes[name], missing = size, missing - size
    _commit(directory)


# Parts


def _import(bench: Bench, store: Path, source: Path) -> tuple[float, float]:
    """Import a tree as 'tree'; returns the seconds that took and the most anonymous memory, in bytes."""
    begin = time.perf_counter()
    words = ["monofs", "--store", os.fspath(store), "import", os.fspath(source), "--name", "tree"]
    with subprocess.Popen(words, env=bench.environment, stdout=subprocess.DEVNULL) as process:
        watch = daemon.Watch(process.pid)
        code = process.wait()
        seconds = time.perf_counter() - begin
        watch.stop()
    if code != 0:
        raise CommandFailed(f"monofs import failed with {code}")
    return seconds, watch.peak


def _store(bench: Bench) -> Path:
    """Make a store with an empty tree under the name 'tree'."""
    store, empty = bench.empty("store"), bench.empty("nothing")
    bench.command("monofs", "--store", store, "import", empty, "--name", "tree")
    return store


def _one(what: str, value: float, unit: str) -> Sample:
    return Sample(what, "monofs", value, unit)


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _noise(number: int, size: int) -> bytes:
    """Return bytes that cannot be compressed, the same for the same number."""
    return blake3.blake3(number.to_bytes(16, "little", signed=True)).digest(length=size)


def _commit(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _one_byte_commits(file: Path) -> Iterator[Sample]:
    fd = os.open(file, os.O_WRONLY)

    def change(number: int) -> None:
        os.pwrite(fd, b"%d" % number, 0)
        os.fsync(fd)

    try:
        yield from _commits("commit of one changed byte", change)
    finally:
        os.close(fd)


def _new_name_commits(directory: Path) -> Iterator[Sample]:
    def add(number: int) -> None:
        os.close(os.open(directory / f"new{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        _commit(directory)

    yield from _commits("commit of one new name", add)


def _commits(what: str, work: Callable[[int], None]) -> Iterator[Sample]:
    seconds = [_seconds(partial(work, number)) for number in range(_COMMITS)]
    yield _one(what, median(seconds), "s")
    yield _one(f"{what}, the slowest of {_COMMITS}", max(seconds), "s")


ROWS = (
    Row("many", "one directory with --files files, made through the mount", many, repeat_max=1),
    Row("wide", "one directory with ten times --files names, made in the store", wide, repeat_max=1),
    Row(
        "tree", "deep trees of --sizes files, imported: what grows with the tree and what must not", tree, repeat_max=1
    ),
    Row("large", "a file of --gib GiB with random writes", large, repeat_max=1),
    Row("aged", "a store that was filled, and three times emptied by a random half and refilled", aged, repeat_max=1),
)
