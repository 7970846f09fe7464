"""Who gets into a mount: everybody under their own permissions if root made it, else nobody but its user."""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

import monofs_fuse
import store
from monofs_fuse import mounts
from store import importer
from store.repository import Repository
from tests.mounted.conftest import Mount, needs_root, public_directory
from tests.mounted.test_law import imported
from tests.suites.posix import CAPABILITY, as_user, fails
from tests.suites.trees import in_child

pytestmark = [pytest.mark.mounted, needs_root]
_T = TypeVar("_T")

USER, STRANGER = (65534, 65534), (4242, 4242)


@pytest.fixture(scope="module", autouse=True)
def everything_is_loaded() -> None:
    """Another user may not be able to read the Python that runs the tests, so nothing is left to be loaded later."""
    for package in (store, monofs_fuse):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)


def by(who: tuple[int, int], work: Callable[[], _T]) -> _T | None:
    """Return what `work` returns when this user calls it."""

    def demoted() -> _T:
        os.setgroups([])
        os.setresgid(who[1], who[1], who[1])
        os.setresuid(who[0], who[0], who[0])
        os.chdir("/")
        return work()

    return in_child(demoted)


# Mounted by root


@pytest.fixture
def shared(machine: Mount) -> Path:
    """A mount made by root, with files of several owners."""
    mnt = machine.start()
    for name, who, mode in (
        ("public", (0, 0), 0o644),
        ("secret", (0, 0), 0o600),
        ("mine", USER, 0o600),
        ("group", (0, USER[1]), 0o640),
        ("none", USER, 0),
    ):
        (mnt / name).write_text(name)
        os.chown(mnt / name, *who)
        os.chmod(mnt / name, mode)
    (mnt / "home").mkdir()
    os.chown(mnt / "home", *USER)
    return mnt


def test_others_get_in_under_their_own_permissions(machine: Mount, shared: Path) -> None:
    for name in ("public", "mine", "group"):
        assert by(USER, lambda name=name: (shared / name).read_text()) == name  # type: ignore[misc]
    assert by(STRANGER, lambda: (shared / "public").read_text()) == "public"
    for who, name in ((USER, "secret"), (USER, "none"), (STRANGER, "mine"), (STRANGER, "group"), (STRANGER, "none")):
        with fails(errno.EACCES):
            as_user(who, lambda name=name: (shared / name).read_text())
    assert (shared / "none").read_text() == "none", "root may"
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: (shared / "new").touch())
    assert machine.checkpoint() == imported(shared)


def test_what_others_make_is_theirs(machine: Mount, shared: Path) -> None:
    as_user(
        USER, lambda: ((shared / "home/f").write_text("f"), (shared / "home/d").mkdir(), os.mkfifo(shared / "home/p"))
    )
    as_user(USER, lambda: os.symlink("f", shared / "home/l"))
    for name in ("f", "d", "p", "l"):
        found = os.lstat(shared / "home" / name)
        assert (found.st_uid, found.st_gid) == USER
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: (shared / "home/f").unlink())
    as_user(USER, lambda: (shared / "home/f").rename(shared / "home/g"))
    with fails(errno.EACCES):
        as_user(USER, lambda: (shared / "home/g").rename(shared / "g"))
    cid = machine.remount()
    assert cid == imported(shared) and (shared / "home/g").stat().st_uid == USER[0]


def test_only_root_controls_a_mount_of_root(machine: Mount, shared: Path) -> None:
    for ask in (mounts.checkpoint, mounts.umount):
        with pytest.raises(AssertionError, match=r"does not answer|belongs to another user|[Pp]ermission"):
            by(STRANGER, lambda ask=ask: ask(os.fspath(shared)))  # type: ignore[misc]
    assert os.path.ismount(shared)


# Mounted by an ordinary user


class UserMount:
    """A store, and a mount point, that belong to an ordinary user."""

    def __init__(self, directory: Path) -> None:
        self.store, self.dir, self.tree = directory / "store", directory / "mnt", directory / "tree"
        for path in (self.dir, self.tree):
            path.mkdir()

    def give_away(self) -> None:
        """Let the user have the store and the mount point."""
        for path in [self.dir, self.store, *self.store.rglob("*")]:
            os.chown(path, *USER)

    def take_in(self) -> str:
        """Import the tree as root, under the name 't'. Returns its CID."""
        repository = Repository.open(self.store)
        batch, stage = repository.batch("import")
        found = importer.import_directory(batch, self.tree)
        repository.publish("t", found.cid, batch, stage)
        repository.close()
        self.give_away()
        return str(found.cid)

    def start(self, **options: bool) -> None:
        by(USER, lambda: mounts.start(self.store, "t", os.fspath(self.dir), **options))

    def umount(self) -> str | None:
        return by(USER, lambda: mounts.umount(os.fspath(self.dir)))

    def end(self) -> None:
        if os.path.ismount(self.dir) or not _can_stat(self.dir):
            by(USER, lambda: mounts.umount(os.fspath(self.dir), force=True))


def _can_stat(path: Path) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


@pytest.fixture
def mine() -> Iterator[UserMount]:
    with public_directory() as directory:
        os.chmod(directory, 0o755)
        made = UserMount(directory)
        yield made
        made.end()


def test_a_user_mounts_edits_and_unmounts(mine: UserMount) -> None:
    (mine.tree / "f").write_text("f")
    for path in (mine.tree, mine.tree / "f"):
        os.chown(path, *USER)
    before = mine.take_in()
    mine.start()

    def work() -> str:
        (mine.dir / "g").write_text((mine.dir / "f").read_text() + "g")
        (mine.dir / "f").rename(mine.dir / "h")
        os.chmod(mine.dir / "h", 0o7777)
        return mounts.checkpoint(os.fspath(mine.dir))

    middle = by(USER, work)
    assert middle != before
    assert by(USER, lambda: imported(mine.dir)) == middle
    after = mine.umount()
    assert after == middle and os.listdir(mine.dir) == []


def test_nobody_else_gets_into_a_users_mount(mine: UserMount) -> None:
    (mine.tree / "f").write_text("for all to see")
    mine.take_in()
    mine.start()
    assert by(USER, lambda: (mine.dir / "f").read_text()) == "for all to see"
    for who in (STRANGER, (0, 0)):
        with fails(errno.EACCES):
            as_user(who, lambda: (mine.dir / "f").read_text())
        with fails(errno.EACCES):
            as_user(who, lambda: os.listdir(mine.dir))


def test_allow_other_needs_the_administrators_leave(mine: UserMount) -> None:
    mine.take_in()
    allowed = any(line.strip() == "user_allow_other" for line in Path("/etc/fuse.conf").read_text().splitlines())
    if allowed:
        mine.start(allow_other=True)
        as_user(STRANGER, lambda: os.listdir(mine.dir))
    else:
        with pytest.raises(AssertionError, match="user_allow_other"):
            mine.start(allow_other=True)
        assert not os.path.ismount(mine.dir)


def test_a_user_mounts_a_tree_of_roots(mine: UserMount) -> None:
    """Owners and modes are those of the tree, and are enforced; what the user may not read is kept all the same."""
    tree = mine.tree
    (tree / "open").mkdir()
    (tree / "closed").mkdir()
    for name, mode in (("open/public", 0o644), ("open/secret", 0o600), ("open/none", 0), ("closed/in", 0o644)):
        (tree / name).write_text(name)
        os.chmod(tree / name, mode)
    (tree / "open/tool").write_text("#!/bin/sh\n")
    os.chmod(tree / "open/tool", 0o6755)
    os.setxattr(tree / "open/tool", "security.capability", CAPABILITY)
    os.setxattr(tree / "open/tool", "trusted.t", b"1")
    os.mknod(tree / "open/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (tree / "home").mkdir()
    (tree / "home/old").write_text("old")
    os.link(tree / "open/secret", tree / "home/linked")
    for name in ("home", "home/old"):
        os.chown(tree / name, *USER)
    os.chmod(tree / "closed", 0)
    before = mine.take_in()
    mine.start()

    def look() -> None:
        assert sorted(os.listdir(mine.dir / "open")) == ["none", "null", "public", "secret", "tool"]
        found = os.lstat(mine.dir / "open/tool")
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o6755)
        assert os.lstat(mine.dir / "open/null").st_rdev == os.makedev(1, 3)
        assert (mine.dir / "open/public").read_text() == "open/public"
        assert os.getxattr(mine.dir / "open/tool", "security.capability")
        for refused in (
            lambda: (mine.dir / "open/secret").read_text(),
            lambda: (mine.dir / "open/none").read_text(),
            lambda: os.listdir(mine.dir / "closed"),
            lambda: (mine.dir / "open/new").touch(),
            lambda: (mine.dir / "open/public").unlink(),
            lambda: os.open(mine.dir / "open/null", os.O_RDONLY),
        ):
            with fails(errno.EACCES):
                refused()
        with fails(errno.EPERM):
            os.chmod(mine.dir / "closed", 0o755)
        with fails(errno.EPERM):
            os.chown(mine.dir / "home/old", 0, 0)

    by(USER, look)
    assert mine.umount() == before, "looking changed nothing"

    mine.start()
    for work, do in ((mine.dir, lambda change: by(USER, change)), (tree, lambda change: change())):

        def change(work: Path = work) -> None:
            (work / "home/old").write_text("new")
            (work / "home/linked").unlink()
            for name in ("home/old", "home"):
                os.utime(work / name, ns=(1, 1))

        do(change)
    assert mine.umount() == imported(tree) != before


def test_a_root_directory_that_its_user_may_not_enter(mine: UserMount) -> None:
    os.chmod(mine.tree, 0)
    before = mine.take_in()
    mine.start()
    with fails(errno.EACCES):
        as_user(USER, lambda: os.listdir(mine.dir))
    assert by(USER, lambda: mounts.checkpoint(os.fspath(mine.dir))) == before
    assert mine.umount() == before


def test_a_tree_cannot_tell_which_socket_to_talk_to(machine: Mount) -> None:
    mnt = machine.start()
    for name in ("user.monofs.socket", "user.monofs.store", "system.monofs.socket"):
        with pytest.raises(OSError):
            os.setxattr(mnt, name, b"/tmp/evil")
    evil = machine.dir.parent / "evil"
    evil.mkdir()
    os.setxattr(evil, "user.monofs.store", b"/tmp/evil")
    machine.umount()
    repository = Repository.open(machine.store)
    batch, stage = repository.batch("import")
    found = importer.import_directory(batch, evil)
    repository.publish("evil", found.cid, batch, stage)
    repository.close()
    machine.start("evil")
    assert os.getxattr(mnt, "user.monofs.store") == os.fsencode(machine.store)
    assert os.path.dirname(os.getxattr(mnt, "system.monofs.socket")) == os.fsencode(machine.store / "run")
