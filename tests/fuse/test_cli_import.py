"""`monofs import`: what goes in, what is said, and that a failure leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from store.repository import Repository
from tests.fuse.cli_command import SECONDS_MAX, Monofs, plant

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")


@pytest.fixture
def monofs(tmp_path: Path) -> Monofs:
    monofs = Monofs(tmp_path)
    plant(tmp_path / "tree", {"a": b"1\n", "sub/b": bytes(range(256)) * 1000})
    return monofs


@pytest.fixture
def readable(monofs: Monofs) -> Monofs:
    """A tree that another user can import into a store of his own, and a file in it that he cannot read."""
    for directory in (monofs.directory, *list(monofs.directory.parents)[:2]):
        directory.chmod(0o755)
    plant(monofs.directory / "tree", {"secret": b"", "closed/x": b""})
    (monofs.directory / "tree/secret").chmod(0o600)
    (monofs.directory / "tree/closed").chmod(0o700)
    os.mkdir(monofs.directory / "theirs")
    os.chown(monofs.directory / "theirs", NOBODY, NOBODY)
    monofs.more["MONOFS_STORE"] = str(monofs.directory / "theirs/store")
    return monofs


def stored(monofs: Monofs) -> int:
    return int(monofs.ok("store-info", "--json").json["blocks"])


# The answer


def test_stdout_is_the_cid_and_nothing_else(monofs: Monofs) -> None:
    result = monofs.ok("import", "tree")
    (cid,) = result.lines
    assert cid.startswith("b") and len(cid) == 59
    assert result.err == ""
    assert monofs.ok("ls", cid).lines == ["a", "sub"]


def test_the_same_tree_is_the_same_cid_and_writes_no_block(monofs: Monofs) -> None:
    first = monofs.ok("import", "tree", "--json").json
    again = monofs.ok("import", "tree", "--json").json
    assert again["cid"] == first["cid"]
    assert first["new_blocks"] > 0 and again["new_blocks"] == 0


def test_json(monofs: Monofs) -> None:
    doc = monofs.ok("import", "tree", "--name", "t", "--json").json
    assert doc.keys() == {"cid", "name", "version", "files", "bytes", "new_blocks", "skipped", "excluded"}
    assert (doc["name"], doc["files"], doc["bytes"], doc["skipped"]) == ("t", 2, 256002, [])
    assert monofs.ok("import", "tree", "--json").json["version"] is None


def test_without_a_name_the_cid_is_pinned(monofs: Monofs) -> None:
    cid = monofs.ok("import", "tree").text.strip()
    assert monofs.ok("names", "--json").json == {"names": [], "pins": [{"tree": cid}]}


def test_the_store_itself_is_left_out(monofs: Monofs) -> None:
    doc = monofs.ok("import", ".", "--json").json
    assert doc["excluded"] == ["store"]
    assert monofs.ok("ls", doc["cid"]).lines == ["tree"]


# Names


def test_a_name_points_at_a_version(monofs: Monofs) -> None:
    cid = monofs.ok("import", "tree", "--name", "t", "-m", "first", SOURCE_DATE_EPOCH="86400").text.strip()
    (name,) = monofs.ok("names", "--json").json["names"]
    assert (name["name"], name["tree"], name["message"], name["previous"]) == ("t", cid, "first", [])
    assert (name["time"], name["ahead"]) == ("1970-01-02T00:00:00.000000000Z", False)
    assert monofs.ok("ls", name["version"]).lines == ["a", "sub"]


def test_a_taken_name_is_an_error_before_anything_is_read(monofs: Monofs) -> None:
    monofs.ok("import", "tree", "--name", "t")
    before = monofs.ok("names").out, stored(monofs)
    for name in ("t", "t/below"):
        line = monofs.fails("import", "tree", "--name", name)
        assert "'t'" in line
    assert "'t' is taken" in monofs.fails("import", "/proc", "--name", "t")  # reading that would not end well
    assert (monofs.ok("names").out, stored(monofs)) == before


@pytest.mark.parametrize("name", ["", "a b", "/a", "a/", "../a", "-x", "b" * 60, "a" * 300, "é"])
def test_a_bad_name_is_an_error_before_anything_is_read(monofs: Monofs, name: str) -> None:
    monofs.fails("import", "/proc", f"--name={name}")
    assert monofs.ok("names").out == b""


def test_update_adds_a_version(monofs: Monofs) -> None:
    monofs.ok("import", "tree", "--name", "t", "--update")
    (first,) = monofs.ok("names", "--json").json["names"]
    plant(monofs.directory / "tree", {"new": b""})
    cid = monofs.ok("import", "tree", "--name", "t", "--update", "-m", "more").text.strip()
    (second,) = monofs.ok("names", "--json").json["names"]
    assert (second["tree"], second["previous"], second["message"]) == (cid, [first["version"]], "more")


def test_update_with_the_same_tree_adds_no_version(monofs: Monofs) -> None:
    monofs.ok("import", "tree", "--name", "t")
    (first,) = monofs.ok("names", "--json").json["names"]
    result = monofs.ok("import", "tree", "--name", "t", "--update")
    assert result.text.strip() == first["tree"]
    assert "no version" in result.err
    assert monofs.ok("names", "--json").json["names"] == [first]


def test_update_keeps_what_a_dead_mount_had_saved(monofs: Monofs) -> None:
    """A name whose head is newer than its version: that head becomes a version, and is not lost."""
    first = monofs.ok("import", "tree", "--name", "t").text.strip()
    (version,) = [name["version"] for name in monofs.ok("names", "--json").json["names"]]
    plant(monofs.directory / "tree", {"saved": b"by a mount"})
    saved = monofs.ok("import", "tree").text.strip()
    with_head(monofs, "t", saved)
    plant(monofs.directory / "tree", {"new": b""})
    newest = monofs.ok("import", "tree", "--name", "t", "--update").text.strip()

    (name,) = monofs.ok("names", "--json").json["names"]
    (before,) = name["previous"]
    assert len({first, saved, newest}) == 3
    assert (name["tree"], name["ahead"]) == (newest, False)
    assert monofs.ok("stat", "--json", before).json["tree"] == saved
    monofs.ok("name", "middle", before)
    (middle,) = [one for one in monofs.ok("names", "--json").json["names"] if one["name"] == "middle"]
    assert middle["previous"] == [version]


def with_head(monofs: Monofs, text: str, tree: str) -> None:
    """Do to a name what a mount does at a commit."""
    repository = Repository.open(monofs.store)
    batch, stage = repository.batch("test")
    old = repository.name(text)
    assert old is not None
    repository.set_name(text, old, old._replace(head=repository.resolve(tree).tree), batch, stage)
    repository.close()


def test_update_of_a_mounted_name_is_refused(monofs: Monofs) -> None:
    monofs.ok("import", "tree", "--name", "t")
    repository = Repository.open(monofs.store)
    lease = repository.lease("t", repository.resolve("t").tree, "/some/where", "")
    try:
        assert f"/some/where by process {os.getpid()}" in monofs.fails("import", "tree", "--name", "t", "--update")
    finally:
        repository.release(lease)
        repository.close()
    monofs.ok("import", "tree", "--name", "t", "--update")


# What cannot be read


def test_a_directory_that_is_not_there_makes_no_store(monofs: Monofs) -> None:
    assert "'nowhere'" in monofs.fails("import", "nowhere")
    assert "not a directory" in monofs.fails("import", "tree/a")
    assert not monofs.store.exists()


@as_root
def test_unreadable_files_are_named_and_the_rest_is_stored(readable: Monofs) -> None:
    result = readable.run("import", "tree", user=NOBODY)
    assert result.code == 1
    named = [line for line in result.err.splitlines() if "skipped" in line]
    assert len(named) == 2 and "'closed'" in named[0] and "'secret'" in named[1] and "ermission" in named[1]
    assert readable.ok("ls", result.text.strip(), user=NOBODY).lines == ["a", "sub"]


@as_root
def test_unreadable_files_in_json(readable: Monofs) -> None:
    doc = readable.run("import", "tree", "--json", user=NOBODY).json
    assert [one["path"] for one in doc["skipped"]] == ["closed", "secret"]


@as_root
def test_strict_stores_nothing(readable: Monofs) -> None:
    result = readable.run("import", "tree", "--strict", "--name", "t", user=NOBODY)
    assert (result.code, result.out) == (1, b"")
    assert "2 files" in result.err.splitlines()[-1]
    assert readable.ok("names", user=NOBODY).out == b""
    assert stored(readable) == 0


@as_root
def test_a_directory_that_may_not_be_read(readable: Monofs) -> None:
    assert "ermission denied" in readable.fails("import", "tree/closed", user=NOBODY)


@as_root
def test_a_store_directory_that_may_not_be_written(readable: Monofs) -> None:
    line = readable.fails("import", "tree", "--store", str(readable.directory / "root's"), user=NOBODY)
    assert "root's" in line and "ermission denied" in line


def test_one_file_system_leaves_the_others_empty(monofs: Monofs) -> None:
    """/proc/sys/fs/binfmt_misc or the like is not everywhere, so a file system of our own is mounted."""
    other = monofs.directory / "tree" / "other"
    other.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", other], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        plant(other, {"far": b""})
        cid = monofs.ok("import", "-x", "tree").text.strip()
        assert monofs.ok("ls", f"{cid}/other").out == b""
        cid = monofs.ok("import", "tree").text.strip()
        assert monofs.ok("ls", f"{cid}/other").lines == ["far"]
    finally:
        subprocess.run(["umount", other], check=True)


@as_root
def test_a_full_disk_leaves_the_store_as_it_was(monofs: Monofs) -> None:
    monofs.store.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", monofs.store], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        monofs.ok("import", "tree", "--name", "t")
        before = monofs.ok("names").out, stored(monofs)
        plant(monofs.directory / "tree", {f"{number}": os.urandom(4_000_000) for number in range(20)})
        line = monofs.fails("import", "tree", "--name", "t", "--update")
        assert "no space" in line
        monofs.ok("gc")  # there may have been no room to let go of what was staged
        assert (monofs.ok("names").out, stored(monofs)) == before
        assert monofs.ok("check").text.endswith("clean\n")
        plant(monofs.directory, {"small/file": b"there is room for this"})
        monofs.ok("import", "small")
    finally:
        subprocess.run(["umount", monofs.store], check=True)


def test_names_that_are_no_utf8_survive(monofs: Monofs) -> None:
    plant(monofs.directory / "tree", {os.fsdecode(b"caf\xe9"): b"latin"})
    cid = monofs.ok("import", "tree").text.strip()
    assert monofs.ok("cat", os.fsencode(cid) + b"/caf\xe9").out == b"latin"


def test_a_socket_is_stored(monofs: Monofs) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(monofs.directory / "tree/socket"))
    cid = monofs.ok("import", "tree").text.strip()
    assert monofs.ok("stat", "--json", f"{cid}/socket").json["kind"] == "socket"


# Interrupted

# Runs `monofs` with small batches; once the second one is in the store, the process gets a signal.
SIGNALLED = """
import os, sys
from monofs_fuse import cli
from store import limits, staging
limits.batch_bytes_max = 1 << 17
put, count = staging.Stage.put, 0
def counted(stage, blocks):
    global count
    put(stage, blocks)
    count += 1
    if count == 2:
        assert stage.new_blocks > 1
        print("staged", file=sys.stderr, flush=True)
        os.kill(os.getpid(), int(sys.argv[1]))
staging.Stage.put = counted
sys.exit(cli.main(["import", "tree"]))
"""


def signalled(monofs: Monofs, number: signal.Signals) -> int:
    plant(monofs.directory / "tree", {f"{number}": os.urandom(100_000) for number in range(10)})
    monofs.ok("init")
    command = [sys.executable, "-c", SIGNALLED, str(int(number))]
    done = subprocess.run(command, capture_output=True, env=monofs.env, cwd=monofs.directory, timeout=SECONDS_MAX)
    assert (done.stdout, done.stderr) == (b"", b"staged\n")
    return done.returncode


def test_an_interrupted_import_leaves_nothing(monofs: Monofs) -> None:
    assert signalled(monofs, signal.SIGINT) == 130
    repository = Repository.open(monofs.store)
    roots, usage = repository.store.roots(), repository.store.usage()
    repository.close()
    assert roots == []
    assert (usage.blocks, usage.waiting) == (0, 0)


def test_a_killed_import_leaves_nothing_that_gc_does_not_free(monofs: Monofs) -> None:
    assert signalled(monofs, signal.SIGKILL) == -signal.SIGKILL
    assert stored(monofs) > 0
    monofs.ok("gc")
    assert stored(monofs) == 0


# Bars


def test_bars_on_a_terminal_only_on_stderr(monofs: Monofs) -> None:
    code, terminal, pipe = monofs.on_terminal("import", "tree", stdout=False)
    assert code == 0
    assert b"bytes" in terminal and b"files" in terminal and b"/s" in terminal
    assert len(pipe.splitlines()) == 1 and pipe.startswith(b"b")


def test_no_bars_when_stderr_is_no_terminal(monofs: Monofs) -> None:
    code, terminal, pipe = monofs.on_terminal("import", "tree", stderr=False)
    assert (code, pipe) == (0, b"")
    assert len(terminal.splitlines()) == 1
