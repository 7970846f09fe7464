"""DAG-CBOR against the `dag_cbor` package: the same bytes both ways, and nothing but the one form is read."""

from __future__ import annotations

from typing import Any

import dag_cbor
import multiformats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import codec
from store.cid import BLAKE3, SHA2_256, Cid
from store.errors import Corrupt
from tests.store.models import examples

links = st.binary(max_size=4).map(lambda d: BLAKE3.node(d) if len(d) % 2 else SHA2_256.raw(d))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 64), (1 << 64) - 1),
    st.binary(max_size=40),
    st.text(max_size=20),
    links,
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=8), inner, max_size=6)),
)


def theirs(doc: Any) -> Any:
    """The document as dag_cbor wants it: its own class for links."""
    match doc:
        case Cid():
            return multiformats.CID.decode(bytes(doc))
        case list():
            return [theirs(item) for item in doc]
        case dict():
            return {key: theirs(value) for key, value in doc.items()}
    return doc


def found_links(doc: Any) -> set[Cid]:
    match doc:
        case Cid():
            return {doc}
        case list():
            return set().union(*map(found_links, doc))
        case dict():
            return set().union(*map(found_links, doc.values()))
    return set()


@given(documents)
@examples(250)
def test_same_bytes_as_dag_cbor_both_ways(doc: Any) -> None:
    data = codec.encode(doc)
    assert data == dag_cbor.encode(theirs(doc))
    cid = BLAKE3.node(data)
    assert codec.decode(cid, data) == doc
    assert dag_cbor.decode(data) == theirs(doc)
    assert codec.links(cid, data) == found_links(doc)
    assert codec.links(BLAKE3.raw(data), data) == frozenset()  # plain bytes refer to nothing


@given(documents, st.data())
@examples(400)
def test_damaged_bytes_are_refused_or_canonical(doc: Any, draw: st.DataObject) -> None:
    """What is read at all is the one form of what it says: it is written again byte for byte."""
    data = bytearray(codec.encode(doc))
    for _ in range(draw.draw(st.integers(1, 3))):
        match draw.draw(st.sampled_from(["change", "cut", "insert"])):
            case "change" if data:
                data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
            case "cut":
                del data[draw.draw(st.integers(0, len(data))) :]
            case _:
                at = draw.draw(st.integers(0, len(data)))
                data[at:at] = draw.draw(st.binary(max_size=3))
    cid = BLAKE3.node(bytes(data))
    try:
        read = codec.decode(cid, bytes(data))
    except Corrupt as error:
        assert error.cid == cid
        with pytest.raises(Corrupt):
            codec.links(cid, bytes(data))
    else:
        assert codec.encode(read) == data
        assert codec.links(cid, bytes(data)) == found_links(read)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("1801", "an integer in more bytes than it needs"),
        ("190017", "the same in two"),
        ("5800", "a length in more bytes than it needs"),
        ("9801f6", "an array's length"),
        ("a2616201616101", "keys out of order"),
        ("a262616101616202", "keys out of order: the shorter goes first"),
        ("a2616101616102", "a key twice"),
        ("a10101", "a key that is no text"),
        ("a1416101", "a key of bytes"),
        ("5f4101ff", "indefinite length"),
        ("9fff", "an array of indefinite length"),
        ("bfff", "a map of indefinite length"),
        ("f7", "undefined"),
        ("f0", "a simple value"),
        ("fa3f800000", "a float in four bytes"),
        ("f93c00", "a float in two bytes"),
        ("fb7ff8000000000000", "not a number"),
        ("fb7ff0000000000000", "infinity"),
        ("62fffe", "text that is no UTF-8"),
        ("c11a514b67b0", "a tag that is not 42"),
        ("d82a4100", "a link of no bytes"),
        ("d82a582501" + "01551e20" + "00" * 32, "a link without the zero byte"),
        ("d82a582500" + "01701220" + "00" * 32, "a link to dag-pb"),
        ("d82a582500" + "01551320" + "00" * 32, "a link by an unknown hash function"),
        ("0101", "two documents"),
        ("", "nothing"),
        ("81", "the beginning of an array"),
        ("9bffffffffffffffff", "an array that no memory could hold"),
        ("bbffffffffffffffff", "a map that no memory could hold"),
        ("5bffffffffffffffff", "a string that no memory could hold"),
    ],
)
def test_refused(data: str, what: str) -> None:
    block = bytes.fromhex(data)
    cid = BLAKE3.node(block)
    for read in (codec.decode, codec.links):
        with pytest.raises(Corrupt, match="canonical"):
            read(cid, block)


def test_depth_without_end() -> None:
    """A block of nothing but opening brackets is no reason to run out of stack."""
    data = b"\x81" * (1 << 20)
    with pytest.raises(Corrupt):
        codec.decode(BLAKE3.node(data), data)
    data = data[:-1] + b"\x80"
    assert codec.links(BLAKE3.node(data), data) == frozenset()
    assert isinstance(codec.decode(BLAKE3.node(data), data), list)


@pytest.mark.parametrize("count", [0, 1, 23, 24, 255, 256, 65535, 65536, 70_000])
def test_array_header(count: int) -> None:
    assert codec.array_header(count) + b"\xf6" * count == codec.encode([None] * count)


def test_array_header_has_an_end() -> None:
    assert codec.array_header((1 << 32) - 1) == b"\x9a\xff\xff\xff\xff"
    with pytest.raises(ValueError):
        codec.array_header(1 << 32)
