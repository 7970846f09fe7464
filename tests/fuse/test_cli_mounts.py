"""`monofs mount`, `status`, `checkpoint` and `umount`, as typed: what they print, and what they refuse."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.cli_command import SECONDS_MAX, Monofs, plant

pytestmark = pytest.mark.mounted


@pytest.fixture
def monofs(tmp_path: Path) -> Iterator[Monofs]:
    """A store with the name t, and an empty directory mnt."""
    monofs = Monofs(tmp_path)
    plant(tmp_path / "tree", {"a": b"1\n", "sub/b": b"2\n"})
    monofs.ok("import", "tree", "--name", "t")
    (tmp_path / "mnt").mkdir()
    yield monofs
    for one in monofs.ok("status", "--json").json:
        monofs.ok("umount", "--force", one["mountpoint"])


def status(monofs: Monofs) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = monofs.ok("status", "--json").json
    return found


def test_the_path_of_the_issue(monofs: Monofs) -> None:
    mnt = monofs.directory / "mnt"
    before = monofs.ok("stat", "--json", "t").json["cid"]
    mounted = monofs.ok("mount", "t", "mnt")
    assert (mounted.out, mounted.err) == (b"", "")
    assert sorted(os.listdir(mnt)) == ["a", "sub"]

    (mnt / "new").write_bytes(b"new")
    (between,) = monofs.ok("checkpoint", "mnt", "-m", "with new").lines
    (name,) = monofs.ok("names", "--json").json["names"]
    assert (name["tree"], name["message"], name["mountpoint"]) == (between, "with new", str(mnt))

    (mnt / "a").unlink()
    (after,) = monofs.ok("umount", "mnt").lines
    assert os.listdir(mnt) == []
    assert len({before, between, after}) == 3
    assert monofs.ok("diff", before, after).lines == ["D\ta", "A\tnew"]
    assert monofs.ok("stat", "--json", "t").json["cid"] == after


def test_status(monofs: Monofs) -> None:
    assert monofs.ok("status").out == b"" and status(monofs) == []
    monofs.ok("mount", "t", "mnt")
    (one,) = status(monofs)
    assert {"mountpoint", "pid", "name", "head", "unsaved_bytes", "last_commit"} <= one.keys()
    assert (one["mountpoint"], one["name"]) == (str(monofs.directory / "mnt"), "t")
    assert one["head"] == monofs.ok("stat", "--json", "t").json["cid"]
    assert monofs.ok("status", "mnt", "--json").json[0]["pid"] == one["pid"]
    text = monofs.ok("status", "mnt").text
    assert str(monofs.directory / "mnt") in text and one["head"] in text


def test_status_needs_no_store(tmp_path: Path) -> None:
    monofs = Monofs(tmp_path)
    assert monofs.ok("status").out == b""
    assert monofs.ok("status", "--json").json == []
    assert not monofs.store.exists()


def test_a_fork_says_its_name(monofs: Monofs) -> None:
    cid = monofs.ok("stat", "--json", "t").json["cid"]
    result = monofs.ok("mount", cid, "mnt")
    (one,) = status(monofs)
    assert result.out == b"" and f"'{one['name']}'" in result.err
    monofs.ok("umount", "mnt")
    assert monofs.ok("mount", "t", "mnt", "--name", "mine").err == ""
    assert status(monofs)[0]["name"] == "mine"


def test_read_only(monofs: Monofs) -> None:
    assert monofs.ok("mount", "--read-only", "t/sub", "mnt").err == ""
    with pytest.raises(OSError, match="Read-only"):
        (monofs.directory / "mnt/new").touch()
    assert "read-only" in monofs.ok("status").text
    monofs.ok("umount", "mnt")


def test_what_cannot_be_mounted(monofs: Monofs) -> None:
    assert "nowhere" in monofs.fails("mount", "t", "nowhere")
    assert "not empty" in monofs.fails("mount", "t", "tree")
    assert "no name 'nope'" in monofs.fails("mount", "nope", "mnt")
    assert "malformed" in monofs.fails("mount", "b" + "1" * 58, "mnt")
    assert "only a directory" in monofs.fails("mount", "t/a", "mnt")
    assert "is taken" in monofs.fails("mount", "t", "mnt", "--name", "t")
    (monofs.directory / "mnt2").mkdir()
    monofs.ok("mount", "t", "mnt")
    assert "already" in monofs.fails("mount", "t", "mnt")
    assert f"mounted on {monofs.directory}/mnt by process" in monofs.fails("mount", "t", "mnt2")


@pytest.mark.parametrize("args", [["umount"], ["checkpoint"], ["status"]])
def test_where_nothing_is_mounted(monofs: Monofs, args: list[str]) -> None:
    assert "no monofs is mounted on ./mnt" in monofs.fails(*args, "./mnt")


def test_a_checkpoint_of_a_name(monofs: Monofs) -> None:
    (tree,) = monofs.ok("checkpoint", "t").lines
    assert len(monofs.ok("log", "t").lines) == 1, "there was nothing to save"
    assert monofs.ok("checkpoint", "t", "-m", "worth a mark").lines == [tree]
    monofs.ok("mount", "t", "mnt")
    (monofs.directory / "mnt/new").write_bytes(b"new")
    (saved,) = monofs.ok("checkpoint", "t", "-m", "mounted").lines
    assert status(monofs)[0]["head"] == saved != tree
    assert monofs.ok("cat", "t/new").out == b"new"
    (monofs.directory / "mnt/newer").write_bytes(b"newer")  # the mount goes on from there
    monofs.ok("umount", "mnt")
    messages = [line.split("root  ")[-1] for line in monofs.ok("log", "t").lines]
    assert messages[1:3] == ["mounted", "worth a mark"]
    assert monofs.ok("diff", "t~1", "t").lines == ["A\tnewer"]
    assert "no name 'mnt3', and no monofs is mounted there" in monofs.fails("checkpoint", "mnt3")


def test_a_checkpoint_of_what_a_killed_mount_had_committed(monofs: Monofs) -> None:
    monofs.ok("mount", "t", "mnt")
    with (monofs.directory / "mnt/new").open("wb") as file:
        file.write(b"new")
        file.flush()
        os.fsync(file.fileno())
    os.kill(status(monofs)[0]["pid"], signal.SIGKILL)
    monofs.ok("umount", "mnt")
    (saved,) = monofs.ok("checkpoint", "t", "-m", "rescued").lines
    assert monofs.ok("diff", "t~1", "t").lines == ["A\tnew"]
    assert monofs.ok("show", "t", "--json").json["tree"] == saved


def test_umount_after_the_process_was_killed(monofs: Monofs) -> None:
    monofs.ok("mount", "t", "mnt")
    os.kill(status(monofs)[0]["pid"], signal.SIGKILL)
    result = monofs.ok("umount", "mnt")
    assert result.out == b"" and "dead" in result.err
    assert os.listdir(monofs.directory / "mnt") == []


def test_ctrl_c_in_the_foreground_saves(monofs: Monofs) -> None:
    process = monofs.start("mount", "t", "mnt", "--foreground")
    assert process.stdout is not None and process.stderr is not None
    assert b"Ctrl-C" in process.stderr.readline()
    (monofs.directory / "mnt/new").write_bytes(b"new")
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS_MAX) == 0
    process.stdout.read(), process.stderr.read()
    assert monofs.ok("cat", "t/new").out == b"new"


def test_these_commands_load_no_trio(monofs: Monofs) -> None:
    """The daemon is a fork of `monofs mount`, and loads it there."""
    heavy = {"trio", "pyfuse3", "multiformats", "rich"}
    assert not heavy & monofs.modules("mount", "t", str(monofs.directory / "mnt"))
    assert not heavy & monofs.modules("status")
    assert not heavy & monofs.modules("checkpoint", str(monofs.directory / "mnt"))
    assert not heavy & monofs.modules("umount", str(monofs.directory / "mnt"))
