"""The forks that a project's machines live in: made from what is locked, moved on while nobody has changed them.

A fork is a name in the project's own store. Beside it a root holds the tree that it was made from, so that
`monofs reset` finds that again whatever became of the fork.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Literal, NamedTuple

from monofs_fuse.project.sources import Found
from store import cid as cids
from store import codec, history, version
from store.blocks import Change, RootChange
from store.cid import Cid
from store.errors import Held, NotFound, StoreError
from store.ledger import RECORD_CID
from store.names import Name
from store.repository import Repository
from store.version import Version
from vmm.project.folder import Folder
from vmm.project.lock import Locked
from vmm.project.state import STATE, Installed, State

REFERENCE: Final = b"reference/"  # what the keys of these roots begin with
PROJECT: Final = b"project"  # the root that says what the project was called when its forks were made

Action = Literal["new", "same", "moved", "kept", "removed"]
Note = Callable[[str], None]


class Fork(NamedTuple):
    """What was done about a machine's fork. `tree` is what it is locked to."""

    machine: str
    name: str
    action: Action
    tree: str
    digest: str | None


def said(locked: Locked) -> str:
    """Return a source as the project's state has it."""
    return f"{locked.source.kind} {locked.source.text}"


def is_settled(own: Repository, name: str, row: Installed | None, locked: Locked) -> bool:
    """True if the machine was made from what is locked, and all that is needed for it is here."""
    if row is None or (row.source, row.tree, row.digest) != (said(locked), locked.tree, locked.digest):
        return False
    return own.name(name) is not None and own.store.root(REFERENCE + row.machine.encode()) is not None


def made(own: Repository, state: State, name: str, found: Found, row: Installed | None, note: Note) -> Fork:
    """Make the fork `name` be of what was found, unless somebody works on it. Done again it changes nothing."""
    locked = found.locked
    _hold(own, locked.machine, found.tree)
    current = own.name(name)
    action: Action = "same"
    if current is None:
        start, action = _begin(own, name, None, found), "new"
    else:
        row = _known(own, current, row, found)
        start = cids.parse(row.version)
        if _made_from(own, row) != locked.tree:  # it may have been in use when that was locked
            if _is_untouched(own, current, row):
                with suppress(Held):
                    start, action = _begin(own, name, current, found), "moved"
            if action != "moved" and row.tree != locked.tree:
                action = "kept"
                note(
                    f"'{name}' was changed, or is in use: it stays as it is, and does not become {locked.tree}; "
                    f"'monofs reset {locked.machine}' makes it that, 'monofs merge {name} {locked.tree}' merges that in"
                )
    new = Installed(locked.machine, said(locked), locked.tree, str(start), locked.digest, dict(found.config))
    if new != row:
        state.put_installed(new)
    return Fork(locked.machine, name, action, locked.tree, locked.digest)


def removed(own: Repository, state: State, name: str, row: Installed, note: Note) -> Fork:
    """Remove the fork of a machine that the project has no more, unless somebody has changed it."""
    current = own.name(name)
    action: Action = "removed"
    if current is not None:
        try:
            if not _is_untouched(own, current, row) or own.version(current).previous:
                raise Held(f"'{name}' was changed")
            own.forget_name(name)
        except (Held, NotFound) as error:
            action = "kept"
            note(
                f"{error}, so it stays, though no machine is called '{row.machine}' any more: "
                f"'monofs forget {name}' removes it, 'monofs export {name} DIR' takes its files out"
            )
    if action == "removed":
        _release(own, row.machine)
        state.remove_installed(row.machine)
    return Fork(row.machine, name, action, row.tree, row.digest)


def follow_name(own: Repository, project: str, machines: Iterable[str]) -> None:
    """Give the forks of a project that has another name now names with that. Raises Held, NameTaken."""
    old = own.store.root(PROJECT)
    former = codec.decode(RECORD_CID, old)["name"] if old is not None else project
    for machine in machines if former != project else ():
        _rename(own, f"{former}/{machine}", f"{project}/{machine}")
    if old is None or former != project:
        own.store.apply(Change(roots=(RootChange(PROJECT, old, codec.encode({"name": project})),)))


def _rename(own: Repository, old: str, new: str) -> None:
    record = own.name(old)
    if record is None:
        return
    own.check_unheld(old)
    if own.name(new) is None:
        batch, stage = own.batch("rename")
        own.set_name(new, None, record, batch, stage)
    if own.name(new) == record:
        own.forget_name(old)


def came_from(own: Repository, name: str) -> Cid | None:
    """Return the tree that the fork of a machine began as, at its last installation or reset; None for other names."""
    folder = Folder(own.path.parent.parent)
    if folder.store != own.path or not (folder.mc / STATE).exists():
        return None
    with State(folder.mc) as state:
        row = next((row for row in state.installed() if row.machine == name.partition("/")[2]), None)
    return None if row is None else cids.parse(_made_from(own, row))


def _begin(own: Repository, name: str, old: Name | None, found: Found) -> Cid:
    """Make `name` begin with the tree; O(1) whatever its size. Raises Held.

    What it had before that is worth keeping, after a reset, say, stays in its history.
    """
    batch, stage = own.batch("install")
    before = frozenset() if old is None or not own.version(old).previous else frozenset((old.version,))
    start = version.put_version(batch, Version(found.tree, before, version.now(), "", _message(found.locked)))
    own.set_name(name, old, Name(start), batch, stage)
    return start


def _message(locked: Locked) -> str:
    return f"installed from {locked.reference or said(locked)}"


def _known(own: Repository, current: Name, row: Installed | None, found: Found) -> Installed:
    """Return what a fork was made from, also if whoever made it was killed before that was written down."""
    if row is not None and str(current.version) == row.version:
        return row
    last = own.version(current)
    is_fresh = last.message == _message(found.locked) and last.origin is None and current.head is None
    is_next = not last.previous or (row is not None and {str(cid) for cid in last.previous} == {row.version})
    if is_fresh and is_next and str(last.tree) == found.locked.tree:
        return Installed(found.locked.machine, "", found.locked.tree, str(current.version))
    if row is not None:
        return row
    *_, (start, first) = history.line(own.cache, current.version)
    return Installed(found.locked.machine, "", str(first.tree), str(start))


def _is_untouched(own: Repository, current: Name, row: Installed) -> bool:
    is_same = current.head is None or str(current.head) == _made_from(own, row)
    return is_same and str(current.version) == row.version


def _made_from(own: Repository, row: Installed) -> str:
    """Return the tree that a fork began with: not always the one that is locked for its machine."""
    try:
        return str(version.load_version(own.cache, cids.parse(row.version)).tree)
    except StoreError:
        return row.tree


def _hold(own: Repository, machine: str, tree: Cid) -> None:
    key = REFERENCE + machine.encode()
    old, new = own.store.root(key), codec.encode({"tree": tree})
    if old != new:
        own.store.apply(Change(roots=(RootChange(key, old, new),)))


def _release(own: Repository, machine: str) -> None:
    key = REFERENCE + machine.encode()
    if (old := own.store.root(key)) is not None:
        with suppress(StoreError):
            own.store.apply(Change(roots=(RootChange(key, old, None),)))
