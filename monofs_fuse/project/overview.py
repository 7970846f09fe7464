"""An overview of a project: its machines, what they are made from, and what each has of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from monofs_fuse.project import stores
from monofs_fuse.project.stores import Stores
from store import codec, version
from store.cid import Cid
from store.layered_store import LayeredStore
from vmm.project import lock as locks
from vmm.project import reading
from vmm.project.folder import Folder
from vmm.project.lock import Lock
from vmm.project.manifest import Machine, Project


def of(folder: Folder) -> dict[str, Any]:
    """Return what `monofs tree --json` prints."""
    project, lock = reading.read(folder.manifest), locks.read(folder.lock)
    found: dict[str, Any] = {"project": project.name, "directory": os.fspath(folder.directory)}
    if not stores.is_installed(folder):
        machines = [_declared(machine, lock) | _NOT_INSTALLED for machine in project.machines]
        return found | {"home": None, "own_blocks": 0, "borrowed_blocks": 0, "machines": machines}
    with stores.opened(folder) as opened:
        own = opened.own.store
        assert isinstance(own, LayeredStore)
        return found | {
            "home": os.fspath(opened.home.path),
            "own_blocks": own.usage().blocks,
            "borrowed_blocks": len(own.borrowed()),
            "machines": [_declared(one, lock) | _made(opened, own, project, one, lock) for one in project.machines],
        }


_NOT_INSTALLED = {"tree": None, "changed": False, "size": None, "own_blocks": 0, "own_bytes": 0}


def _declared(machine: Machine, lock: Lock) -> dict[str, Any]:
    locked = lock.get(machine.name)
    if locked is None or not locks.is_of(locked, machine):
        locked = None
    return {
        "name": machine.name,
        "source": f"{machine.source.kind} {machine.source.text}",
        "reference": locked and locked.reference,
        "digest": locked and locked.digest,
        "platform": locked and locked.platform,
        "locked": locked and locked.tree,
    }


def _made(opened: Stores, own: LayeredStore, project: Project, machine: Machine, lock: Lock) -> dict[str, Any]:
    name = opened.own.name(project.tree_name(machine.name))
    if name is None:
        return _NOT_INSTALLED
    tree = opened.own.head(name)
    locked = lock.get(machine.name)
    blocks, size = _only_in(own, filter(None, (name.version, name.head)))
    return {
        "tree": str(tree),
        "changed": locked is None or str(tree) != locked.tree,
        "size": version.load_tree(opened.own.cache, tree).root.total[1],
        "own_blocks": blocks,
        "own_bytes": size,
    }


def _only_in(own: LayeredStore, starts: Iterable[Cid]) -> tuple[int, int]:
    """Return how many blocks below `starts` the top has itself, and their bytes; history counts, too.

    What a base has is not looked into: all that it refers to is there as well.
    """
    seen: set[Cid] = set()
    todo, size = list(starts), 0
    while todo:
        cid = todo.pop()
        if cid in seen or not own.top.has(cid):
            continue
        seen.add(cid)
        data = own.top.peek(cid)
        size += len(data)
        if cid.is_node:
            todo.extend(codec.links(cid, data))
    return len(seen), size
