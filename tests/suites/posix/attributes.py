"""Modes, owners, times, and who may change them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tests.suites.posix.tools import CAPABILITY, FRIEND, STRANGER, USER, as_user, case, fails, file, mode, moved


@case
def modes_have_twelve_bits(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    for bits in (0, 0o7777, 0o4000, 0o2000, 0o1000, 0o755):
        for name in ("f", "d"):
            os.chmod(at / name, bits)
            assert mode(at / name) == bits
    assert moved(at / "f", lambda: os.chmod(at / "f", 0o640)) == "c"
    assert moved(at / "f", lambda: os.chown(at / "f", 1, 1)) == "c"
    os.chmod(at / "d", 0o700)


@case
def owners(at: Path) -> None:
    file(at / "f")
    os.symlink("f", at / "l")
    os.chown(at / "f", 1 << 31, 77)
    os.lchown(at / "l", 3, 4)
    os.chown(at / "f", -1, 5)
    assert (os.stat(at / "f").st_uid, os.stat(at / "f").st_gid) == (1 << 31, 5)
    assert (os.lstat(at / "l").st_uid, os.lstat(at / "l").st_gid) == (3, 4)


@case
def only_the_owner_changes_attributes(at: Path) -> None:
    file(at / "f", mode=0o666)
    os.chown(at / "f", *USER)
    for try_it in (
        lambda: os.chmod(at / "f", 0o777),
        lambda: os.chown(at / "f", STRANGER[0], -1),
        lambda: os.utime(at / "f", ns=(1, 1)),
    ):
        with fails(errno.EPERM):
            as_user(STRANGER, try_it)
    as_user(STRANGER, lambda: os.utime(at / "f"))  # to now: whoever may write
    as_user(USER, lambda: os.chmod(at / "f", 0o600))
    as_user(USER, lambda: os.utime(at / "f", ns=(1, 1)))
    with fails(errno.EPERM):
        as_user(USER, lambda: os.chown(at / "f", STRANGER[0], -1))
    with fails(errno.EPERM):
        as_user(USER, lambda: os.chown(at / "f", -1, STRANGER[1]))
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.utime(at / "f"))


@case
def permissions_of_files(at: Path) -> None:
    file(at / "f", b"#!/bin/sh\n")
    os.chown(at / "f", *USER)
    reads = lambda: os.close(os.open(at / "f", os.O_RDONLY))  # noqa: E731
    writes = lambda: os.close(os.open(at / "f", os.O_WRONLY))  # noqa: E731
    executes = lambda: os.execv(at / "f", ["f"])  # noqa: E731
    for who, shift in ((USER, 6), (FRIEND, 3), (STRANGER, 0)):
        for try_it, bit in ((reads, 4), (writes, 2)):
            os.chmod(at / "f", 0o777 & ~(bit << shift))
            with fails(errno.EACCES):
                as_user(who, try_it)
            os.chmod(at / "f", bit << shift)
            as_user(who, try_it)
        os.chmod(at / "f", 0o777 & ~(1 << shift))
        with fails(errno.EACCES):
            as_user(who, executes)
    os.chmod(at / "f", 0)
    reads()
    writes()
    with fails(errno.EACCES):
        executes()


@case
def permissions_of_directories(at: Path) -> None:
    os.mkdir(at / "d")
    file(at / "d/f")
    os.chown(at / "d", *USER)
    for who, shift in ((USER, 6), (FRIEND, 3), (STRANGER, 0)):
        os.chmod(at / "d", 4 << shift)
        as_user(who, lambda: os.listdir(at / "d"))
        with fails(errno.EACCES):
            as_user(who, lambda: os.stat(at / "d/f"))
        os.chmod(at / "d", 1 << shift)
        as_user(who, lambda: os.stat(at / "d/f"))
        with fails(errno.EACCES):
            as_user(who, lambda: os.listdir(at / "d"))
        for try_it in (
            lambda: os.mkdir(at / "d/x"),
            lambda: os.unlink(at / "d/f"),
            lambda: os.rename(at / "d/f", at / "d/g"),
            lambda: os.symlink("f", at / "d/g"),
        ):
            os.chmod(at / "d", 5 << shift)
            with fails(errno.EACCES):
                as_user(who, try_it)
        os.chmod(at / "d", 3 << shift)
        as_user(who, lambda: (os.mkdir(at / "d/x"), os.rmdir(at / "d/x")))
    os.chmod(at / "d", 0)
    assert os.listdir(at / "d") == ["f"]
    os.chmod(at / "d", 0o700)


@case
def a_directory_that_moves_needs_to_be_writable(at: Path) -> None:
    """Its '..' changes."""
    os.chmod(at, 0o777)
    os.makedirs(at / "a/d")
    os.mkdir(at / "b")
    for name in ("a", "b"):
        os.chown(at / name, *USER)
    with fails(errno.EACCES):
        as_user(USER, lambda: os.rename(at / "a/d", at / "b/d"))
    os.chown(at / "a/d", *USER)
    as_user(USER, lambda: os.rename(at / "a/d", at / "b/d"))


@case
def access_tells_the_truth(at: Path) -> None:
    file(at / "f", mode=0o640)
    os.chown(at / "f", *USER)

    def check(expected: tuple[bool, ...]) -> None:
        found = tuple(os.access(at / "f", how) for how in (os.F_OK, os.R_OK, os.W_OK, os.X_OK))
        if found != expected:
            raise OSError(errno.EDOM, str(found))

    as_user(USER, lambda: check((True, True, True, False)))
    as_user(FRIEND, lambda: check((True, True, False, False)))
    as_user(STRANGER, lambda: check((True, False, False, False)))
    check((True, True, True, False))


@case
def sticky_directories(at: Path) -> None:
    os.mkdir(at / "t")
    os.chmod(at / "t", 0o1777)
    for who, name in ((USER, "mine"), (STRANGER, "theirs")):
        file(at / "t" / name, mode=0o666)
        os.chown(at / "t" / name, *who)
    for try_it in (
        lambda: os.unlink(at / "t/theirs"),
        lambda: os.rename(at / "t/theirs", at / "t/x"),
        lambda: os.rename(at / "t/mine", at / "t/theirs"),
    ):
        with fails(errno.EPERM):
            as_user(USER, try_it)
    as_user(USER, lambda: os.rename(at / "t/mine", at / "t/renamed"))
    as_user(USER, lambda: os.unlink(at / "t/renamed"))
    os.chown(at / "t", *USER)
    as_user(USER, lambda: os.unlink(at / "t/theirs"))


@case
def setgid_directories_give_their_group(at: Path) -> None:
    os.mkdir(at / "d")
    os.chown(at / "d", 0, 77)
    os.chmod(at / "d", 0o2777)
    as_user(
        USER, lambda: (file(at / "d/f"), os.mkdir(at / "d/sub"), os.mkfifo(at / "d/p"), os.symlink("f", at / "d/l"))
    )
    for name in ("f", "sub", "p", "l"):
        assert os.lstat(at / "d" / name).st_gid == 77, name
    assert mode(at / "d/sub") & stat.S_ISGID and not mode(at / "d/f") & stat.S_ISGID
    os.mkdir(at / "d/sub/deeper")
    assert os.stat(at / "d/sub/deeper").st_gid == 77
    as_user(USER, lambda: os.close(os.open(at / "d/x", os.O_CREAT | os.O_WRONLY, 0o2755)))
    assert mode(at / "d/x") == 0o755, "the setgid bit is only for members of the group"


@case
def setgid_is_lost_when_a_stranger_to_the_group_changes_the_mode(at: Path) -> None:
    file(at / "f")
    os.chown(at / "f", USER[0], 77)
    as_user(USER, lambda: os.chmod(at / "f", 0o2755))
    assert mode(at / "f") == 0o755
    os.chown(at / "f", *USER)
    as_user(USER, lambda: os.chmod(at / "f", 0o2755))
    assert mode(at / "f") == 0o2755


def privileged(path: Path, bits: int = 0o6777) -> None:
    os.chown(path, *USER)
    os.chmod(path, bits)


@case
def setuid_is_cleared_by_a_write(at: Path) -> None:
    file(at / "f")
    for try_it in (
        lambda: (at / "f").write_bytes(b"x"),
        lambda: os.truncate(at / "f", 0),
        lambda: os.close(os.open(at / "f", os.O_WRONLY | os.O_TRUNC)),
    ):
        (at / "f").write_bytes(b"something")
        privileged(at / "f")
        as_user(STRANGER, try_it)
        assert mode(at / "f") == 0o777
    privileged(at / "f", 0o4755)
    as_user(USER, lambda: (at / "f").write_bytes(b"x"))
    assert mode(at / "f") == 0o755, "the owner's own write, too"
    privileged(at / "f")
    (at / "f").write_bytes(b"root may")
    assert mode(at / "f") == 0o6777
    as_user(STRANGER, lambda: (at / "f").read_bytes())
    assert mode(at / "f") == 0o6777


@case
def setuid_is_cleared_by_a_new_owner(at: Path) -> None:
    file(at / "f")
    privileged(at / "f")
    os.chown(at / "f", 5, 6)
    assert mode(at / "f") == 0o777
    privileged(at / "f")
    as_user(USER, lambda: os.chown(at / "f", -1, USER[1]))
    assert mode(at / "f") == 0o777
    os.mkdir(at / "d")
    os.chmod(at / "d", 0o6755)
    os.chown(at / "d", 5, 6)
    assert mode(at / "d") == 0o6755, "not that of a directory"


@case
def capabilities_are_cleared_like_setuid(at: Path) -> None:
    file(at / "f", mode=0o777)
    for change in (
        lambda: os.chown(at / "f", 5, 6),
        lambda: as_user(STRANGER, lambda: (at / "f").write_bytes(b"x")),
        lambda: as_user(STRANGER, lambda: os.truncate(at / "f", 0)),
    ):
        os.setxattr(at / "f", "security.capability", CAPABILITY)
        assert os.getxattr(at / "f", "security.capability") == CAPABILITY
        change()
        with fails(errno.ENODATA):
            os.getxattr(at / "f", "security.capability")
