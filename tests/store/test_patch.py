"""Patches: patch(1) makes the new tree of the old one with them; and what they cannot say they say."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import changes, patch
from store.entry import Entry
from store.version import Tree
from tests.store.histories import Files, file, link, tree
from tests.store.models import examples, new_batch


def written(old: Files, new: Files, *, find_renames: bool = True) -> bytes:
    batch = new_batch()
    left, right = tree(batch, old), tree(batch, new)
    found = changes.between(batch, left.root, right.root, find_renames=find_renames)
    each = (one for change in found for one in changes.files(batch, change))
    return b"".join(piece for one in each for piece in patch.written(batch, one))


def plant(at: Path, content: Files) -> None:
    for text, what in content.items():
        path = Path(os.fsdecode(os.fsencode(at) + b"/" + text.encode("utf-8", "surrogateescape")))
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, Entry) and what.kind == "symlink":
            path.symlink_to(os.fsdecode(what.data))  # type: ignore[type-var]
            continue
        data = what.data or b"" if isinstance(what, Entry) else what if isinstance(what, bytes) else what.encode()
        assert isinstance(data, bytes)
        path.write_bytes(data)
        path.chmod(what.mode if isinstance(what, Entry) else 0o644)


def found_in(at: Path) -> dict[str, tuple[str, int]]:
    result = {}
    for path in sorted(at.rglob("*")):
        if path.is_symlink():
            result[str(path.relative_to(at))] = (f"-> {path.readlink()}", 0)
        elif path.is_file():
            result[str(path.relative_to(at))] = (path.read_bytes().decode("latin-1"), path.stat().st_mode & 0o7777)
    return result


def check(tmp_path: Path, old: Files, new: Files, *command: str, find_renames: bool = True) -> None:
    for name in ("old", "new"):
        subprocess.run(["rm", "-rf", str(tmp_path / name)], check=True)
        (tmp_path / name).mkdir()
    plant(tmp_path / "old", old)
    plant(tmp_path / "new", new)
    text = written(old, new, find_renames=find_renames)
    done = subprocess.run(command, input=text, cwd=tmp_path / "old", capture_output=True)
    assert done.returncode == 0, (text, done.stdout, done.stderr)
    assert found_in(tmp_path / "old") == found_in(tmp_path / "new"), text


PATCH = ("patch", "-p1", "--no-backup-if-mismatch", "-f")
GIT = ("git", "apply", "-p1", "--unsafe-paths", "--whitespace=nowarn")
programs = pytest.mark.parametrize("program", [PATCH, GIT], ids=["patch", "git"])

LONG = "".join(f"line {number}\n" for number in range(60))
CASES: dict[str, tuple[Files, Files]] = {
    "changed": ({"f": LONG}, {"f": LONG.replace("line 5\n", "five\n").replace("line 50\n", "")}),
    "new and gone": ({"gone": "1\n2\n"}, {"d/new": "3\n", "e/f/g": "4\n"}),
    "no newline at the end": ({"a": "1\n2", "b": "1\n", "c": "1"}, {"a": "1\n2\n", "b": "1", "c": "2"}),
    "empty": ({"a": "", "b": "x\n", "c": "y\n"}, {"a": "x\n", "b": "", "d": ""}),
    "modes": (
        {"a": "1\n", "b": "2\n"},
        {"a": file(new_batch(), "1\n", mode=0o755), "b": file(new_batch(), "2\n3\n", mode=0o755)},
    ),
    "renamed": ({"a": LONG, "d/x": "xx\n", "d/y": "yy\n"}, {"b c/d": LONG, "e/x": "xx\n", "e/y": "yy\n"}),
    "strange names": (
        {"-x": "1\n", "a b": "1\n", 'q"q': "1\n", "tab\tx": "1\n", "ä": "1\n",
         "back\\slash": "1\n", "new\nline": "1\n"},
        {"a b": "2\n", 'q"q': "2\n", "tab\tx": "2\n", "ä": "2\n",
         "back\\slash": "2\n", "new\nline": "", " y": "3\n"},
    ),
    "strange names that are empty": ({"a b": ""}, {"c d": "", "e f": file(new_batch(), "", mode=0o755)}),
    "links": ({"l": link("a"), "g": link("b")}, {"l": link("c"), "n": link("d")}),
    "kinds": ({"x": "1\n", "y": link("a")}, {"x": link("b"), "y": "2\n"}),
    "carriage returns": ({"a": "1\r\n2\r\n3\rx\n"}, {"a": "1\r\n2\r\n3\ry\n"}),
    "looks like a patch": ({"a": "--- x\n+++ y\n"}, {"a": "--- x\n+++ z\n", "b": "-- \n++ \n"}),
}  # fmt: skip


@programs
@pytest.mark.parametrize("case", CASES)
def test_it_makes_the_new_of_the_old(tmp_path: Path, case: str, program: tuple[str, ...]) -> None:
    old, new = CASES[case]
    for find_renames in (True, False):
        check(tmp_path, old, new, *program, find_renames=find_renames)


def test_random_texts(tmp_path: Path, rng: random.Random) -> None:
    for _ in range(15):
        lines = [rng.choice(["a\n", "b\n", "\n", f"{rng.random()}\n"]) for _ in range(rng.randrange(60))]
        changed = [line for line in lines if rng.random() < 0.9]
        for _ in range(rng.randrange(5)):
            changed.insert(rng.randrange(len(changed) + 1), rng.choice(["a\n", "b\n", f"{rng.random()}\n"]))
        old, new = "".join(lines), "".join(changed)
        check(tmp_path, {"f": old.rstrip("\n") if rng.random() < 0.3 else old}, {"f": new}, *PATCH)


texts = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n"]), max_size=30)


@examples(300)
@given(texts, texts)
def test_opcodes_cover_both(old: list[bytes], new: list[bytes]) -> None:
    at, to, made = 0, 0, []
    for tag, start, stop, first, last in patch.opcodes(old, new):
        assert (start, first) == (at, to) and (stop > start or last > first)
        assert (tag == "equal") == (old[start:stop] == new[first:last])
        made += old[start:stop] if tag == "equal" else new[first:last]
        at, to = stop, last
    assert (at, to) == (len(old), len(new)) and made == new


def test_what_is_no_text() -> None:
    old: Files = {"b": b"\0old", "gone": b"\0", "same": b"\0x", "fifo": Entry("fifo", 0o644), "d/": Entry("dir", 0o755)}
    new: Files = {"b": b"\0new", "come": b"\0\1", "same": file(new_batch(), b"\0x", mode=0o755)}
    assert written(old, new).decode().splitlines() == [
        "Binary files a/b and b/b differ",
        "Binary files /dev/null and b/come differ",
        "# not in this patch: fifo 'fifo' is gone",
        "Binary files a/gone and /dev/null differ",
        "diff --git a/same b/same",
        "old mode 100644",
        "new mode 100755",
    ]


def test_counts() -> None:
    batch = new_batch()
    left, right = (tree(batch, {"f": text, "b": b"\0" + text.encode()}) for text in ("1\n2\n3\n", "1\n3\n4\n5\n"))
    counts = {one.path: patch.counted(batch, one) for one in changes.between(batch, left.root, right.root)}
    assert counts == {b"f": patch.Counts(2, 1), b"b": None}


def test_lines_without_end_are_one_hunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.limits.text_pairs_max", 100)
    same = "same\n" * 100
    text = written({"f": "first\n" + same + "x\n"}, {"f": same + "same\ny\n"})
    assert text.count(b"@@ -") == 1 and text.count(b"\n-same") > 90


# Changes


def described(old: Tree, new: Tree) -> list[tuple[object, ...]]:
    batch = new_batch()
    return [(one.status, one.was_at, one.path, one.fields) for one in changes.between(batch, old.root, new.root)]


def test_renames_are_told() -> None:
    batch = new_batch()
    old = tree(batch, {"a": "aaa", "d/x": "xxx", "d/e/y": "yyy", "twin1": "t", "twin2": "t", "empty": ""})
    new = tree(
        batch, {"b": file(batch, "aaa", mode=0o755), "new/d/x": "xxx", "new/d/e/y": "yyy", "one": "t", "void": ""}
    )
    found = {one.path: one for one in changes.between(batch, old.root, new.root)}
    assert {(one.status, one.was_at, path) for path, one in found.items()} == {
        ("R", b"a", b"b"), ("A", None, b"new"), ("R", b"d", b"new/d"), ("D", None, b"twin1"), ("D", None, b"twin2"),
        ("A", None, b"one"), ("D", None, b"empty"), ("A", None, b"void"),
    }  # fmt: skip
    assert found[b"b"].fields == ("mode",) and found[b"new/d"].fields == ()
    assert found[b"one"].candidates == (b"twin1", b"twin2")
    assert not any(one.was_at for one in changes.between(batch, old.root, new.root, find_renames=False))


def test_too_many_for_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = new_batch()
    old, new = tree(batch, {"a": "aaa", "b": "b"}), tree(batch, {"c": "aaa", "d": "d"})
    assert any(one.was_at for one in changes.between(batch, old.root, new.root))
    monkeypatch.setattr("store.limits.rename_names_max", 3)
    assert [(one.status, one.path) for one in changes.between(batch, old.root, new.root)] == [
        ("D", b"a"), ("D", b"b"), ("A", b"c"), ("A", b"d"),
    ]  # fmt: skip


def test_fields() -> None:
    base = file(new_batch(), "1", uid=1, gid=1)
    for change, name in (
        ({"mode": 0o600}, "mode"), ({"uid": 2}, "owner"), ({"gid": 2}, "owner"), ({"mtime": 5}, "time"),
        ({"xattrs": ((b"user.a", b"1"),)}, "xattrs"), ({"nlink": 2}, "links"), ({"data": b"2"}, "content"),
    ):  # fmt: skip
        assert changes.fields(base, base._replace(**change)) == (name,)
    assert changes.fields(base, None) == changes.fields(base, base) == ()
