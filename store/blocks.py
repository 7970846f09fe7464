"""What a store of blocks is: bytes by CID, counted roots, and one atomic change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from store.cid import Algorithm, Cid
from store.tables import Tables

_T = TypeVar("_T")


class Blocks(Protocol):
    """Where blocks are read."""

    @property
    def algorithm(self) -> Algorithm: ...

    def get(self, cid: Cid) -> bytes:
        """Return the block, checked against its CID. Raises NotFound, Corrupt."""
        ...

    def has(self, cid: Cid) -> bool:
        """True if the block's bytes are here, be they good or bad."""
        ...


@dataclass(frozen=True, slots=True)
class RootChange:
    """One root's record goes from `old` to `new` (None: no such root). A record is DAG-CBOR; its links are counted."""

    key: bytes
    old: bytes | None
    new: bytes | None


@dataclass(frozen=True, slots=True)
class Change:
    """All that one transaction does: store blocks (children before parents), then change roots.

    `borrowed` blocks are held in another store for this one: references to them are counted although they are not here.
    """

    blocks: Mapping[Cid, bytes] = field(default_factory=dict)
    roots: tuple[RootChange, ...] = ()
    borrowed: frozenset[Cid] = frozenset()


@dataclass(frozen=True, slots=True)
class Freed:
    """What a step of garbage collection deleted, and how many blocks still wait for a later step."""

    blocks: int
    bytes: int
    waiting: int

    def __add__(self, other: Freed) -> Freed:
        return Freed(self.blocks + other.blocks, self.bytes + other.bytes, other.waiting)


@dataclass(frozen=True, slots=True)
class Usage:
    """Sizes in bytes: `plain` before compression, `stored` after, `file` what the disk gives for it."""

    blocks: int
    plain: int
    stored: int
    file: int
    waiting: int


class Store(Blocks, Protocol):
    """A place that keeps blocks for as long as a root needs them."""

    def apply(self, change: Change) -> int:
        """Do all of `change` or nothing, durably. Returns the number of blocks that were new.

        Raises RootMoved if a root is not what `old` says, MissingLink, NoSpace.
        """
        ...

    def root(self, key: bytes) -> bytes | None: ...

    def roots(self, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        """Return (key, record) of every root whose key starts with `prefix`, in order of the keys."""
        ...

    def root_keys(self, prefix: bytes = b"") -> list[bytes]:
        """Return the same keys without reading the records, which may be large."""
        ...

    def count(self, cid: Cid) -> int | None:
        """Return how many blocks and roots refer to `cid`; None if the store has neither it nor a link to it."""
        ...

    def cids(self) -> Iterator[Cid]:
        """Yield every block's CID; blocks that come or go meanwhile may be missed."""
        ...

    def peek(self, cid: Cid) -> bytes:
        """Return the block unchecked. Raises NotFound. Only `check` has a use for this."""
        ...

    def gc(self, blocks_max: int) -> Freed:
        """Delete up to `blocks_max` blocks that nothing refers to, in one transaction."""
        ...

    def usage(self) -> Usage: ...

    def steady(self) -> AbstractContextManager[None]:
        """Keep readable all that is here now, with all that it refers to, whatever others let go of and collect.

        For readers who need no record in the store and are done soon: a store may not use again what is deleted
        meanwhile. They write nothing themselves inside, and do not nest it. Ends with the process at the latest.
        """
        ...

    def view(self, work: Callable[[Tables], _T]) -> _T:
        """Run `work` on all that the store holds at one moment; others may write meanwhile, it does not see that.

        Only for `check`: the store's other readers in this process wait, so `work` must not call the store itself.
        """
        ...

    def repair(self, work: Callable[[Tables], _T]) -> _T:
        """Run `work` in one write transaction. Only for `check --repair`: it must leave the counts right."""
        ...

    def close(self) -> None: ...


def dereference(store: Store, key: bytes) -> None:
    """Remove the root `key`; what only it held is freed by the next gc. Does nothing if there is no such root."""
    record = store.root(key)
    if record is not None:
        store.apply(Change(roots=(RootChange(key, record, None),)))


def collect(store: Store, step: int) -> Iterator[Freed]:
    """Delete everything that nothing refers to, `step` blocks a transaction; yields the sum so far after each."""
    total = store.gc(step)
    yield total
    while total.waiting:
        total = total + store.gc(step)
        yield total
