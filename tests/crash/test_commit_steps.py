"""kill -9 at every step of a commit: before and after every call of the store, and at every change inside LMDB."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.chunker import Chunker
from tests.crash import long_run
from tests.store.models import tiny
from tests.suites.faults import (
    DIRECTORY,
    FILE,
    NAME,
    Act,
    Desk,
    Edit,
    Journal,
    Promise,
    Steps,
    calmly,
    die,
    do,
    forked,
    make_store,
    noise,
    verify,
    waited,
    watched_lmdb,
)

BEFORE: list[Edit] = [
    ("create", b"a", DIRECTORY),
    ("create", b"a/b", DIRECTORY),
    ("create", b"a/one", FILE),
    ("write_at", b"a/one", 0, noise(1, 700)),
    ("create", b"a/b/two", FILE),
    ("write_at", b"a/b/two", 0, noise(2, 150)),
    ("link", b"a/b/two", b"linked"),
    ("create", b"gone", FILE),
    ("write_at", b"gone", 0, noise(3, 300)),
    ("create", b"gone too", FILE),
    ("write_at", b"gone too", 0, noise(12, 300)),
]

# Each list is one commit: large enough for staged blocks; a file that is open without a name; links that move; little.
COMMITS: list[list[Edit]] = [
    [
        ("write_at", b"a/one", 350, noise(4, 40)),
        ("create", b"a/large", FILE),
        ("write_at", b"a/large", 100, noise(5, 1200)),
        ("open", b"gone"),
        ("unlink", b"gone"),
    ],
    [
        ("write_open", 0, 20, noise(6, 60)),
        ("rename", b"a", b"moved", 0),
        ("cut_at", b"moved/one", 90),
        ("unlink", b"moved/large"),
    ],
    [("close", 0), ("mode_at", b"linked", 0o600)],
]


def session(path: Path, chunker: Chunker, act: Act, inside: Act) -> None:
    """Everything that a mount does with its store, from its lease to letting go of it."""
    desk = Desk(path / "store", chunker, act)
    journal = Journal(path / "journal")
    with watched_lmdb(desk.store, inside):
        lease = desk.repository.lease(NAME, desk.head.tree, "/nowhere", "/nowhere.sock")
        for edits in COMMITS:
            for edit in edits:
                do(desk, edit)
            desk.journaled_commit(journal)
            desk.head.collect()
        desk.head.checkpoint("told apart by its message")
        desk.repository.release(lease)
    journal.close()
    desk.close_store()


@pytest.fixture
def chunker() -> Iterator[Chunker]:
    with tiny(batch_bytes_max=1500, inline_bytes_max=4) as chunker:
        yield chunker


@pytest.fixture
def template(quick: Path, chunker: Chunker) -> tuple[Path, str]:
    """A store with a tree in it, to be copied; and that tree."""
    path = quick / "template"
    make_store(path)
    desk = Desk(path, chunker)
    for edit in BEFORE:
        do(desk, edit)
    desk.commit()
    tree = str(desk.head.tree)
    desk.close_store()
    return path, tree


def kill_at(step: int, where: str, path: Path, template: Path, chunker: Chunker) -> None:
    """Run a session on a copy of `template` that is killed at `step`."""
    path.mkdir()
    shutil.copytree(template, path / "store")
    steps = Steps(die, step)
    acts = (steps, calmly) if where == "calls" else (calmly, steps)
    status = waited(forked(lambda: session(path, chunker, *acts)))
    assert status == -9, f"the session ended with {status}"


def steps_of(where: str, path: Path, template: Path, chunker: Chunker) -> list[int]:
    """Return the steps to be killed at: all calls; of the changes inside LMDB, which are in memory until their commit,
    each first and last one of a transaction and some between."""
    path.mkdir()
    shutil.copytree(template, path / "store")
    calls, changes = Steps(), Steps()
    session(path, chunker, calls, changes)
    if where == "calls":
        return list(range(1, len(calls.names) + 1))
    ends = {number for number, name in enumerate(changes.names, 1) if name == "commit"}
    return sorted(ends | {end + 1 for end in ends if end < len(changes.names)} | set(range(1, len(changes.names), 23)))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["calls", "changes"])
def test_killed_at_every_step(quick: Path, template: tuple[Path, str], chunker: Chunker, where: str) -> None:
    store, first = template
    steps, trees = steps_of(where, quick / "whole", store, chunker), set()
    for step in steps:
        path = quick / str(step)
        try:
            kill_at(step, where, path, store, chunker)
            journal = path / "journal"
            lines = journal.read_text().splitlines() if journal.exists() else []
            trees.add(verify(path / "store", Promise.of(lines, first)))
            go_on(path / "store", chunker)
        except BaseException:
            print(f"killed at step {step} of {steps[-1]} ({where})")
            raise
        shutil.rmtree(path)
    assert len(trees) == 1 + len(COMMITS), "some tree was never the last one"
    assert len(steps) > 25


def go_on(path: Path, chunker: Chunker) -> None:
    """The next mount works on with what is there."""
    desk = Desk(path, chunker)
    desk.create(b"afterwards", FILE)
    desk.write_at(b"afterwards", 0, b"written after the kill")
    desk.commit()
    desk.look()
    desk.close_store()


@pytest.mark.slow
def test_killed_at_random(quick: Path, rng: random.Random) -> None:
    """Two hundred kills at any moment, one after the other on the same stores."""
    done = long_run.run(quick, kills=200, seed=rng.randrange(1 << 32))
    assert done.kills == 200
    assert done.commits > 200 and done.in_commit > 20, "the kills must hit commits"
