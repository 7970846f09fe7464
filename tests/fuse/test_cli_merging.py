"""`monofs merge`, `conflicts`, `tombstones`, and `diff` in all its forms: work brought back together from the shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fuse.cli_command import Monofs, plant

TEXT = "".join(f"{number}\n" for number in range(9))


@pytest.fixture
def monofs(tmp_path: Path) -> Monofs:
    return Monofs(tmp_path)


@pytest.fixture
def forked(monofs: Monofs) -> Monofs:
    """`src`, and `work` which went its own way from there; both changed `both`, in different lines."""
    tree = plant(monofs.directory / "tree", {"both": TEXT.encode(), "kept": b"k\n", "gone": b"g\n", "old name": b"r\n"})
    monofs.ok("import", "tree", "--name", "src")
    monofs.ok("name", "work", "src")
    save(monofs, "src", both=TEXT.replace("2", "two").encode())
    plant(tree, {"both": TEXT.replace("7", "seven").encode()})
    (tree / "gone").unlink()
    (tree / "old name").rename(tree / "new name")
    save(monofs, "work")
    return monofs


def save(monofs: Monofs, name: str, **files: bytes) -> str:
    """Make a version of what is in the directory `tree` with these files."""
    plant(monofs.directory / "tree", files)
    return monofs.ok("import", "tree", "--name", name, "--update", "-m", f"saved {name}").text.strip()


def cat(monofs: Monofs, path: str) -> str:
    return monofs.ok("cat", path).text


def test_merge(forked: Monofs) -> None:
    before = forked.ok("merge", "src", "work", "--dry-run")
    assert before.lines == ["M\tboth", "D\tgone", "R\told name\tnew name"] and before.err == ""
    assert cat(forked, "src/gone") == "g\n"
    done = forked.ok("merge", "src", "work", "-m", "well done")
    assert done.text.strip() == forked.ok("stat", "--json", "src").json["cid"] and done.err == ""
    assert cat(forked, "src/both") == TEXT.replace("2", "two").replace("7", "seven")
    assert forked.ok("ls", "src").lines == ["both", "kept", "new name"]
    assert forked.ok("conflicts", "src").out == b""
    names = {one["name"]: one for one in forked.ok("names", "--json").json["names"]}
    assert names["src"]["message"] == "well done"
    assert names["work"]["version"] in names["src"]["previous"] and len(names["src"]["previous"]) == 2
    assert cat(forked, "src~1/both") == TEXT.replace("2", "two"), "the line is that of the name"
    assert forked.ok("merge", "src", "work").err == "monofs: nothing to merge: all of work is there already\n"
    assert forked.ok("merge", "work", "src", "--json").json["steps"][0]["outcome"] == "forward"
    assert cat(forked, "work/both") == cat(forked, "src/both")
    assert forked.ok("check").code == 0


def test_a_conflict_from_its_birth_to_its_end(forked: Monofs) -> None:
    save(forked, "work", kept=b"work's\n")
    save(forked, "src", kept=b"src's\n", both=TEXT.replace("2", "two").encode(), gone=b"changed\n")
    result = forked.run("merge", "src", "work")
    assert result.code == 1 and result.out
    assert result.err.splitlines() == [
        "monofs: conflict: 'gone': work deleted it and src changed it; it was kept",
        "monofs: conflict: 'kept': both changed it; src's has the name; work's is 'kept~work'",
    ]
    assert (cat(forked, "src/kept"), cat(forked, "src/kept~work")) == ("src's\n", "work's\n")
    rows = forked.ok("conflicts", "src", "--json").json
    assert [(row["path"], row["kind"], row["copy"]) for row in rows] == [
        ("gone", "deleted", None),
        ("kept", "content", "kept~work"),
    ]
    assert forked.ok("conflicts", "src/kept").lines == [result.err.splitlines()[1].partition("conflict: ")[2]]
    assert "no conflict at 'both'" in forked.fails("conflicts", "src", "--resolved", "both")
    tree = forked.ok("stat", "--json", "src").json["cid"]
    forked.ok("conflicts", "src", "--resolved", "gone")
    assert forked.ok("stat", "--json", "src").json["cid"] == tree
    assert [row["path"] for row in forked.ok("conflicts", "src", "--json").json] == ["kept"]
    subprocess.run(["rm", "-r", forked.directory / "tree"], check=True)
    forked.ok("export", "src", "tree")
    (forked.directory / "tree/kept~work").unlink()
    save(forked, "src", kept=b"of both\n")
    assert forked.ok("conflicts", "src").out == b"", "who deletes the copy has resolved it"
    assert "no name, and only" in forked.fails("conflicts", "src~1", "--all-resolved")


def test_all_resolved(forked: Monofs) -> None:
    save(forked, "work", kept=b"work's\n")
    save(forked, "src", kept=b"src's\n")
    assert forked.run("merge", "src", "work").code == 1
    forked.ok("conflicts", "src", "--all-resolved")
    assert forked.ok("conflicts", "src").out == b""
    assert forked.ok("conflicts", "src~1").lines


@pytest.mark.parametrize(("strategy", "kept"), [("ours", "src's\n"), ("theirs", "work's\n")])
def test_strategies(forked: Monofs, strategy: str, kept: str) -> None:
    save(forked, "work", kept=b"work's\n")
    save(forked, "src", kept=b"src's\n")
    forked.ok("merge", "src", "work", "--strategy", strategy)
    assert cat(forked, "src/kept") == kept


def test_from_both_sides_it_is_the_same_tree(forked: Monofs) -> None:
    save(forked, "work", kept=b"work's\n")
    save(forked, "src", kept=b"src's\n")
    one = forked.run("merge", "src", "work", "--dry-run", "--json").json
    two = forked.run("merge", "work", "src", "--dry-run", "--json").json
    assert one["after"] == two["after"] and one["conflicts"] == two["conflicts"]
    assert [change["path"] for change in one["changes"]]


def test_several_others(monofs: Monofs) -> None:
    plant(monofs.directory / "tree", {"a": b"a"})
    monofs.ok("import", "tree", "--name", "src")
    for name in ("one", "two"):
        monofs.ok("name", name, "src")
        save(monofs, name, **{name: b"x"})
        (monofs.directory / "tree" / name).unlink()
    doc = monofs.ok("merge", "src", "one", "two", "--json").json
    assert [step["outcome"] for step in doc["steps"]] == ["forward", "merged"]
    assert monofs.ok("ls", "src").lines == ["a", "one", "two"]


def test_a_base_that_is_given(monofs: Monofs) -> None:
    plant(monofs.directory / "tree", {"f": TEXT.encode()})
    base = monofs.ok("import", "tree").text.strip()
    monofs.ok("import", str(plant(monofs.directory / "x", {"f": TEXT.replace("1", "x").encode()})), "--name", "x")
    monofs.ok("import", str(plant(monofs.directory / "y", {"f": TEXT.replace("7", "y").encode()})), "--name", "y")
    assert monofs.run("merge", "x", "y", "--dry-run").code == 1
    monofs.ok("merge", "x", "y", "--base", base)
    assert cat(monofs, "x/f") == TEXT.replace("1", "x").replace("7", "y")


def test_what_cannot_be_merged(forked: Monofs) -> None:
    tree = forked.ok("stat", "--json", "src").json["cid"]
    for args, problem in (
        (["nothing", "work"], "no name 'nothing'"), (["src", "nothing"], "no name 'nothing'"),
        (["src", "work/kept"], "part of a tree"), (["src", "work", "--base", "work/kept"], "part of a tree"),
        (["src", "work~7"], "no version 7 before"),
    ):  # fmt: skip
        assert problem in forked.fails("merge", *args)
    assert forked.ok("stat", "--json", "src").json["cid"] == tree
    forked.fails("merge", "src", code=2)
    forked.fails("merge", "src", "work", "--strategy", "luck", code=2)


def test_tombstones(forked: Monofs) -> None:
    rows = forked.ok("tombstones", "work", "--json").json
    assert [(row["path"], row["kind"], row["size"]) for row in rows] == [("gone", "file", 2), ("old name", "file", 2)]
    lines = forked.ok("tombstones", "work").lines
    assert len(lines) == 2 and lines[0].endswith("  file               2  gone")
    assert forked.ok("tombstones", "work/gone").lines == lines[:1]
    assert forked.ok("tombstones", "src").out == b""
    tree = forked.ok("stat", "--json", "work").json["cid"]
    forked.ok("tombstones", "work", "--prune", "1 hour ago")
    assert forked.ok("tombstones", "work").lines == lines
    forked.ok("tombstones", "work", "--prune", "now")
    assert forked.ok("tombstones", "work").out == b"" and forked.ok("tombstones", "work~1").lines == lines
    assert forked.ok("stat", "--json", "work").json["cid"] == tree
    assert "is no time" in forked.fails("tombstones", "work", "--prune", "soon")
    assert "without a history" in forked.fails("tombstones", tree)


def test_diff_as_a_patch_and_as_numbers(forked: Monofs) -> None:
    forked.ok("export", "src~1", "before")
    text = forked.ok("diff", "src~1", "work", "--patch").out
    subprocess.run(["patch", "-p1", "-s"], input=text, cwd=forked.directory / "before", check=True)
    forked.ok("import", "before", "--name", "patched")
    times = {"M\tboth", "M\tnew name"}  # of these the times differ
    assert set(forked.ok("diff", "patched", "work", "--name-status").lines) <= times
    assert forked.ok("diff", "patched", "work", "--patch").out == b""
    assert forked.ok("diff", "src~1", "work", "--stat").lines == [
        " both                 | 2 +-",
        " gone                 | 1 -",
        " old name => new name | 0",
        " 3 files changed, 1 insertions(+), 2 deletions(-)",
    ]
    assert forked.ok("diff", "src~1", "work", "both", "-p").out.startswith(b"--- a/both\n+++ b/both\n")
    assert "D\told name" in forked.ok("diff", "src~1", "work", "--no-renames").lines
    row = forked.ok("diff", "src~1", "work", "--json").json[2]
    assert (row["status"], row["old_path"], row["path"], row["fields"]) == ("R", "old name", "new name", [])


@pytest.mark.mounted
def test_mounted(forked: Monofs) -> None:
    point = forked.directory / "mnt"
    point.mkdir()
    forked.ok("mount", "work", str(point))
    try:
        plant(point, {"late": b"late\n", "dir/x": b"x\n"})
        assert forked.ok("diff", "work", str(point)).lines in ([], ["A\tdir/", "A\tdir/x", "A\tlate"])
        assert forked.ok("diff", "work~0", str(point)).lines == ["A\tdir/", "A\tdir/x", "A\tlate"]
        assert forked.ok("diff", "work~0", str(point / "dir")).code == 0
        assert "in no mounted tree" in forked.fails("diff", "work", str(forked.directory))
        forked.ok("merge", "src", "work")
        assert cat(forked, "src/late") == "late\n"
    finally:
        forked.ok("umount", str(point))
    # What was merged is a version of the mount's own history, so there is nothing to settle.
    assert forked.ok("merge", "src", "work").err == "monofs: nothing to merge: all of work is there already\n"
