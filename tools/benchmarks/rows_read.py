"""Rows about reading in a mount, cold and warm.

"Cold" is a fresh mount, and nothing in the kernel's caches, not even of what lies below the mount; where we are not
root, that stays. "Warm" is the same thing done again at once.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.benchmarks import caches, inputs, places
from tools.benchmarks.bench import Bench, CommandFailed, Row, Sample
from tools.benchmarks.inputs import MB

Value = tuple[str, float, str]  # what, value, unit
Measure = Callable[[Bench, Path], Iterator[Value]]  # given a fresh mount of the base

_COLD_AND_WARM = ("cold", "warm")
_RANDOM_READS = 16_384


def _everywhere(measure: Measure) -> Callable[[Bench], Iterator[Sample]]:
    def row(bench: Bench) -> Iterator[Sample]:
        for place in places.installed(bench):
            with bench.failure_of(place.name), place.to_read(bench) as path:
                caches.drop()
                for what, value, unit in measure(bench, path):
                    yield Sample(what, place.name, value, unit)

    return row


def quietly(*words: str | Path) -> float:
    """Run a command whose output nobody wants; returns the seconds it took."""
    begin = time.perf_counter()
    done = subprocess.run([os.fspath(word) for word in words], stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise CommandFailed(f"{words[0]} failed with {done.returncode}")
    return time.perf_counter() - begin


def rate_of_each(work: Callable[[str], object], items: list[str]) -> float:
    begin = time.perf_counter()
    for item in items:
        work(item)
    return len(items) / (time.perf_counter() - begin)


def find(bench: Bench, path: Path) -> Iterator[Value]:
    for when in _COLD_AND_WARM:
        yield f"find, {when}", quietly("find", path / "tree"), "s"


def ls(bench: Bench, path: Path) -> Iterator[Value]:
    for when in _COLD_AND_WARM:
        yield f"ls -lR, {when}", quietly("ls", "-lR", path / "tree"), "s"


def lstat(bench: Bench, path: Path) -> Iterator[Value]:
    names = _names(bench, path)
    for when in _COLD_AND_WARM:
        yield f"random lstat, {when}", rate_of_each(os.lstat, names), "/s"
    yield "random lstat, no such name", rate_of_each(os.path.lexists, [f"{name}.missing" for name in names]), "/s"


def open_(bench: Bench, path: Path) -> Iterator[Value]:
    names = _names(bench, path)
    for when in _COLD_AND_WARM:
        yield f"open and close, {when}", rate_of_each(lambda name: os.close(os.open(name, os.O_RDONLY)), names), "/s"


def _names(bench: Bench, path: Path) -> list[str]:
    """Return the paths of the tree's files in an order that no directory has."""
    original = bench.tree.path
    names = [os.fspath(path / "tree" / file.relative_to(original)) for file in inputs.files(original)]
    random.Random(4).shuffle(names)
    caches.drop()  # that looked at the plain directory
    return names


def tar(bench: Bench, path: Path) -> Iterator[Value]:
    for when in _COLD_AND_WARM:
        # Through a pipe: tar does not read what it is to write to /dev/null.
        seconds = quietly("bash", "-c", 'set -o pipefail; tar -cf - -C "$0" . | cat >/dev/null', path / "tree")
        yield f"tar of the tree, {when}", bench.tree.files / seconds, "files/s"


def dd(bench: Bench, path: Path) -> Iterator[Value]:
    for when in _COLD_AND_WARM:
        seconds = quietly("dd", f"if={path / 'large'}", "of=/dev/null", "bs=1M", "status=none")
        yield f"dd of a large file, {when}", bench.large.bytes / MB / seconds, "MB/s"


def randread_1(bench: Bench, path: Path) -> Iterator[Value]:
    yield "random read 4 KiB, 1 job, cold", _random_reads(bench, path / "large", 1), "/s"


def randread_4(bench: Bench, path: Path) -> Iterator[Value]:
    yield "random read 4 KiB, 4 jobs, cold", _random_reads(bench, path / "large", 4), "/s"


def _random_reads(bench: Bench, file: Path, jobs: int) -> float:
    reads = min(_RANDOM_READS, bench.large.bytes // 4096) // jobs
    said = bench.command(
        "fio", "--name=read", f"--filename={file}", "--readonly", "--rw=randread", "--bs=4k", "--ioengine=psync",
        f"--numjobs={jobs}", f"--io_size={reads * 4096}", "--group_reporting", "--output-format=json",
    )  # fmt: skip
    return float(json.loads(said)["jobs"][0]["read"]["iops"])


def randread(bench: Bench) -> Iterator[Sample]:
    if bench.has("fio", "fio"):
        yield from _everywhere(randread_1)(bench)
        yield from _everywhere(randread_4)(bench)


ROWS = (
    Row("find", "find over the whole tree", _everywhere(find)),
    Row("ls", "ls -lR of the whole tree", _everywhere(ls)),
    Row("lstat", "lstat of the tree's files in random order, and of names that are not there", _everywhere(lstat)),
    Row("tar", "read every file of the tree", _everywhere(tar)),
    Row("dd", "read a file of 500 MiB from end to end", _everywhere(dd)),
    Row("randread", "read 4 KiB at random places of it, with 1 and 4 processes (fio)", randread),
)
MORE = (Row("open", "open and close the tree's files in random order", _everywhere(open_)),)
