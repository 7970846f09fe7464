"""POSIX access lists, which the kernel keeps as binary attributes and archives as text."""

from __future__ import annotations

import struct
from typing import Final

from store.errors import StoreError

# The attribute, and what star, GNU tar and bsdtar call it in an archive.
KEYWORDS: Final = {
    b"system.posix_acl_access": "SCHILY.acl.access",
    b"system.posix_acl_default": "SCHILY.acl.default",
}

_VERSION: Final = struct.pack("<I", 2)
_ENTRY: Final = struct.Struct("<HHI")
_TAGS: Final = {0x01: "user", 0x02: "user", 0x04: "group", 0x08: "group", 0x10: "mask", 0x20: "other"}
_NAMED: Final = (0x02, 0x08)  # only these are about somebody in particular


class BadAcl(StoreError):
    """Bytes that are no access list."""


def text(value: bytes) -> str:
    """Return the list as setfacl writes it, with numbers for users and groups. Raises BadAcl."""
    body = value[len(_VERSION) :]
    if not value.startswith(_VERSION) or len(body) % _ENTRY.size:
        raise BadAcl("not an access list of version 2")
    parts = []
    for tag, allowed, who in _ENTRY.iter_unpack(body):
        if tag not in _TAGS or allowed > 7:
            raise BadAcl(f"an access list with the unknown tag {tag}")
        rights = "".join(right if allowed & bit else "-" for right, bit in zip("rwx", (4, 2, 1), strict=True))
        parts.append(f"{_TAGS[tag]}:{who if tag in _NAMED else ''}:{rights}")
    return ",".join(parts)
