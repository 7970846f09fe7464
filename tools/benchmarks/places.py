"""Where mounts are measured: monofs, a plain directory, the floor, and the FUSE peers that are installed.

Every place is used as it comes, with its default options. To read, all of them show the same base: the source tree
and one large file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from tools.benchmarks.bench import Bench, CommandFailed

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 120
_UNMOUNT_TRIES = 100


class Place(NamedTuple):
    """`to_read` is a fresh mount of the base, `to_write` a fresh and empty filesystem; None where nobody can write."""

    name: str
    needs: dict[str, str]  # programs and the packages they are in
    to_read: Callable[[Bench], AbstractContextManager[Path]]
    to_write: Callable[[Bench], AbstractContextManager[Path]] | None


def installed(bench: Bench) -> list[Place]:
    return [place for place in ALL if bench.wants(place.name) and _has(bench, place)]


def _has(bench: Bench, place: Place) -> bool:
    """True if it can be used; each program that is missing is reported."""
    missing = [program for program, package in place.needs.items() if not bench.has(program, package)]
    return not missing


# monofs


@contextmanager
def _monofs_to_read(bench: Bench) -> Iterator[Path]:
    store, mountpoint = bench.work / "monofs-base", bench.empty("mnt")
    if not store.exists():
        bench.command("monofs", "--store", store, "import", bench.base, "--name", "base")
        os.sync()
    bench.command("monofs", "--store", store, "mount", "base", mountpoint, "--name", "fork")
    try:
        yield mountpoint
    finally:
        bench.command("monofs", "--store", store, "umount", mountpoint)
        bench.command("monofs", "--store", store, "forget", "fork")


@contextmanager
def _monofs_to_write(bench: Bench) -> Iterator[Path]:
    store, mountpoint = bench.empty("store"), bench.empty("mnt")
    bench.command("monofs", "--store", store, "import", mountpoint, "--name", "empty")
    bench.command("monofs", "--store", store, "mount", "empty", mountpoint)
    try:
        yield mountpoint
    finally:
        bench.command("monofs", "--store", store, "umount", mountpoint)
        bench.remove(store)


# A plain directory


@contextmanager
def _plain_to_read(bench: Bench) -> Iterator[Path]:
    yield bench.base


@contextmanager
def _plain_to_write(bench: Bench) -> Iterator[Path]:
    path = bench.empty("plain")
    yield path
    bench.remove(path)


# The floor


@contextmanager
def _floor(bench: Bench, *source: Path) -> Iterator[Path]:
    mountpoint = bench.empty("mnt")
    argv: list[str | Path] = [sys.executable, "-m", "tools.benchmarks.floor", mountpoint, *source]
    with subprocess.Popen(argv, cwd=_ROOT, stdin=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + _START_SECONDS
            while not os.path.ismount(mountpoint):
                if process.poll() is not None or time.monotonic() > end:
                    raise CommandFailed("the floor did not start")
                time.sleep(0.01)
            yield mountpoint
        finally:
            if os.path.ismount(mountpoint):
                _unmount(bench, mountpoint)
            else:
                process.kill()


# Peers


@contextmanager
def _mounted(bench: Bench, *argv: str | Path) -> Iterator[Path]:
    """Run a peer's command, the mount point last."""
    mountpoint = bench.empty("mnt")
    bench.command(*argv, mountpoint)
    try:
        yield mountpoint
    finally:
        _unmount(bench, mountpoint)


def _bindfs(bench: Bench, source: Path) -> AbstractContextManager[Path]:
    return _mounted(bench, "bindfs", source)


def _squashfuse_to_read(bench: Bench) -> AbstractContextManager[Path]:
    image = bench.work / "base.squashfs"
    if not image.exists():
        bench.command("mksquashfs", bench.base, image, "-no-progress", "-quiet", "-Xcompression-level", "1")
        os.sync()
    return _mounted(bench, "squashfuse", image)


def _gocryptfs_to_read(bench: Bench) -> AbstractContextManager[Path]:
    cipher = bench.work / "gocryptfs-base"
    if not cipher.exists():
        with _gocryptfs(bench, cipher) as mountpoint:
            bench.command("cp", "-a", f"{bench.base}/.", mountpoint)
        os.sync()
    return _gocryptfs(bench, cipher)


def _gocryptfs(bench: Bench, cipher: Path) -> AbstractContextManager[Path]:
    password = bench.work / "password"
    password.write_text("bench\n")
    if not cipher.exists() or not any(cipher.iterdir()):
        cipher.mkdir(exist_ok=True)
        bench.command("gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", password, cipher)
    return _mounted(bench, "gocryptfs", "-q", "-passfile", password, cipher)


def _overlay(bench: Bench, lower: Path) -> AbstractContextManager[Path]:
    options = f"lowerdir={lower},upperdir={bench.empty('upper')},workdir={bench.empty('scratch')}"
    return _mounted(bench, "fuse-overlayfs", "-o", options)


def _unmount(bench: Bench, mountpoint: Path) -> None:
    """Unmount; whoever still looks at it for a moment (a scanner, a program that has just ended) is waited for."""
    for _ in range(_UNMOUNT_TRIES):
        try:
            return bench.unmount(mountpoint)
        except CommandFailed as error:
            last = error
            time.sleep(0.05)
    raise last


ALL = (
    Place("plain", {}, _plain_to_read, _plain_to_write),
    Place("floor", {}, lambda b: _floor(b, b.base), _floor),
    Place("bindfs", {"bindfs": "bindfs"}, lambda b: _bindfs(b, b.base), lambda b: _bindfs(b, b.empty("below"))),
    Place("squashfuse", {"squashfuse": "squashfuse", "mksquashfs": "squashfs-tools"}, _squashfuse_to_read, None),
    Place(
        "gocryptfs", {"gocryptfs": "gocryptfs"},
        _gocryptfs_to_read, lambda b: _gocryptfs(b, b.empty("below")),
    ),
    Place(
        "fuse-overlayfs", {"fuse-overlayfs": "fuse-overlayfs"},
        lambda b: _overlay(b, b.base), lambda b: _overlay(b, b.empty("below")),
    ),
    Place("monofs", {}, _monofs_to_read, _monofs_to_write),
)  # fmt: skip
