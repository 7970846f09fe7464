"""A store over others: writes go to its own `top`, and what a base has already is borrowed instead of stored.

What the top refers to and does not have is written down in the base as roots, one for each such block, before the top
refers to it: so the base's own counts keep it, and all that is below it. The top counts its references to borrowed
blocks as it counts all others; when the last one goes, gc gives the block back. FORMAT.md has the whole protocol.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast

from store import cid as cids
from store import codec, limits
from store.blocks import Change, Freed, RootChange, Store, Usage
from store.cid import Algorithm, Cid
from store.errors import Corrupt, MissingLink, NoSpace, NotFound, RootMoved, StoreError
from store.gate import Gate
from store.ledger import RECORD_CID
from store.tables import Tables

_T = TypeVar("_T")
PREFIX: Final = b"borrow/"  # what the keys of these roots begin with


class LayeredStore:
    """`identity` tells this store from others that borrow from the same bases; `directory` is for its locks.

    Thread-safe; any number of processes may use it, and its bases, at once.
    """

    def __init__(self, top: Store, bases: Sequence[Store], identity: str, directory: Path) -> None:
        self.top, self.bases = top, tuple(bases)
        self._prefix = _prefix(identity)
        self._writing = Gate(directory / "write.lock")  # from borrowing until the top says so; nobody gives back then
        self._viewing = Gate(directory / "view.lock")  # nothing is given back while somebody looks at all of it

    @property
    def algorithm(self) -> Algorithm:
        return self.top.algorithm

    # Reading

    def get(self, cid: Cid) -> bytes:
        return self._first(cid, lambda store: store.get(cid))

    def peek(self, cid: Cid) -> bytes:
        return self._first(cid, lambda store: store.peek(cid))

    def has(self, cid: Cid) -> bool:
        return self.top.has(cid) or self._base_of(cid) is not None

    def count(self, cid: Cid) -> int | None:
        return self.top.count(cid)

    def cids(self) -> Iterator[Cid]:
        """Yield the CIDs of the top's own blocks."""
        return self.top.cids()

    def root(self, key: bytes) -> bytes | None:
        return self.top.root(key)

    def roots(self, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        return self.top.roots(prefix)

    def root_keys(self, prefix: bytes = b"") -> list[bytes]:
        return self.top.root_keys(prefix)

    def usage(self) -> Usage:
        """Return what the top takes; what is borrowed costs nothing here."""
        return self.top.usage()

    def view(self, work: Callable[[Tables], _T]) -> _T:
        """Show the top's own tables; `seen_through` adds what is borrowed, which stays where it is meanwhile."""
        with self._viewing.shared():
            return self.top.view(work)

    @contextmanager
    def steady(self) -> Iterator[None]:
        """What was borrowed when it began stays held in the bases."""
        with self._viewing.shared(), self.top.steady():
            yield

    def borrowed(self) -> dict[Cid, int]:
        """Return what is held in the bases for this store: each block, and in which base."""
        return {cid: number for number, base in enumerate(self.bases) for cid in self._held(base)}

    def unheld(self) -> list[Cid]:
        """Return blocks that the top refers to and a base has, but does not hold for it: its gc could take them."""
        with self._writing.exclusive():
            held = self.borrowed()
            return [cid for cid in self._leaned_on() if cid not in held and self._base_of(cid) is not None]

    def lacking(self) -> list[Cid]:
        """Return blocks that the top refers to and nobody has: they are lost."""
        with self._writing.exclusive():
            return [cid for cid in self._leaned_on() if self._base_of(cid) is None]

    # Writing

    def apply(self, change: Change) -> int:
        with self._writing.exclusive():
            for _ in range(limits.borrow_tries_max):
                planned, needed = self._planned(change)
                try:
                    held = self._hold(needed)
                except MissingLink:
                    continue  # a base has just deleted what it had: store that here
                try:
                    return self.top.apply(planned)
                except StoreError:
                    with suppress(StoreError):  # else the next gc does
                        # Looked up again: a change that failed may have been done all the same, if the disk lies.
                        self._give_back({cid: base for cid, base in held.items() if not self._leans_on(cid)})
                    raise
        raise StoreError("a base deletes blocks faster than they can be borrowed; try again")

    def gc(self, blocks_max: int) -> Freed:
        with self._writing.exclusive():
            freed = self.top.gc(blocks_max)
            if not freed.waiting:
                self._settle()
            return freed

    def repair(self, work: Callable[[Tables], _T]) -> _T:
        with self._writing.exclusive():
            result = self.top.repair(work)
            held = self.borrowed()
            missing = {cid: self._base_of(cid) for cid in self._leaned_on() if cid not in held}
            self._hold({cid: base for cid, base in missing.items() if base is not None})
            self._settle()
            return result

    def close(self) -> None:
        for store in (self.top, *self.bases):
            store.close()

    def planned(self, change: Change) -> Change:
        """Return what `apply` would ask of the top."""
        return self._planned(change)[0]

    # Borrowing; whoever calls these is alone

    def _planned(self, change: Change) -> tuple[Change, dict[Cid, int]]:
        """Return what is to be done in the top, and which blocks have to be borrowed for it from which base."""
        new = [cid for cid in change.blocks if not self.top.has(cid)]
        lent = {cid: base for cid in new if (base := self._base_of(cid)) is not None}
        stored = {cid: change.blocks[cid] for cid in new if cid not in lent}
        needed = self._needed(stored, change.roots, lent)
        return Change(stored, change.roots, change.borrowed.union(needed)), needed

    def _needed(
        self, stored: Mapping[Cid, bytes], roots: Iterable[RootChange], lent: Mapping[Cid, int]
    ) -> dict[Cid, int]:
        """Return what a change refers to that only a base has and the top does not know yet.

        What is in `lent` was seen in a base and is not stored for that; the base must not be asked again, which may
        have deleted it since: to hold it fails then, as it must.
        """
        links: set[Cid] = set()
        for cid, data in stored.items():
            links |= codec.links(cid, data)
        for root in roots:
            if root.new is not None:
                links |= codec.links_of_record(RECORD_CID, root.new)
        new = (cid for cid in links if cid not in stored and not self.top.has(cid) and self.top.count(cid) is None)
        found = {cid: lent[cid] if cid in lent else self._base_of(cid) for cid in new}
        return {cid: base for cid, base in found.items() if base is not None}

    def _hold(self, wanted: Mapping[Cid, int]) -> dict[Cid, int]:
        """Make each base hold what is wanted from it; returns what it did not hold yet. Raises MissingLink."""
        done: dict[Cid, int] = {}
        for number, base in enumerate(self.bases):
            new = [cid for cid, where in wanted.items() if where == number and base.root(self._key(cid)) is None]
            for some in _in_steps(new):
                base.apply(Change(roots=tuple(RootChange(self._key(cid), None, _record(cid)) for cid in some)))
                done.update(dict.fromkeys(some, number))
        return done

    def _give_back(self, held: Mapping[Cid, int]) -> None:
        for number, base in enumerate(self.bases):
            for some in _in_steps([cid for cid, where in held.items() if where == number]):
                _drop(base, [self._key(cid) for cid in some])

    def _settle(self) -> None:
        """Give back what the top does not need any more; on a full disk, or beside a view, at a later time."""
        with self._viewing.exclusive_now() as is_alone:
            if is_alone:
                spare = {cid: base for cid, base in self.borrowed().items() if not self._leans_on(cid)}
                with suppress(NoSpace):
                    self._give_back(spare)

    def _leans_on(self, cid: Cid) -> bool:
        return self.top.count(cid) is not None and not self.top.has(cid)

    def _leaned_on(self) -> list[Cid]:
        return self.top.view(lambda tables: [cid for cid, _ in tables.counts() if not tables.has(cid)])

    def _held(self, base: Store) -> Iterator[Cid]:
        for key in base.root_keys(self._prefix + b"/"):
            yield cids.parse(key.rpartition(b"/")[2].decode())

    def _key(self, cid: Cid) -> bytes:
        return self._prefix + b"/" + str(cid).encode()

    # The bases

    def _first(self, cid: Cid, read: Callable[[Store], bytes]) -> bytes:
        for store in (self.top, *self.bases):
            with suppress(NotFound):
                return read(store)
        raise NotFound(f"no block {cid} in this store, nor in those below it")

    def _base_of(self, cid: Cid) -> int | None:
        return next((number for number, base in enumerate(self.bases) if base.has(cid)), None)


def seen_through(store: Store, tables: Tables) -> Tables:
    """Return the tables of `store` with what is borrowed in them, to read; counting rules have no use for this."""
    return cast(Tables, _Tables(tables, store)) if isinstance(store, LayeredStore) else tables


class _Tables:
    """The top's tables; what is borrowed can be read through them."""

    def __init__(self, tables: Tables, store: LayeredStore) -> None:
        self._tables, self._store = tables, store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tables, name)

    def has(self, cid: Cid) -> bool:
        return self._tables.has(cid) or any(base.has(cid) for base in self._store.bases)

    def load(self, cid: Cid) -> Callable[[], bytes]:
        with suppress(NotFound):
            return self._tables.load(cid)
        for base in self._store.bases:
            if base.has(cid):
                return partial(base.peek, cid)
        raise NotFound(f"no block {cid} in this store, nor in those below it")


# What a base knows of the stores over it


class Top(NamedTuple):
    """A store that leans on this one. `path` is where it was last; `blocks` are those held for it."""

    identity: str
    path: str
    blocks: int


def new_identity() -> str:
    return uuid.uuid4().hex


def register(base: Store, identity: str, path: Path) -> None:
    """Let `base` know of the store at `path`, which will borrow from it."""
    key = _prefix(identity)
    base.apply(Change(roots=(RootChange(key, base.root(key), codec.encode({"path": str(path)})),)))


def path_of(base: Store, identity: str) -> Path | None:
    """Return where the base thinks this store is; None if it does not know it. Raises Corrupt."""
    record = base.root(_prefix(identity))
    return None if record is None else Path(_path(record))


def tops(base: Store) -> list[Top]:
    keys = [key[len(PREFIX) :].decode() for key in base.root_keys(PREFIX)]
    known = [key for key in keys if "/" not in key]
    return [
        Top(identity, str(path_of(base, identity)), sum(key.startswith(identity + "/") for key in keys))
        for identity in known
    ]


def forget(base: Store, identity: str) -> int:
    """Let go of all that is held for a store over this one, which can never be used again. Returns how many blocks."""
    keys = base.root_keys(_prefix(identity) + b"/")
    for start in range(0, len(keys), limits.borrow_records_per_step):
        _drop(base, keys[start : start + limits.borrow_records_per_step])
    _drop(base, [_prefix(identity)])
    return len(keys)


def forgetting(base: Store, identity: str) -> tuple[RootChange, ...]:
    """Return all that `forget` changes, as one change."""
    keys = [*base.root_keys(_prefix(identity) + b"/"), _prefix(identity)]
    return tuple(RootChange(key, base.root(key), None) for key in keys)


def _drop(base: Store, keys: list[bytes]) -> None:
    found = ((key, base.root(key)) for key in keys)
    with suppress(RootMoved):  # somebody else has just let go of them
        base.apply(Change(roots=tuple(RootChange(key, record, None) for key, record in found if record is not None)))


def _prefix(identity: str) -> bytes:
    return PREFIX + identity.encode()


def _record(cid: Cid) -> bytes:
    return codec.encode({"block": cid})


def _path(record: bytes) -> str:
    doc = codec.decode(RECORD_CID, record)
    if not isinstance(doc, dict) or not isinstance(doc.get("path"), str):
        raise Corrupt(RECORD_CID, "the record of a store over this one breaks the format")
    return str(doc["path"])


def _in_steps(found: Iterable[Cid]) -> Iterator[list[Cid]]:
    left = iter(found)
    while some := list(islice(left, limits.borrow_records_per_step)):
        yield some
