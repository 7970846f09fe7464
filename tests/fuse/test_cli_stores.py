"""Every kind of store, through the commands: made, filled, looked at, collected, checked, copied, compacted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.fuse.cli_command import Monofs, plant

KINDS = ["lmdb", "flatfs", "layered"]


@pytest.fixture
def monofs(tmp_path: Path) -> Monofs:
    return Monofs(tmp_path)


@pytest.fixture
def tree(monofs: Monofs, rng: random.Random) -> Path:
    files = {f"{part}/{number}": rng.randbytes(rng.randrange(40_000)) for part in "ab" for number in range(20)}
    return plant(monofs.directory / "tree", {**files, "text": b"text\n"})


def init(monofs: Monofs, kind: str) -> None:
    """Make a store of this kind; a layer gets a base that has the tree."""
    if kind == "layered":
        base = str(monofs.directory / "base")
        monofs.ok("--store", base, "init")
        monofs.ok("--store", base, "import", "tree", "--name", "of-base")
        monofs.ok("init", "--backend", "flatfs", "--base", base)
    else:
        monofs.ok("init", "--backend", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_works_on_every_kind_of_store(monofs: Monofs, tree: Path, kind: str) -> None:
    expected = monofs.ok("import", "tree", "--store", str(monofs.directory / "other")).text
    init(monofs, kind)
    assert monofs.ok("import", "tree", "--name", "t").text == expected
    (tree / "text").write_bytes(b"new text\n")
    monofs.ok("import", "tree", "--name", "t", "--update")
    assert monofs.ok("cat", "t/text").out == b"new text\n"
    assert monofs.ok("diff", expected.strip(), "t").text == "M\ttext\n"
    monofs.ok("export", "t", "out")
    assert {p.relative_to(tree): p.read_bytes() for p in tree.rglob("*") if p.is_file()} == {
        p.relative_to(monofs.directory / "out"): p.read_bytes()
        for p in (monofs.directory / "out").rglob("*")
        if p.is_file()
    }
    assert "clean" in monofs.ok("check").text
    info = monofs.ok("store-info", "--json").json
    assert info["backend"] == ("lmdb" if kind == "lmdb" else "flatfs")
    assert info["bases"] == ([str(monofs.directory / "base")] if kind == "layered" else [])
    assert (info["blocks_borrowed"] > 0) == (kind == "layered")
    monofs.ok("forget", "t")
    monofs.ok("gc")
    info = monofs.ok("store-info", "--json").json
    assert (info["blocks"], info["blocks_borrowed"], info["blocks_to_free"]) == (0, 0, 0)
    assert "clean" in monofs.ok("check").text


def test_what_the_base_has_is_not_stored_again(monofs: Monofs, tree: Path) -> None:
    init(monofs, "layered")
    monofs.ok("import", "tree", "--name", "same")
    info = monofs.ok("store-info", "--json").json
    assert info["blocks"] == 1, "only the version is new: it has its own time"
    assert info["blocks_borrowed"] == 1, "the tree; the base keeps all below it"


def test_the_base_keeps_what_a_layer_needs(monofs: Monofs, tree: Path) -> None:
    init(monofs, "layered")
    base = ["--store", str(monofs.directory / "base")]
    monofs.ok("import", "tree", "--name", "mine")
    monofs.ok(*base, "forget", "of-base")
    monofs.ok(*base, "gc")
    monofs.ok("export", "mine", "out")
    for store in ([], base):
        assert "clean" in monofs.ok("check", *store).text
    layers = monofs.ok(*base, "store", "layers", "--json").json
    assert [(row["path"], row["exists"]) for row in layers] == [(str(monofs.store), True)]
    assert "--force" in monofs.fails(*base, "store", "forget-layer", str(monofs.store))
    shutil.rmtree(monofs.store)
    assert monofs.ok(*base, "store", "forget-layer", str(monofs.store), "--json").json == {"blocks": 1}
    assert monofs.ok(*base, "store", "layers").text == ""
    monofs.ok(*base, "gc")
    assert monofs.ok(*base, "store-info", "--json").json["blocks"] == 0


def test_trees_of_the_base_are_there_by_their_cid(monofs: Monofs, tree: Path) -> None:
    init(monofs, "layered")
    cid = monofs.ok("--store", str(monofs.directory / "base"), "names").text.split()[1]
    assert monofs.ok("cat", f"{cid}/text").out == b"text\n"
    monofs.ok("name", "mine", cid)
    assert monofs.ok("names").text.split()[1] == cid


# What is refused


def test_a_base_that_is_not_there(monofs: Monofs, tree: Path) -> None:
    assert "no store at" in monofs.fails("init", "--base", str(monofs.directory / "nothing"))
    assert not monofs.store.exists()
    init(monofs, "layered")
    monofs.ok("import", "tree", "--name", "t")
    (monofs.directory / "base").rename(monofs.directory / "moved")
    line = monofs.fails("ls", "t")
    assert str(monofs.directory / "base") in line and "not there" in line
    (monofs.directory / "moved").rename(monofs.directory / "base")
    assert monofs.ok("ls", "t").lines


def test_a_base_with_another_hash(monofs: Monofs, tree: Path) -> None:
    base = str(monofs.directory / "base")
    monofs.ok("--store", base, "init", "--hash", "sha2-256")
    assert "sha2-256" in monofs.fails("init", "--base", base, "--hash", "blake3")
    monofs.ok("init", "--base", base)
    assert monofs.ok("store-info", "--json").json["hash"] == "sha2-256"


def test_a_base_that_forgot_the_layer(monofs: Monofs, tree: Path) -> None:
    init(monofs, "layered")
    monofs.ok("import", "tree", "--name", "t")
    monofs.ok("--store", str(monofs.directory / "base"), "store", "forget-layer", str(monofs.store), "--force")
    assert "does not hold what" in monofs.fails("ls", "t")


def test_a_layer_may_move_but_not_be_copied_with_cp(monofs: Monofs, tree: Path) -> None:
    init(monofs, "layered")
    monofs.ok("import", "tree", "--name", "t")
    moved, copied = monofs.directory / "moved", monofs.directory / "copied"
    monofs.store.rename(moved)
    assert monofs.ok("ls", "t", "--store", str(moved)).lines
    shutil.copytree(moved, copied)
    assert "is a copy of" in monofs.fails("ls", "t", "--store", str(copied))
    assert monofs.ok("ls", "t", "--store", str(moved)).lines


@pytest.mark.parametrize("change", [{"backend": "s3"}, {"format": 3}, {"format": 2}, {"bases": ["/x"]}], ids=str)
def test_a_store_that_is_not_understood(monofs: Monofs, change: dict[str, object]) -> None:
    monofs.ok("init")
    path = monofs.store / "monofs-store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    line = monofs.fails("names")
    assert "newer monofs" in line or "is damaged" in line


def test_wrong_usage_of_store(monofs: Monofs) -> None:
    for args in (
        ["copy", "a"],
        ["compact", "a"],
        ["copy", "a", "a"],
        ["layers", "--force"],
        ["compact", "--backend", "lmdb"],
    ):
        if args == ["copy", "a", "a"]:
            monofs.ok("init", "--store", "a")
        assert "--help" in monofs.fails("store", *args, code=2)


# Copying


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("backend", ["lmdb", "flatfs"])
def test_a_copy_has_everything(monofs: Monofs, tree: Path, source: str, backend: str) -> None:
    init(monofs, source)
    monofs.ok("import", "tree", "--name", "t", "-m", "first")
    (tree / "text").write_bytes(b"new text\n")
    monofs.ok("import", "tree", "--name", "t", "--update")
    monofs.ok("import", "tree/a")
    copy = str(monofs.directory / "copy")
    done = monofs.ok("store", "copy", str(monofs.store), copy, "--backend", backend, "--json").json
    assert (done["names"], done["pins"]) == (1, 1) and done["blocks"] > 40
    assert monofs.ok("names", "--store", copy, "--json").json == monofs.ok("names", "--json").json
    assert "clean" in monofs.ok("check", "--store", copy).text
    assert monofs.ok("store-info", "--store", copy, "--json").json["backend"] == backend
    shutil.rmtree(monofs.store)
    monofs.ok("export", "t", "out", "--store", copy)
    assert (monofs.directory / "out/text").read_bytes() == b"new text\n"


def test_a_second_copy_brings_what_is_new(monofs: Monofs, tree: Path) -> None:
    monofs.ok("import", "tree", "--name", "t")
    copy = ["store", "copy", str(monofs.store), "copy", "--json"]
    monofs.ok(*copy)
    assert monofs.ok(*copy).json == {"names": 0, "pins": 0, "others": 0, "blocks": 0}
    (tree / "text").write_bytes(b"other\n")
    monofs.ok("import", "tree", "--name", "u")
    assert monofs.ok(*copy).json["blocks"] < 5
    monofs.ok("import", "tree", "--name", "t", "--update")
    assert "is another one in" in monofs.fails(*copy)
    assert monofs.ok("cat", "t/text", "--store", "copy").out == b"text\n"


@pytest.mark.slow
def test_a_copy_that_was_killed_is_done_again(monofs: Monofs, tree: Path, rng: random.Random) -> None:
    for name in ("one", "two", "three"):
        (tree / name).write_bytes(rng.randbytes(2_000_000))
        monofs.ok("import", "tree", "--name", name)
    monofs.ok("init", "--store", "copy", "--backend", "flatfs")
    for _ in range(3):
        process = monofs.start("store", "copy", str(monofs.store), "copy")
        while process.poll() is None and not list((monofs.directory / "copy/flatfs/new").iterdir()):
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert "clean" in monofs.ok("check", "--store", "copy").text
        for name in monofs.ok("names", "--store", "copy", "--json").json["names"]:
            monofs.ok("export", name["name"], "-", "--store", "copy")
    monofs.ok("store", "copy", str(monofs.store), "copy")
    assert monofs.ok("names", "--store", "copy").text == monofs.ok("names").text
    assert "clean" in monofs.ok("check", "--store", "copy").text


# Compacting


@pytest.mark.parametrize("kind", KINDS)
def test_compacting_gives_room_back_and_keeps_everything(monofs: Monofs, tree: Path, kind: str) -> None:
    init(monofs, kind)
    monofs.ok("import", "tree", "--name", "t")
    plant(monofs.directory / "more", {str(number): os.urandom(50_000) for number in range(60)})
    monofs.ok("import", "more", "--name", "more")
    monofs.ok("forget", "more")
    before = monofs.ok("names").text
    sizes = monofs.ok("store", "compact", "--json").json
    assert sizes["bytes_after"] <= sizes["bytes_before"]
    if kind == "lmdb":
        assert sizes["bytes_after"] < sizes["bytes_before"] - 2_000_000
    assert monofs.ok("names").text == before
    assert "clean" in monofs.ok("check").text
    monofs.ok("import", "more", "--name", "more")  # and life goes on
    assert "clean" in monofs.ok("check").text
