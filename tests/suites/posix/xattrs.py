"""Extended attributes."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from tests.suites.posix.tools import STRANGER, as_user, call, case, fails, file, moved


@case
def xattrs_come_and_go(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    for name in ("f", "d"):
        path = at / name
        for key in ("user.a", "user." + "k" * 250, "trusted.t", "security.s"):
            for value in (b"", b"v", bytes(range(256))):
                os.setxattr(path, key, value)
                assert os.getxattr(path, key) == value
        assert {key for key in os.listxattr(path) if key != "security.selinux"} == {
            "user.a",
            "user." + "k" * 250,
            "trusted.t",
            "security.s",
        }
        os.removexattr(path, "user.a")
        with fails(errno.ENODATA):
            os.getxattr(path, "user.a")
        with fails(errno.ENODATA):
            os.removexattr(path, "user.a")
    assert moved(at / "f", lambda: os.setxattr(at / "f", "user.a", b"1")) == "c"
    assert moved(at / "f", lambda: os.removexattr(at / "f", "user.a")) == "c"


@case
def xattrs_refuse(at: Path) -> None:
    file(at / "f")
    os.setxattr(at / "f", "user.a", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(at / "f", "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(at / "f", "user.a", b"3", os.XATTR_REPLACE)
    with fails(errno.ENODATA):
        os.setxattr(at / "f", "user.b", b"4", os.XATTR_REPLACE)
    with fails(errno.ERANGE):
        os.setxattr(at / "f", "user." + "n" * 251, b"")
    with fails(errno.E2BIG):
        os.setxattr(at / "f", "user.big", bytes((1 << 16) + 1))
    with fails(errno.EOPNOTSUPP):
        os.setxattr(at / "f", "nonsense", b"")
    with fails(errno.ERANGE):
        call("getxattr", os.fsencode(at / "f"), b"user.long", None, 0) if os.setxattr(
            at / "f", "user.long", b"x" * 100
        ) else call("getxattr", os.fsencode(at / "f"), b"user.long", ctypes.create_string_buffer(10), 10)
    assert call("getxattr", os.fsencode(at / "f"), b"user.long", None, 0) == 100


@case
def user_xattrs_are_for_files_and_directories(at: Path) -> None:
    os.symlink("x", at / "l")
    os.mkfifo(at / "p")
    for name in ("l", "p"):
        with fails(errno.EPERM):
            os.setxattr(at / name, "user.a", b"1", follow_symlinks=False)
        os.setxattr(at / name, "trusted.a", b"1", follow_symlinks=False)
        assert os.listxattr(at / name, follow_symlinks=False) == ["trusted.a"]


@case
def xattrs_have_permissions(at: Path) -> None:
    file(at / "f", mode=0o644)
    os.setxattr(at / "f", "user.a", b"1")
    os.setxattr(at / "f", "trusted.t", b"1")

    def sees_user_attributes_only() -> None:
        if os.listxattr(at / "f") != ["user.a"]:
            raise OSError(errno.EDOM, "trusted attributes are not for everybody")

    as_user(STRANGER, lambda: os.getxattr(at / "f", "user.a"))
    as_user(STRANGER, sees_user_attributes_only)
    for key, number in (("user.a", errno.EACCES), ("trusted.t", errno.EPERM), ("security.x", errno.EPERM)):
        with fails(number):
            as_user(STRANGER, lambda key=key: os.setxattr(at / "f", key, b"2"))
    with fails(errno.ENODATA):
        as_user(STRANGER, lambda: os.getxattr(at / "f", "trusted.t"))
    os.chmod(at / "f", 0o600)
    with fails(errno.EACCES):
        as_user(STRANGER, lambda: os.getxattr(at / "f", "user.a"))
