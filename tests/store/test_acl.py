"""Access control lists: as text, after a chmod, inherited."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import acl
from store.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Ace, Acl
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


bits = st.integers(0, 7)


@st.composite
def lists(draw: st.DrawFn) -> Acl:
    users = sorted(draw(st.sets(st.integers(0, 9), max_size=3)))
    groups = sorted(draw(st.sets(st.integers(0, 9), max_size=3)))
    mask = [Ace(MASK, draw(bits))] if users or groups or draw(st.booleans()) else []
    return (
        Ace(USER_OBJ, draw(bits)),
        *(Ace(USER, draw(bits), user) for user in users),
        Ace(GROUP_OBJ, draw(bits)),
        *(Ace(GROUP, draw(bits), group) for group in groups),
        *mask,
        Ace(OTHER, draw(bits)),
    )


@given(lists())
def test_encoding_round_trips(value: Acl) -> None:
    assert acl.decode(acl.encode(value)) == value


@given(lists(), st.integers(0, 0o777))
def test_after_a_chmod_the_list_shows_that_mode(value: Acl, mode: int) -> None:
    changed = acl.with_mode(value, mode)
    assert acl.mode_of(changed) == mode
    assert [ace for ace in changed if ace.tag in (USER, GROUP)] == [ace for ace in value if ace.tag in (USER, GROUP)]


@given(lists(), st.integers(0, 0o777))
def test_inheriting_grants_no_more_than_list_and_mode(value: Acl, mode: int) -> None:
    access, shown = acl.inherited(value, mode)
    assert shown == acl.mode_of(value) & mode == acl.mode_of(access)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\2\0\0",
        b"\1\0\0\0",
        acl.encode((Ace(USER_OBJ, 7),)),
        acl.encode((Ace(USER_OBJ, 7), Ace(USER, 7, 1), Ace(GROUP_OBJ, 7), Ace(OTHER, 7))),
        acl.encode((Ace(USER_OBJ, 8), Ace(GROUP_OBJ, 7), Ace(OTHER, 7))),
        acl.encode((Ace(OTHER, 7), Ace(GROUP_OBJ, 7), Ace(USER_OBJ, 7))),
        acl.encode((Ace(USER_OBJ, 7), Ace(GROUP_OBJ, 7), Ace(OTHER, 7), Ace(64, 7))),
    ],
)
def test_bad_lists_are_refused(bad: bytes) -> None:
    with pytest.raises(acl.BadAcl):
        acl.decode(bad)
