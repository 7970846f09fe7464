"""Rolling back: a name's tree, or one path in it, as it was; what it is now stays in its history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from store import directory, history, successor, transplant, version
from store.batch import Batch
from store.cid import Cid
from store.errors import NotFound
from store.names import Name
from store.repository import Repository
from store.version import Version


class Rolled(NamedTuple):
    """The name's new version and its tree; both as they were if there was nothing to change."""

    version: Cid
    tree: Cid


def back(repository: Repository, name: str, then: Cid, paths: Sequence[bytes] = (b"",), message: str = "") -> Rolled:
    """Make a new version of `name` with what the tree or version `then` has at `paths`.

    Raises NotFound if it has no such path, WrongKind if a file is in the way, Held if the name is mounted.
    """
    return _publish(repository, name, [(then, path) for path in paths], message)


def undelete(repository: Repository, name: str, paths: Sequence[bytes], message: str = "") -> Rolled:
    """Make a new version of `name` with each path as the newest version had it that had it.

    Raises NotFound if none had it or the path is there, WrongKind if a file is in the way, Held if the name is mounted.
    """
    record = _record(repository, name)
    now = version.load_tree(repository.cache, repository.head(record)).root
    found = []
    for path in paths:
        if directory.find(repository.cache, now, path) is not None:
            raise NotFound(f"'{directory.printable(path)}' is not deleted; 'monofs restore' brings an older one back")
        found.append((last_with(repository, record, path)[0], path))
    return _publish(repository, name, found, message)


def last_with(repository: Repository, record: Name, path: bytes) -> tuple[Cid, Version]:
    """Return the newest version that has `path`. Raises NotFound."""
    for cid, one in history.ancestors(repository.cache, record.version):
        if directory.find(repository.cache, version.load_tree(repository.cache, one.tree).root, path) is not None:
            return cid, one
    raise NotFound(f"no version has '{directory.printable(path)}'; 'monofs tombstones' lists what was deleted")


def _publish(repository: Repository, name: str, wanted: list[tuple[Cid, bytes]], message: str) -> Rolled:
    record = _record(repository, name)
    repository.check_unheld(name)
    batch, stage = repository.batch("restore")
    before = _kept(batch, record)
    now = repository.head(record)
    tree = version.load_tree(batch, now)
    for then, path in wanted:
        tree = transplant.made(batch, tree, version.load_tree(batch, then), path)
    new = version.put_tree(batch, tree)
    if new == now:
        return Rolled(record.version, now)
    made = successor.put(batch, new, (before,), message=message)
    repository.set_name(name, record, Name(made), batch, stage)
    return Rolled(made, new)


def _kept(batch: Batch, record: Name) -> Cid:
    """Return the version that the new one comes after: what was only committed becomes one, or it would be lost."""
    return record.version if record.head is None else successor.put(batch, record.head, (record.version,))


def _record(repository: Repository, name: str) -> Name:
    record = repository.name(name)
    if record is None:
        raise NotFound(f"no name '{name}'; 'monofs names' lists them")
    return record
