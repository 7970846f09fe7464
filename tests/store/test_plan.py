"""A plan and its application to a store on disk: all of it or nothing, and the counts are right."""

from __future__ import annotations

import os

import pytest

from store import check, plan, successor, version
from store.cid import Cid
from store.errors import Held, NotFound, RootMoved, WrongKind
from store.merge import Strategy
from store.names import Name
from store.plan import Plan
from store.repository import Repository
from tests.store.histories import CHUNKER, Files, shown, tree

TEXT = "".join(f"{number}\n" for number in range(9))


def save(repository: Repository, name: str, files: Files) -> Cid:
    batch, stage = repository.batch("test")
    made = version.put_tree(batch, tree(batch, files))
    return repository.publish(name, made, batch, stage, old=repository.name(name))


def fork(repository: Repository, name: str, of: str) -> None:
    batch, stage = repository.batch("test")
    repository.set_name(name, None, repository.shared(repository.resolve(of)), batch, stage)


def merged(repository: Repository, name: str, *others: str, apply: bool = True) -> Plan:
    batch, stage = repository.batch("merge")
    found = [plan.other(repository, batch, text) for text in others]
    made = plan.made(repository, batch, CHUNKER, name, found)
    if apply:
        plan.apply(repository, made, batch, stage)
    return made


def content(repository: Repository, name: str) -> dict[str, str]:
    return shown(repository.batch("look")[0], repository.resolve(name).tree)


@pytest.fixture
def forked(repository: Repository) -> Repository:
    save(repository, "src", {"f": TEXT, "k": "k", "gone": "g"})
    fork(repository, "work", "src")
    save(repository, "src", {"f": TEXT.replace("1", "one"), "k": "k", "gone": "g"})
    save(repository, "work", {"f": TEXT.replace("7", "seven"), "k": "k", "new": "n"})
    return repository


def test_one_change(forked: Repository) -> None:
    before = forked.name("src")
    made = merged(forked, "src", "work", apply=False)
    assert forked.name("src") == before == made.old and made.new != before
    made = merged(forked, "src", "work")
    assert forked.name("src") == made.new and forked.head(made.new) == made.after != made.before
    assert content(forked, "src") == {"f": TEXT.replace("1", "one").replace("7", "seven"), "k": "k", "new": "n"}
    assert check.examine(forked.store).is_clean
    again = merged(forked, "src", "work")
    assert again.new == again.old and again.steps[0].outcome == "nothing"


def test_what_a_merge_keeps_is_whole_when_all_else_is_forgotten(forked: Repository) -> None:
    merged(forked, "src", "work")
    forked.forget_name("work")
    while forked.store.gc(1000).waiting:
        pass
    report = check.examine(forked.store)
    assert report.is_clean, report.problems
    assert "new" in content(forked, "src") and "gone" in content(forked, "src~2")


def test_somebody_was_quicker(forked: Repository) -> None:
    batch, stage = forked.batch("merge")
    made = plan.made(forked, batch, CHUNKER, "src", [plan.other(forked, batch, "work")])
    save(forked, "src", {"quick": "q"})
    with pytest.raises(RootMoved):
        plan.apply(forked, made, batch, stage)
    assert content(forked, "src") == {"quick": "q"}


def test_a_mounted_name(forked: Repository) -> None:
    held = forked.lease("src", forked.resolve("src").tree, "/mnt", "socket")
    with pytest.raises(Held, match="is mounted on /mnt"):
        merged(forked, "src", "work")
    forked.release(held)
    merged(forked, "src", "work")


def test_heads_that_are_newer_than_their_versions(forked: Repository) -> None:
    """As mounts leave them that were killed: both are versions before they are merged."""
    for name, file in (("src", "a"), ("work", "b")):
        old = forked.name(name)
        assert old is not None
        batch, stage = forked.batch("test")
        head = version.put_tree(batch, tree(batch, {**content(forked, name), file: file}))
        forked.set_name(name, old, Name(old.version, head), batch, stage)
    made = merged(forked, "src", "work")
    assert {"a", "b", "new"} <= content(forked, "src").keys()
    found = version.load_version(forked.cache, made.new.version)
    assert made.old.version not in found.previous and len(found.previous) == 2
    assert content(forked, "src~2") == {"f": TEXT.replace("1", "one"), "k": "k", "gone": "g"}
    assert check.examine(forked.store).is_clean


def test_a_tree_without_a_history(forked: Repository) -> None:
    batch, stage = forked.batch("test")
    cid = version.put_tree(batch, tree(batch, {"f": TEXT, "k": "other", "gone": "g"}))
    forked.pin(cid, batch, stage)
    made = merged(forked, "src", str(cid), apply=False)
    assert made.steps[0].bases == () and made.steps[0].other.label == str(cid)[-8:]
    assert set(made.conflicts) == {b"f", b"k"}
    fork(forked, "old", "src~1")
    assert merged(forked, "old", str(cid)[:20], apply=False).conflicts.keys() == {b"k"}
    with pytest.raises(NotFound):
        merged(forked, "none", "src")
    with pytest.raises(WrongKind):
        merged(forked, "src", "work/k")


def test_the_line_of_a_name(forked: Repository) -> None:
    before = forked.resolve("src").version
    merged(forked, "src", "work")
    assert forked.resolve("src~1").version == before
    assert content(forked, "src~1") == {"f": TEXT.replace("1", "one"), "k": "k", "gone": "g"}


def test_nothing_is_left_of_a_plan_that_was_not_applied(forked: Repository) -> None:
    blocks = set(forked.store.cids())
    merged(forked, "src", "work", apply=False)
    assert set(forked.store.cids()) == blocks


def test_the_author(forked: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999)
    assert successor.author() == "3999999"


# A name that is written to while its merge is planned


def written(repository: Repository, name: str, files: Files) -> None:
    """What a commit of a mount does: the name has a newer tree, and no version of it."""
    old = repository.name(name)
    assert old is not None
    batch, stage = repository.batch("test")
    head = version.put_tree(batch, tree(batch, files))
    repository.set_name(name, old, Name(old.version, head), batch, stage)
    while repository.store.gc(1000).waiting:
        pass


def caught_up(repository: Repository, later: Files, *others: str, strategy: Strategy = "merge") -> Plan | None:
    """Plan a merge into src, write to src, and apply what the plan is then."""
    batch, stage = repository.batch("merge")
    found = [plan.other(repository, batch, text) for text in others]
    made = plan.made(repository, batch, CHUNKER, "src", found, strategy=strategy)
    batch.flush()
    written(repository, "src", later)
    new = plan.caught_up(repository, batch, CHUNKER, made, strategy=strategy)
    if new is not None:
        plan.apply(repository, new, batch, stage)
    assert check.examine(repository.store).is_clean
    return new


def test_what_was_written_meanwhile_is_in_the_merge(forked: Repository) -> None:
    fork(forked, "more", "work")
    save(forked, "more", {**content(forked, "work"), "more": "m"})
    written(forked, "src", {**content(forked, "src"), "early": "e"})
    before = content(forked, "src")
    later = {**before, "late": "l", "f": before["f"].replace("4", "four"), "early": "E"}
    made = caught_up(forked, later, "work", "more")
    assert made is not None and not made.conflicts
    text = TEXT.replace("1", "one").replace("7", "seven").replace("4", "four")
    assert content(forked, "src") == {"f": text, "k": "k", "new": "n", "more": "m", "early": "E", "late": "l"}
    assert content(forked, "src~1") == later and content(forked, "src~2")["gone"] == "g"
    found = version.load_version(forked.cache, made.new.version)
    assert found.message == "merge work, more into src" and len(found.previous) == 3
    assert merged(forked, "src", "work", "more").new == forked.name("src"), "nothing is left to merge"
    assert forked.head(made.new) == made.after and made.steps[-1].version == made.new.version


@pytest.mark.parametrize("strategy", ["merge", "ours", "theirs"])
def test_conflicts_with_what_was_written_meanwhile(forked: Repository, strategy: Strategy) -> None:
    later = {**content(forked, "src"), "f": TEXT.replace("7", "SEVEN"), "new": "mine"}
    made = caught_up(forked, later, "work", strategy=strategy)
    assert made is not None
    files = content(forked, "src")
    if strategy == "merge":
        assert set(made.conflicts) == {b"f", b"new"} and {"n", "mine"} <= set(files.values())
        assert any(name.startswith("f~") for name in files) and made.steps[-1].conflicts == made.conflicts
    else:
        assert not made.conflicts and files["new"] == ("mine" if strategy == "ours" else "n")


def test_a_fork_that_was_only_ahead(repository: Repository) -> None:
    save(repository, "src", {"f": TEXT})
    fork(repository, "work", "src")
    save(repository, "work", {"f": TEXT.replace("7", "seven")})
    assert caught_up(repository, {"f": TEXT, "late": "l"}, "work") is not None
    assert content(repository, "src") == {"f": TEXT.replace("7", "seven"), "late": "l"}


def test_another_version_needs_another_plan(forked: Repository) -> None:
    batch, _ = forked.batch("merge")
    made = plan.made(forked, batch, CHUNKER, "src", [plan.other(forked, batch, "work")])
    save(forked, "src", {"quick": "q"})
    assert plan.caught_up(forked, batch, CHUNKER, made) is None
