"""Access lists as text."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from store import acl
from tests.suites import trees


def test_text() -> None:
    assert acl.text(trees.ACL) == "user::rw-,user:1000:r--,group::r--,mask::r--,other::---"


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\3\0\0\0" + trees.ACL[4:],
        trees.ACL[:-1],
        b"\2\0\0\0" + struct.pack("<HHI", 0x40, 7, 0),
        b"\2\0\0\0" + struct.pack("<HHI", 1, 8, 0),
    ],
)
def test_what_is_none_is_refused(bad: bytes) -> None:
    with pytest.raises(acl.BadAcl):
        acl.text(bad)


@pytest.mark.skipif(shutil.which("getfacl") is None, reason="needs getfacl")
def test_getfacl_says_the_same(ground: Path) -> None:
    (ground / "file").touch()
    trees.attribute(ground / "file", "system.posix_acl_access", trees.ACL)
    told = subprocess.run(
        ["getfacl", "--omit-header", "--numeric", "--absolute-names", ground / "file"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == acl.text(trees.ACL).split(",")
