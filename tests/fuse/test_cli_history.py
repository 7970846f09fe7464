"""`monofs log`, `show`, `restore`, `undelete` and `prune`: what a name was, and going back there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuse.cli_command import Monofs, plant

MINUTE = 60


@pytest.fixture
def monofs(tmp_path: Path) -> Monofs:
    """The name t with three versions, a minute apart: a is 1, 2, 2; b is only in the first, sub/c only in the last."""
    monofs = Monofs(tmp_path)
    tree = tmp_path / "tree"
    for number, change in enumerate(({"a": b"1\n", "b": b"b\n"}, {"a": b"2\n"}, {"sub/c": b"c\n"})):
        plant(tree, change)
        if number:
            (tree / "b").unlink(missing_ok=True)
        os.utime(tree, (0, 0))
        monofs.more["SOURCE_DATE_EPOCH"] = str(1_700_000_000 + number * MINUTE)
        update = ["--update"] if number else []
        monofs.ok("import", "tree", "--name", "t", *update, "-m", f"number {number}")
    return monofs


def messages(monofs: Monofs, *words: str) -> list[str]:
    return [one["message"] for one in monofs.ok("log", "--json", *words).json]


def test_log_lists_the_newest_first(monofs: Monofs) -> None:
    lines = monofs.ok("log", "t").lines
    assert [line.split("  ")[-1] for line in lines] == ["number 2", "number 1", "number 0"]
    listed = monofs.ok("log", "t", "--json").json
    assert [line.split()[0] for line in lines] == [one["version"][:16] for one in listed]
    assert list(listed[0]) == ["version", "tree", "previous", "line", "time", "time_ns", "author", "message", "origin"]
    assert listed[0]["previous"] == [listed[1]["version"]] and listed[0]["time"] == "2023-11-14T22:15:20.000000000Z"
    assert messages(monofs, "-n", "2", "t") == ["number 2", "number 1"]
    assert messages(monofs, "t~1") == ["number 1", "number 0"]
    assert messages(monofs, listed[1]["version"][:16]) == ["number 1", "number 0"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a", [1, 0]), ("b", [1, 0]), ("sub", [2]), ("sub/c", [2]), ("a/x", None), ("none", None), (".", [2, 1, 0])],
)
def test_log_of_a_path(monofs: Monofs, path: str, expected: list[int] | None) -> None:
    if expected is None:
        assert "no version has" in monofs.fails("log", "t", path)
    else:
        assert messages(monofs, "t", path) == [f"number {number}" for number in expected]


def test_log_draws(monofs: Monofs) -> None:
    assert [line[:2] for line in monofs.ok("log", "--graph", "t").lines] == ["* "] * 3
    assert len(monofs.ok("log", "--graph", "-n", "1", "t").lines) == 1
    monofs.fails("log", "--graph", "--json", "t", code=2)
    monofs.fails("log", "-n", "-1", "t", code=2)


def test_log_of_a_tree_without_history(monofs: Monofs) -> None:
    tree = monofs.ok("names", "--json").json["names"][0]["tree"]
    assert "without a history" in monofs.fails("log", tree)


def test_show(monofs: Monofs) -> None:
    shown = monofs.ok("show", "t~1").text
    assert "\n    number 1\n" in shown and shown.endswith("M\ta\nD\tb\n")
    changes = monofs.ok("show", "t", "--json").json["changes"]
    assert changes == [{"status": "A", "path": "sub"}, {"status": "A", "path": "sub/c"}]
    assert [one["path"] for one in monofs.ok("show", "t~2", "--json").json["changes"]][-2:] == ["a", "b"]
    assert [one["status"] for one in monofs.ok("show", "t~1/b", "--json").json["changes"]] == ["D"]


def test_restore_all_and_back(monofs: Monofs) -> None:
    first, last = (monofs.ok("log", "t", "--json").json[place]["tree"] for place in (2, 0))
    monofs.more["SOURCE_DATE_EPOCH"] = str(1_700_000_000 + 9 * MINUTE)
    assert monofs.ok("restore", "t~2").text.strip() == first
    assert monofs.ok("cat", "t/a").text == "1\n"
    assert messages(monofs, "t")[0] == "restored from t~2" and len(messages(monofs, "t")) == 4
    assert monofs.ok("restore", "t@{2023-11-14T22:15:20+00:00}", "-m", "forth").text.strip() == last
    assert messages(monofs, "t")[0] == "forth"


def test_restore_paths(monofs: Monofs) -> None:
    monofs.ok("restore", "t~2", "b")
    assert monofs.ok("ls", "t").lines == ["a", "b", "sub"]
    assert monofs.ok("cat", "t/a").text == "2\n"
    version = monofs.ok("log", "t", "--json").json[-1]["version"]
    monofs.ok("restore", version, "a", "--to", "t")
    assert monofs.ok("cat", "t/a").text == "1\n"


def test_restore_refuses(monofs: Monofs) -> None:
    before = monofs.ok("log", "t", "--json").text
    assert "no 'none'" in monofs.fails("restore", "t~1", "none")
    assert "no version 9 before" in monofs.fails("restore", "t~9")
    monofs.fails("restore", "t~1/a", code=2)
    monofs.fails("restore", monofs.ok("log", "t", "--json").json[-1]["version"], code=2)
    assert monofs.ok("log", "t", "--json").text == before


def test_undelete(monofs: Monofs) -> None:
    assert "is not deleted" in monofs.fails("undelete", "t", "a")
    assert "no version has" in monofs.fails("undelete", "t", "none")
    monofs.ok("undelete", "t", "b")
    assert monofs.ok("cat", "t/b").text == "b\n"
    assert messages(monofs, "t")[0] == "undeleted b"


def test_prune_says_what_it_frees(monofs: Monofs) -> None:
    def stored() -> int:
        monofs.ok("gc")
        return int(monofs.ok("store-info", "--json").json["stored_bytes"])

    stored_before = stored()
    told = monofs.ok("prune", "t", "--keep", "last=1", "--dry-run", "--json").json
    assert len(messages(monofs, "t")) == 3, "a dry run changes nothing"
    done = monofs.ok("prune", "t", "--keep", "last=1", "--json").json
    assert done == told and len(told["kept"]) == 1 and len(told["dropped"]) == 2
    assert messages(monofs, "t") == ["number 2"]
    assert monofs.ok("log", "t", "--json").json[0]["origin"] == told["kept"][0]["version"]
    # The version that stays is a little longer, for it remembers what it was.
    assert stored_before - told["freed_bytes"] <= stored() < stored_before - told["freed_bytes"] + 400
    assert monofs.ok("prune", "t", "--keep", "last=1").lines == ["kept 1, freed 0 bytes in 0 blocks"]
    monofs.ok("check")


def test_prune_refuses(monofs: Monofs) -> None:
    assert "keeps nothing" in monofs.fails("prune", "t", "--keep", "often=3")
    assert "no name" in monofs.fails("prune", "nobody", "--keep", "last=1")
    monofs.fails("prune", "t", code=2)
    assert len(messages(monofs, "t")) == 3
