"""The counting rules: when a block lives and when it goes. Every store runs its transactions through here."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice

from store import codec, limits
from store.blocks import Change, Freed
from store.cid import Cid
from store.errors import Corrupt, MissingLink, NotFound, RootMoved
from store.tables import Tables

RECORD_CID = Cid(bytes(36))  # stands for a root's record in errors; records have no CID of their own


def apply(tables: Tables, change: Change) -> int:
    """Carry out `change`. Raises RootMoved, MissingLink; then the transaction must be given up."""
    delta: Counter[Cid] = Counter()
    new = []
    for cid in change.borrowed:
        if tables.count(cid) is None:
            tables.set_count(cid, 0)
            tables.queue(cid)
    for cid, data in change.blocks.items():
        if not tables.has(cid):
            tables.put(cid, data)
            delta.update(codec.links(cid, data))
            new.append(cid)
    for root in change.roots:
        if tables.root(root.key) != root.old:
            raise RootMoved(f"{root.key.decode(errors='replace')} was changed by somebody else; try again")
        if root.old is not None:
            delta.subtract(codec.links_of_record(RECORD_CID, root.old))
        if root.new is not None:
            delta.update(codec.links_of_record(RECORD_CID, root.new))
        tables.set_root(root.key, root.new)
    for cid in new:
        _count_new(tables, cid, delta.pop(cid, 0))
    for cid, difference in delta.items():
        _change_count(tables, cid, difference)
    return len(new)


def gc(tables: Tables, blocks_max: int) -> Freed:
    """Delete up to `blocks_max` blocks that nothing refers to: queued ones, and what only these referred to.

    Versions that go together share most of what they refer to, so counts are written once at the end.
    """
    counts = _Counts(tables)
    fallen: deque[Cid] = deque()  # to 0, just now: they are in no queue yet
    queued: Iterator[Cid] = iter(())
    done = blocks = freed_bytes = 0
    while done < blocks_max:
        if fallen:
            cid = fallen.popleft()
        else:
            found = next(queued, None)
            if found is None:
                queued = iter(list(islice(tables.queued(), blocks_max - done)))
                found = next(queued, None)
                if found is None:
                    break
            cid = found
            tables.unqueue(cid)
            if counts.get(cid):  # a damaged queue must not cost a block that is needed
                continue
        fallen.extend(link for link in _links_of_doomed(tables, cid) if counts.lowered(link))
        counts.drop(cid)
        blocks += tables.has(cid)
        freed_bytes += tables.lose(cid)
        done += 1
    counts.write()
    for cid in fallen:
        tables.queue(cid)
    return Freed(blocks, freed_bytes, tables.queue_length())


class _Counts:
    """Counts that go down, written late."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._new: dict[Cid, int] = {}

    def get(self, cid: Cid) -> int | None:
        return self._new[cid] if cid in self._new else self._tables.count(cid)

    def lowered(self, cid: Cid) -> bool:
        """Take one off; True if nothing refers to the block any more."""
        old = self.get(cid)
        if old is None:
            return False  # the block was lost, its count too
        if old == 0:
            raise Corrupt(cid, "more refers to it than was counted")
        self._new[cid] = old - 1
        if len(self._new) > limits.gc_counts_max:
            self.write()
        return old == 1

    def drop(self, cid: Cid) -> None:
        self._new.pop(cid, None)
        self._tables.drop_count(cid)

    def write(self) -> None:
        for cid, count in self._new.items():
            self._tables.set_count(cid, count)
        self._new = {}


def _count_new(tables: Tables, cid: Cid, references: int) -> None:
    """Count a block that was just put. One that had been lost is still known to those who refer to it."""
    old = tables.count(cid)
    new = (old or 0) + references
    tables.set_count(cid, new)
    if new == 0:
        tables.queue(cid)
    elif old == 0:
        tables.unqueue(cid)


def _change_count(tables: Tables, cid: Cid, difference: int) -> None:
    if not difference:
        return
    old = tables.count(cid)
    if old is None:
        if difference < 0:
            return  # the block was lost, its count too; a name must be free to let go of it all the same
        raise MissingLink(f"no block {cid} in this store, but something refers to it")
    new = old + difference
    if new < 0:
        raise Corrupt(cid, "more refers to it than was counted")
    tables.set_count(cid, new)
    if new == 0:
        tables.queue(cid)
    elif old == 0:
        tables.unqueue(cid)


def _links_of_doomed(tables: Tables, cid: Cid) -> frozenset[Cid]:
    """Links of a block that is about to go; a corrupt or lost one takes nothing with it (check --repair recounts)."""
    if not cid.is_node:
        return frozenset()
    try:
        return codec.links(cid, tables.load(cid)())
    except (Corrupt, NotFound):
        return frozenset()
