"""Rolling back: what was comes back as a new version, and nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from store import history, rollback, version
from store.cid import Cid
from store.errors import Held, NotFound
from store.names import Name
from store.repository import Repository
from tests.store.histories import Files, shown, tree


def save(repository: Repository, content: Files, groups: list[tuple[str, ...]] | None = None) -> Cid:
    """Make `n` have these files; returns the version."""
    batch, stage = repository.batch("test")
    made = version.put_tree(batch, tree(batch, content, groups or []))
    return repository.publish("n", made, batch, stage, old=repository.name("n"))


def now(repository: Repository) -> dict[str, str]:
    record = repository.name("n")
    assert record is not None
    batch, _ = repository.batch("test")
    return shown(batch, repository.head(record))


def past(repository: Repository) -> list[dict[str, str]]:
    """All versions, the newest first."""
    record = repository.name("n")
    assert record is not None
    batch, _ = repository.batch("test")
    return [shown(batch, one.tree) for _, one in history.line(batch, record.version)]


def test_a_tree_goes_back_and_forth(repository: Repository) -> None:
    first = save(repository, {"a": "1", "b": "1"})
    second = save(repository, {"a": "2"})
    rolled = rollback.back(repository, "n", first, message="as it was")
    assert rolled.tree == repository.version(Name(first)).tree
    assert now(repository) == {"a": "1", "b": "1"}
    assert past(repository) == [{"a": "1", "b": "1"}, {"a": "2"}, {"a": "1", "b": "1"}]
    assert repository.version(Name(rolled.version)).message == "as it was"
    rollback.back(repository, "n", second)
    assert now(repository) == {"a": "2"}


def test_paths_go_back_and_the_rest_stays(repository: Repository) -> None:
    first = save(repository, {"a": "1", "d/x": "1", "d/y": "1", "same": "1"})
    save(repository, {"a": "2", "d/x": "2", "new": "2", "same": "1"})
    rollback.back(repository, "n", first, [b"d", b"a"])
    assert now(repository) == {"a": "1", "d/x": "1", "d/y": "1", "new": "2", "same": "1"}


def test_nothing_to_do_makes_no_version(repository: Repository) -> None:
    first = save(repository, {"a": "1"})
    assert rollback.back(repository, "n", first, [b"a"]).version == first
    assert len(past(repository)) == 1


def test_what_was_committed_but_is_no_version_yet_becomes_one(repository: Repository) -> None:
    first = save(repository, {"a": "1"})
    record = repository.name("n")
    assert record is not None
    batch, stage = repository.batch("test")
    head = version.put_tree(batch, tree(batch, {"a": "unsaved"}))
    repository.set_name("n", record, record._replace(head=head), batch, stage)
    rollback.back(repository, "n", first)
    assert past(repository) == [{"a": "1"}, {"a": "unsaved"}, {"a": "1"}]


def test_the_newest_that_was_deleted_comes_back(repository: Repository) -> None:
    save(repository, {"a": "1", "b": "1", "d/x": "1"})
    save(repository, {"a": "2", "d/x": "2"})
    save(repository, {"new": "3"})
    rollback.undelete(repository, "n", [b"a", b"d"])
    assert now(repository) == {"a": "2", "d/x": "2", "new": "3"}
    rollback.undelete(repository, "n", [b"b"])
    assert now(repository) == {"a": "2", "b": "1", "d/x": "2", "new": "3"}


def test_what_cannot_be_undeleted(repository: Repository) -> None:
    save(repository, {"a": "1"})
    before = past(repository)
    with pytest.raises(NotFound, match="is not deleted"):
        rollback.undelete(repository, "n", [b"a"])
    with pytest.raises(NotFound, match="no version has 'b'"):
        rollback.undelete(repository, "n", [b"b"])
    with pytest.raises(NotFound, match="no name"):
        rollback.undelete(repository, "m", [b"b"])
    assert past(repository) == before


def test_a_mounted_name_is_left_to_its_mount(repository: Repository, tmp_path: Path) -> None:
    first = save(repository, {"a": "1"})
    save(repository, {"a": "2"})
    repository.lease("n", repository.version(Name(first)).tree, str(tmp_path), "")
    with pytest.raises(Held):
        rollback.back(repository, "n", first)
    assert now(repository) == {"a": "2"}
