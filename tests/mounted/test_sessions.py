"""Which tree is mounted under which name: going on, forking, reading only, and what is left afterwards."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from store.repository import Repository
from tests.suites.machine import Machine

pytestmark = pytest.mark.mounted


@pytest.fixture
def cid(machine: Machine) -> str:
    """The CID of a tree with something in it, which the name 't' points at."""
    mnt = machine.start()
    (mnt / "dir/sub").mkdir(parents=True)
    (mnt / "dir/file").write_bytes(b"content")
    os.link(mnt / "dir/file", mnt / "dir/sub/inside")
    os.link(mnt / "dir/file", mnt / "outside")
    found = machine.umount()
    assert found is not None
    return found


def names(machine: Machine) -> dict[str, str]:
    repository = Repository.open(machine.store)
    try:
        return {name: str(repository.head(record)) for name, record in repository.names()}
    finally:
        repository.close()


def test_a_name_goes_on(machine: Machine, cid: str) -> None:
    assert names(machine) == {"t": cid}
    mnt = machine.start("t")
    (mnt / "more").touch()
    new = machine.umount()
    assert new != cid
    assert names(machine) == {"t": new}


def test_an_unchanged_mount_makes_no_version(machine: Machine, cid: str) -> None:
    repository = Repository.open(machine.store)
    before = repository.name("t")
    repository.close()
    machine.start("t")
    assert machine.checkpoint() == cid
    assert machine.umount() == cid
    repository = Repository.open(machine.store)
    assert repository.name("t") == before
    repository.close()


def test_a_fork_leaves_the_original_alone(machine: Machine, cid: str) -> None:
    mnt = machine.start("t", name="mine")
    (mnt / "dir/file").write_bytes(b"mine")
    assert (mnt / "outside").read_bytes() == b"mine"
    new = machine.umount()
    assert names(machine) == {"t": cid, "mine": new}


def test_a_bare_cid_gets_a_made_up_name_that_goes_if_nothing_changed(machine: Machine, cid: str) -> None:
    machine.start(cid)
    made_up = str(machine.status()["name"])
    assert set(names(machine)) == {"t", made_up}
    machine.umount()
    assert set(names(machine)) == {"t"}
    mnt = machine.start(cid)
    (mnt / "more").touch()
    new = machine.umount()
    assert names(machine) == {"t": cid, made_up: new}


def test_a_fork_into_a_taken_name_is_refused(machine: Machine, cid: str) -> None:
    with pytest.raises(RuntimeError, match="'t' is taken"):
        machine.start(cid, name="t")
    assert os.listdir(machine.dir) == []


def test_a_path_is_mounted_as_a_tree_of_its_own(machine: Machine, cid: str) -> None:
    mnt = machine.start("t/dir", name="part")
    assert sorted(os.listdir(mnt)) == ["file", "sub"]
    assert os.stat(mnt / "file").st_nlink == 2, "the path outside is not counted"
    assert os.stat(mnt / "file").st_ino == os.stat(mnt / "sub/inside").st_ino
    machine.umount()


@pytest.mark.parametrize("target", ["t/none", "t/dir/file", "none", "b" + "a" * 58])
def test_targets_that_are_no_directories(machine: Machine, cid: str, target: str) -> None:
    with pytest.raises(RuntimeError):
        machine.start(target)
    assert set(names(machine)) == {"t"}


def test_read_only(machine: Machine, cid: str) -> None:
    mnt = machine.start(cid, read_only=True)
    assert machine.status()["read_only"] is True
    assert (mnt / "dir/file").read_bytes() == b"content"
    for edit in (lambda: (mnt / "new").touch(), lambda: os.unlink(mnt / "outside"), lambda: os.chmod(mnt, 0o700)):
        with pytest.raises(OSError) as raised:
            edit()
        assert raised.value.errno == errno.EROFS
    assert machine.umount() == cid
    assert names(machine) == {"t": cid}


def test_a_read_only_mount_keeps_its_blocks(machine: Machine, cid: str) -> None:
    from store.blocks import collect

    mnt = machine.start("t", read_only=True)
    repository = Repository.open(machine.store)
    repository.forget_name("t")
    list(collect(repository.store, 100))
    assert (mnt / "dir/file").read_bytes() == b"content"
    machine.umount()
    list(collect(repository.store, 100))
    assert repository.store.usage().blocks == 0
    repository.close()


def test_a_mounted_name_cannot_be_forgotten(machine: Machine, cid: str) -> None:
    from store.errors import Held

    machine.start("t")
    repository = Repository.open(machine.store)
    with pytest.raises(Held, match="is mounted on"):
        repository.forget_name("t")
    repository.close()
    machine.umount()


def test_inode_numbers_are_the_same_after_a_remount(machine: Machine, cid: str) -> None:
    mnt = machine.start("t")
    before = {name: os.stat(mnt / name).st_ino for name in ("dir", "dir/file", "dir/sub")}
    machine.umount()
    mnt = machine.start("t")
    assert {name: os.stat(mnt / name).st_ino for name in before} == before
    machine.umount()


def test_the_socket_and_the_store_are_private(machine: Machine, cid: str) -> None:
    mnt = machine.start("t")
    socket = os.getxattr(mnt, "system.monofs.socket")
    assert stat.S_IMODE(os.stat(socket).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(machine.store).st_mode) == 0o700
    assert os.listxattr(mnt) == [], "virtual attributes are never listed"
    machine.umount()
    assert not os.path.exists(socket)
