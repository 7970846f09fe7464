"""A session: which tree is mounted where, under which name, and the lease that makes it ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from monofs_fuse.habit import Habit
from store import version
from store.cid import Cid
from store.directory import names as split
from store.errors import NameTaken
from store.repository import Lease, Repository, Target


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asked for."""

    store: Path
    target: str
    mountpoint: str
    name: str | None = None
    read_only: bool = False
    allow_other: bool = False
    habit: Habit | None = None
    confined: bool = False  # nothing is seen of the store but this tree


@dataclass(frozen=True, slots=True)
class Session:
    """`name` is None for a read-only mount of `tree`."""

    repository: Repository
    name: str | None
    tree: Cid
    mountpoint: str
    socket: str
    allow_other: bool
    habit: Habit | None = None
    confined: bool = False

    @property
    def read_only(self) -> bool:
        return self.name is None


@contextmanager
def opened(wish: Wish) -> Iterator[Session]:
    """Take the lease, making the fork if one is asked for; let go of it at the end.

    Raises NotFound, WrongKind, NameTaken, Held.
    """
    repository = Repository.open(wish.store, create=False)
    try:
        socket = os.fspath(repository.run_directory.absolute() / f"{os.getpid()}.sock")

        def take(target: Target) -> tuple[Cid, str | None, Lease]:
            tree = _subtree(repository, target)
            name = None if wish.read_only else _name(repository, target, tree, wish.name)
            return tree, name, repository.lease(name, tree, wish.mountpoint, socket)

        tree, name, lease = repository.retried(wish.target, take)
        try:
            allow_other = wish.allow_other or os.geteuid() == 0
            yield Session(repository, name, tree, wish.mountpoint, socket, allow_other, wish.habit, wish.confined)
        finally:
            repository.release(lease)
    finally:
        repository.close()


def fork(repository: Repository, text: str, name: str) -> Cid:
    """Make `name`, a new one, a fork of what CID|NAME[/path] means; returns its tree. Raises as `opened` does."""

    def take(target: Target) -> Cid:
        tree = _subtree(repository, target)
        _name(repository, target, tree, name)
        return tree

    return repository.retried(text, take)


def _subtree(repository: Repository, target: Target) -> Cid:
    """Return the tree at the target's path, stored if it is not a whole tree already."""
    if not split(target.path):
        return target.tree
    batch, _ = repository.batch("subtree")
    tree = version.subtree(batch, version.load_tree(batch, target.tree), target.path)
    cid = version.put_tree(batch, tree)
    batch.flush()  # held by this process from here on
    return cid


def _name(repository: Repository, target: Target, tree: Cid, wanted: str | None) -> str:
    """Return the name to work on: the target's own, or a new one for a fork of it."""
    if wanted is None and target.name is not None and not split(target.path):
        return target.name
    name = wanted or _made_up(repository, target)
    batch, stage = repository.batch("fork")
    shared = None if split(target.path) else repository.shared(target)
    if shared is not None:
        repository.check_free(name)
        repository.set_name(name, None, shared._replace(made_up=wanted is None), batch, stage)
    else:
        repository.publish(name, tree, batch, stage, made_up=wanted is None)
    return name


def _made_up(repository: Repository, target: Target) -> str:
    """Return a free name that tells where the fork came from."""
    stem = f"{target.name}-fork" if target.name else f"fork-{str(target.tree)[-8:]}"
    for number in range(1, 1 << 20):
        name = stem if number == 1 else f"{stem}-{number}"
        if repository.name(name) is None:
            return name
    raise NameTaken(f"no free name like '{stem}'; give one with --name")
