"""What a name may be, and the record behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import codec, limits, names
from store.cid import BLAKE3, SHA2_256
from store.errors import BadName, Corrupt
from store.names import Name

V, H = BLAKE3.node(b"version"), SHA2_256.node(b"head")


@pytest.mark.parametrize(
    "name", ["a", "7", "linux", "v1.2", "a/b", "work/linux/6.1", "A_b-c:d+e.f", "x" * limits.root_name_bytes_max]
)
def test_good_names(name: str) -> None:
    assert names.check(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "a/", "/a", "a//b", ".", "..", "a/..", ".hidden", "a/.b", "-x", "_x", "a b", "a\n", "a\0b", "é"),
        *("\udcff", "a\\b", "~", "*", "a;b", "x" * (limits.root_name_bytes_max + 1)),
    ],
)
def test_bad_names(name: str) -> None:
    with pytest.raises(BadName) as caught:
        names.check(name)
    assert "\n" not in str(caught.value).replace(name, "")


@pytest.mark.parametrize(
    "name",
    [
        str(V),
        str(V) + "/path",
        "b" + "a" * 58,
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        "zdj7WhuEjrB52m1BisYCtmjH1hSKa7yZ3jEZ9JcXaFRD51wVz",
    ],
)
def test_what_looks_like_a_cid_is_no_name(name: str) -> None:
    with pytest.raises(BadName, match="CID"):
        names.check(name)


def test_a_cid_may_be_a_later_part() -> None:
    assert names.check(f"backup/{V}")


@given(st.builds(Name, st.just(V), st.sampled_from([None, H]), st.booleans()))
def test_a_record_comes_back(name: Name) -> None:
    record = names.encode(name)
    assert names.decode(record) == name
    assert codec.links_of_record(V, record) == {name.version} | ({name.head} if name.head else set())


def test_a_record_leaves_defaults_out() -> None:
    assert codec.decode(V, names.encode(Name(V))) == {"version": V}


@pytest.mark.parametrize("doc", [{}, [], None, {"head": V}, "version", {"version": 1}, {"version": V, "head": 1}])
def test_a_record_that_breaks_the_format_is_corrupt(doc: codec.Doc) -> None:
    with pytest.raises(Corrupt):
        names.decode(codec.encode(doc))


def test_a_record_that_is_no_cbor_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        names.decode(b"\xff")
