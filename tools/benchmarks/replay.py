"""A replay: the history of a git repository done again in a monofs mount, and every stored version held to git's.

The work is done as a person does it: in a mounted fork `git checkout` writes what changed, and a checkpoint follows.
Afterwards each version is read back from the store and compared with what git says of its commit: names, modes, link
targets and contents, byte for byte. A blob and a CID that were found equal once are not compared again; directories
are, all of them, in each version.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from monofs_fuse import mounts
from store import check, codec, directory, history, version
from store.batch import Nodes
from store.blocks import collect
from store.cid import Cid
from store.entry import Entry
from store.errors import MonofsError
from store.file import File
from store.repository import Repository
from store.tables import Tables
from tools.benchmarks.bench import Bench
from tools.benchmarks.daemon import Daemon
from tools.benchmarks.git import Contents, Git, Item

NAME: Final = "history"
_LINK, _SUBMODULE = stat.S_IFLNK, 0o160000
_GC_BLOCKS: Final = 1024
_DIFFERENCES_MAX: Final = 20  # told of one version


class Step(NamedTuple):
    """What one version cost. `cpu` is the daemon's, `changed` how many files are not as in the version before."""

    commit: str
    changed: int
    checkout_seconds: float
    checkpoint_seconds: float
    checkout_cpu: float
    checkpoint_cpu: float


class Stored(NamedTuple):
    """`versions` are the bytes that each version was the first to need, as they lie in the store."""

    versions: list[int]
    blocks: int
    stored: int
    file: int


def steps(bench: Bench, git: Git, commits: list[str], store: Path) -> Iterator[Step]:
    """Check every commit out into a mount, and make a version of each. The mount ends with the last one."""
    bench.command("monofs", "--store", store, "import", bench.empty("nothing"), "--name", "nothing")
    with _fork(bench, store) as mount:
        before = None
        for commit in commits:
            yield _step(git, mount, before, commit)
            before = commit


@contextmanager
def _fork(bench: Bench, store: Path) -> Iterator[Daemon]:
    path = bench.empty("mnt")
    begin = time.perf_counter()
    bench.command("monofs", "--store", store, "mount", "nothing", path, "--name", NAME)
    mount = Daemon(bench, store, path, time.perf_counter() - begin)
    try:
        yield mount
    finally:
        mount.watch.stop()
        bench.command("monofs", "--store", store, "umount", path)


def _step(git: Git, mount: Daemon, before: str | None, commit: str) -> Step:
    times = [(time.perf_counter(), mount.cpu_seconds())]
    git.check_out(commit, mount.path)
    times.append((time.perf_counter(), mount.cpu_seconds()))
    mounts.checkpoint(os.fspath(mount.path), commit)
    times.append((time.perf_counter(), mount.cpu_seconds()))
    (w0, c0), (w1, c1), (w2, c2) = times
    return Step(commit, git.changed(before, commit), w1 - w0, w2 - w1, c1 - c0, c2 - c1)


# Afterwards: is every version what git says?


def differences(repository: Repository, git: Git, commits: list[str], watch: Callable[[int], None]) -> list[str]:
    """Return what differs between the versions of the store and the commits they were made of, and what is damaged."""
    record = repository.name(NAME)
    assert record is not None
    line = list(history.line(repository.cache, record.version))[-2::-1]  # all but the first, which was empty
    told = [found.message for _, found in line]
    if told != commits:
        return [f"the store has {len(told)} versions, of other commits than the {len(commits)} that were checked out"]
    found: list[str] = []
    same: set[tuple[str, Entry]] = set()
    with git.contents() as contents:
        for number, (commit, (cid, _)) in enumerate(zip(commits, line, strict=True)):
            root = version.load_tree(repository.cache, cid).root
            oracle = _Oracle(repository.cache, contents, same)
            some = [f"{commit[:12]}: {what}" for what in oracle.compared(root, git.items(commit))]
            found += some[:_DIFFERENCES_MAX]
            watch(number + 1)
    report = check.examine(repository.store)
    return found if report.is_clean else [*found, f"the store is damaged: {report.problems[:3]}"]


class _Oracle:
    """`same` are blobs and entries that were found to have the same content."""

    def __init__(self, source: Nodes, contents: Contents, same: set[tuple[str, Entry]]) -> None:
        self._source, self._contents, self._same = source, contents, same

    def compared(self, root: Entry, items: Mapping[bytes, Item]) -> Iterator[str]:
        """Yield what a stored tree has otherwise than the items of a commit."""
        left = dict(items)
        directories = _directories(items)
        for path, entry in directory.walk(self._source, root):
            item = left.pop(path, None)
            if entry.is_dir and (path in directories or (item is not None and item.mode == _SUBMODULE)):
                directories.discard(path)
            elif item is None:
                yield f"{path!r} is no file of the commit"
            elif problem := self._problem(entry, item):
                yield f"{path!r}: {problem}"
        yield from (f"{path!r} is missing" for path in [*left, *directories])

    def _problem(self, entry: Entry, item: Item) -> str | None:
        kind = "symlink" if item.mode == _LINK else "dir" if item.mode == _SUBMODULE else "file"
        if entry.kind != kind:
            return f"it is a {entry.kind} and not a {kind}"
        if kind == "file" and entry.mode != (0o755 if item.mode & 0o100 else 0o644):
            return f"its mode is {entry.mode:o}, git's {item.mode:o}"
        known = item.blob, entry._replace(mtime=0, mode=0)
        if known in self._same:
            return None
        try:
            mine = entry.data if kind == "symlink" else File.of(entry).read_at(self._source, 0, entry.size)
        except MonofsError as error:
            return f"it cannot be read: {error}"
        theirs = self._contents.get(item.blob)
        if mine != theirs or entry.size != len(theirs):
            return f"its content is not git's: {entry.size} bytes and {len(theirs)}"
        self._same.add(known)
        return None


def _directories(items: Mapping[bytes, Item]) -> set[bytes]:
    """Return the directories that the paths of a commit lie in."""
    found: set[bytes] = set()
    for path in items:
        while (path := path.rpartition(b"/")[0]) and path not in found:
            found.add(path)
    return found


# What it takes


def stored(repository: Repository) -> Stored:
    """Return what the versions take, once what nothing needs is deleted."""
    for _ in collect(repository.store, _GC_BLOCKS):
        pass
    record = repository.name(NAME)
    assert record is not None
    line = [cid for cid, _ in history.line(repository.cache, record.version)][-2::-1]
    usage = repository.store.usage()
    return Stored(repository.store.view(lambda tables: _firsts(tables, line)), usage.blocks, usage.stored, usage.file)


def _firsts(tables: Tables, versions: list[Cid]) -> list[int]:
    """Return the stored bytes of all blocks that each version needs and none before it."""
    seen: set[Cid] = set()
    found = []
    for cid in versions:
        size = 0
        waiting = [cid]
        while waiting:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            size += tables.stored_bytes(at)
            if at.is_node:
                waiting += codec.links(at, tables.load(at)())
        found.append(size)
    return found
