"""Rows about versions: what diff, merge, log, prune and so on cost beside the size of the tree, when ten files differ.

Each size is a tool of its own, so that the rows show side by side whether they are flat; `--plot` draws them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from store import changes, history, plan, prune, retention, rollback
from store.blocks import Blocks, collect
from store.cache import Cache
from store.chunker import FastCdc
from store.cid import Algorithm, Cid
from store.names import Name
from store.plan import Other
from store.repository import Repository
from tools.benchmarks import daemon, large_histories
from tools.benchmarks.bench import Bench, Row, Sample
from tools.benchmarks.large_histories import CHANGES, OFTEN, OFTEN_TIMES, TRIES, VERSIONS, tree_of, version_of

_KEPT = VERSIONS // 2  # versions that pruning keeps
_GC_BLOCKS = 1024
_COMMITS = 15


class Cost(NamedTuple):
    cpu_seconds: float
    wall_seconds: float
    blocks: int  # read from the store, each once


class Operation(NamedTuple):
    """`work` is handed a repository with nothing in its cache, and the number of the try."""

    name: str
    work: Callable[[Repository, int], None]


def versions(bench: Bench) -> Iterator[Sample]:
    for size in bench.scale.sizes:
        tool = f"{size:,} files"
        with large_histories.store(bench.work / "versions", size, bench.kept) as store:
            for operation in OPERATIONS:
                cost = cheapest(store, operation)
                yield Sample(f"{operation.name}, CPU", tool, cost.cpu_seconds * 1000, "ms")
                yield Sample(operation.name, tool, cost.wall_seconds * 1000, "ms")
                yield Sample(f"{operation.name}, blocks read", tool, cost.blocks, "")
            for what, cpu, wall in _commits(bench, store):
                yield Sample(f"{what}, CPU", tool, cpu * 1000, "ms")
                yield Sample(what, tool, wall * 1000, "ms")
            for words in (["diff", "src", "ours-0"], ["log", "src"], ["merge", "theirs-0", "src~5"]):
                seconds = bench.timed("monofs", "--store", store, *words)
                yield Sample(f"the command monofs {' '.join(words)}", tool, seconds * 1000, "ms")


def _commits(bench: Bench, store: Path) -> Iterator[tuple[str, float, float]]:
    """Yield what commits through a mount cost: what, seconds of the daemon's CPU time, and of the clock."""
    with daemon.mounted(bench, store, "src") as mount:
        yield "from command to usable mount", mount.cpu_seconds(), mount.seconds
        name = mount.path / os.fsdecode(OFTEN)
        for what, change in (("commit of one changed byte", _change_a_byte), ("commit of one new name", _make_a_name)):
            change(name, -1)  # the first reads what the others find in the cache
            costs = []
            for number in range(_COMMITS):
                wall, cpu = time.perf_counter(), mount.cpu_seconds()
                change(name, number)
                costs.append((mount.cpu_seconds() - cpu, time.perf_counter() - wall))
            yield what, min(cpu for cpu, _ in costs), min(wall for _, wall in costs)


def _change_a_byte(name: Path, number: int) -> None:
    fd = os.open(name, os.O_WRONLY)
    os.pwrite(fd, b"%d" % (number % 10), 0)
    os.fsync(fd)
    os.close(fd)


def _make_a_name(name: Path, number: int) -> None:
    fd = os.open(name.with_name(f"new{number}"), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.fsync(fd)
    os.close(fd)


def cheapest(store: Path, operation: Operation, tries: int = TRIES) -> Cost:
    """Return the least of what the tries cost: what else the machine does can only add to it."""
    costs = [_cost(store, operation, attempt) for attempt in range(tries)]
    return Cost(*(min(values) for values in zip(*costs, strict=True)))


def _cost(store: Path, operation: Operation, attempt: int) -> Cost:
    repository = Repository.open(store)
    counted = Counted(repository.store)
    repository.cache = Cache(counted)
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        operation.work(repository, attempt)
        return Cost(time.process_time() - cpu, time.perf_counter() - wall, len(counted.read))
    finally:
        repository.close()


class Counted:
    """Where blocks are read; knows which were."""

    def __init__(self, under: Blocks) -> None:
        self._under = under
        self.read: set[Cid] = set()

    @property
    def algorithm(self) -> Algorithm:
        return self._under.algorithm

    def get(self, cid: Cid) -> bytes:
        self.read.add(cid)
        return self._under.get(cid)

    def has(self, cid: Cid) -> bool:
        return self._under.has(cid)


# What is measured. Each checks that it did what it is named for


def _diff(repository: Repository, attempt: int) -> None:
    found = list(changes.between(repository.cache, tree_of(repository, "src"), tree_of(repository, f"ours-{attempt}")))
    assert len(found) == CHANGES, found


def _merge(repository: Repository, attempt: int) -> None:
    batch, stage = repository.batch("bench")
    theirs = f"theirs-{attempt}"
    made = plan.made(repository, batch, FastCdc(), f"ours-{attempt}", [Other(theirs, version_of(repository, theirs))])
    assert not made.conflicts and made.new != made.old
    plan.apply(repository, made, batch, stage)


def _checkpoint(repository: Repository, attempt: int) -> None:
    name = f"fewer-{attempt}"
    old = repository.name(name)
    assert old is not None and old.head is not None
    batch, stage = repository.batch("bench")
    repository.publish(name, old.head, batch, stage, old=old)


def _log(repository: Repository, _: int) -> None:
    assert len(list(history.ancestors(repository.cache, version_of(repository, "src")))) == VERSIONS


def _log_path(repository: Repository, _: int) -> None:
    versions = history.ancestors(repository.cache, version_of(repository, "src"))
    assert len(list(history.touching(repository.cache, versions, OFTEN))) == OFTEN_TIMES


def _prune_plan(repository: Repository, attempt: int) -> None:
    planned = prune.plan(repository, f"long-{attempt}", retention.parse(f"last={_KEPT}"))
    assert len(planned.dropped) == VERSIONS - _KEPT
    assert planned.freed(repository).blocks > _KEPT * CHANGES


def _prune(repository: Repository, attempt: int) -> None:
    """And all that goes is deleted."""
    prune.apply(repository, prune.plan(repository, f"long-{attempt}", retention.parse(f"last={_KEPT}")))
    *_, total = collect(repository.store, _GC_BLOCKS)
    assert total.blocks > _KEPT * CHANGES, total


def _restore(repository: Repository, attempt: int) -> None:
    """All of the tree as it was one version before, which is ten files."""
    name = f"fewer-{attempt}"
    *_, (then, _found) = islice(history.ancestors(repository.cache, version_of(repository, "src")), 2)
    rolled = rollback.back(repository, name, then)
    assert rolled.version == version_of(repository, name) and rolled.version != then


def _restore_path(repository: Repository, attempt: int) -> None:
    """One file as it was twenty versions before."""
    name = f"theirs-{attempt}"
    *_, (then, _found) = islice(history.ancestors(repository.cache, version_of(repository, "src")), 20)
    before = repository.head(_name(repository, name))
    assert rollback.back(repository, name, then, (OFTEN,)).tree != before


def _fork(repository: Repository, attempt: int) -> None:
    repository.set_name(f"fork-{attempt}", None, repository.name("src"), *repository.batch("bench"))


def _name(repository: Repository, name: str) -> Name:
    found = repository.name(name)
    assert found is not None
    return found


OPERATIONS = (
    Operation("fork", _fork),
    Operation("checkpoint of ten deletions", _checkpoint),
    Operation("diff of ten changes", _diff),
    Operation("merge of ten changes on each side", _merge),
    Operation("log of 100 versions", _log),
    Operation("log of one file in 100 versions", _log_path),
    Operation("prune, the plan: 50 of 100 versions", _prune_plan),
    Operation("prune: 50 of 100 versions", _prune),
    Operation("restore, ten files", _restore),
    Operation("restore, one path", _restore_path),
)
ROWS = (Row("versions", "diff, merge, log, prune... of ten changes, in trees of --sizes files", versions),)
