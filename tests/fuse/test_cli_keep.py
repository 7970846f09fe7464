"""`monofs names`, `name`, `forget`, `init`, `store-info`, `gc` and `check`: what is kept, and what that takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest

from store.cid import parse
from store.repository import Repository
from tests.fuse.cli_command import ROOT, Monofs, damage, plant
from tests.suites.machine import until


@pytest.fixture
def monofs(tmp_path: Path) -> Monofs:
    """A store with the name t. The file t/sub/b is too small to be cut, so it is one block."""
    monofs = Monofs(tmp_path)
    plant(tmp_path / "tree", {"a": b"1\n", "sub/b": os.urandom(15_000)})
    monofs.ok("import", "tree", "--name", "t", "-m", "the first")
    return monofs


def names(monofs: Monofs) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in monofs.ok("names", "--json").json["names"]}


def info(monofs: Monofs) -> dict[str, Any]:
    found: dict[str, Any] = monofs.ok("store-info", "--json").json
    return found


# names


def test_names_lists_names_and_pins(monofs: Monofs) -> None:
    plant(monofs.directory / "tree", {"new": b""})
    pin = monofs.ok("import", "tree").text.strip()
    first, second = monofs.ok("names").lines
    assert first.split()[:2] == ["t", names(monofs)["t"]["tree"]] and first.endswith("the first")
    assert second.split()[:2] == ["-", pin]


def test_names_json(monofs: Monofs) -> None:
    keys = [
        "name",
        "tree",
        "version",
        "previous",
        "time",
        "time_ns",
        "author",
        "message",
        "ahead",
        "mountpoint",
        "problem",
    ]
    assert list(names(monofs)["t"]) == keys


def test_names_tells_what_is_mounted(monofs: Monofs) -> None:
    repository = Repository.open(monofs.store)
    lease = repository.lease("t", repository.resolve("t").tree, "/some/where", "")
    assert names(monofs)["t"]["mountpoint"] == "/some/where"
    assert "/some/where" in monofs.ok("names").text
    repository.release(lease)
    repository.close()
    assert names(monofs)["t"]["mountpoint"] is None


def test_an_empty_store_has_no_names(tmp_path: Path) -> None:
    monofs = Monofs(tmp_path)
    monofs.ok("init")
    assert monofs.ok("names").out == b""
    assert monofs.ok("names", "--json").json == {"names": [], "pins": []}


# name


def test_a_name_for_a_name_shares_its_version(monofs: Monofs) -> None:
    assert monofs.ok("name", "u", "t").out == b""
    found = names(monofs)
    assert found["u"] == {**found["t"], "name": "u"}
    assert "share" in monofs.fails("name", "v", "t", "-m", "text", code=2)
    assert "v" not in names(monofs)


def test_a_name_for_a_tree_begins_a_history(monofs: Monofs) -> None:
    cid = names(monofs)["t"]["tree"]
    monofs.ok("name", "u", cid, "-m", "as of today")
    u = names(monofs)["u"]
    assert (u["tree"], u["previous"], u["message"]) == (cid, [], "as of today")


def test_a_name_for_a_version_points_at_it(monofs: Monofs) -> None:
    version = names(monofs)["t"]["version"]
    monofs.ok("name", "u", version)
    assert names(monofs)["u"]["version"] == version


def test_a_name_for_a_directory_inside_makes_it_a_tree(monofs: Monofs) -> None:
    monofs.ok("name", "u", "t/sub")
    assert monofs.ok("ls", "u").lines == ["b"]
    again = monofs.ok("import", "tree/sub").text.strip()
    assert names(monofs)["u"]["tree"] == again
    assert "only a directory" in monofs.fails("name", "v", "t/a")


def test_names_that_cannot_be(monofs: Monofs) -> None:
    before = monofs.ok("names").out
    monofs.ok("name", "a/b", "t")
    for new in ("t", "t/u", "a", "a/b", "a b", "", "b" * 59):
        monofs.fails("name", new, "t")
    assert "no name" in monofs.fails("name", "u", "nope")
    monofs.ok("forget", "a/b")
    assert monofs.ok("names").out == before


# forget


def test_forget_frees_what_only_the_name_held(monofs: Monofs) -> None:
    monofs.ok("name", "u", "t")
    before = info(monofs)["blocks"]
    result = monofs.ok("forget", "u")
    assert (result.out, info(monofs)["blocks"]) == (b"", before)
    assert "freed 0 blocks" in result.err
    result = monofs.ok("forget", "t")
    assert f"freed {before} blocks" in result.err
    assert (info(monofs)["blocks"], info(monofs)["stored_bytes"]) == (0, 0)


def test_forget_a_pin(monofs: Monofs) -> None:
    cid = monofs.ok("import", "tree").text.strip()
    monofs.ok("forget", cid.upper())
    assert "not pinned" in monofs.fails("forget", cid)
    assert monofs.ok("cat", "t/a").out == b"1\n"


def test_forget_what_is_not_there(monofs: Monofs) -> None:
    assert "'nope'" in monofs.fails("forget", "nope")
    assert "malformed" in monofs.fails("forget", "b" + "1" * 58)
    assert "no name" in monofs.fails("forget", "t/sub")


def test_forget_a_mounted_name_is_refused(monofs: Monofs) -> None:
    repository = Repository.open(monofs.store)
    lease = repository.lease("t", repository.resolve("t").tree, "/some/where", "")
    assert "mounted on /some/where" in monofs.fails("forget", "t")
    repository.release(lease)
    repository.close()
    monofs.ok("forget", "t")


# init


def test_init_chooses_the_hash(tmp_path: Path) -> None:
    monofs = Monofs(tmp_path)
    plant(tmp_path / "tree", {"a": b""})
    assert monofs.ok("init", "--hash", "sha2-256").out == b""
    assert info(monofs)["hash"] == "sha2-256"
    cid = monofs.ok("import", "tree").text.strip()
    assert parse(cid)[2] == 0x12
    assert "already" in monofs.fails("init")


def test_init_where_something_else_is(tmp_path: Path) -> None:
    monofs = Monofs(tmp_path)
    plant(monofs.store, {"letter": b""})
    assert "not empty" in monofs.fails("init")
    (tmp_path / "file").write_bytes(b"")
    assert "file" in monofs.fails("init", "--store", "file/below")


def test_the_store_is_for_its_owner_only(monofs: Monofs) -> None:
    assert monofs.store.stat().st_mode & 0o077 == 0


# store-info, gc


def test_store_info(monofs: Monofs) -> None:
    monofs.ok("name", "u", "t")
    doc = info(monofs)
    assert (doc["path"], doc["format"], doc["hash"]) == (str(monofs.store), 1, "blake3")
    assert (doc["names"], doc["pins"], doc["logical_bytes"]) == (2, 0, 2 * 15_002)
    assert 15_000 < doc["plain_bytes"] < 20_000 and doc["deduplication"] > 1.5
    assert doc["file_bytes"] >= doc["stored_bytes"] > 15_000
    text = monofs.ok("store-info").text
    assert str(monofs.store) in text and "blake3" in text


def test_store_info_of_an_empty_store(tmp_path: Path) -> None:
    monofs = Monofs(tmp_path)
    monofs.ok("init")
    doc = info(monofs)
    assert (doc["blocks"], doc["plain_bytes"], doc["deduplication"], doc["compression"]) == (0, 0, 1.0, 1.0)


def test_gc_frees_what_nothing_needs(monofs: Monofs) -> None:
    repository = Repository.open(monofs.store)
    before = repository.store.usage().blocks
    batch, stage = repository.batch("test")
    batch.put_raw(b"for nothing")
    stage.put(batch.blocks)
    stage.release()
    repository.close()
    assert info(monofs)["blocks_to_free"] == 1
    assert monofs.ok("gc", "--json").json["freed_blocks"] == 1
    assert info(monofs)["blocks"] == before
    assert monofs.ok("gc").text == "freed 0 blocks, 0 stored bytes\n"
    assert monofs.ok("cat", "t/a").out == b"1\n"


def test_one_corrupt_version_hides_no_other_name(monofs: Monofs) -> None:
    monofs.ok("import", "tree/sub", "--name", "u")
    before = names(monofs)
    damage(monofs, before["t"]["version"])
    result = monofs.run("names", "--json")
    assert result.code == 1
    bad, good = result.json["names"]
    assert (bad["name"], bad["tree"], bad["version"]) == ("t", None, before["t"]["version"])
    assert "corrupt" in bad["problem"]
    assert good == before["u"]
    result = monofs.run("names")
    assert result.code == 1 and "corrupt" in result.lines[0] and before["u"]["tree"] in result.lines[1]
    assert info(monofs)["logical_bytes"] == 15_000
    assert "corrupt" in monofs.fails("ls", "t")
    monofs.ok("forget", "t")
    assert names(monofs) == {"u": before["u"]}


# check


@pytest.fixture
def damaged(monofs: Monofs) -> tuple[Monofs, str]:
    """A store in which one block of t/sub/b is corrupt."""
    monofs.ok("import", "tree/sub", "--name", "u")
    doc = monofs.ok("stat", "--json", "t/sub/b").json
    damage(monofs, doc["cid"])
    return monofs, doc["cid"]


def test_check_of_a_clean_store(monofs: Monofs) -> None:
    assert monofs.ok("check").text.endswith("clean\n")
    doc = monofs.ok("check", "--json").json
    assert (doc["clean"], doc["problems"], doc["repaired"]) == (True, [], None)
    assert doc["blocks"] == info(monofs)["blocks"]
    assert monofs.ok("check", "--repair").text.endswith("clean\n")


def test_check_names_a_corrupt_block_and_where_it_is_needed(damaged: tuple[Monofs, str]) -> None:
    monofs, cid = damaged
    result = monofs.run("check")
    assert result.code == 1
    (problem,) = [line for line in result.lines if cid in line]
    assert "corrupt" in problem and "t/sub/b" in problem and "u/b" in problem
    assert "--repair" in result.err

    result = monofs.run("check", "--json")
    assert result.code == 1 and result.json["clean"] is False
    (problem,) = result.json["problems"]
    assert (problem["kind"], problem["cid"]) == ("corrupt", cid)
    assert {(place["root"], place["path"]) for place in problem["places"]} == {("t", "sub/b"), ("u", "b")}


def test_check_repair_and_import_make_it_whole(damaged: tuple[Monofs, str]) -> None:
    monofs, _ = damaged
    result = monofs.run("check", "--repair", "--json")
    assert result.code == 1, "the content is still lost"
    assert result.json["repaired"]["lost"] == 1
    assert "missing" in monofs.run("check").text
    monofs.fails("cat", "t/sub/b")
    assert monofs.ok("cat", "t/a").out == b"1\n"

    monofs.ok("import", "tree")
    assert monofs.ok("check").code == 0
    assert monofs.ok("cat", "t/sub/b").out == (monofs.directory / "tree/sub/b").read_bytes()


def test_check_is_interrupted_and_resumed(monofs: Monofs) -> None:
    mark = monofs.store / "run/check.json"
    result = monofs.run("check", "--resume")
    assert result.code == 0 and "begins at the start" in result.err
    plant(monofs.directory / "more", {str(number): os.urandom(200) for number in range(5000)})
    monofs.ok("import", "more")
    script = "import sys; from store import limits; from monofs_fuse import cli; limits.check_bytes_per_save = 1; "
    command = [sys.executable, "-c", script + "sys.exit(cli.main(['check']))"]
    process = subprocess.Popen(command, env=monofs.env, stderr=subprocess.PIPE, cwd=ROOT)
    until(lambda: mark.exists() or process.poll() is not None)  # with such limits it takes its time
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130 and b"--resume" in said
    assert mark.exists()
    assert "begins" not in monofs.ok("check", "--resume").err
    assert not mark.exists(), "it came to its end"


def test_check_repair_sets_counts_right(monofs: Monofs) -> None:
    cid = names(monofs)["t"]["tree"]
    with lmdb.open(str(monofs.store / "lmdb"), max_dbs=8) as env, env.begin(write=True) as txn:
        txn.put(parse(cid), (7).to_bytes(8, "little"), db=env.open_db(b"counts", txn=txn))
    (problem,) = monofs.run("check", "--json").json["problems"]
    assert (problem["kind"], problem["cid"]) == ("count", cid)
    doc = monofs.ok("check", "--repair", "--json").json
    assert (doc["clean"], doc["repaired"]["counts"]) == (True, 1)
    monofs.ok("check")
    monofs.ok("forget", "t")
    assert info(monofs)["blocks"] == 0
