"""Revisions: what people type finds the version that they mean, or an error that says why not."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from store import revision, version
from store.cid import Cid
from store.errors import BadCid, NotFound
from store.names import Name
from store.repository import Repository, Target
from store.version import Version
from tests.store.histories import History, tree
from tests.store.models import new_batch

SECOND = 10**9
DAY = 86400 * SECOND
START = 1_700_000_000 * SECOND  # 2023-11-14T22:13:20 in UTC


@contextmanager
def zone(name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def line(repository: Repository) -> list[Cid]:
    """Four versions of the name `work/src`, a day apart; the oldest first."""
    batch, stage = repository.batch("test")
    cids: list[Cid] = []
    for number in range(4):
        made = version.put_tree(batch, tree(batch, {"number": str(number), "docs/a": "a"}))
        before = frozenset(cids[-1:])
        cids.append(version.put_version(batch, Version(made, before, START + number * DAY)))
    repository.set_name("work/src", None, Name(cids[-1]), batch, stage)
    return cids


def meant(repository: Repository, text: str) -> Cid | None:
    return repository.resolve(text).version


def test_steps_back(repository: Repository, line: list[Cid]) -> None:
    for text, number in (
        ("work/src", 3), ("work/src~", 2), ("work/src~1", 2), ("work/src~3", 0), ("work/src~0", 3), ("work/src~1~1", 1),
        ("work/src~~~", 0), (f"{line[2]}~2", 0), (f"{line[2]}", 2), (f"{str(line[1])[:20]}~", 0),
    ):  # fmt: skip
        assert meant(repository, text) == line[number], text
    for text, problem in (
        ("work/src~4", "there are 3 before it"), (f"{line[0]}~", "there is none before it"),
        (f"{line[1]}~2", "there is one before it"), (f"work/src~{'9' * 400}", "there are 3"),
        ("work/src~x", "no name 'work'"), ("work~1", "no name"), ("nothing~1", "no name 'nothing~1'"),
    ):  # fmt: skip
        with pytest.raises(NotFound, match=re.escape(problem)):
            repository.resolve(text)


def test_a_path_behind_it(repository: Repository, line: list[Cid]) -> None:
    tree_of = [version.tree_cid(repository.cache, cid) for cid in line]
    assert repository.resolve("work/src/docs/a") == Target(tree_of[3], "work/src", b"docs/a", line[3])
    assert repository.resolve("work/src~2/docs/a~1") == Target(tree_of[1], None, b"docs/a~1", line[1])
    assert repository.resolve("work/src/docs~1") == Target(tree_of[3], "work/src", b"docs~1", line[3])
    with zone("UTC"):
        assert repository.resolve("work/src@{2023-11-15}/x@{y}") == Target(tree_of[1], None, b"x@{y}", line[1])
    assert repository.resolve(f"{line[1]}/docs") == Target(tree_of[1], None, b"docs", line[1])
    assert repository.resolve(f"{tree_of[1]}/docs") == Target(tree_of[1], None, b"docs")


def test_at_a_time(repository: Repository, line: list[Cid]) -> None:
    with zone("UTC"):
        for text, number in (
            ("2023-11-14", 0), ("2023-11-15", 1), ("20231115", 1), ("2023-11-15T22:13", 0), ("2023-11-15T22:13:20", 1),
            ("2023-11-16 01:00", 1), ("2023-11-15T23:13:20+01:00", 1), ("2023-11-15T22:13:20Z", 1), ("now", 3),
            ("2 hours ago", 3), ("yesterday", 3), ("  An  Hour  ago ", 3),
        ):  # fmt: skip
            assert meant(repository, f"work/src@{{{text}}}") == line[number], text
        assert meant(repository, f"{line[1]}@{{now}}") == line[1]
        assert meant(repository, "work/src@{2023-11-16}~1") == line[1]
        with pytest.raises(NotFound, match="2023-11-14 22:13:20"):
            repository.resolve("work/src@{2023-11-13}")
    with zone("Asia/Tokyo"):
        assert meant(repository, "work/src@{2023-11-15T07:13:20}") == line[0]


@pytest.mark.parametrize(
    "text", ["", "soon", "2023-13-01", "5", "in 2 hours", "-1 day", "99999999999 days", "2023-11-15T25:00", "\udcff"]
)
def test_no_time(repository: Repository, line: list[Cid], text: str) -> None:
    with pytest.raises(NotFound, match="is no time"):
        repository.resolve(f"work/src@{{{text}}}")


def test_the_times_of_words() -> None:
    for text, seconds in (
        ("now", 0), ("1 second ago", 1), ("90s", 90), ("5 min ago", 300), ("a minute ago", 60), ("3h", 3 * 3600),
        ("yesterday", 86400), ("2 weeks ago", 14 * 86400), ("1 month ago", 30 * 86400), ("an hour ago", 3600),
        ("2 years ago", 730 * 86400),
    ):  # fmt: skip
        assert revision.parse_time(text, lambda: 1e9) == (10**9 - seconds) * SECOND, text


def test_a_head_that_is_newer_than_its_version(repository: Repository, line: list[Cid]) -> None:
    batch, stage = repository.batch("test")
    newer = version.put_tree(batch, tree(batch, {"number": "newer"}))
    repository.set_name("work/src", Name(line[3]), Name(line[3], newer), batch, stage)
    assert repository.resolve("work/src") == Target(newer, "work/src", b"", None)
    assert meant(repository, "work/src~0") == line[3]
    assert meant(repository, "work/src~1") == line[2]


def test_a_prefix(repository: Repository, line: list[Cid]) -> None:
    trees = [version.tree_cid(repository.cache, cid) for cid in line]
    for cid in (*line, *trees):
        for length in (14, 30, 50, 58):
            found = repository.resolve(str(cid)[:length] + "/docs")
            assert (found.version or found.tree) == cid and found.path == b"docs"
    with pytest.raises(NotFound, match="no name"):
        repository.resolve(str(line[0])[:9])  # that is so short that it could be meant as a name
    with pytest.raises(NotFound, match="no name"):
        repository.resolve("bafyr4iaaaaaaaa")
    with pytest.raises(BadCid):
        repository.resolve("bafyr4i" + "a" * 45)


def test_a_prefix_of_several() -> None:
    past = History(new_batch())
    cids = [past.bare(number) for number in range(200)]
    same = next(a for a in cids for b in cids if a != b and str(a)[:8] == str(b)[:8])
    with pytest.raises(NotFound, match=r"begins [0-9]+ CIDs: bafyr4i.*; type more of it"):
        revision.unique(str(same)[:8], cids)
    assert revision.unique(str(same), cids) == same and revision.unique("bafyr4i00", cids) is None


def test_a_name_goes_before_a_prefix(repository: Repository, line: list[Cid]) -> None:
    text = str(line[0])[:20]
    batch, stage = repository.batch("test")
    repository.set_name(text, None, Name(line[3]), batch, stage)
    assert repository.resolve(text).name == text
