"""A lease: who has mounted a name, or a tree for reading only."""

from __future__ import annotations

import itertools
import os
from typing import Final, NamedTuple

from store import codec
from store.cid import Cid
from store.errors import Corrupt, Held
from store.ledger import RECORD_CID
from store.owner import Owner

PREFIX: Final = b"lease/"  # what the keys of these roots begin with
_numbers: Final = itertools.count()


class Lease(NamedTuple):
    """`name` is None for a read-only mount, which holds `tree`; then `key` is no name's."""

    key: bytes
    name: str | None
    owner: Owner
    mountpoint: str
    socket: str
    tree: Cid

    @property
    def read_only(self) -> bool:
        return self.name is None

    def encode(self) -> bytes:
        return codec.encode(
            {
                "owner": self.owner.doc(),
                "name": self.name,
                "mountpoint": os.fsencode(self.mountpoint),
                "socket": os.fsencode(self.socket),
                "tree": self.tree,
            }
        )

    def refusal(self) -> Held:
        """The error for whoever wants the name too."""
        return Held(
            f"'{self.name}' is mounted on {self.mountpoint} by process {self.owner.pid}; "
            f"'monofs umount {self.mountpoint}' lets go of it"
        )


def decode(key: bytes, record: bytes) -> Lease:
    """Raises Corrupt."""
    doc = codec.decode(RECORD_CID, record)
    try:
        mountpoint, socket = os.fsdecode(doc["mountpoint"]), os.fsdecode(doc["socket"])
        return Lease(key, doc["name"], Owner.of(doc["owner"]), mountpoint, socket, doc["tree"])
    except (KeyError, TypeError):
        raise Corrupt(RECORD_CID, "a lease breaks the format") from None


def key_of(name: str) -> bytes:
    """The key of the one lease that `name` can have."""
    return PREFIX + b"w/" + name.encode()


def reader_key(owner: Owner) -> bytes:
    """A key for one more read-only mount."""
    return PREFIX + f"r/{owner}-{next(_numbers)}".encode()
