"""Rows about the store: trees taken in, what a change costs, and how soon the commands answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.benchmarks import inputs, peers
from tools.benchmarks.bench import Bench, CommandFailed, Row, Sample
from tools.benchmarks.inputs import MB
from tools.benchmarks.peers import Peer


def import_(bench: Bench) -> Iterator[Sample]:
    tree = bench.tree
    for peer in peers.installed(bench):
        yield Sample("import of the tree", peer.name, tree.files / _taken(bench, peer, tree.path), "files/s")


def big(bench: Bench) -> Iterator[Sample]:
    tree = bench.big_file
    for peer in peers.installed(bench):
        yield Sample("import of one large binary", peer.name, tree.bytes / MB / _taken(bench, peer, tree.path), "MB/s")


def _taken(bench: Bench, peer: Peer, tree: Path) -> float:
    store = bench.empty("store")
    peer.prepare(bench, store)
    seconds = peer.take(bench, store, tree, "first")
    bench.remove(store)
    return seconds


def changed(bench: Bench) -> Iterator[Sample]:
    tree = bench.empty("changing") / "tree"
    for peer in peers.installed(bench):
        if peer.name == "cp -a":
            continue
        shutil.copytree(bench.tree.path, tree, symlinks=True)
        yield from _second(
            bench, peer, tree, lambda: inputs.change_slightly(tree), "import again with 1 % of the files changed"
        )
        bench.remove(tree)


def insert(bench: Bench) -> Iterator[Sample]:
    directory = bench.empty("inserting")
    size = (20 if bench.quick else 200) * MB
    for peer in peers.installed(bench):
        if peer.name == "cp -a":
            continue
        inputs.noise(directory / "file", size)
        change = lambda: inputs.noise(directory / "file", size, inserted=4096)  # noqa: E731
        yield from _second(bench, peer, directory, change, "import again with 4 KiB inserted")
    bench.remove(directory)


def _second(bench: Bench, peer: Peer, tree: Path, change: Callable[[], object], what: str) -> Iterator[Sample]:
    """Take a tree in twice, changed in between; yields what the second time added."""
    store = bench.empty("store")
    peer.prepare(bench, store)
    peer.take(bench, store, tree, "first")
    disk, blocks = peers.disk_bytes(store), peer.block_bytes(bench, store)
    change()
    seconds = peer.take(bench, store, tree, "second")
    grown, added = peers.disk_bytes(store) - disk, peer.block_bytes(bench, store) - blocks
    # A database has free pages inside its file, so the file's growth says little where the blocks' can be asked.
    yield Sample(f"{what}, new", peer.name, (added or grown) / MB, "MB")
    yield Sample(f"{what}, growth of its files", peer.name, grown / MB, "MB")
    yield Sample(f"{what}, time", peer.name, seconds, "s")
    bench.remove(store)


# How soon it answers


def start(bench: Bench) -> Iterator[Sample]:
    small = bench.empty("small")
    for number in range(10):
        (small / f"file{number}").write_text("hello\n")
    for what, tree in (("10 files", small), ("the tree", bench.tree.path)):
        label = f"from command to usable mount, {what}"
        yield Sample(label, "monofs", _monofs_start(bench, tree), "s")
        if bench.has("bindfs", "bindfs"):
            yield Sample(label, "bindfs", _bindfs_start(bench, tree), "s")
        if bench.has("restic", "restic"):
            yield Sample(label, "restic mount", _restic_start(bench, tree), "s")


def _monofs_start(bench: Bench, tree: Path) -> float:
    store, mountpoint = bench.work / "monofs", bench.empty("mnt")
    bench.command("monofs", "--store", store, "import", tree, "--name", "start")
    begin = time.perf_counter()
    bench.command("monofs", "--store", store, "mount", "start", mountpoint)
    os.listdir(mountpoint)
    seconds = time.perf_counter() - begin
    bench.command("monofs", "--store", store, "umount", mountpoint)
    bench.command("monofs", "--store", store, "forget", "start")
    return seconds


def _bindfs_start(bench: Bench, tree: Path) -> float:
    mountpoint = bench.empty("mnt")
    begin = time.perf_counter()
    bench.command("bindfs", tree, mountpoint)
    os.listdir(mountpoint)
    seconds = time.perf_counter() - begin
    bench.unmount(mountpoint)
    return seconds


def _restic_start(bench: Bench, tree: Path) -> float:
    store, mountpoint = bench.empty("store"), bench.empty("mnt")
    bench.command("restic", "--quiet", "-r", store, "init")
    bench.command("restic", "--quiet", "-r", store, "backup", ".", cwd=tree)
    begin = time.perf_counter()
    words = ["restic", "--quiet", "-r", os.fspath(store), "mount", os.fspath(mountpoint)]
    null = subprocess.DEVNULL
    with subprocess.Popen(words, env=bench.environment, stdin=null, stdout=null, stderr=null) as daemon:
        while not os.path.ismount(mountpoint) or not os.listdir(mountpoint):
            if daemon.poll() is not None or time.perf_counter() - begin > 60:
                daemon.kill()
                raise CommandFailed("restic mount did not start")
            time.sleep(0.002)
        seconds = time.perf_counter() - begin
        bench.unmount(mountpoint)
    bench.remove(store)
    return seconds


def cli(bench: Bench) -> Iterator[Sample]:
    store = bench.work / "monofs"
    names = bench.command("monofs", "--store", store, "names") if store.exists() else ""
    if "cli " not in names:
        bench.command("monofs", "--store", store, "import", bench.tree.path, "--name", "cli")
    for _ in range(1 if bench.quick else 5):
        yield Sample("to answer", "python3 -c pass", bench.timed("python3", "-c", "pass"), "s")
        yield Sample("to answer", "monofs --help", bench.timed("monofs", "--help"), "s")
        yield Sample("to answer", "monofs ls NAME", bench.timed("monofs", "--store", store, "ls", "cli"), "s")
        yield Sample("to answer", "monofs stat NAME", bench.timed("monofs", "--store", store, "stat", "cli"), "s")


IMPORT = (
    Row("import", "a source tree taken in; files/s", import_),
    Row("big", "one large binary taken in; MB/s", big),
    Row("changed", "a slightly changed tree taken in again; what it adds on disk", changed, repeat_max=1),
    Row("insert", "4 KiB inserted into the middle of 200 MB; what it adds on disk", insert, repeat_max=1),
)
MORE = (
    Row("start", "from the command to a mount that answers", start),
    Row("cli", "how long commands take that only look", cli),
)
