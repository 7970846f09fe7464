"""Blocks stored before anything refers to them, held for the process that will."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import count, islice
from typing import Final

from store import codec, limits
from store.blocks import Change, RootChange, Store
from store.cid import Cid
from store.errors import NoSpace, RootMoved, StoreError
from store.owner import Owner

PREFIX: Final = b"stage/"
_numbers: Final = count()  # two stages of one process must not share a key


class Stage:
    """One process's staged blocks. Held until the change that takes `drop()` along, or the owner's death."""

    def __init__(self, store: Store, purpose: str) -> None:
        self._store = store
        self._prefix = PREFIX + f"{Owner.current()}/{purpose}-{next(_numbers)}/".encode()
        self._keys: dict[bytes, None] = {}  # of our records, the oldest first
        self._next = 0
        self.new_blocks = 0

    def put(self, blocks: Mapping[Cid, bytes]) -> None:
        """Store blocks and hold them. Raises NoSpace."""
        if blocks:
            key = self._prefix + b"%08d" % self._next
            root = RootChange(key, None, _record(_tops(blocks)))
            self.new_blocks += self._store.apply(Change(blocks, (root,)))
            self._keys[key] = None
            self._next += 1

    def keep(self, wanted: frozenset[Cid]) -> None:
        """Hold `wanted` and let go of everything else that `keep` held. Raises MissingLink."""
        key = self._prefix + b"kept"
        old = self._store.root(key) if key in self._keys else None
        new = _record(sorted(wanted)) if wanted else None
        if old == new:
            return
        self._store.apply(Change(roots=(RootChange(key, old, new),)))
        if new is None:
            del self._keys[key]
        else:
            self._keys[key] = None

    def drop(self) -> tuple[RootChange, ...]:
        """Return changes that let go of what is held, but of no more than one transaction should.

        Call `dropped` once they are applied.
        """
        some = islice(self._keys, limits.stage_records_per_step)
        return tuple(RootChange(key, self._store.root(key), None) for key in some)

    def dropped(self, changes: tuple[RootChange, ...]) -> None:
        """Let go of the rest, too. If the disk is full or broken that has to wait for a later time, or our end."""
        self._forget(changes)
        with suppress(StoreError):  # what the caller wanted is done
            self.release()

    def release(self) -> None:
        """Let go of everything, with nothing to take its place. Raises NoSpace."""
        while changes := self.drop():
            self._store.apply(Change(roots=changes))
            self._forget(changes)

    def _forget(self, changes: tuple[RootChange, ...]) -> None:
        for change in changes:
            del self._keys[change.key]


def sweep(store: Store) -> int:
    """Drop the records of dead owners; returns how many. Several processes may do so at once.

    On a full disk they stay, for another time.
    """
    alive: dict[bytes, bool] = {}  # a long import has thousands of records
    swept = 0
    for key in store.root_keys(PREFIX):
        owner = key[len(PREFIX) :].partition(b"/")[0]
        if owner not in alive:
            alive[owner] = _is_alive(owner)
        if not alive[owner]:
            try:
                store.apply(Change(roots=(RootChange(key, store.root(key), None),)))
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
