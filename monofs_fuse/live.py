"""A live name: one that is mounted, changed from outside through the mount that holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from store.errors import NotFound

if TYPE_CHECKING:  # most commands that could need this find that nothing is mounted
    from monofs_fuse.control import Connection, Doc
    from store.cid import Cid
    from store.names import Name
    from store.repository import Repository


def is_mounted(repository: Repository, name: str) -> bool:
    return _socket(repository, name) is not None


def save(repository: Repository, name: str) -> None:
    """If `name` is mounted, have all that was written there committed. Raises MountError."""
    socket = _socket(repository, name)
    if socket is not None:
        from monofs_fuse import control

        control.ask(socket, {"op": "save"})


@contextmanager
def held(repository: Repository, name: str) -> Iterator[None]:
    """If `name` is mounted, have all of it committed and edits wait while this lasts; the repository can move it then.

    Read what the name points at after this has begun. If it is not mounted this does nothing. Raises MountError.
    """
    socket = _socket(repository, name)
    if socket is None:
        yield
        return
    from monofs_fuse.control import Connection

    with Connection(socket) as connection:
        connection.ask({"op": "hold"})
        repository.holder = _Holder(name, connection)
        try:
            yield
        finally:
            repository.holder = None


def checkpoint(repository: Repository, name: str, message: str = "") -> Cid:
    """Make what `name` holds a Version, if it is none yet or there is a message. Returns the tree.

    Raises NotFound, MountError.
    """
    with held(repository, name):
        old = repository.name(name)
        if old is None:
            raise NotFound(f"no name '{name}', and no monofs is mounted there; 'monofs names' lists names")
        tree = repository.head(old)
        if old.head is not None or message:
            batch, stage = repository.batch("checkpoint")
            repository.publish(name, tree, batch, stage, message=message, old=old)
        return tree


class _Holder:
    """The mount at the other end of a connection, which it has been told to hold."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name = name
        self._connection = connection

    def move(self, old: Name, new: Name) -> None:
        self._connection.ask({"op": "move", "old": _doc(old), "new": _doc(new)})


def _doc(name: Name) -> Doc:
    head = None if name.head is None else str(name.head)
    return {"version": str(name.version), "head": head, "made_up": name.made_up}


def _socket(repository: Repository, name: str) -> str | None:
    return next((lease.socket for lease in repository.leases() if lease.name == name), None)
