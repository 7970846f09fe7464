"""`monofs export`: a tree as a directory, as a tar file and as a stream."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.fuse.cli_command import SECONDS_MAX, Monofs, damage, plant


@pytest.fixture
def monofs(tmp_path: Path) -> Monofs:
    monofs = Monofs(tmp_path)
    tree = plant(tmp_path / "tree", {"a": b"1\n", "sub/b": os.urandom(300_000), "sub/closed/c": b""})
    os.link(tree / "a", tree / "sub/twin")
    (tree / "sub/closed").chmod(0o500)
    monofs.ok("import", "tree", "--name", "t")
    return monofs


def cid(monofs: Monofs, target: str) -> str:
    return str(monofs.ok("stat", "--json", target).json["cid"])


def test_export_to_a_directory_and_back(monofs: Monofs) -> None:
    result = monofs.ok("export", "t", "copy")
    assert (result.out, result.err) == (b"", "")
    assert monofs.ok("import", "copy").text.strip() == cid(monofs, "t")
    assert (monofs.directory / "copy/a").stat().st_ino == (monofs.directory / "copy/sub/twin").stat().st_ino


def test_export_a_directory_inside(monofs: Monofs) -> None:
    monofs.ok("export", "t/sub", "copy")
    assert monofs.ok("import", "copy").text == monofs.ok("import", "tree/sub").text


def test_export_a_file(monofs: Monofs) -> None:
    monofs.ok("export", "t/a", "single")
    assert (monofs.directory / "single").read_bytes() == b"1\n"
    assert "exists" in monofs.fails("export", "t/a", "single")
    assert "needs a directory" in monofs.fails("export", "t/a", "single.tar")


def test_export_json(monofs: Monofs) -> None:
    assert monofs.ok("export", "t", "copy", "--json").json == {"files": 4, "bytes": 300_004, "skipped": []}


def test_a_directory_must_be_new_or_empty(monofs: Monofs) -> None:
    (monofs.directory / "empty").mkdir()
    monofs.ok("export", "t", "empty")
    assert "not empty" in monofs.fails("export", "t", "empty")
    assert "no directory" in monofs.fails("export", "t", "nowhere/copy")
    assert "exists" in monofs.fails("export", "t", "tree/a")


def test_export_to_a_tar_file(monofs: Monofs) -> None:
    result = monofs.ok("export", "t", "copy.tar")
    assert result.out == b""
    (monofs.directory / "out").mkdir()
    subprocess.run(["tar", "xpf", "../copy.tar"], cwd=monofs.directory / "out", check=True)
    assert monofs.ok("import", "out").text.strip() == cid(monofs, "t")
    assert not (monofs.directory / "copy.tar.partial").exists()


def test_a_tar_file_is_not_overwritten(monofs: Monofs) -> None:
    plant(monofs.directory, {"old.tar": b"old", "new.tar.partial": b"somebody's"})
    assert "exists" in monofs.fails("export", "t", "old.tar")
    assert (monofs.directory / "old.tar").read_bytes() == b"old"
    assert "exists" in monofs.fails("export", "t", "new.tar")
    assert (monofs.directory / "new.tar.partial").read_bytes() == b"somebody's"


def test_export_as_a_stream(monofs: Monofs) -> None:
    whole = monofs.ok("export", "t", "-").out
    monofs.ok("export", "t", "copy.tar")
    assert whole == (monofs.directory / "copy.tar").read_bytes()
    (monofs.directory / "stream.tar").write_bytes(whole)
    with tarfile.open(monofs.directory / "stream.tar") as tar:
        assert {member.name for member in tar} == {".", "a", "sub", "sub/b", "sub/closed", "sub/closed/c", "sub/twin"}


def test_a_broken_off_tar_leaves_no_file(monofs: Monofs) -> None:
    damage(monofs, cid(monofs, "t/sub/b"))
    assert "corrupt" in monofs.fails("export", "t", "copy.tar")
    assert not list(monofs.directory.glob("copy.tar*"))


def test_a_corrupt_file_is_named_and_the_rest_exported(monofs: Monofs) -> None:
    damage(monofs, cid(monofs, "t/sub/b"))
    result = monofs.run("export", "t", "copy")
    assert result.code == 1 and "skipped 'sub/b'" in result.err
    assert (monofs.directory / "copy/sub/twin").read_bytes() == b"1\n"
    assert not (monofs.directory / "copy/sub/b").exists()


def test_no_tar_on_a_terminal(monofs: Monofs) -> None:
    code, shown, _ = monofs.on_terminal("export", "t", "-")
    assert code == 2 and b"terminal" in shown and b"ustar" not in shown


def test_a_reader_that_goes_away(monofs: Monofs) -> None:
    process = monofs.start("export", "t", "-")
    assert process.stdout is not None and process.stderr is not None
    assert len(process.stdout.read(100)) == 100
    process.stdout.close()
    assert process.wait(SECONDS_MAX) == 141
    assert process.stderr.read() == b""


def test_bars_on_a_terminal_only(monofs: Monofs) -> None:
    code, shown, pipe = monofs.on_terminal("export", "t", "copy", stdout=False)
    assert (code, pipe) == (0, b"") and b"bytes" in shown and b"files" in shown
    code, shown, pipe = monofs.on_terminal("export", "t", "other", stderr=False)
    assert (code, shown, pipe) == (0, b"", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sets owners")
def test_no_owner(monofs: Monofs) -> None:
    os.chown(monofs.directory / "tree/a", 1234, 1234)
    monofs.ok("import", "tree", "--name", "u")
    monofs.ok("export", "u", "mine", "--no-owner")
    monofs.ok("export", "u", "theirs")
    assert (monofs.directory / "mine/a").stat().st_uid == 0
    assert (monofs.directory / "theirs/a").stat().st_uid == 1234
