"""Installing: .mc is made what monofs.toml and monofs.lock say, and left alone where it is that already.

Each step can be the last one that is done: whoever installs again finishes. Nothing is locked whose tree is not here,
and no fork that somebody has changed is touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from monofs_fuse.project import forks, sources, stores
from monofs_fuse.project.forks import Fork, Note
from monofs_fuse.project.sources import Found
from monofs_fuse.project.stores import Stores
from store import limits
from store.blocks import collect
from vmm.errors import BadProject
from vmm.project import lock as locks
from vmm.project import reading
from vmm.project.folder import LOCK_FILE, Folder
from vmm.project.lock import Lock
from vmm.project.manifest import FILE, Project
from vmm.project.reading import shown
from vmm.project.state import State
from vmm.project.writing import write


@dataclass(frozen=True)
class Done:
    """What an installation came to. `before` is what was locked before it."""

    project: Project
    before: Lock
    lock: Lock
    forks: tuple[Fork, ...]


@dataclass(frozen=True)
class Wish:
    """`locked`: monofs.lock must be as it is. `update`: the machines that are locked anew, from where they come from.

    `text` takes the place of what monofs.toml says, once all the trees are here.
    """

    home: Path
    locked: bool = False
    update: Collection[str] = field(default_factory=frozenset)
    text: str | None = None


def install(folder: Folder, wish: Wish, note: Note) -> Done:
    """Make .mc. Raises BadProject, MonofsError; what is done by then stays, and is whole."""
    _read(folder, wish)  # a project that is wrong gets no .mc
    with stores.alone(folder):
        project, before = _read(folder, wish)
        stores.make(folder, wish.home)
        with stores.opened(folder) as opened, State(folder.mc) as state, ExitStack() as held:
            known = {row.machine for row in state.installed()}
            forks.follow_name(opened.own, project.name, known)
            found = _found(opened, state, folder, project, before, wish, held)
            lock = {name: one.locked for name, one in found.items()}
            with _undone_on_failure(folder, wish):
                _write(folder, wish, lock)
                done = _forked(opened, state, project, found, note)
            if any(fork.action in ("moved", "removed") for fork in done):
                for _ in collect(opened.own.store, limits.gc_blocks_per_step):
                    pass
        stores.ignore_in_git(folder)
        return Done(project, before, lock, tuple(done))


def _read(folder: Folder, wish: Wish) -> tuple[Project, Lock]:
    text = reading.load(folder.manifest) if wish.text is None else wish.text
    project, lock = reading.parse(text, folder.manifest), locks.read(folder.lock)
    for name in wish.update:
        if project.machine(name) is None:
            raise BadProject(f"{shown(folder.manifest)} has no machine '{name}'")
    if wish.locked:
        if not folder.lock.exists():
            raise BadProject(f"there is no {LOCK_FILE}; 'monofs install' makes one")
        if wrong := locks.differences(project, lock):
            raise BadProject(
                f"{LOCK_FILE} is not of this {FILE}: {'; '.join(wrong)}; 'monofs install' brings it up to date"
            )
    return project, lock


def _found(
    opened: Stores, state: State, folder: Folder, project: Project, lock: Lock, wish: Wish, held: ExitStack
) -> dict[str, Found]:
    """Return the tree of each machine, all of them in the home store and held there."""
    rows = {row.machine: row for row in state.installed()}
    found: dict[str, Found] = {}
    for machine in project.machines:
        locked, row = lock.get(machine.name), rows.get(machine.name)
        if machine.name in wish.update or not locks.is_of(locked, machine):
            one = sources.find(opened.home, machine, folder.directory, ask=machine.name in wish.update)
        elif locked is not None and forks.is_settled(opened.own, project.tree_name(machine.name), row, locked):
            one = Found(locked, row.config if row is not None else {})
        else:
            assert locked is not None
            one = sources.bring(opened.home, machine, folder.directory, locked)
        held.callback(one.release)
        found[machine.name] = one
    return found


def _write(folder: Folder, wish: Wish, lock: Lock) -> None:
    """Write what has changed."""
    if wish.text is not None:
        _put(folder.manifest, wish.text)
    if not wish.locked:
        _put(folder.lock, locks.text(lock))


def _put(file: Path, text: str) -> None:
    if not file.exists() or reading.load(file) != text:
        write(file, text)


@contextmanager
def _undone_on_failure(folder: Folder, wish: Wish) -> Iterator[None]:
    """If monofs.toml is to say something else, and that cannot be done, it says what it said; and so does the lock."""
    old = [(file, file.read_text() if file.exists() else None) for file in (folder.manifest, folder.lock)]
    try:
        yield
    except BaseException:
        for file, text in old if wish.text is not None else ():
            if text is not None:
                _put(file, text)
            elif file.exists():
                file.unlink()
        raise


def _forked(opened: Stores, state: State, project: Project, found: dict[str, Found], note: Note) -> list[Fork]:
    own, rows = opened.own, {row.machine: row for row in state.installed()}
    done = [
        forks.made(own, state, project.tree_name(machine), one, rows.get(machine), note)
        for machine, one in found.items()
    ]
    gone = [row for machine, row in rows.items() if machine not in found]
    return done + [forks.removed(own, state, project.tree_name(row.machine), row, note) for row in gone]
