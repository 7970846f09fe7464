"""Writers at work in a mount while merges move it, again and again: nothing is lost, nothing is torn."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monofs_fuse import mountpoint
from tests.fuse.cli_command import plant
from tests.mounted.test_live import Live

pytestmark = [pytest.mark.mounted, pytest.mark.slow]

MERGES = 12
WRITERS = 4

# Works in its own directory in the mount and does the same in a twin on the disk; adds lines to a file that merges
# change too, opened anew for each. Merges come and go in its directory, under names that begin with "theirs".
WRITER = """
import mmap, os, random, sys
mnt, twin, number, stop, seed = sys.argv[1:]
rng = random.Random(seed)
roots = [os.path.join(root, "own-" + number) for root in (mnt, twin)]
log = [os.open(root + "/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND) for root in roots]
held = [os.open(root + "/held", os.O_CREAT | os.O_RDWR) for root in roots]
for fd in held:
    os.ftruncate(fd, 50_000)
mapped = [mmap.mmap(fd, 50_000) for fd in held]

def both(step):
    results = []
    for root in roots:
        try:
            results.append(step(root))
        except OSError as error:
            results.append(error.errno)
    assert results[0] == results[1], (results, seed)

def name():
    return "/" + rng.choice("abcdefgh")

def write(root, path, data, flags):
    fd = os.open(root + path, os.O_CREAT | os.O_WRONLY | flags, 0o644)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)

count, rng_flags = 0, 0
while not os.path.exists(stop):
    count += 1
    data = rng.randbytes(rng.choice((1, 100, 5000, 70_000)))
    kind, path, other = rng.randrange(9), name(), name()
    line = b"%s line %d\\n" % (number.encode(), count)
    if kind == 0:
        for fd in log:
            os.write(fd, line)
    elif kind == 1:
        both(lambda root: write(root, path, data, rng_flags))
    elif kind == 2:
        both(lambda root: write(root, "/.new", data, os.O_TRUNC))
        both(lambda root: os.rename(root + "/.new", root + path))
    elif kind == 3:
        both(lambda root: os.unlink(root + path))
    elif kind == 4:
        both(lambda root: os.link(root + path, root + other))
    elif kind == 5:
        both(lambda root: os.rename(root + path, root + other))
    elif kind == 6:
        at = rng.randrange(40_000)
        for memory in mapped:
            memory[at:at + len(line)] = line
    elif kind == 7:
        at = rng.randrange(40_000)
        for fd in held:
            os.pwrite(fd, line, at)
    else:
        both(lambda root: len([one for one in os.listdir(root) if not one.startswith("theirs")]))
    rng_flags = rng.choice((0, os.O_TRUNC, os.O_APPEND))
    with open(mnt + "/contested/" + number, "ab") as file:
        file.write(line)
    with open(twin + "/contested/" + number, "ab") as file:
        file.write(line)
print(count)
"""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path)
    plant(live.tree, {f"contested/{number}": b"begun\n" + b"-\n" * 20 for number in range(WRITERS)})
    plant(live.tree, {f"own-{number}/theirs": b"0" for number in range(WRITERS)})
    shutil.copytree(live.tree, live.directory / "twin")
    live.ok("import", "tree", "--name", "src")
    live.ok("name", "work", "src")
    live.mnt.mkdir()
    live.ok("mount", "src", "mnt", "--auto-checkpoint", "1s", "--keep", "last=30")
    yield live
    if mountpoint.mounted(os.fspath(live.mnt)):
        live.ok("umount", "--force", "mnt")
    for log in (live.store / "run").glob("*.log"):
        print(log.read_text())


def test_writers_while_merges_run(live: Live, rng: random.Random) -> None:
    twin, stop = live.directory / "twin", live.directory / "stop"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, live.mnt, twin, str(number), stop, str(rng.random())],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(WRITERS)
    ]
    try:
        for turn in range(1, MERGES + 1):
            theirs(live, turn)
            live.saved()
            assert live.ok("merge", "src", "work").err == ""
            assert all(writer.poll() is None for writer in writers), "a writer failed"
    finally:
        stop.touch()
        counts = [int(writer.communicate(timeout=120)[0] or 0) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS
    assert min(counts) > MERGES, f"they must have been at work: {counts}"
    compare(live, live.mnt, twin)
    live.check()
    live.ok("export", "src", "exported")
    compare(live, live.directory / "exported", twin)


def theirs(live: Live, turn: int) -> None:
    """What the other side does: in the writers' directories, and to the first line of the files that they write to."""
    for number in range(WRITERS):
        own = live.tree / f"own-{number}"
        (own / "theirs").write_bytes(b"%d" % turn)
        (own / f"theirs-{turn}").mkdir()
        (own / f"theirs-{turn}/file").write_bytes(os.urandom(3000))
        if turn > 2:
            shutil.rmtree(own / f"theirs-{turn - 2}")
        (live.tree / "contested" / str(number)).write_bytes(b"turn %d\n" % turn + b"-\n" * 20)


def compare(live: Live, found: Path, twin: Path) -> None:
    for number in range(WRITERS):
        own, expected = (root / f"own-{number}" for root in (found, twin))
        names = {name for name in os.listdir(own) if not name.startswith("theirs")}
        assert names == {name for name in os.listdir(expected) if not name.startswith("theirs")}
        for name in names:
            assert (own / name).read_bytes() == (expected / name).read_bytes(), f"own-{number}/{name}"
            assert (own / name).stat().st_nlink == (expected / name).stat().st_nlink
        assert (own / "theirs").read_bytes() == b"%d" % MERGES
        assert {name for name in os.listdir(own) if name.startswith("theirs-")} == {
            f"theirs-{turn}" for turn in (MERGES - 1, MERGES)
        }
        written = (twin / "contested" / str(number)).read_bytes().splitlines()[21:]
        copies = [path.read_bytes() for path in (found / "contested").glob(f"{number}*")]
        lines = {line for copy in copies for line in copy.splitlines()}
        assert set(written) <= lines, f"{len(set(written) - lines)} lines are lost"
        assert lines <= {*written, b"-", *(b"turn %d" % turn for turn in range(MERGES + 1)), b"begun"}, "torn"
        assert (found / "contested" / str(number)).read_bytes().startswith(b"turn %d\n" % MERGES)
        print(f"writer {number}: {len(written)} lines, {len(copies) - 1} copies")
