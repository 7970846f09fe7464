"""The counting rules: when a block lives and when it goes. Every store runs its transactions through here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from store import codec
from store.blocks import Change, Freed
from store.cid import Cid
from store.errors import Corrupt, MissingLink, RootMoved

RECORD_CID = Cid(bytes(36))  # stands for a root's record in errors; records have no CID of their own


class Transaction(Protocol):
    """A store's tables inside one write transaction. Every block has a count; those with count 0 are queued."""

    def put(self, cid: Cid, data: bytes) -> None: ...
    def peek(self, cid: Cid) -> bytes: ...
    def delete(self, cid: Cid) -> int: ...
    def count(self, cid: Cid) -> int | None: ...
    def set_count(self, cid: Cid, count: int) -> None: ...
    def queue(self, cid: Cid) -> None: ...
    def unqueue(self, cid: Cid) -> None: ...
    def queued(self) -> Iterator[Cid]: ...
    def queue_length(self) -> int: ...
    def root(self, key: bytes) -> bytes | None: ...
    def set_root(self, key: bytes, record: bytes | None) -> None: ...


def apply(txn: Transaction, change: Change) -> int:
    """Carry out `change`. Raises RootMoved, MissingLink; then the transaction must be given up."""
    delta: Counter[Cid] = Counter()
    new = []
    for cid, data in change.blocks.items():
        if txn.count(cid) is None:
            txn.put(cid, data)
            delta.update(codec.links(cid, data))
            new.append(cid)
    for root in change.roots:
        if txn.root(root.key) != root.old:
            raise RootMoved(f"{root.key.decode(errors='replace')} was changed by somebody else; try again")
        if root.old is not None:
            delta.subtract(codec.links_of_record(RECORD_CID, root.old))
        if root.new is not None:
            delta.update(codec.links_of_record(RECORD_CID, root.new))
        txn.set_root(root.key, root.new)
    for cid in new:
        count = delta.pop(cid, 0)
        txn.set_count(cid, count)
        if not count:
            txn.queue(cid)
    for cid, difference in delta.items():
        _change_count(txn, cid, difference)
    return len(new)


def gc(txn: Transaction, blocks_max: int) -> Freed:
    """Delete up to `blocks_max` queued blocks; what only they referred to joins the queue."""
    blocks = freed_bytes = 0
    while blocks < blocks_max:
        some = [cid for cid, _ in zip(txn.queued(), range(blocks_max - blocks))]
        if not some:
            break
        delta: Counter[Cid] = Counter()
        for cid in some:
            assert txn.count(cid) == 0, f"{cid} is queued but counted"
            delta.subtract(_links_or_none(cid, txn.peek(cid)))
            txn.unqueue(cid)
            freed_bytes += txn.delete(cid)
        blocks += len(some)
        for cid, difference in delta.items():
            if txn.count(cid) is not None:  # a corrupt or repaired store may miss it already
                _change_count(txn, cid, difference)
    return Freed(blocks, freed_bytes, txn.queue_length())


def _change_count(txn: Transaction, cid: Cid, difference: int) -> None:
    if not difference:
        return
    old = txn.count(cid)
    if old is None:
        raise MissingLink(f"no block {cid} in this store, but something refers to it")
    new = old + difference
    if new < 0:
        raise Corrupt(cid, "its reference count is lower than its references; 'monofs check --repair' recounts")
    txn.set_count(cid, new)
    if new == 0:
        txn.queue(cid)
    elif old == 0:
        txn.unqueue(cid)


def _links_or_none(cid: Cid, data: bytes) -> frozenset[Cid]:
    """Links of a block that is about to go; a corrupt one takes nothing with it (check --repair recounts)."""
    try:
        return codec.links(cid, data)
    except Corrupt:
        return frozenset()
