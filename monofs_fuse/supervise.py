"""Starting a machine's supervisor: the process that forks and mounts its tree, boots it and gives the tree back."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from monofs_fuse import tenancy
from vmm import daemon, reconcile, sockets, state, wire
from vmm.errors import VmError
from vmm.plan import Plan
from vmm.spec import Command, MachineSpec
from vmm.state import Row

FAILED = 125


def start(
    store: Path, row: Row, spec: MachineSpec, command: Command | None, *, timeout: float | None, detached: bool
) -> socket.socket:
    """Start a supervisor in the background; returns the connection to it. No database is open and no thread runs here.

    What goes wrong is told over the connection. A supervisor that is not `detached` ends the machine when that closes.
    """
    directory = tenancy.machines_directory(store) / row.id
    directory.mkdir(mode=0o700)
    plan = Plan(row, spec, command, directory, directory.parent / "cache", timeout)
    sys.stdout.flush()
    sys.stderr.flush()
    return daemon.spawn(directory / "supervisor.log", partial(_supervise, store, plan, detached))


def _supervise(store: Path, plan: Plan, detached: bool, owner: socket.socket) -> None:
    """In the daemon: enter the machine in the list, fork and mount its tree, and live its life."""
    import trio  # before the mount's process is forked from this one, which needs it too

    from vmm import service

    directory = plan.directory.parent
    listener = sockets.listener(plan.directory / "socket")  # before it is in the list: clients wait until it is served
    try:
        with state.State(directory) as listed:
            row = listed.add(plan.row)
        root = tenancy.Tenancy(store, row)  # mounting forks, so no database is open here
        try:
            tree, timings = root.take()
        except VmError:
            with state.State(directory) as listed:
                reconcile.remove(directory, listed, row)
            raise
    except VmError as error:
        reconcile.remove_logs(plan.directory)
        owner.sendall(wire.doc(error=str(error), code=FAILED))
        return
    with state.State(directory) as listed:
        listed.update(row.id, tree=tree)
        plan = replace(plan, row=replace(row, tree=tree), timings=timings)
        trio.run(partial(service.serve, plan, listed, root, listener, owner, detached=detached))
