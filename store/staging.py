"""Blocks stored before anything refers to them, held for the process that will."""

from __future__ import annotations

from collections.abc import Mapping

from store import codec
from store.blocks import Change, RootChange, Store
from store.cid import Cid
from store.errors import RootMoved
from store.owner import Owner

PREFIX = b"stage/"


class Stage:
    """One process's staged blocks. Held until the change that takes `drop()` along, or the owner's death."""

    def __init__(self, store: Store, purpose: str) -> None:
        self._store = store
        self._owner = Owner.current()
        self._prefix = PREFIX + f"{self._owner.boot}-{self._owner.pid}-{self._owner.start}/{purpose}/".encode()
        self._records: dict[bytes, bytes] = {}
        self._kept: dict[bytes, frozenset[Cid]] = {}
        self._next = 0
        self.new_blocks = 0

    def put(self, blocks: Mapping[Cid, bytes]) -> None:
        """Store blocks and hold them. Raises NoSpace."""
        if blocks:
            self._hold(list(blocks), blocks)

    def drop(self) -> tuple[RootChange, ...]:
        """Return the changes that let go of everything held so far; call `dropped` once they are applied."""
        return tuple(RootChange(key, record, None) for key, record in self._records.items())

    def dropped(self, changes: tuple[RootChange, ...]) -> None:
        for change in changes:
            del self._records[change.key]

    def keep(self, wanted: frozenset[Cid]) -> None:
        """Hold `wanted` and let go of everything else that `keep` held. Raises MissingLink."""
        held = frozenset().union(*self._kept.values())
        if new := wanted - held:
            self._kept[self._hold(sorted(new), {})] = new
        for key, cids in list(self._kept.items()):
            if not cids & wanted:
                change = RootChange(key, self._records[key], None)
                self._store.apply(Change(roots=(change,)))
                self.dropped((change,))
                del self._kept[key]

    def release(self) -> None:
        """Let go of everything at once, with nothing to take its place."""
        changes = self.drop()
        if changes:
            self._store.apply(Change(roots=changes))
            self.dropped(changes)

    def _hold(self, cids: list[Cid], blocks: Mapping[Cid, bytes]) -> bytes:
        key = self._prefix + b"%08d" % self._next
        record = codec.encode({"owner": self._owner.doc(), "blocks": cids})
        self.new_blocks += self._store.apply(Change(blocks, (RootChange(key, None, record),)))
        self._next += 1
        self._records[key] = record
        return key


def sweep(store: Store, prefix: bytes = PREFIX) -> int:
    """Drop the records under `prefix` whose owner is dead; returns how many. Several processes may do so at once."""
    from store.ledger import RECORD_CID

    swept = 0
    for key, record in store.roots(prefix):
        if not Owner.of(codec.decode(RECORD_CID, record)["owner"]).is_alive():
            try:
                store.apply(Change(roots=(RootChange(key, record, None),)))
                swept += 1
            except RootMoved:
                continue  # another process was quicker
    return swept
