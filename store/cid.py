"""A CID: the name of a block, made from its bytes. Inside monofs it is those bytes and nothing more."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Final

import blake3

from store.errors import BadCid, Corrupt

RAW: Final = 0x55
DAG_CBOR: Final = 0x71
BYTES: Final = 36  # version, codec, hash function, digest length, 32 bytes of digest


class Cid(bytes):
    """CIDv1 in its binary form: 01, codec, multihash."""

    __slots__ = ()

    def __str__(self) -> str:
        return "b" + base64.b32encode(self).decode("ascii").rstrip("=").lower()

    __repr__ = __str__

    @property
    def is_node(self) -> bool:
        return self[1] == DAG_CBOR


class Algorithm:
    """A hash function with the CID prefixes that go with it."""

    def __init__(self, name: str, code: int, digest: Callable[[bytes], bytes]) -> None:
        self.name = name
        self.code = code
        self.digest = digest
        self._raw = bytes((1, RAW, code, 32))
        self._node = bytes((1, DAG_CBOR, code, 32))

    def raw(self, data: bytes) -> Cid:
        return Cid(self._raw + self.digest(data))

    def node(self, data: bytes) -> Cid:
        return Cid(self._node + self.digest(data))


BLAKE3: Final = Algorithm("blake3", 0x1E, lambda data: blake3.blake3(data).digest())
SHA2_256: Final = Algorithm("sha2-256", 0x12, lambda data: hashlib.sha256(data).digest())
ALGORITHMS: Final = {a.name: a for a in (BLAKE3, SHA2_256)}
_BY_CODE: Final = {a.code: a for a in (BLAKE3, SHA2_256)}
_PREFIXES: Final = frozenset(bytes((1, codec, code, 32)) for codec in (RAW, DAG_CBOR) for code in _BY_CODE)


def checked(data: bytes) -> Cid:
    """Return `data` as a Cid, if it is one that monofs writes. Raises BadCid."""
    if len(data) == BYTES and data[:4] in _PREFIXES:
        return Cid(data)
    if len(data) != BYTES or data[0] != 1 or data[3] != 32:
        raise BadCid(f"not a CIDv1 with a 32-byte digest: {data[:40].hex()}")
    if data[1] not in (RAW, DAG_CBOR):
        raise BadCid(f"unknown codec {data[1]:#x}: monofs knows raw and dag-cbor")
    raise BadCid(f"unknown hash function {data[2]:#x}: monofs knows blake3 and sha2-256")


def verify(cid: Cid, data: bytes) -> None:
    """Raise Corrupt unless `data` is what `cid` names."""
    if _BY_CODE[cid[2]].digest(data) != cid[4:]:
        raise Corrupt(cid)


def looks_like(text: str) -> bool:
    """True if `text` can only be meant as a CID (so no name may look like this)."""
    return len(text) >= 46 and text.isalnum() and (text[0] in "bBfFzkKuUm" or text.startswith("Qm"))


def parse(text: str) -> Cid:
    """Read what a person typed. Base32 is read here; every other multibase by `multiformats`. Raises BadCid."""
    if not text.isascii() or len(text) > _TEXT_MAX:
        raise _malformed(text)
    if text.startswith("b"):
        body = text[1:].upper()
        try:
            data = base64.b32decode(body + "=" * (-len(body) % 8))
        except ValueError:
            raise _malformed(text) from None
        cid = checked(data)
        if str(cid) != text.lower():  # spare bits set: two spellings must not name one block
            raise _malformed(text)
        return cid
    import multiformats

    try:
        return checked(bytes(multiformats.CID.decode(text)))
    except BadCid:
        raise
    except Exception:  # multiformats raises KeyError, ValueError and more for bad input
        raise _malformed(text) from None


_TEXT_MAX: Final = 1 + 8 * BYTES  # base 2 is the longest spelling


def _malformed(text: str) -> BadCid:
    shown = ascii(text[:100])[1:-1]
    return BadCid(f"malformed CID: {shown[:80]}{'...' if len(shown) > 80 else ''}")
