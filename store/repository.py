"""A repository: a store directory on disk, with its names, pins and leases."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from store import (
    backends,
    codec,
    history,
    layered_store,
    lease,
    limits,
    names,
    place,
    revision,
    staging,
    successor,
    version,
)
from store import cid as cids
from store.batch import Batch
from store.blocks import Change, RootChange, Store
from store.cache import Cache
from store.cid import Algorithm, Cid
from store.directory import printable
from store.errors import Corrupt, Held, MissingLink, NameTaken, NoSpace, NotFound, RootMoved, StoreError
from store.layered_store import LayeredStore
from store.lease import Lease
from store.names import Name
from store.owner import Owner
from store.place import Config
from store.staging import Stage
from store.version import Version

_T = TypeVar("_T")
NAME, PIN = b"name/", b"pin/"  # what the keys of these roots begin with


class Target(NamedTuple):
    """What a person meant by a revision: a tree, by which name if any, and a path inside it.

    `name` is only there for the newest tree of a name. `version` is the one that has this tree; None for a tree that
    was meant by its own CID, and for a head that is newer than the name's last version.
    """

    tree: Cid
    name: str | None
    path: bytes
    version: Cid | None = None


class Holder(Protocol):
    """Somebody who has mounted `name` and lets us move it."""

    name: str

    def move(self, old: Name, new: Name) -> None:
        """Make the name be `new` if it is `old`. Raises MonofsError; then nothing has changed."""
        ...


class Repository:
    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self.store = store
        self.cache = Cache(store)
        self.holder: Holder | None = None  # through whom a mounted name is moved

    # Opening

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Repository:
        """Open the store in `path`, made with the defaults if there is none. What dead processes held is let go.

        Raises NotAStore, FutureStore, NotFound (nothing there and not `create`), NoSpace, and StoreError if a store
        that it leans on is not there.
        """
        config = place.config_path(path)
        if not place.exists(config):
            if not create:
                place.refuse_strangers(path)
                raise NotFound(f"no store at {path}; 'monofs import' or 'monofs init' makes one")
            try:
                return cls.init(path)
            except NameTaken:
                pass  # another process was quicker
        repository = cls(path, backends.opened(path, place.read_config(path)))
        repository.sweep()
        return repository

    @classmethod
    def init(
        cls,
        path: Path,
        algorithm: Algorithm | None = None,
        *,
        backend: str = place.BACKENDS[0],
        bases: tuple[Path, ...] = (),
    ) -> Repository:
        """Make a store, over `bases` if there are any; then it has their hash function.

        Raises NameTaken if there is one, NotAStore if `path` holds something else, NotFound if a base is not there,
        NoSpace.
        """
        made = _config(path, algorithm, backend, bases)
        try:
            place.make(path)
            with place.alone(path):
                if place.exists(place.config_path(path)):
                    raise NameTaken(f"{path} is a store already")
                place.refuse_strangers(path)
                store = backends.make(path.resolve() if bases else path, made)
                place.write_config(path, made)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"no space left on the disk of {path}") from None
            raise StoreError(f"cannot make a store at {path}: {error.strerror}") from None
        return cls(path, store)

    def sweep(self) -> None:
        """Let go of what dead processes held: staged blocks and leases. On a full disk they stay, for another time."""
        staging.sweep(self.store)
        for key, record in self.store.roots(lease.PREFIX):
            try:
                if not lease.decode(key, record).owner.is_alive():
                    self.store.apply(Change(roots=(RootChange(key, record, None),)))
            except (RootMoved, Corrupt):
                continue  # another process was quicker; or a bad record, which is for check to tell
            except NoSpace:
                return

    @property
    def run_directory(self) -> Path:
        """Where sockets and logs of running mounts lie."""
        run = self.path / "run"
        run.mkdir(exist_ok=True, mode=0o700)
        return run

    def close(self) -> None:
        self.store.close()

    # Reading

    def resolve(self, text: str) -> Target:
        """Return what a revision and a path mean: see `revision`. Of names that could be meant the longest is;
        without one, an image's; and where this store has neither, what its bases have, to be read.

        Raises NotFound, BadCid.
        """
        if (found := self._resolved(text)) is not None:
            return found
        for base in self.bases():
            if (found := base._resolved(text)) is not None:
                return found._replace(name=None)  # nobody may write there from here
        if text.startswith(names.EXPLICIT):
            raise NotFound(f"no image '{printable(os.fsencode(text))}' in {self.path}; 'monofs images' lists them")
        first = text.partition("/")[0]
        raise NotFound(f"no name '{printable(os.fsencode(first))}' in {self.path}; 'monofs names' lists them")

    def _resolved(self, text: str) -> Target | None:
        if (named := self.named(text)) is not None:
            return named
        from store.oci import images  # which takes a while, and most commands are about names

        image = images.resolve(self.store, self.cache, text)
        return None if image is None else Target(image[0], None, image[1])

    def bases(self) -> Iterator[Repository]:
        """Yield the stores that this one leans on, and those that they lean on."""
        if isinstance(self.store, LayeredStore):
            for base, path in zip(self.store.bases, place.read_config(self.path).bases):
                below = Repository(Path(path), base)
                yield below
                yield from below.bases()

    def named(self, text: str) -> Target | None:
        """Return what a name or a CID with a path means; None where there is neither. Raises as `resolve` does."""
        if text.startswith(names.EXPLICIT):
            return None
        for stem, steps, path in revision.spellings(text):
            if (found := self.name(stem)) is not None:
                if not steps:
                    made = None if found.head else found.version
                    return Target(self.head(found), stem, os.fsencode(path), made)
                return self._earlier(found.version, steps, path)
            if "/" not in stem and (cid := self._cid(stem)) is not None:
                return self._earlier(cid, steps, path)
        return None

    @contextmanager
    def holding(self, *texts: str) -> Iterator[list[Target]]:
        """Keep the trees that these mean, for a long read: by a record in the store, which ends with this process.

        Short ones need no record: see `Store.steady`. Raises as `resolve` does.
        """
        stage = Stage(self.store, "read")
        for _ in range(limits.hold_tries_max):
            with self.store.steady():
                found = list(map(self.resolve, texts))
            try:
                stage.keep(frozenset(target.tree for target in found))
            except MissingLink:  # somebody was quicker: the name means another tree now
                continue
            except NoSpace:  # so no record can be made; what is here can still be read
                with self.store.steady():
                    yield list(map(self.resolve, texts))
                return
            try:
                yield found
            finally:
                with suppress(StoreError):  # on a full disk it ends when we do
                    stage.release()
            return
        raise StoreError("the tree changes faster than it can be held; try again")

    def retried(self, text: str, work: Callable[[Target], _T]) -> _T:
        """Run `work` on what `text` means; again if that was let go of meanwhile, because the name moved on."""
        for _ in range(limits.hold_tries_max):
            target = self.resolve(text)
            try:
                return work(target)
            except (NotFound, MissingLink):
                if self.resolve(text) == target:
                    raise
        raise StoreError(f"'{text}' changes faster than it can be read; try again")

    def _earlier(self, cid: Cid, steps: str, path: str) -> Target:
        if steps or isinstance(version.load(self.cache, cid), Version):
            cid, found = revision.follow(self.cache, cid, steps)
            return Target(found.tree, None, os.fsencode(path), cid)
        return Target(cid, None, os.fsencode(path))

    def _cid(self, text: str) -> Cid | None:
        """Return the CID that `text` is, or of which it is the beginning. Raises BadCid, and NotFound for several."""
        if revision.is_prefix(text) and (found := revision.unique(text, self._known())) is not None:
            return found
        return cids.parse(text) if cids.looks_like(text) else None

    def _known(self) -> Iterator[Cid]:
        """Yield the trees and versions that a person can know of."""
        yield from self.pins()
        named = [name for _, name in self.names()]
        yield from (name.head for name in named if name.head)
        for cid, found in history.ancestors(self.cache, *(name.version for name in named)):
            yield from (cid, found.tree)

    def shared(self, target: Target) -> Name | None:
        """Return what a new name for the whole of `target` holds so that it shares its history.

        None for a tree without one.
        """
        if target.name is not None and (found := self.name(target.name)) is not None:
            return Name(found.version, found.head)
        return None if target.version is None else Name(target.version)

    def name(self, name: str) -> Name | None:
        record = self.store.root(NAME + os.fsencode(name)) if name else None
        return None if record is None else names.decode(record)

    def names(self) -> Iterator[tuple[str, Name]]:
        for key, record in self.store.roots(NAME):
            yield key[len(NAME) :].decode(), names.decode(record)

    def pins(self) -> list[Cid]:
        return [cids.parse(key[len(PIN) :].decode()) for key, _ in self.store.roots(PIN)]

    def head(self, name: Name) -> Cid:
        """Return the newest tree of a name."""
        return name.head or self.version(name).tree

    def version(self, name: Name) -> Version:
        found = version.load(self.cache, name.version)
        assert isinstance(found, Version), "a name points at a version"
        return found

    # Publishing: one transaction stores what is left of a batch and makes a root hold it

    def batch(self, purpose: str) -> tuple[Batch, Stage]:
        """Return an empty batch, and the stage that keeps what it stores early until it is published."""
        stage = Stage(self.store, purpose)
        return self.batch_on(stage), stage

    def batch_on(self, stage: Stage) -> Batch:
        return Batch(self.cache, stage)

    def pin(self, tree: Cid, batch: Batch, stage: Stage) -> None:
        """Keep `tree` until it is forgotten."""
        key, record = pin_root(tree)
        old = self.store.root(key)
        try:
            self._publish(batch, stage, RootChange(key, old, record))
        except RootMoved:  # another process pins the same tree, or has just forgotten it
            self._publish(batch, stage, RootChange(key, None if old else record, record))

    def publish(
        self,
        name: str,
        tree: Cid,
        batch: Batch,
        stage: Stage,
        *,
        message: str = "",
        old: Name | None = None,
        made_up: bool = False,
        leased: bool = False,
    ) -> Cid:
        """Make `name` point at a new Version of `tree`, after that of `old` (None: a new name). Returns the Version.

        Raises NameTaken, RootMoved if the name is not `old` any more.
        """
        if old is None:
            self.check_free(name)
        cid = successor.put(batch, tree, () if old is None else (old.version,), message=message)
        self.set_name(name, old, Name(cid, None, made_up), batch, stage, leased=leased)
        return cid

    def set_name(
        self, name: str, old: Name | None, new: Name | None, batch: Batch, stage: Stage, *, leased: bool = False
    ) -> None:
        """Make the record of `name` be `new` if it is `old`; None is no such name.

        Raises RootMoved, NameTaken, and Held if somebody has mounted it; the mount itself says `leased`. A `holder`
        does it for us.
        """
        if self.holder is not None and self.holder.name == name and old is not None and new is not None:
            batch.flush()
            self.holder.move(old, new)
            with suppress(StoreError):  # it ends with this process at the latest
                stage.release()
            return
        change = name_change(name, old, new)
        if leased:
            self._publish(batch, stage, change)
            return
        if old is not None:  # the change fails if somebody mounts the name meanwhile
            self._publish(batch, stage, change, RootChange(lease.key_of(name), self._unheld(name), None))
            return
        with place.alone(self.path):  # or 'a' and 'a/b' could come to be at once
            self.check_free(name)
            self._publish(batch, stage, change)

    def check_free(self, name: str) -> None:
        """Raise NameTaken if `name`, a part of it or a longer name with it exists, BadName if it is no good name."""
        names.check(name)
        if self.name(name) is not None:
            raise NameTaken(f"the name '{name}' is taken; 'monofs forget {name}' frees it, 'monofs names' lists all")
        parts = name.split("/")
        for count in range(1, len(parts)):
            shorter = "/".join(parts[:count])
            if self.name(shorter) is not None:
                raise NameTaken(f"'{name}' would hide a path in the tree named '{shorter}'; choose another name")
        if self.store.roots(NAME + name.encode() + b"/"):
            raise NameTaken(f"'{name}/' is the beginning of other names; choose another name")

    def forget_name(self, name: str) -> None:
        """Remove a name. Raises NotFound, Held if it is mounted."""
        old = self.name(name)
        if old is None:
            raise NotFound(f"no name '{name}'; 'monofs names' lists them")
        forget = RootChange(NAME + name.encode(), _record(old), None)
        # The lease of a dead holder goes in the same change, which fails if somebody mounts the name meanwhile.
        self.store.apply(Change(roots=(forget, RootChange(lease.key_of(name), self._unheld(name), None))))

    def forget_pin(self, cid: Cid) -> None:
        """Remove the pin of a CID. Raises NotFound."""
        key, _ = pin_root(cid)
        record = self.store.root(key)
        if record is None:
            raise NotFound(f"{cid} is not pinned; 'monofs names' lists names and pins")
        self.store.apply(Change(roots=(RootChange(key, record, None),)))

    def _publish(self, batch: Batch, stage: Stage, *changes: RootChange) -> None:
        dropped = stage.drop()
        stage.new_blocks += self.store.apply(Change(batch.blocks, (*changes, *dropped)))
        stage.dropped(dropped)
        batch.clear()

    # Leases

    def leases(self) -> list[Lease]:
        """Return the leases of living processes."""
        found = [lease.decode(key, record) for key, record in self.store.roots(lease.PREFIX)]
        return [held for held in found if held.owner.is_alive()]

    def lease(self, name: str | None, tree: Cid, mountpoint: str, socket: str) -> Lease:
        """Become the one writer of `name`, or a reader of `tree` (name None). A dead holder's lease is taken over.

        Raises Held with who holds it.
        """
        owner = Owner.current()
        old = self._unheld(name) if name else None
        key = lease.key_of(name) if name else lease.reader_key(owner)
        taken = Lease(key, name, owner, mountpoint, socket, tree)
        try:
            self.store.apply(Change(roots=(RootChange(key, old, taken.encode()),)))
        except RootMoved:
            raise Held(f"'{name}' has just been mounted by another process") from None
        return taken

    def check_unheld(self, name: str) -> None:
        """Raise Held if a living process has mounted `name`, and is not our `holder`."""
        if self.holder is None or self.holder.name != name:
            self._unheld(name)

    def _unheld(self, name: str) -> bytes | None:
        """Return the record that a dead holder left, if any. Raises Held."""
        record = self.store.root(lease.key_of(name))
        if record is not None and (holder := lease.decode(b"", record)).owner.is_alive():
            raise holder.refusal()
        return record

    def release(self, held: Lease) -> None:
        """Let go of a lease; if the disk is too full for that, it ends with this process."""
        with suppress(NoSpace):
            self.store.apply(Change(roots=(RootChange(held.key, held.encode(), None),)))


def _config(path: Path, algorithm: Algorithm | None, backend: str, bases: tuple[Path, ...]) -> Config:
    """Return what a new store is to be. Raises NotFound, StoreError."""
    if backend not in place.BACKENDS:
        raise StoreError(f"unknown backend '{backend}': there are {', '.join(place.BACKENDS)}")
    if not bases:
        return Config(algorithm or cids.BLAKE3, backend)
    found = {backends.check_base(base).algorithm for base in bases}
    if len(found | {algorithm or next(iter(found))}) > 1:
        raise StoreError(f"a store and those it leans on must use one hash; {bases[0]} uses {next(iter(found)).name}")
    homes = tuple(str(base.resolve()) for base in bases)
    if len(set(homes)) < len(homes):
        raise StoreError(f"{homes[0]} is named twice: a store leans on another once")
    return Config(next(iter(found)), backend, homes, layered_store.new_identity())


def pin_root(tree: Cid) -> tuple[bytes, bytes]:
    """Return the key and the record of a pin."""
    return PIN + str(tree).encode(), codec.encode({"tree": tree})


def name_change(name: str, old: Name | None, new: Name | None) -> RootChange:
    """Return the change of a name's record; None is no such name. Raises BadName."""
    return RootChange(NAME + names.check(name).encode(), _record(old), _record(new))


def _record(name: Name | None) -> bytes | None:
    return None if name is None else names.encode(name)


__all__ = ["Lease", "Repository", "Target"]
