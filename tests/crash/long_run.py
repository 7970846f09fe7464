"""kill -9, thousands of times: python -m tests.crash.long_run --kills 5000

A process edits a tree and commits it again and again, and is killed at any moment, often amid a commit; sometimes
another process collects garbage in the same store meanwhile. After each kill the store must hold the tree that was
acknowledged last, or the one that was being committed, be whole, and hold nothing else. The next process goes on there.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from store.batch import Batch
from store.chunker import Chunker, FastCdc
from store.repository import Repository
from tests.store.models import tiny
from tests.suites.faults import (
    NAME,
    Desk,
    Journal,
    Promise,
    do,
    forked,
    head_of,
    make_store,
    quick_directory,
    random_edit,
    verify,
    waited,
)

KILLS_A_STORE = 60  # then a new one begins


class Tally(NamedTuple):
    """`in_commit` kills came while a commit was being written; in `begun_is_there` of these it was on disk already."""

    kills: int = 0
    commits: int = 0
    in_commit: int = 0
    begun_is_there: int = 0
    neighbours: int = 0

    def plus(self, lines: list[str], tree: str, promise: Promise, neighbour: bool) -> Tally:
        return Tally(
            self.kills + 1,
            self.commits + sum(line.startswith("done") for line in lines),
            self.in_commit + (promise.begun is not None),
            self.begun_is_there + (promise.begun is not None and promise.begun == tree != promise.acknowledged),
            self.neighbours + neighbour,
        )


def run(directory: Path, kills: int, seed: int, *, tell: bool = False) -> Tally:
    """Kill `kills` times. Fails at the first promise that is broken, with all that repeats it."""
    rng = random.Random(seed)
    tally = Tally()
    began = time.monotonic()
    while tally.kills < kills:
        path = directory / f"store-{tally.kills}"
        is_tiny = rng.random() < 0.5
        with format_of(is_tiny) as chunker:
            make_store(path)
            for _ in range(min(KILLS_A_STORE, kills - tally.kills)):
                try:
                    tally = one_kill(path, chunker, rng, 400 if is_tiny else 200_000, tally)
                except BaseException:
                    print(f"seed {seed}, kill {tally.kills}; the store is {path}, its journal beside it")
                    raise
        shutil.rmtree(path)
        if tell:
            print(f"{time.monotonic() - began:6.0f} s  {tally}", flush=True)
    return tally


@contextmanager
def format_of(is_tiny: bool) -> Iterator[Chunker]:
    """The format with tiny blocks, or as it is; either way large edits are staged."""
    with tiny(batch_bytes_max=500, inline_bytes_max=4) if is_tiny else tiny_batches() as chunker:
        yield chunker


@contextmanager
def tiny_batches() -> Iterator[Chunker]:
    from unittest import mock

    from store import limits

    with mock.patch.object(limits, "batch_bytes_max", 300_000):
        yield FastCdc()


def one_kill(path: Path, chunker: Chunker, rng: random.Random, size_max: int, tally: Tally) -> Tally:
    first = tree_in(path)
    journal = path.with_suffix(".journal")
    journal.unlink(missing_ok=True)
    has_neighbour = rng.random() < 0.3
    with beside(path, chunker) if has_neighbour else nullcontext():
        reader, writer = os.pipe()
        pid = forked(lambda: work(path, journal, chunker, rng.randrange(1 << 32), size_max, writer))
        os.close(writer)
        try:
            commits = rng.randrange(6)
            while commits and os.read(reader, 1):
                commits -= 1
            time.sleep(rng.random() * rng.choice((0, 0.002, 0.01, 0.05)))
        finally:
            os.kill(pid, signal.SIGKILL)
            os.close(reader)
            status = waited(pid)
        assert status == -9, "the process failed before it was killed"
    lines = journal.read_text().splitlines() if journal.exists() else []
    promise = Promise.of(lines, first)
    return tally.plus(lines, verify(path, promise), promise, has_neighbour)


def work(path: Path, journal_path: Path, chunker: Chunker, seed: int, size_max: int, signs: int) -> None:
    """Edit and commit until killed."""
    rng, desk = random.Random(seed), Desk(path, chunker)
    desk.repository.lease(NAME, desk.head.tree, "/nowhere", "/nowhere.sock")
    journal = Journal(journal_path, signs)
    while True:
        for _ in range(rng.randint(1, 12)):
            do(desk, random_edit(rng, desk, size_max))
        desk.journaled_commit(journal)
        if rng.random() < 0.3:
            desk.head.checkpoint(rng.choice(("", "a message")))
        if rng.random() < 0.5:
            desk.head.collect()


@contextmanager
def beside(path: Path, chunker: Chunker) -> Iterator[None]:
    """Another process uses the store until the block ends: it must not be harmed by a death beside it."""
    reader, writer = os.pipe()

    def neighbour() -> None:
        os.close(writer)
        os.set_blocking(reader, False)
        last_round = False
        while True:
            repository = Repository.open(path, create=False)  # lets go of what the dead held
            for number in range(20):
                batch, stage = repository.batch("neighbour")
                put_some(batch, number)
                repository.store.gc(5)
                stage.release()
            repository.close()
            if last_round:
                return
            last_round = stopped(reader)  # and one round more after the death

    pid = forked(neighbour)
    os.close(reader)
    try:
        yield
    finally:
        os.close(writer)
        status = waited(pid)
    assert status == 0, f"the process beside it ended with {status}"


def put_some(batch: Batch, number: int) -> None:
    for size in (100, 5_000, 50_000):
        batch.put_raw(b"%d " % number * size)
    batch.flush()


def stopped(reader: int) -> bool:
    try:
        return os.read(reader, 1) == b""
    except BlockingIOError:
        return False


def tree_in(path: Path) -> str:
    repository = Repository.open(path, create=False)
    try:
        return head_of(repository)
    finally:
        repository.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5000, help="of a process without FUSE (default: %(default)s)")
    parser.add_argument("--mounted", type=int, default=0, help="and so many of a mount's daemon under a workload")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="repeats a run")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with quick_directory() as directory:
        tally = run(directory, args.kills, args.seed, tell=True)
        print(f"{tally}: no promise was broken")
        if args.mounted:
            from tests.crash.test_mount_kill import kill_often
            from tests.suites.machine import Machine

            machine = Machine(directory)
            try:
                kill_often(machine, directory / "synced", args.mounted, args.seed)
            finally:
                machine.end()
            print(f"{args.mounted} kills of a mount: no promise was broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
