"""Names: what people call their trees. A name points at a Version, and at a newer tree while one is being worked on."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from store import cid as cids
from store import codec, limits
from store.cid import Cid
from store.errors import BadName, Corrupt
from store.ledger import RECORD_CID

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]*(/[A-Za-z0-9][A-Za-z0-9._:+-]*)*")
EXPLICIT: Final = "docker://"  # what a reference to an image may begin with, as others write it, and no name can


class Name(NamedTuple):
    """`head` is the tree of the last commit if it is newer than the version. `made_up`: no person chose this name."""

    version: Cid
    head: Cid | None = None
    made_up: bool = False


def check(name: str) -> str:
    """Return `name` if it is a good one. Raises BadName."""
    if len(name.encode("utf-8", "replace")) > limits.root_name_bytes_max:
        raise BadName(f"a name may have {limits.root_name_bytes_max} bytes at most")
    if not _NAME.fullmatch(name):
        raise BadName(
            f"'{name}' is no good name: letters, digits and . _ : + - are, with / between parts "
            "that begin with a letter or digit"
        )
    if cids.looks_like(name.partition("/")[0]):
        raise BadName(f"'{name}' looks like a CID; choose another name")
    return name


def encode(name: Name) -> bytes:
    doc: codec.Doc = {"version": name.version}
    if name.head is not None:
        doc["head"] = name.head
    if name.made_up:
        doc["made_up"] = True
    return codec.encode(doc)


def decode(record: bytes) -> Name:
    """Raises Corrupt."""
    doc = codec.decode(RECORD_CID, record)
    if isinstance(doc, dict):
        version, head = doc.get("version"), doc.get("head")
        if isinstance(version, Cid) and (head is None or isinstance(head, Cid)):
            return Name(version, head, bool(doc.get("made_up")))
    raise Corrupt(RECORD_CID, "a name's record breaks the format")
