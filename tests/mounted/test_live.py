"""A name moves while it is mounted and in use: merge, restore, undelete, prune; what whoever uses it sees of that."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from monofs_fuse import control, mountpoint
from monofs_fuse.errors import MountError
from store import check
from store.repository import Repository
from tests.fuse.cli_command import Monofs, plant
from tests.suites.machine import until, wait_gone

pytestmark = pytest.mark.mounted

LINES = "".join(f"{number}\n" for number in range(9))
BEGINNING = {
    "same": b"same\n" * 1000,
    "text": LINES.encode(),
    "other": b"old content\n" * 1000,
    "gone": b"gone\n" * 1000,
    "dir/file": b"in dir\n" * 100,
    "dir/deep/file": b"deep\n" * 100,
    "empty/keep": b"k\n",
}


class Live(Monofs):
    """`src` is mounted on `mnt`; `work` began as the same tree, which `tree` has for it."""

    @property
    def mnt(self) -> Path:
        return self.directory / "mnt"

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    def saved(self) -> str:
        """Make what `tree` has the next version of `work`."""
        return self.ok("import", "tree", "--name", "work", "--update").text.strip()

    def merged(self, *more: str, code: int = 0) -> str:
        """Save `work` and merge it into `src`; returns what was said about it."""
        self.saved()
        result = self.run("merge", "src", "work", *more)
        assert result.code == code, result.err
        assert result.out.decode().strip() == self.status()["head"]
        return result.err

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("status", "mnt", "--json").json[0]
        return found

    def names(self) -> dict[str, Any]:
        return {one["name"]: one for one in self.ok("names", "--json").json["names"]}

    def check(self) -> None:
        """What the mount shows is what the name has, and the store is whole."""
        shown = self.ok("checkpoint", "mnt").text.strip()
        copy = self.directory / "copy"
        shutil.copytree(self.mnt, copy, symlinks=True)
        shutil.rmtree(copy)
        for line in self.ok("diff", "src", str(self.mnt)).lines:
            raise AssertionError(line)
        assert shown == self.ok("umount", "mnt").text.strip()
        repository = Repository.open(self.store, create=False)
        found = check.examine(repository.store)
        repository.close()
        assert found.is_clean, found.problems


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path)
    plant(live.tree, BEGINNING)
    live.ok("import", "tree", "--name", "src")
    live.ok("name", "work", "src")
    live.mnt.mkdir()
    live.ok("mount", "src", "mnt")
    yield live
    if mountpoint.mounted(os.fspath(live.mnt)):
        live.ok("umount", "--force", "mnt")
    for log in (live.store / "run").glob("*.log"):
        print(log.read_text())


def inodes(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): path.lstat().st_ino for path in top.rglob("*")}


def drop_caches_of(path: Path) -> None:
    """Have the kernel forget a file's pages, so that it asks for them again."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


# What is seen


def test_a_merge_is_seen_at_once(live: Live) -> None:
    before = inodes(live.mnt)
    for path in BEGINNING:
        (live.mnt / path).read_bytes()
    assert not (live.mnt / "new").exists() and not (live.mnt / "dir/new").exists(), "the kernel knows that, too"
    times = (live.mnt / "dir").stat()
    (live.mnt / "mine").write_bytes(b"mine")  # not saved yet
    with (live.mnt / "text").open("r+b") as file:
        file.write(b"X")
    plant(live.tree, {"new": b"new\n", "dir/new": b"new\n", "text": LINES.replace("8", "eight").encode()})
    plant(live.tree, {"other": b"other content\n", "dir2/deep/x": b"x"})
    (live.tree / "gone").unlink()
    shutil.rmtree(live.tree / "empty")
    assert live.merged() == ""

    assert sorted(os.listdir(live.mnt)) == ["dir", "dir2", "mine", "new", "other", "same", "text"]
    assert sorted(os.listdir(live.mnt / "dir")) == ["deep", "file", "new"]
    assert (live.mnt / "new").read_bytes() == (live.mnt / "dir/new").read_bytes() == b"new\n"
    assert (live.mnt / "text").read_text() == "X" + LINES[1:].replace("8", "eight")
    assert (live.mnt / "other").stat().st_size == len(b"other content\n")
    with (live.mnt / "other").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        assert memory[:] == b"other content\n"
    assert (live.mnt / "mine").read_bytes() == b"mine"
    assert not (live.mnt / "gone").exists() and not (live.mnt / "empty").exists()
    assert (live.mnt / "dir").stat().st_mtime_ns != times.st_mtime_ns
    assert (live.mnt).stat().st_nlink == 2 + 2
    after = inodes(live.mnt)
    for path in ("same", "dir", "dir/file", "dir/deep", "dir/deep/file"):
        assert after[path] == before[path], path
    live.check()


def test_metadata_is_seen_at_once(live: Live) -> None:
    paths = [live.mnt / "same", live.mnt / "dir", live.mnt / "dir/file", live.mnt / "other"]
    before = [path.stat() for path in paths]
    os.chmod(live.tree / "same", 0o600)
    os.chmod(live.tree / "dir", 0o700)
    os.setxattr(live.tree / "dir/file", "user.x", b"value")
    os.utime(live.tree / "other", ns=(1, 10**18))
    live.merged()
    after = [path.stat() for path in paths]
    assert [stat.S_IMODE(one.st_mode) for one in after[:2]] == [0o600, 0o700]
    assert os.getxattr(paths[2], "user.x") == b"value"
    assert after[3].st_mtime_ns == 10**18
    assert [one.st_ino for one in after] == [one.st_ino for one in before]
    live.check()


def test_hard_links_and_kinds_are_seen_at_once(live: Live) -> None:
    (live.mnt / "same").stat(), (live.mnt / "gone").stat(), (live.mnt / "dir").stat()
    os.link(live.tree / "same", live.tree / "dir/linked")
    (live.tree / "gone").unlink()
    (live.tree / "gone").symlink_to("same")
    shutil.rmtree(live.tree / "dir/deep")
    (live.tree / "dir/deep").write_bytes(b"a file now")
    live.merged()
    assert (live.mnt / "same").stat().st_nlink == 2 and (live.mnt / "dir/linked").samefile(live.mnt / "same")
    assert os.readlink(live.mnt / "gone") == "same"
    assert (live.mnt / "dir/deep").read_bytes() == b"a file now"
    live.check()


# Who is in the middle of something


def test_open_files(live: Live) -> None:
    """One that did not change is as it was; one that was replaced or deleted is what it was, under no name."""
    paths = ("same", "other", "gone", "dir/file", "dir/deep/file")
    held = {path: os.open(live.mnt / path, os.O_RDWR) for path in paths}
    mapped = mmap.mmap(held["other"], 0, prot=mmap.PROT_READ)
    plant(live.tree, {"other": b"other content\n"})
    (live.tree / "gone").unlink()
    os.rename(live.tree / "dir", live.tree / "renamed")
    live.merged()

    for path, name in (("same", "same"), ("dir/file", "renamed/file"), ("dir/deep/file", "renamed/deep/file")):
        os.pwrite(held[path], b"written", 0)
        assert (live.mnt / name).read_bytes() == b"written" + BEGINNING[path][7:]
        assert os.fstat(held[path]).st_ino == (live.mnt / name).stat().st_ino
        assert os.fstat(held[path]).st_nlink == 1
    for path in ("other", "gone"):
        drop_caches_of(Path(f"/proc/self/fd/{held[path]}"))
        assert os.pread(held[path], 100_000, 0) == BEGINNING[path]
        assert os.fstat(held[path]).st_nlink == 0
    assert mapped[:] == BEGINNING["other"]
    mapped.close()
    for fd in held.values():
        os.close(fd)
    assert sorted(os.listdir(live.mnt)) == ["empty", "other", "renamed", "same", "text"], "nothing was written to them"
    live.check()


def test_what_is_written_to_a_replaced_file_is_kept(live: Live) -> None:
    replaced, gone = os.open(live.mnt / "other", os.O_RDWR), os.open(live.mnt / "empty/keep", os.O_WRONLY | os.O_APPEND)
    other = os.open(live.mnt / "gone", os.O_RDWR)
    assert not (live.mnt / "other~src").exists(), "now the kernel knows that it is not there"
    plant(live.tree, {"other": b"other content\n", "gone": b"gone too"})
    shutil.rmtree(live.tree / "empty")
    live.merged()
    os.pwrite(replaced, b"late", 0)
    os.write(gone, b"late")
    mapped = mmap.mmap(other, 0)
    mapped[:4] = b"LATE"
    os.close(other)
    mapped.close()
    assert not (live.mnt / "other~src").exists(), "not before it is closed"
    os.close(replaced)
    os.close(gone)
    names = ["dir", "empty", "gone", "gone~src", "other", "other~src", "same", "text"]
    until(lambda: sorted(os.listdir(live.mnt)) == names)  # the kernel tells of a close when it is done
    assert (live.mnt / "other").read_bytes() == b"other content\n"
    assert (live.mnt / "other~src").read_bytes() == b"late" + BEGINNING["other"][4:]
    assert (live.mnt / "empty/keep").read_bytes() == b"k\nlate"
    assert (live.mnt / "gone~src").read_bytes() == b"LATE" + BEGINNING["gone"][4:]
    live.check()


def test_what_was_merged_into_meanwhile(live: Live) -> None:
    """What was written too late is merged as two forks are, if nobody has the new file open."""
    first, second = os.open(live.mnt / "text", os.O_RDWR), os.open(live.mnt / "text", os.O_RDWR)
    plant(live.tree, {"text": LINES.replace("8", "eight").encode()})
    live.merged()
    os.chmod(live.mnt / "text", 0o640)
    os.pwrite(first, b"X", 0)
    os.close(first)
    assert "X" not in (live.mnt / "text").read_text(), "somebody has it open"
    os.close(second)
    until(lambda: (live.mnt / "text").read_text() == "X" + LINES[1:].replace("8", "eight"))
    assert stat.S_IMODE((live.mnt / "text").stat().st_mode) == 0o640
    assert "text~src" not in os.listdir(live.mnt)
    live.check()


def test_what_was_synced_survives_in_a_replaced_file_too(live: Live) -> None:
    fd = os.open(live.mnt / "text", os.O_RDWR)
    plant(live.tree, {"text": LINES.replace("8", "eight").encode()})
    live.merged()
    os.pwrite(fd, b"X", 0)
    os.fsync(fd)
    assert os.fstat(fd).st_ino == (live.mnt / "text~src").stat().st_ino
    os.kill(live.status()["pid"], signal.SIGKILL)
    with suppress(OSError):
        os.close(fd)
    live.ok("mount", "src", "mnt")
    assert (live.mnt / "text~src").read_text() == "X" + LINES[1:]
    live.check()


def test_late_writes_are_saved_by_a_forced_umount(live: Live) -> None:
    fd = os.open(live.mnt / "other", os.O_RDWR)
    plant(live.tree, {"other": b"other content\n"})
    live.merged()
    os.pwrite(fd, b"late", 0)
    live.ok("checkpoint", "mnt")
    live.ok("umount", "--force", "mnt")
    with suppress(OSError):  # it was not asked whether it may
        os.close(fd)
    assert live.ok("cat", "src/other~src").out == b"late" + BEGINNING["other"][4:]


def test_directories_that_are_being_read_or_stood_in(live: Live) -> None:
    many = {f"dir/{number:04}": b"" for number in range(3000)}
    plant(live.mnt, many)
    shell = subprocess.Popen(
        ["sh", "-c", "read go; ls; cat file; cd ..; ls -d renamed; read go"],
        cwd=live.mnt / "dir/deep",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with os.scandir(live.mnt / "dir") as listing, os.scandir(live.mnt / "empty") as emptied:
        seen = [next(listing).name for _ in range(10)]
        plant(live.tree, {"dir/new": b"new"})
        os.rename(live.tree / "dir/deep", live.tree / "dir/renamed")
        shutil.rmtree(live.tree / "empty")
        live.merged()
        seen += [entry.name for entry in listing]
        assert len(seen) == len(set(seen)), "no name comes twice"
        assert {path[4:] for path in many} | {"file"} <= set(seen), "and none is left out that was there all the time"
        assert {entry.name for entry in emptied} <= {"keep"}
    out, _ = shell.communicate("go\n\n", timeout=60)
    assert out == "file\n" + BEGINNING["dir/deep/file"].decode() + "renamed\n"
    live.check()


def test_a_directory_that_goes_under_somebody(live: Live) -> None:
    inside = os.open(live.mnt / "dir", os.O_RDONLY | os.O_DIRECTORY)
    assert os.stat("file", dir_fd=inside).st_size
    shutil.rmtree(live.tree / "dir")
    live.merged()
    assert os.listdir(inside) == [] and os.fstat(inside).st_nlink == 0
    for name in ("file", "deep"):
        with pytest.raises(FileNotFoundError):
            os.stat(name, dir_fd=inside)
    with pytest.raises(FileNotFoundError):
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=inside)
    os.mkdir(live.mnt / "dir")
    (live.mnt / "dir/new").touch()
    assert os.listdir(inside) == []
    os.close(inside)
    live.check()


# The commands


def test_conflicts(live: Live) -> None:
    (live.mnt / "other").write_bytes(b"\0ours")
    plant(live.tree, {"other": b"\0theirs"})
    said = live.merged(code=1)
    assert said.startswith("monofs: conflict: 'other': both changed it")
    copy = next(name for name in os.listdir(live.mnt) if name.startswith("other~"))
    assert {(live.mnt / name).read_bytes() for name in ("other", copy)} == {b"\0ours", b"\0theirs"}
    assert live.ok("conflicts", "src").lines == [said.removeprefix("monofs: conflict: ").strip()]
    live.ok("conflicts", "src", "--resolved", "other")
    assert live.ok("conflicts", "src").out == b""
    assert (live.mnt / copy).exists(), "the tree is as it was"
    live.check()


def test_a_dry_run_changes_nothing(live: Live) -> None:
    (live.mnt / "mine").write_bytes(b"mine")
    plant(live.tree, {"new": b"new\n"})
    (live.tree / "gone").unlink()
    live.saved()
    before = live.names()["src"]["version"], sorted(os.listdir(live.mnt))
    assert live.ok("merge", "src", "work", "--dry-run").lines == ["D\tgone", "A\tnew"]
    assert (live.names()["src"]["version"], sorted(os.listdir(live.mnt))) == before
    changes = live.ok("merge", "src", "work", "--dry-run", "--json").json
    done = live.ok("merge", "src", "work", "--json").json
    assert {key: done[key] for key in ("name", "before", "conflicts")} == {
        key: changes[key] for key in ("name", "before", "conflicts")
    }
    assert done["after"] == done["tree"] == live.status()["head"]
    assert done["version"] == live.names()["src"]["version"]
    assert live.ok("merge", "src", "work").err == "monofs: nothing to merge: all of work is there already\n"
    live.check()


def test_the_history_has_what_was_not_saved(live: Live) -> None:
    (live.mnt / "mine").write_bytes(b"mine")
    plant(live.tree, {"new": b"new\n"})
    live.merged("-m", "together")
    assert live.ok("diff", "src~1", "src", "--name-status").lines == ["A\tnew"]
    assert live.ok("diff", "src~2", "src~1", "--name-status").lines == ["A\tmine"]
    versions = live.ok("log", "src", "--json").json
    assert versions[0]["message"] == "together" and live.names()["work"]["version"] in versions[0]["previous"]
    shown = sorted(os.listdir(live.mnt / ".monofs/versions"))
    assert (live.mnt / ".monofs/versions" / shown[-1] / "new").read_bytes() == b"new\n"
    live.check()


def test_restore_and_undelete(live: Live) -> None:
    begun = live.names()["src"]["version"]
    (live.mnt / "gone").unlink()
    (live.mnt / "same").write_bytes(b"changed")
    shutil.rmtree(live.mnt / "dir")
    live.ok("checkpoint", "mnt")
    (live.mnt / "not saved").write_bytes(b"not saved")
    kept = os.open(live.mnt / "text", os.O_RDWR)

    live.ok("undelete", "src", "dir/file")
    assert os.listdir(live.mnt / "dir") == ["file"]
    assert (live.mnt / "dir/file").read_bytes() == BEGINNING["dir/file"]
    assert (live.mnt / "not saved").read_bytes() == b"not saved"
    live.ok("restore", begun, "same", "dir", "--to", "src")
    assert (live.mnt / "same").read_bytes() == BEGINNING["same"]
    assert (live.mnt / "dir/deep/file").read_bytes() == BEGINNING["dir/deep/file"]
    assert not (live.mnt / "gone").exists()
    live.ok("restore", begun, "--to", "src")
    assert not (live.mnt / "not saved").exists()
    assert (live.mnt / "gone").read_bytes() == BEGINNING["gone"]
    os.pwrite(kept, b"X", 0)
    assert (live.mnt / "text").read_bytes()[:2] == b"X\n"
    os.close(kept)
    live.ok("undelete", "src", "not saved")
    assert (live.mnt / "not saved").read_bytes() == b"not saved"
    assert "is not deleted" in live.fails("undelete", "src", "gone")
    live.check()


def test_prune_and_tombstones(live: Live) -> None:
    for number in range(4):
        (live.mnt / "large").write_bytes(os.urandom(200_000))
        live.ok("checkpoint", "mnt", "-m", str(number))
    (live.mnt / "gone").unlink()
    live.ok("checkpoint", "mnt")
    (live.mnt / "mine").write_bytes(b"mine")  # not saved
    held = os.open(live.mnt / "large", os.O_RDWR)
    before = inodes(live.mnt)
    told = live.ok("prune", "src", "--keep", "last=2", "--json", "--dry-run").json
    done = live.ok("prune", "src", "--keep", "last=2", "--json").json
    assert done["freed_bytes"] == told["freed_bytes"] > 500_000
    assert [one["message"] for one in live.ok("log", "src", "--json").json] == ["", "3"]
    assert inodes(live.mnt) == before
    os.pwrite(held, b"still", 0)
    os.close(held)
    assert (live.mnt / "mine").read_bytes() == b"mine"
    assert "gone" in live.ok("tombstones", "src").text
    live.ok("tombstones", "src", "--prune", "1 second ago", "--store", str(live.store))
    live.check()


def test_what_cannot_be_moved(live: Live) -> None:
    live.saved()
    (live.directory / "mnt2").mkdir()
    assert "is mounted on" in live.fails("forget", "src")
    assert "is mounted on" in live.fails("import", "tree", "--name", "src", "--update")
    live.ok("mount", "work", "mnt2", "--read-only")
    for request in ({"op": "save"}, {"op": "hold"}):
        with pytest.raises(MountError, match="read-only"):
            control.ask(socket_of(live.directory / "mnt2"), request)
    plant(live.tree, {"new": b"new"})
    live.merged()
    assert not (live.directory / "mnt2/new").exists(), "it shows what it was mounted for"
    live.ok("umount", "mnt2")


def socket_of(path: Path) -> str:
    return os.fsdecode(os.getxattr(path, "system.monofs.socket"))


# Those who hold it


def test_bad_requests_to_a_mount_that_is_held(live: Live) -> None:
    name = {"version": live.names()["src"]["version"], "head": None, "made_up": False}
    other = {**name, "version": live.names()["work"]["tree"]}
    for request, error in (
        ({"op": "umount"}, "unknown request 'umount' to a mount that is held"),
        ({"op": "move"}, "from what to what"),
        ({"op": "move", "old": name, "new": {**name, "version": "b"}}, "from what to what"),
        ({"op": "move", "old": other, "new": name}, "has changed meanwhile"),
        ({"op": "move", "old": name, "new": other}, "not a version"),
    ):
        with control.Connection(socket_of(live.mnt)) as connection:
            assert connection.ask({"op": "hold"}) == {"held": True}
            with pytest.raises(MountError, match=error):
                connection.ask(request)
        (live.mnt / "file").touch()
    with pytest.raises(MountError, match="unknown request 'move'"):
        control.ask(socket_of(live.mnt), {"op": "move", "old": name, "new": name})
    live.check()


EDITS = (
    "touch new", "rm gone", "mv same moved", "chmod 600 text", "echo more >> other", "mkdir made", "rm -r dir",
    ": > empty/keep", "setfattr -n user.x -v y other", "ln text linked", "ln -s text symlink", "touch -d @1 text",
)  # fmt: skip


def test_edits_wait_while_it_is_held_and_reading_does_not(live: Live) -> None:
    """What is listed or looked up in a directory waits too, if somebody waits who edits it: that is the kernel's."""
    for path in BEGINNING:
        (live.mnt / path).stat()
    held = (live.mnt / "text").open("rb")
    with control.Connection(socket_of(live.mnt)) as connection:
        connection.ask({"op": "hold"})
        head = live.status()["head"]
        waiting = [subprocess.Popen(["sh", "-c", edit], cwd=live.mnt) for edit in EDITS]
        until(lambda: sum(is_waiting(process.pid) for process in waiting) == len(waiting))
        assert held.read() == BEGINNING["text"]
        assert (live.mnt / "dir/deep/file").read_bytes() == BEGINNING["dir/deep/file"]
        assert live.status()["head"] == head and live.status()["unsaved_bytes"] == 0
        assert all(process.poll() is None for process in waiting)
    assert [process.wait(60) for process in waiting] == [0] * len(waiting), "the connection ended"
    names = ["empty", "linked", "made", "moved", "new", "other", "symlink", "text"]
    assert sorted(os.listdir(live.mnt)) == names
    held.close()
    live.check()


def is_waiting(pid: int) -> bool:
    """True if a process, or the one that it waits for, is in the middle of a call to the mount or a lock in it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        states = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] for one in (pid, *children)]
        at = [Path(f"/proc/{one}/wchan").read_text() for one in (pid, *children)]
    except OSError:
        return False
    return "D" in states or "request_wait_answer" in at


@pytest.mark.parametrize("how", ["merge", "restore"])
def test_a_client_that_is_killed_while_it_waits(live: Live, how: str) -> None:
    """It waits for its turn, behind somebody who holds the mount; then it holds it, dead."""
    plant(live.tree, {"new": b"new"})
    live.saved()
    begun = live.names()["src"]["version"]
    args = {"merge": ("merge", "src", "work"), "restore": ("restore", begun, "--to", "src")}[how]
    (live.mnt / "mine").write_bytes(b"mine")
    with control.Connection(socket_of(live.mnt)) as connection:
        connection.ask({"op": "hold"})
        client = live.start(*args)
        until(lambda: connections(live) == 2)
        client.kill()
        client.communicate()
        assert not (live.mnt / "new").exists() and (live.mnt / "mine").exists()
    (live.mnt / "more").write_bytes(b"more")
    assert live.names()["src"]["version"] == begun
    live.ok(*args)
    assert (live.mnt / "new").exists() == (how == "merge")
    live.check()


def connections(live: Live) -> int:
    """How many have connected to the mount's control socket."""
    socket = os.path.basename(socket_of(live.mnt))
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith(socket) and line.split()[5] == "03" for line in lines)


def test_one_moves_it_after_the_other(live: Live) -> None:
    """Merges of many forks at once; none is lost."""
    for number in range(6):
        live.ok("name", f"work-{number}", "work")
        plant(live.tree, {f"new-{number}": b"%d" % number})
        live.ok("import", "tree", "--name", f"work-{number}", "--update")
        (live.tree / f"new-{number}").unlink()
    clients = [live.start("merge", "src", f"work-{number}") for number in range(6)]
    for client in clients:
        _, err = client.communicate(timeout=120)
        assert client.returncode == 0, err
    assert {f"new-{number}" for number in range(6)} <= set(os.listdir(live.mnt))
    live.check()


def test_unmounted_while_it_is_held(live: Live) -> None:
    with control.Connection(socket_of(live.mnt)) as connection:
        connection.ask({"op": "hold"})
        subprocess.run(["umount", "-l", live.mnt], check=True)
        name = {"version": live.names()["src"]["version"], "head": None, "made_up": False}
        with pytest.raises(MountError):
            until(lambda: mountpoint.mounted(os.fspath(live.mnt)) is None)
            until(lambda: "src" not in {one["name"] for one in live.ok("status", "--json").json})
            connection.ask({"op": "move", "old": name, "new": name})
    live.ok("mount", "src", "mnt")
    live.check()


def test_who_holds_it_for_too_long(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from monofs_fuse import limits, mounts\n"
        "limits.hold_seconds_max = 0.2\n"
        f"mounts.start(Path({str(tmp_path / 'store')!r}), 'src', {str(tmp_path / 'mnt')!r})"
    )
    live = Live(tmp_path)
    plant(live.tree, BEGINNING)
    live.ok("import", "tree", "--name", "src")
    live.ok("name", "work", "src")
    live.mnt.mkdir()
    subprocess.run([sys.executable, "-c", code], check=True)
    try:
        name = {"version": live.names()["src"]["version"], "head": None, "made_up": False}
        with control.Connection(socket_of(live.mnt)) as connection:
            connection.ask({"op": "hold"})
            (live.mnt / "new").write_bytes(b"new")  # which waits
            with pytest.raises(MountError, match="held for over"):
                connection.ask({"op": "move", "old": name, "new": name})
        assert (live.mnt / "new").read_bytes() == b"new"
        live.check()
    finally:
        subprocess.run(["umount", "-l", live.mnt], check=False, capture_output=True)


# By themselves


def test_automatic_checkpoints(live: Live) -> None:
    live.ok("umount", "mnt")
    live.ok("mount", "src", "mnt", "--auto-checkpoint", "1s", "--keep", "last=2")
    status = live.status()["auto_checkpoint"]
    assert (status["every"], status["keep"], status["last"], status["problem"]) == ("1s", "last=2", None, None)
    for number in range(3):
        (live.mnt / f"file-{number}").touch()
        path = f"src~0/file-{number}"
        until(lambda path=path: live.run("stat", path).code == 0)  # type: ignore[misc]
    until(lambda: len(live.ok("log", "src").lines) == 2)
    assert {one["message"] for one in live.ok("log", "src", "--json").json} == {"automatic checkpoint"}
    text = live.ok("status", "mnt").text
    assert "checkpoints: every 1s, keeping last=2" in text and "next 20" in text
    assert live.status()["auto_checkpoint"]["last"] is not None
    assert '"every": "1s"' in (live.mnt / ".monofs/status").read_text()
    live.check()
    assert live.ok("log", "src", "--json").json[0]["message"] == "automatic checkpoint", "none more at the end"


@pytest.mark.parametrize("how", ["umount", "SIGTERM", "SIGKILL"])
def test_a_mount_ends_beside_automatic_checkpoints(live: Live, how: str) -> None:
    live.ok("umount", "mnt")
    live.ok("mount", "src", "mnt", "--auto-checkpoint", "1s", "--keep", "last=3")
    work = "n=0; while echo $n > n && mv n done; do n=$((n+1)); done"
    writer = subprocess.Popen(["sh", "-c", work], cwd=live.mnt, stderr=subprocess.DEVNULL)
    pid = live.status()["pid"]
    until(lambda: live.status()["auto_checkpoint"]["last"] is not None)
    if how == "SIGKILL":
        os.kill(pid, signal.SIGKILL)
    elif how == "SIGTERM":
        os.kill(pid, signal.SIGTERM)
    else:
        live.ok("umount", "--lazy", "mnt")
    writer.wait(60) if how == "SIGKILL" else writer.kill()
    writer.wait(60)
    wait_gone(pid)
    live.ok("mount", "src", "mnt")
    assert (live.mnt / "done").read_text().strip().isdigit()
    messages = [one["message"] for one in live.ok("log", "src", "--json").json]
    assert "automatic checkpoint" in messages
    live.check()


def test_a_fork_without_a_name_of_its_own_gets_them_too(live: Live) -> None:
    live.ok("umount", "mnt")
    said = live.ok("mount", live.names()["work"]["tree"], "mnt", "--auto-checkpoint", "1s").err
    (live.mnt / "file").touch()
    name = live.status()["name"]
    assert name in said
    until(lambda: live.names()[name]["message"] == "automatic checkpoint")


@pytest.mark.parametrize(
    ("args", "code", "why"),
    [
        (["--auto-checkpoint", "10"], 1, "'10' is no interval"),
        (["--auto-checkpoint", "0s"], 1, "between 1 second and a year"),
        (["--auto-checkpoint", "10m", "--keep", "often=3"], 1, "'often=3' keeps nothing"),
        (["--keep", "daily=7"], 2, "--auto-checkpoint"),
        (["--auto-checkpoint", "10m", "--read-only"], 2, "read-only"),
    ],
)
def test_bad_habits_are_refused_before_anything_is_mounted(live: Live, args: list[str], code: int, why: str) -> None:
    live.ok("umount", "mnt")
    before = live.ok("names", "--json").out
    assert why in live.fails("mount", "src", "mnt", "--name", "fork", *args, code=code)
    assert os.listdir(live.mnt) == [] and live.ok("names", "--json").out == before


def test_errno_of_a_name_that_came_meanwhile(live: Live) -> None:
    """O_CREAT of what a merge has just brought opens that; with O_EXCL it is there already."""
    assert not (live.mnt / "new").exists()
    plant(live.tree, {"new": b"theirs"})
    live.merged()
    with pytest.raises(OSError) as raised:
        os.open(live.mnt / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert raised.value.errno == errno.EEXIST
    fd = os.open(live.mnt / "new", os.O_CREAT | os.O_RDWR)
    assert os.read(fd, 100) == b"theirs"
    os.close(fd)
