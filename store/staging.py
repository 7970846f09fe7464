"""Blocks stored before anything refers to them, held for the process that will."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Final

from store import codec
from store.blocks import Change, RootChange, Store
from store.cid import Cid
from store.errors import NoSpace, RootMoved
from store.owner import Owner

PREFIX: Final = b"stage/"
_numbers: Final = itertools.count()  # two stages of one process must not share a key


class Stage:
    """One process's staged blocks. Held until the change that takes `drop()` along, or the owner's death."""

    def __init__(self, store: Store, purpose: str) -> None:
        self._store = store
        self._prefix = PREFIX + f"{Owner.current()}/{purpose}-{next(_numbers)}/".encode()
        self._records: dict[bytes, bytes] = {}
        self._next = 0
        self.new_blocks = 0

    def put(self, blocks: Mapping[Cid, bytes]) -> None:
        """Store blocks and hold them. Raises NoSpace."""
        if blocks:
            key, record = self._prefix + b"%08d" % self._next, _record(_tops(blocks))
            self.new_blocks += self._store.apply(Change(blocks, (RootChange(key, None, record),)))
            self._records[key] = record
            self._next += 1

    def keep(self, wanted: frozenset[Cid]) -> None:
        """Hold `wanted` and let go of everything else that `keep` held. Raises MissingLink."""
        key = self._prefix + b"kept"
        old, new = self._records.get(key), _record(sorted(wanted)) if wanted else None
        if old == new:
            return
        self._store.apply(Change(roots=(RootChange(key, old, new),)))
        if new is None:
            del self._records[key]
        else:
            self._records[key] = new

    def drop(self) -> tuple[RootChange, ...]:
        """Return the changes that let go of everything held so far; call `dropped` once they are applied."""
        return tuple(RootChange(key, record, None) for key, record in self._records.items())

    def dropped(self, changes: tuple[RootChange, ...]) -> None:
        for change in changes:
            del self._records[change.key]

    def release(self) -> None:
        """Let go of everything at once, with nothing to take its place."""
        changes = self.drop()
        if changes:
            self._store.apply(Change(roots=changes))
            self.dropped(changes)


def sweep(store: Store) -> int:
    """Drop the records of dead owners; returns how many. Several processes may do so at once.

    On a full disk they stay, for another time.
    """
    alive: dict[bytes, bool] = {}  # a long import has thousands of records
    swept = 0
    for key, record in store.roots(PREFIX):
        owner = key[len(PREFIX) :].partition(b"/")[0]
        if owner not in alive:
            alive[owner] = _is_alive(owner)
        if not alive[owner]:
            try:
                store.apply(Change(roots=(RootChange(key, record, None),)))
                swept += 1
            except RootMoved:
                continue  # another process was quicker
            except NoSpace:
                break
    return swept


def _tops(blocks: Mapping[Cid, bytes]) -> list[Cid]:
    """Return those that no other of them refers to: they hold all the rest, and a million files need few records."""
    linked: set[Cid] = set()
    for cid, data in blocks.items():
        if cid.is_node:
            linked |= codec.links(cid, data)
    return [cid for cid in blocks if cid not in linked]


def _record(cids: Iterable[Cid]) -> bytes:
    return codec.encode({"blocks": list(cids)})


def _is_alive(owner: bytes) -> bool:
    try:
        return Owner.parse(owner.decode()).is_alive()
    except ValueError:
        return True  # not ours to judge
