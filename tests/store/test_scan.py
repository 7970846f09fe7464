"""The quick look counts what an import will find."""

from __future__ import annotations

import os
import random
import stat
from collections import Counter
from pathlib import Path

import pytest

from store.errors import NotFound, WrongKind
from store.scan import Bounds, scan
from tests.suites import trees

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_it_counts_everything(ground: Path, rng: random.Random) -> None:
    trees.build(ground / "tree", rng)
    found = trees.facts(ground / "tree")
    files = [facts for facts in found.values() if not stat.S_ISDIR(facts.mode)]
    counted = scan(ground / "tree")
    assert counted.files == len(files)
    assert counted.bytes == sum(facts.size for facts in files if stat.S_ISREG(facts.mode))
    groups = Counter(facts.same for facts in files if facts.nlink > 1)
    assert sorted(counted.paths.values()) == sorted(groups.values())


def test_it_looks_into_nothing_that_is_excluded(ground: Path) -> None:
    for name in ("in", "out"):
        (ground / name).mkdir()
        (ground / name / "file").touch()
    facts = os.stat(ground / "out")
    assert scan(ground, Bounds(exclude=((facts.st_dev, facts.st_ino),))).files == 1


@as_root
def test_it_stays_on_one_filesystem_if_asked(ground: Path) -> None:
    (ground / "file").touch()
    with trees.tmpfs(ground / "other", "1m") as other:
        (other / "file").touch()
        assert scan(ground).files == 2
        assert scan(ground, Bounds(one_file_system=True)).files == 1


@as_root
def test_what_cannot_be_read_is_not_counted(ground: Path) -> None:
    for name in ("closed", "open"):
        (ground / name).mkdir()
        (ground / name / "file").touch()
    (ground / "closed").chmod(0)
    assert trees.as_nobody(lambda: scan(ground).files) == 1
    assert scan(ground).files == 2


def test_it_needs_a_directory(ground: Path) -> None:
    (ground / "file").touch()
    (ground / "link").symlink_to(".")
    assert scan(ground / "link").files == 2
    with pytest.raises(WrongKind):
        scan(ground / "file")
    with pytest.raises(NotFound):
        scan(ground / "missing")
