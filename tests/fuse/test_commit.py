"""Commits while names move: hard links across directories, directories that are renamed before, during and after."""

from __future__ import annotations

import random
from typing import Any

import pytest

from store.entry import Entry
from tests.fuse.model import FLAGS, Pair
from tests.store.models import tiny

NAMES = [b"a", b"b", b"c"]
DIRECTORIES = [b"a", b"a/a", b"a/b", b"b", b"b/a"]
FILE, DIRECTORY = Entry("file", 0o644), Entry("dir", 0o755)

Step = tuple[str, *tuple[Any, ...]]
"""The name of a method of Pair, and its arguments."""


def some_path(rng: random.Random, pair: Pair) -> bytes:
    """Return a path that is there, or one next to it."""
    at = b""
    while (node := pair.find(at)) is not None and node.is_dir and at.count(b"/") < 4:
        there = sorted(node.names) if rng.random() < 0.7 else NAMES
        name = rng.choice(there or NAMES)
        at = at + b"/" + name if at else name
        if rng.random() < 0.4:
            return at
    return at


def some_step(rng: random.Random, pair: Pair) -> Step:
    """Return a random operation; most are about links and directories, and commits."""
    path = some_path(rng, pair)
    steps: dict[Step, int] = {
        ("create", path, FILE): 6,
        ("create", path, DIRECTORY): 4,
        ("link", path, some_path(rng, pair)): 12,
        ("unlink", path): 6,
        ("rmdir", path): 3,
        ("rename", path, some_path(rng, pair), rng.choice(FLAGS)): 24,
        ("write_at", path, rng.randrange(40), rng.randbytes(rng.randrange(60))): 5,
        ("open", path): 2,
        ("write_open", rng.randrange(9), rng.randrange(40), rng.randbytes(rng.randrange(60))): 3,
        ("close", rng.randrange(9)): 2,
        ("forget_all",): 2,
        ("forget_one", rng.randrange(99)): 2,
        ("look", path): 1,
        ("check_open",): 1,
        ("check_counts",): 1,
        ("freeze",): 8,
        ("save",): 8,
        ("settle",): 6,
        ("undo", rng.randint(1, 3)): 1,
        ("commit",): 1,
    }
    return rng.choices(list(steps), list(steps.values()))[0]


def beginning(rng: random.Random) -> list[Step]:
    """Directories, with files that are linked from one to another."""
    steps: list[Step] = [("create", path, DIRECTORY) for path in DIRECTORIES]
    for path in DIRECTORIES:
        steps += [("create", path + b"/c", FILE), ("link", path + b"/c", rng.choice(DIRECTORIES) + b"/d")]
    return [*steps, ("commit",), ("forget_all",)]


END: list[Step] = [("check_open",), ("settle",), ("look",), ("remount",), ("look",), ("check_forgotten",)]


def hammer(seed: int, count: int) -> None:
    rng = random.Random(seed)
    with tiny() as chunker:
        pair, done = Pair(chunker), list[Step]()
        try:
            for step in beginning(rng):
                done.append(step)
                pair.do(step)
            for _ in range(count):
                done.append(some_step(rng, pair))
                pair.do(done[-1])
            for step in END:
                done.append(step)
                pair.do(step)
        except BaseException:
            print(f"hammer({seed}, {count})", *done, sep="\n")
            raise


def play(*steps: Step) -> None:
    with tiny() as chunker:
        pair = Pair(chunker)
        for step in (*steps, *END):
            pair.do(step)


def test_a_name_that_goes_while_its_link_is_being_committed() -> None:
    play(
        ("create", b"a", FILE), ("link", b"a", b"b"), ("freeze",), ("unlink", b"a"), ("commit",), ("link", b"b", b"c"),
        ("commit",),
    )  # fmt: skip


def test_a_directory_that_moves_twice_while_links_below_it_are_being_committed() -> None:
    play(
        ("create", b"a", DIRECTORY), ("create", b"a/x", FILE), ("link", b"a/x", b"y"), ("commit",), ("forget_all",),
        ("rename", b"a", b"b", 0), ("freeze",), ("rename", b"b", b"c", 0), ("save",), ("create", b"b", DIRECTORY),
        ("rename", b"b", b"c/b", 0), ("settle",), ("rename", b"c", b"a", 0), ("forget_all",), ("commit",),
    )  # fmt: skip


@pytest.mark.parametrize("edit", [
    ("change_mode", b"", 0o700), ("change_mode", b"d", 0o700), ("write_at", b"d/f", 3, b"new"), ("unlink", b"d/f"),
    ("link", b"d/f", b"g"), ("rename", b"d", b"e", 0), ("create", b"d/g", FILE),
])  # fmt: skip
def test_what_a_failed_commit_had_is_saved_by_the_next(edit: Step) -> None:
    play(
        ("create", b"d", DIRECTORY), ("create", b"d/f", FILE), ("write_at", b"d/f", 0, b"some content"), ("commit",),
        edit, ("freeze",), ("undo", 1), ("commit",),
    )  # fmt: skip


def test_an_open_file_without_a_name_is_read_as_it_was(rng: random.Random) -> None:
    """Its content is in no tree, and garbage is collected after every commit."""
    play(
        ("create", b"f", FILE), ("write_at", b"f", 0, rng.randbytes(300)), ("commit",), ("open", b"f"),
        ("unlink", b"f"), ("commit",), ("check_open",), ("write_open", 0, 100, rng.randbytes(200)), ("commit",),
        ("check_open",), ("freeze",), ("write_open", 0, 0, b"x"), ("undo", 1), ("check_open",), ("commit",),
        ("check_open",), ("close", 0), ("commit",),
    )  # fmt: skip


def test_links_and_renames_during_commits(rng: random.Random) -> None:
    for _ in range(60):
        hammer(rng.randrange(1 << 32), 60)


@pytest.mark.slow
def test_links_and_renames_during_commits_at_length(rng: random.Random) -> None:
    for _ in range(300):
        hammer(rng.randrange(1 << 32), 80)
