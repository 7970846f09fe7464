"""What can go wrong in a store; each error says what the caller can do about it."""

from __future__ import annotations


class MonofsError(Exception):
    """Base of every error a user is told about. Its text is one line."""


class StoreError(MonofsError):
    """Base of the store's errors."""


class NotFound(StoreError):
    """A block, path or name that is not there."""


class Corrupt(StoreError):
    """Bytes that are not what their CID promises, or a node that breaks the format."""

    def __init__(self, cid: bytes, why: str = "its bytes do not match its CID") -> None:
        super().__init__(f"block {cid!r} is corrupt: {why}; run 'monofs check'")
        self.cid = cid
        self.why = why


class BadCid(StoreError):
    """Text that is not a CID this store can use."""


class BadName(StoreError):
    """A name that a store does not accept."""


class WrongKind(StoreError):
    """A block or an entry of another kind than the caller needs."""


class NameTaken(StoreError):
    """The name exists already."""


class RootMoved(StoreError):
    """Somebody else changed this root first; read it again and retry."""


class MissingLink(StoreError):
    """A block or root refers to a block that the store does not have."""


class TooLarge(StoreError):
    """Something is over one of the limits in `limits.py`."""


class NoSpace(StoreError):
    """The disk is full. Nothing was changed; free some room and try again."""


class NotAStore(StoreError):
    """The directory is not a monofs store."""


class FutureStore(StoreError):
    """The store's format is one that this version does not know."""


class Held(StoreError):
    """The name is mounted; its holder must let go first."""


class Skipped(StoreError):
    """The work was done, except for the files named in `paths`."""

    def __init__(self, message: str, paths: list[str]) -> None:
        super().__init__(message)
        self.paths = paths
