"""POSIX access control lists in the form the kernel passes them: the value of `system.posix_acl_access` and `_default`.

The algorithms are those of POSIX.1e draft 17, section 23, as acl(5) describes them. The kernel checks permissions;
keeping list and mode in step, and inheriting default lists, is the mount's part. Archives have lists as text.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from store.errors import StoreError

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

# The attribute, and what star, GNU tar and bsdtar call it in an archive.
KEYWORDS: Final = {ACCESS: "SCHILY.acl.access", DEFAULT: "SCHILY.acl.default"}

_VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_NOBODY: Final = 0xFFFFFFFF  # the id of entries that need none
_ORDER: Final = (USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER)
_ONCE: Final = (USER_OBJ, GROUP_OBJ, OTHER)
_ENTRIES_MAX: Final = 4096
_WORDS: Final = {USER_OBJ: "user", USER: "user", GROUP_OBJ: "group", GROUP: "group", MASK: "mask", OTHER: "other"}


class BadAcl(StoreError):
    """Bytes that are no valid list."""


class Ace(NamedTuple):
    tag: int
    permissions: int  # rwx
    id: int = _NOBODY


Acl = tuple[Ace, ...]


def decode(value: bytes) -> Acl:
    """Return the list in `value`; () for an empty one. Raises BadAcl."""
    body = value[_HEADER.size :]
    if len(value) < _HEADER.size or _HEADER.unpack_from(value)[0] != _VERSION or len(body) % _ENTRY.size:
        raise BadAcl("not an access list of version 2")
    acl = tuple(Ace(*fields) for fields in _ENTRY.iter_unpack(body))
    if acl and not _is_valid(acl):
        raise BadAcl("an access control list that POSIX does not allow")
    return acl


def encode(acl: Acl) -> bytes:
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*ace) for ace in acl)


def text(value: bytes) -> str:
    """Return the list as setfacl writes it, with numbers for users and groups. Raises BadAcl."""
    return ",".join(_ace_text(ace) for ace in decode(value))


def _ace_text(ace: Ace) -> str:
    rights = "".join(right if ace.permissions & bit else "-" for right, bit in zip("rwx", (4, 2, 1), strict=True))
    return f"{_WORDS[ace.tag]}:{ace.id if ace.tag in (USER, GROUP) else ''}:{rights}"


def mode_of(acl: Acl) -> int:
    """Return the nine permission bits that a file with this access list shows."""
    bits = {ace.tag: ace.permissions for ace in acl}
    return bits[USER_OBJ] << 6 | bits.get(MASK, bits[GROUP_OBJ]) << 3 | bits[OTHER]


def is_mode(acl: Acl) -> bool:
    """True if the list says no more than nine permission bits do."""
    return len(acl) == 3


def with_mode(acl: Acl, mode: int) -> Acl:
    """Return the list after a chmod: the mask, where there is one, takes the place of the group's bits."""
    has_mask = any(ace.tag == MASK for ace in acl)
    bits = {USER_OBJ: mode >> 6 & 7, MASK if has_mask else GROUP_OBJ: mode >> 3 & 7, OTHER: mode & 7}
    return tuple(ace._replace(permissions=bits.get(ace.tag, ace.permissions)) for ace in acl)


def inherited(default: Acl, mode: int) -> tuple[Acl, int]:
    """Return the access list and permission bits of what is made with `mode` in a directory with this default list."""
    limited = tuple(
        new._replace(permissions=old.permissions & new.permissions)
        for old, new in zip(default, with_mode(default, mode), strict=True)
    )
    return limited, mode_of(limited)


def _is_valid(acl: Acl) -> bool:
    tags = [ace.tag for ace in acl]
    if len(acl) > _ENTRIES_MAX or any(tag not in _ORDER for tag in tags) or any(ace.permissions & ~7 for ace in acl):
        return False
    named = [(ace.tag, ace.id) for ace in acl if ace.tag in (USER, GROUP)]
    if any(tags.count(tag) != 1 for tag in _ONCE) or len(set(named)) != len(named):
        return False
    if tags.count(MASK) > 1 or (named and MASK not in tags):
        return False
    return tags == sorted(tags, key=_ORDER.index)
