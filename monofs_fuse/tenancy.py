"""A tenancy: the tree that a machine lives in, forked and mounted for it, and what becomes of it afterwards."""

from __future__ import annotations

import os
import re
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from monofs_fuse import mountpoint, mounts
from monofs_fuse.errors import MountError
from store.errors import MonofsError, StoreError
from store.names import Name
from store.repository import Repository
from vmm.errors import Outside, VmError
from vmm.pids import Pid
from vmm.state import Row
from vmm.tenancy import Returned


def machines_directory(store: Path) -> Path:
    """Return where a store keeps its machines."""
    return store / "vm"


def root_of(store: Path, id: str) -> Path:
    """Return where the tree of a machine is mounted. Not in the machine's own directory, which is removed whole."""
    return machines_directory(store) / "roots" / id


def fork_name(target: str, id: str) -> str:
    """Return the name that a machine's fork gets: it tells where it came from, and is nobody else's."""
    from store import cid

    stem = re.sub(r"[^A-Za-z0-9._:+-]+", "-", target)[:150].strip("-._:+")
    return f"vm-{id}" if not stem or cid.looks_like(target.partition("/")[0]) else f"{stem}-vm-{id}"


def is_own(row: Row) -> bool:
    """True for a machine that lives in a name itself and not in a fork of it: nothing is made, nothing forgotten."""
    return row.fork is not None and row.fork == row.target


class Tenancy:
    """The tree of one machine. Made before there are threads, because mounting forks."""

    def __init__(self, store: Path, row: Row) -> None:
        self._store = store
        self._row = row
        self._keeper: Pid | None = None

    def take(self) -> tuple[str | None, dict[str, float]]:
        """Make the tree be at the row's root; returns its CID and how long what took. Raises VmError."""
        row, timings = self._row, dict[str, float]()
        try:
            if row.mounted:
                start = time.monotonic()
                if row.fork is not None and not is_own(row):
                    self._fork(row.fork)
                    timings["fork"] = time.monotonic() - start
                    start = time.monotonic()
                Path(row.root).mkdir(mode=0o700, parents=True)
                target = row.fork or row.tree or row.target
                # In the guest root is whoever made its tree: what else is in the store is not his business.
                mounts.start(self._store, target, row.root, read_only=row.fork is None, confined=True)
                timings["mount"] = time.monotonic() - start
            if row.image and row.fork is not None:
                _make_workdir(row)
            (status,) = mounts.status(self._store, row.root)
            self._keeper = Pid.of(int(status["pid"]))
            self._row = replace(row, tree=str(status["head"]))
            return str(status["head"]), timings
        except (MonofsError, OSError) as error:
            with suppress(VmError):
                give_back(self._store, replace(row, discard=True))
            raise VmError(str(error)) from None

    def keeper(self) -> Pid | None:
        return self._keeper

    def give_back(self) -> Returned:
        return give_back(self._store, self._row)

    def _fork(self, name: str) -> None:
        from monofs_fuse import session

        with _opened(self._store) as repository:
            if self._row.keep is not None:
                _check_keep(repository, self._row.keep)
            session.fork(repository, self._row.tree or self._row.target, name)


def _make_workdir(row: Row) -> None:
    """Make the directory that an image wants to be run in, if it lacks it, as Docker does."""
    from vmm import confined

    root = os.open(row.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(Outside):  # the machine will say what is missing
            confined.make_directories(root, (row.command or row.image)["workdir"])
    finally:
        os.close(root)


def give_back(store: Path, row: Row) -> Returned:
    """Save the tree of a machine that is gone, and unmount it if it was mounted for that. May be done twice.

    Raises VmError; then the tree is still mounted, and whole.
    """
    if not row.mounted:
        return _checkpointed(row)
    result, busy = _unmounted(row)
    try:
        with _opened(store) as repository:
            if row.fork is None:
                return Returned(result or row.tree, note=busy)
            if repository.name(row.fork) is None:  # it was let go before
                return Returned(result or row.tree, note=busy)
            result = result or str(repository.resolve(row.fork).tree)
            if is_own(row):
                return Returned(result, row.fork, busy)
            try:
                return Returned(result, _settled(repository, row, row.fork), busy)
            except StoreError as error:
                return Returned(result, row.fork, f"{error}; the tree is kept as '{row.fork}'")
    except MonofsError as error:
        raise VmError(f"the tree was saved, but the store cannot be read: {error}") from None


def _checkpointed(row: Row) -> Returned:
    try:
        return Returned(mounts.checkpoint(row.root))
    except (MonofsError, OSError) as error:
        raise VmError(f"the tree on {row.root} could not be saved now: {error}") from None


def _unmounted(row: Row) -> tuple[str | None, str | None]:
    """Return the tree's CID, None if its last commit is all there is, and what a person should know."""
    result = note = None
    there = mountpoint.mounted(row.root)
    if there is not None and there.kind == "fuse.monofs":
        try:
            result, note = _umount(row.root)
        except (MonofsError, OSError) as error:
            raise VmError(f"{error}; the tree is still mounted on {row.root}: 'monofs umount' saves it") from None
    with suppress(OSError):
        os.rmdir(row.root)
    return result, note


def _umount(path: str) -> tuple[str | None, str | None]:
    try:
        return mounts.umount(path), None
    except MountError:
        result = mounts.umount(path, lazy=True)
        return result, f"something on this machine still had files open in {path}; what it writes now is not in the CID"


def _settled(repository: Repository, row: Row, fork: str) -> str | None:
    """Let the fork's tree have the name it is to have; returns that. Raises StoreError: then it has the fork's."""
    if row.discard:
        repository.forget_name(fork)
        return None
    if row.keep is not None:
        _become(repository, fork, row.keep)
        repository.forget_name(fork)
        return row.keep
    if _is_needless(repository, fork, row.tree):
        repository.forget_name(fork)
        return None
    return fork


def _is_needless(repository: Repository, fork: str, before: str | None) -> bool:
    """True if nothing has changed, and something else holds what the fork holds."""
    record = repository.name(fork)
    assert record is not None
    held = (record.version, repository.head(record))
    return str(held[1]) == before and any((repository.store.count(cid) or 0) > 1 for cid in held)


def _become(repository: Repository, fork: str, keep: str) -> None:
    """Make the name `keep` point at the fork's tree, with the history of both."""
    ours, old = repository.name(fork), repository.name(keep)
    assert ours is not None
    batch, stage = repository.batch("keep")
    if old is None or old.version in repository.version(ours).previous or old.version == ours.version:
        repository.set_name(keep, old, Name(ours.version, ours.head), batch, stage)
    else:
        repository.publish(keep, repository.head(ours), batch, stage, old=old, message="monofs vm run")


def _check_keep(repository: Repository, keep: str) -> None:
    if repository.name(keep) is None:
        repository.check_free(keep)
    else:
        repository.check_unheld(keep)


def _opened(store: Path) -> closing[Repository]:
    return closing(Repository.open(store, create=False))
