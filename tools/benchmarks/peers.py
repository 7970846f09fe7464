"""Programs that take a directory tree into a store of their own: monofs and those it is compared with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tools.benchmarks.bench import Bench


class Peer(NamedTuple):
    """`prepare` makes an empty store; `take` reads `tree` into it and returns the seconds that took."""

    name: str
    program: str
    package: str
    prepare: Callable[[Bench, Path], None]
    take: Callable[[Bench, Path, Path, str], float]  # store, tree, a label that is new each time

    def block_bytes(self, bench: Bench, store: Path) -> int:
        """Return what the store's blocks take, where that can be asked; 0 where only the disk can be."""
        if self.name != "monofs":
            return 0
        return int(json.loads(bench.command("monofs", "--store", store, "store-info", "--json"))["stored_bytes"])


def installed(bench: Bench) -> list[Peer]:
    return [peer for peer in ALL if bench.wants(peer.name) and bench.has(peer.program, peer.package)]


def disk_bytes(path: Path) -> int:
    """Return what the disk gives for all below `path`, as du does."""
    return sum(os.lstat(os.path.join(at, name)).st_blocks * 512 for at, _, names in os.walk(path) for name in names)


def _monofs(bench: Bench, store: Path, tree: Path, label: str) -> float:
    return bench.timed("monofs", "--store", store, "import", tree, "--name", label)


def _cp(bench: Bench, store: Path, tree: Path, label: str) -> float:
    return bench.timed("cp", "-a", tree, store / label)


def _borg(bench: Bench, store: Path, tree: Path, label: str) -> float:
    return bench.timed("borg", "create", f"{store}::{label}", ".", cwd=tree)


def _restic(bench: Bench, store: Path, tree: Path, label: str) -> float:
    return bench.timed("restic", "--quiet", "-r", store, "backup", ".", cwd=tree)


def _casync(bench: Bench, store: Path, tree: Path, label: str) -> float:
    return bench.timed("casync", "make", f"--store={store / 'chunks.castr'}", store / f"{label}.caidx", tree)


def _ostree(bench: Bench, store: Path, tree: Path, label: str) -> float:
    return bench.timed("ostree", f"--repo={store}", "commit", "--branch=main", f"--tree=dir={tree}")


def _git(bench: Bench, store: Path, tree: Path, label: str) -> float:
    return bench.timed("git", "add", "--all", "--force", cwd=tree, GIT_DIR=store, GIT_WORK_TREE=tree)


def _nothing(bench: Bench, store: Path) -> None:
    pass


ALL = (
    Peer("monofs", "monofs", "", lambda b, s: _ran(b, "monofs", "--store", s, "init"), _monofs),
    Peer("cp -a", "cp", "coreutils", _nothing, _cp),
    Peer("ostree", "ostree", "ostree", lambda b, s: _ran(b, "ostree", f"--repo={s}", "init", "--mode=bare"), _ostree),
    Peer("casync", "casync", "casync", _nothing, _casync),
    Peer("borg", "borg", "borgbackup", lambda b, s: _ran(b, "borg", "init", "--encryption=none", s), _borg),
    Peer("git add", "git", "git", lambda b, s: _ran(b, "git", "init", "--quiet", "--bare", s), _git),
    Peer("restic", "restic", "restic", lambda b, s: _ran(b, "restic", "--quiet", "-r", s, "init"), _restic),
)


def _ran(bench: Bench, *words: str | Path) -> None:
    bench.command(*words)
