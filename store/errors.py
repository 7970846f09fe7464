"""What can go wrong in a store; each error says what the caller can do about it."""

from __future__ import annotations


class MonofsError(Exception):
    """Base of every error a user is told about. Its text is one line."""


class StoreError(MonofsError):
    """Base of the store's errors."""


class NotFound(StoreError):
    """A block, path or name is not there. Look at what is ('monofs names', 'monofs ls') and ask for that."""


class Corrupt(StoreError):
    """Bytes that are not what their CID promises, or a document that breaks the format. `check` tells what is lost.

    Everything that does not need this block can still be read. A record of a store has no CID; it is all zeros then.
    """

    def __init__(self, cid: bytes, why: str = "its bytes do not match its CID") -> None:
        what = f"block {cid!r}" if any(cid) else "a record of this store"
        super().__init__(f"{what} is corrupt: {why}; run 'monofs check'")
        self.cid = cid
        self.why = why


class BadCid(StoreError):
    """Text that is not a CID this store can use. Type it again."""


class BadName(StoreError):
    """A name that a store does not accept. Choose another."""


class BadPolicy(StoreError):
    """Text that does not say what to keep. Type it again."""


class WrongKind(StoreError):
    """A block or an entry of another kind than the caller needs, or of a later format. Ask for another."""


class NameTaken(StoreError):
    """The name exists already. Forget it or choose another."""


class RootMoved(StoreError):
    """Somebody else changed this root first. Read it again and retry."""


class MissingLink(StoreError):
    """A block or root refers to a block that the store does not have. Put that first; nothing was changed."""


class TooLarge(StoreError):
    """Something is over one of the limits in `limits.py`. Nothing was changed; use less of it."""


class NoSpace(StoreError):
    """The disk is full. Nothing was changed; free some room and try again."""


class NotAStore(StoreError):
    """The directory is not a monofs store. Name another."""


class FutureStore(StoreError):
    """The store's format is one that this version does not know. Use a newer monofs."""


class Held(StoreError):
    """The name is mounted. Its holder must let go first."""


class Skipped(StoreError):
    """The files in `paths` could not be read, and the caller wanted all or nothing. Leave them out or allow it."""

    def __init__(self, message: str, paths: list[str]) -> None:
        super().__init__(message)
        self.paths = paths
