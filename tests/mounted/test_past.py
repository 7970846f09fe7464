"""`.monofs` in a mount: time travel with ls, diff and cp, hidden from everybody who does not ask for it."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from monofs_fuse import cli
from tests.mounted.conftest import Mount, needs_root
from tests.mounted.programs import build, run
from tests.mounted.test_law import imported
from tests.suites.posix.tools import as_user

pytestmark = pytest.mark.mounted


def refused(number: int, call: object, *args: object, **more: object) -> None:
    assert callable(call)
    with pytest.raises(OSError) as caught:
        call(*args, **more)
    assert caught.value.errno == number, caught.value


def versions(mount: Path) -> list[Path]:
    """The oldest first."""
    return sorted((mount / ".monofs/versions").iterdir())


def test_versions_are_there_as_they_were(machine: Mount, mount: Path) -> None:
    (mount / "a").write_text("1")
    (mount / "gone").write_text("was here")
    os.link(mount / "a", mount / "again")
    first = machine.checkpoint()
    (mount / "a").write_text("2")
    (mount / "gone").unlink()
    second = machine.checkpoint()
    empty, old, new = versions(mount)
    assert [path.name for path in empty.iterdir()] == []
    assert ((old / "a").read_text(), (old / "gone").read_text()) == ("1", "was here")
    assert (old / "a").stat().st_nlink == 2 and (old / "a").samefile(old / "again")
    assert sorted(os.listdir(new)) == ["a", "again"] and (new / "a").read_text() == "2"
    assert not (new / "a").samefile(mount / "a")
    assert (imported(old), imported(new)) == (first, second)
    shutil.copy2(old / "gone", mount / "gone")
    assert (mount / "gone").read_text() == "was here"


@needs_root
def test_a_tree_with_everything_in_it(machine: Mount, mount: Path) -> None:
    build(mount / "all")
    cid = machine.checkpoint()
    (version,) = versions(mount)[1:]
    assert imported(version) == imported(mount / ".monofs/cid" / cid) == cid
    inside = machine.dir / ".monofs/cid" / cid / "all"
    assert sorted(os.listdir(inside)) == sorted(os.listdir(mount / "all"))


def test_nobody_walks_into_it(machine: Mount, mount: Path) -> None:
    (mount / "a").write_text("1")
    machine.checkpoint()
    assert os.listdir(mount) == ["a"]
    assert [entry.name for entry in os.scandir(mount)] == ["a"]
    assert run("find", mount).splitlines() == [str(mount), str(mount / "a")]
    assert (mount / ".monofs").is_dir() and sorted(os.listdir(mount / ".monofs")) == [
        "cid",
        "head",
        "status",
        "versions",
    ]
    assert os.listdir(mount / ".monofs/cid") == []
    assert mount.stat().st_nlink == 2
    run("rm", "-rf", *mount.iterdir())
    assert imported(mount) == machine.checkpoint()
    refused(errno.ENOENT, os.stat, mount / "sub/.monofs")
    (mount / "sub").mkdir()
    refused(errno.ENOENT, os.stat, mount / "sub/.monofs")
    (mount / "sub/.monofs").mkdir()


def test_nothing_in_it_changes(machine: Mount, mount: Path) -> None:
    (mount / "a").write_text("1")
    machine.checkpoint()
    old = versions(mount)[-1]
    past = mount / ".monofs"
    for directory in (old, past, past / "versions", past / "cid"):
        refused(errno.EROFS, os.mkdir, directory / "new")
        refused(errno.EROFS, os.open, directory / "new", os.O_CREAT | os.O_WRONLY)
        refused(errno.EROFS, os.symlink, "x", directory / "new")
        refused(errno.EROFS, os.chmod, directory, 0o700)
        refused(errno.EROFS, os.rename, mount / "a", directory / "new")
    refused(errno.EXDEV, os.link, old / "a", mount / "linked")
    refused(errno.EROFS, os.link, mount / "a", old / "linked")
    refused(errno.EROFS, os.unlink, old / "a")
    refused(errno.EROFS, os.rename, old / "a", mount / "b")
    refused(errno.EROFS, os.open, old / "a", os.O_WRONLY)
    refused(errno.EROFS, os.truncate, old / "a", 0)
    refused(errno.EROFS, os.utime, old / "a")
    refused(errno.EROFS, os.setxattr, old / "a", "user.x", b"1")
    refused(errno.EROFS, os.open, past / "head", os.O_RDWR)
    for path in (past, past / "versions", old):
        refused(errno.EROFS, os.rmdir, path)
    refused(errno.EROFS, os.rename, past, mount / "moved")
    refused(errno.EROFS, os.rename, mount / "a", past / "a")
    (mount / "d").mkdir()
    refused(errno.EROFS, os.rename, mount / "d", past)
    refused(errno.EEXIST, os.mkdir, past)
    assert (old / "a").read_text() == "1" and sorted(os.listdir(mount)) == ["a", "d"]


def test_more_versions_come_and_the_head_moves(machine: Mount, mount: Path) -> None:
    (before,) = versions(mount)
    assert (mount / ".monofs/head").read_text() == imported(mount) + "\n"
    refused(errno.ENOENT, os.stat, mount / ".monofs/versions/2001-01-01T00:00:00Z")
    (mount / "a").write_text("1")
    cid = machine.checkpoint()
    assert (mount / ".monofs/head").read_text() == cid + "\n"
    assert versions(mount)[0].name[:19] == before.name[:19] and len(versions(mount)) == 2
    status = json.loads((mount / ".monofs/status").read_text())
    assert (status["name"], status["head"]) == ("t", cid)
    assert (mount / ".monofs/status").stat().st_size == len((mount / ".monofs/status").read_bytes())


def test_what_is_no_tree_of_the_store_is_not_there(machine: Mount, mount: Path) -> None:
    other = "bafyr4icxowrwmvn72isdbf4lb3qcggkjxrytvgw4ck2y5vjp2s4sdlnd4u"
    for name in (other, "not-a-cid", "\udcff", "x" * 255):
        refused(errno.ENOENT, os.stat, mount / ".monofs/cid" / name)
    (mount / "a").write_bytes(random.Random(1).randbytes(5000))
    machine.checkpoint()
    chunk = os.getxattr(mount / "a", "user.monofs.cid").decode()
    refused(errno.ENOENT, os.stat, mount / ".monofs/cid" / chunk)
    refused(errno.ENAMETOOLONG, os.stat, mount / ".monofs/cid" / ("x" * 256))


@needs_root
def test_other_users_see_the_versions_and_not_the_store(machine: Mount, mount: Path) -> None:
    (mount / "open").write_text("for all")
    (mount / "shut").write_text("for me")
    (mount / "shut").chmod(0o600)
    cid = machine.checkpoint()
    old = versions(mount)[-1]
    as_user((1234, 1234), lambda: (old / "open").read_text())
    for forbidden in (old / "shut", mount / ".monofs/cid" / cid / "open", mount / ".monofs/status"):
        refused(errno.EACCES, as_user, (1234, 1234), forbidden.read_text)


def test_a_tree_that_has_the_name_keeps_it(machine: Mount, mount: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / ".monofs").mkdir(parents=True)
    (source / ".monofs/own").write_text("mine")
    machine.umount()
    assert cli.main(["--store", os.fspath(machine.store), "import", os.fspath(source), "--name", "own"]) == 0
    machine.start("own")
    assert os.listdir(mount) == [".monofs"] and os.listdir(mount / ".monofs") == ["own"]
    shutil.rmtree(mount / ".monofs")
    assert stat.S_ISDIR((mount / ".monofs/versions").stat().st_mode)
    assert machine.checkpoint() == imported(mount)


def test_a_read_only_mount_has_it_too(machine: Mount, mount: Path) -> None:
    (mount / "a").write_text("1")
    cid = machine.umount()
    assert cid is not None
    machine.start(cid, read_only=True)
    assert (mount / ".monofs/cid" / cid / "a").read_text() == "1"
    assert os.listdir(mount / ".monofs/versions") == []
    assert (mount / ".monofs/head").read_text() == cid + "\n"


def test_open_files_stay_when_the_kernel_forgets_the_rest(machine: Mount, mount: Path) -> None:
    for number in range(300):
        (mount / f"{number}").write_text(f"{number}")
    for number in range(5):
        (mount / "a").write_text(f"{number}")
        machine.checkpoint()
    for version in versions(mount)[1:]:
        assert {path.name: path.read_text() for path in version.iterdir() if path.name != "a"} == {
            f"{number}": f"{number}" for number in range(300)
        }
    kept = [os.open(path / "a", os.O_RDONLY) for path in versions(mount)[1:]]
    subprocess.run(["sh", "-c", "echo 2 > /proc/sys/vm/drop_caches"], check=False)
    assert [os.pread(fd, 10, 0) for fd in kept] == [b"%d" % number for number in range(5)]
    for fd in kept:
        os.close(fd)
    assert [(path / "a").read_text() for path in versions(mount)[1:]] == [f"{number}" for number in range(5)]


def test_a_confined_mount_shows_nothing_but_its_tree(machine: Mount) -> None:
    """What a machine is given: neither other trees of the store nor what its own once was."""
    mnt = machine.start()
    (mnt / "a").write_text("old")
    old = machine.checkpoint()
    (mnt / "a").write_text("new")
    machine.umount()
    mnt = machine.start(confined=True)
    assert os.listdir(mnt) == ["a"] and (mnt / "a").read_text() == "new"
    for path in ("", "/versions", f"/cid/{old}", "/head", "/status"):
        refused(errno.ENOENT, os.stat, f"{mnt}/.monofs{path}")
    refused(errno.EROFS, os.mkdir, mnt / ".monofs")
    (mnt / "a").write_text("newer")
    saved = machine.checkpoint()
    assert saved == imported(mnt) == machine.umount()
    assert (machine.start() / ".monofs/cid" / old / "a").read_text() == "old"
