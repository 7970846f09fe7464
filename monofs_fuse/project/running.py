"""Starting a project's machine: a supervisor of its own, in the tree that has the machine's name."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from monofs_fuse import supervise, tenancy
from vmm.project.wanted import Wanted
from vmm.spec import Command
from vmm.state import Row


def start(
    store: Path, wanted: Wanted, id: str, *, command: Command | None = None, detached: bool = True
) -> socket.socket:
    """Start a machine as it is wanted, or with another command; returns the connection to its supervisor.

    No database is open and no thread runs here. Raises BadSpec, OSError.
    """
    from dataclasses import asdict

    from vmm.project.wanted import plain

    root = tenancy.root_of(store, id)
    spec = wanted.machine_spec(root)
    chosen = command or wanted.main()
    row = Row(
        id=id,
        name=wanted.machine,
        target=wanted.tree,
        fork=wanted.tree,  # it lives in its name
        root=os.fspath(root),
        mounted=True,
        spec=plain(asdict(spec)),
        command={} if chosen is None else plain(asdict(chosen)),
        image=wanted.image,
    )
    tenancy.machines_directory(store).mkdir(mode=0o700, exist_ok=True)
    return supervise.start(store, row, spec, chosen, timeout=None, detached=detached)
