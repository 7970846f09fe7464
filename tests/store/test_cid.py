"""CIDs as people type them, with `multiformats` as the judge."""

from __future__ import annotations

import contextlib
from hashlib import sha256

import multiformats
import pytest
from blake3 import blake3
from hypothesis import assume, given
from hypothesis import strategies as st

from store import cid as cids
from store.cid import ALGORITHMS, BLAKE3, DAG_CBOR, RAW, SHA2_256, Algorithm, Cid
from store.errors import BadCid, Corrupt
from tests.store.models import examples

algorithms = st.sampled_from([BLAKE3, SHA2_256])
made = st.builds(
    lambda algorithm, data, node: algorithm.node(data) if node else algorithm.raw(data),
    algorithms, st.binary(max_size=50), st.booleans(),
)  # fmt: skip

DIGESTS = {BLAKE3: lambda data: blake3(data).digest(), SHA2_256: lambda data: sha256(data).digest()}

# as multiformats names them; base32 has a path of its own
BASES = ["base2", "base8", "base16", "base16upper", "base32", "base32upper", "base32hex", "base36", "base58btc"]
BASES += ["base58flickr", "base64", "base64url", "base32z"]


def oracle(algorithm: Algorithm, codec: str, data: bytes) -> multiformats.CID:
    return multiformats.CID("base32", 1, codec, multiformats.multihash.wrap(DIGESTS[algorithm](data), algorithm.name))


@given(algorithms, st.binary(max_size=200))
@examples(100)
def test_made_as_multiformats_makes_them(algorithm: Algorithm, data: bytes) -> None:
    for ours, codec in ((algorithm.raw(data), "raw"), (algorithm.node(data), "dag-cbor")):
        theirs = oracle(algorithm, codec, data)
        assert bytes(theirs) == ours and str(theirs) == str(ours)
        assert ours.is_node is (codec == "dag-cbor")
        assert cids.parse(str(ours)) == ours and type(cids.parse(str(ours))) is Cid
        assert cids.looks_like(str(ours))
        cids.verify(ours, data)
        with pytest.raises(Corrupt, match=str(ours)):
            cids.verify(ours, data + b"x")


@pytest.mark.parametrize("base", BASES)
def test_other_multibases(base: str) -> None:
    for algorithm in ALGORITHMS.values():
        ours = algorithm.node(b"some node")
        assert cids.parse(multiformats.CID.decode(bytes(ours)).encode(base)) == ours


def test_the_empty_block() -> None:
    """Fixed by hand: sha2-256 and BLAKE3 of nothing, after 01 55 and the multihash head."""
    assert SHA2_256.raw(b"").hex() == "01551220" + "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert BLAKE3.node(b"").hex() == "01711e20" + "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert str(SHA2_256.raw(b"")) == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


@pytest.mark.parametrize(
    "text",
    [
        "", "b", "z", "bafy", "hello", "b" * 59, "Q" * 46, "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyk",  # one character short
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykua",  # one too many
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykv",  # spare bits set
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyk1",  # no base32
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku=",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku\n",
        " bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvy\u212au",  # the Kelvin sign
        "z" * 100_000, "b" + "a" * 100_000, "\0", "z\n\x1b[2J", "🚀" * 50,
    ],
)  # fmt: skip
def test_malformed(text: str) -> None:
    with pytest.raises(BadCid) as caught:
        cids.parse(text)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 300


@given(st.text(max_size=70))
@examples(300)
def test_any_text_is_a_cid_or_bad(text: str) -> None:
    for candidate in (text, "b" + text, "z" + text, "bafy" + text):
        with contextlib.suppress(BadCid):
            assert cids.checked(cids.parse(candidate))


@given(made, st.integers(1, 58), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567=A1"))  # [0] names the alphabet
@examples(300)
def test_one_character_off_is_never_the_same_cid(cid: Cid, at: int, character: str) -> None:
    text = str(cid)
    other = text[:at] + character + text[at + 1 :]
    assume(other.lower() != text)
    with contextlib.suppress(BadCid):
        assert cids.parse(other) != cid


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ((1, 0x70, 0x12, 32), "codec 0x70"),  # dag-pb
        ((1, RAW, 0x13, 32), "hash function 0x13"),  # sha2-512
        ((1, RAW, 0x00, 32), "hash function 0x0"),  # identity
        ((0, RAW, 0x12, 32), "not a CIDv1"),
        ((2, DAG_CBOR, 0x1E, 32), "not a CIDv1"),
        ((1, RAW, 0x12, 31), "not a CIDv1"),
    ],
)
def test_cids_of_others(prefix: tuple[int, ...], message: str) -> None:
    with pytest.raises(BadCid, match=message):
        cids.checked(bytes(prefix) + bytes(32))


@given(st.binary(max_size=80))
@examples(200)
def test_checked_takes_36_good_bytes_only(data: bytes) -> None:
    with pytest.raises(BadCid):
        cids.checked(data)
    for other in (BLAKE3.raw(data)[:-1], BLAKE3.raw(data) + b"\0", BLAKE3.raw(data)[4:]):
        with pytest.raises(BadCid):
            cids.checked(other)
    assert cids.checked(bytes(BLAKE3.raw(data))) == BLAKE3.raw(data)


def test_printing_does_not_depend_on_how() -> None:
    cid = BLAKE3.raw(b"x")
    assert f"{cid}" == str(cid) == repr(cid) == f"{cid!r}"
    assert cid == bytes(cid) and hash(cid) == hash(bytes(cid))
