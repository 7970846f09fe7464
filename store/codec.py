"""DAG-CBOR for nodes, through a compiled codec that refuses everything but the canonical form."""

from __future__ import annotations

from typing import Any, Final

import cbrrr

from store import cid as cids
from store.cid import Cid
from store.errors import Corrupt, StoreError

Doc = Any  # a decoded DAG-CBOR document: int, str, bytes, Cid, None, bool, list, dict


def encode(doc: Doc) -> bytes:
    data: bytes = cbrrr.encode_dag_cbor(doc, cid_type=Cid)
    return data


def decode(cid: Cid, data: bytes) -> Doc:
    """Return the document in the node `cid`. Raises Corrupt if it is not canonical DAG-CBOR."""
    try:
        return cbrrr.decode_dag_cbor(data, cid_ctor=cids.checked)
    except (ValueError, StoreError) as error:
        raise Corrupt(cid, f"not canonical DAG-CBOR ({error})") from None


def links(cid: Cid, data: bytes) -> frozenset[Cid]:
    """Return every block that the block `cid` refers to, each once. This is THE definition of a reference."""
    if not cid.is_node:
        return frozenset()
    return links_of_record(cid, data)


def links_of_record(cid: Cid, data: bytes) -> frozenset[Cid]:
    found: list[bytes] = []
    try:
        cbrrr.decode_dag_cbor(data, cid_ctor=found.append)
        return frozenset(map(cids.checked, found))
    except (ValueError, StoreError) as error:
        raise Corrupt(cid, f"not canonical DAG-CBOR ({error})") from None


def array_header(count: int) -> bytes:
    """The bytes that start a CBOR array of `count` items (RFC 8949, section 3)."""
    for limit, start, width in _ARRAY_FORMS:
        if count < limit:
            return bytes((start,)) + count.to_bytes(width, "big") if width else bytes((start + count,))
    raise ValueError(count)


_ARRAY_FORMS: Final = ((24, 0x80, 0), (1 << 8, 0x98, 1), (1 << 16, 0x99, 2), (1 << 32, 0x9A, 4))
