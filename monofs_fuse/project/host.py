"""Where a project's machines run: this host, the store in .mc, and a supervisor for each machine."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from monofs_fuse import mountpoint, tenancy
from monofs_fuse.project.launcher import Launcher
from vmm import reconcile, state
from vmm.errors import StateError, VmError
from vmm.pids import Pid
from vmm.project import limits, ports
from vmm.project.folder import Folder
from vmm.project.handle import Handle, ended_of
from vmm.project.policy import Ended
from vmm.project.wanted import Wanted
from vmm.state import NOBODY, Row

Ground = tuple[tuple[int, int], ...]


class LocalHost:
    """Opens databases: make it after the launcher was forked."""

    def __init__(self, folder: Folder, launcher: Launcher) -> None:
        self._folder, self._launcher = folder, launcher
        self._directory = tenancy.machines_directory(folder.store)
        self._listed = state.State(self._directory)
        self._clearing = trio.Lock()
        self._ground = self._look()
        self._started: dict[str, Row] = {}

    def close(self) -> None:
        self._listed.close()

    def new_id(self) -> str:
        return state.new_id()

    async def start(self, wanted: Wanted, id: str) -> Handle:
        """Raises VmError."""
        ports.check(wanted.publish)
        self._tidy(wanted.machine)
        connection = await self._launcher.start({"id": id, "wanted": wanted.doc()})
        row = None
        with suppress(StateError):
            row = self._listed.get(id)
        if row is not None:
            self._started[id] = row
        return Handle(self._directory / id, NOBODY if row is None else row.supervisor, connection)

    async def found(self, id: str) -> Handle | None:
        row = self._listed.get(id)
        if row is None or not row.living or not row.supervised:
            return None
        self._started[id] = row
        return Handle(self._directory / id, row.supervisor)

    async def settled(self, id: str) -> Ended | None:
        async with self._clearing:
            try:
                await trio.to_thread.run_sync(self._clear_up)
                row = self._listed.get(id)
            except VmError as error:
                return Ended(125, 0.0, str(error))
        self._started.pop(id, None)
        return None if row is None else ended_of(row)

    def _clear_up(self) -> None:
        with state.State(self._directory) as listed:  # a thread has a database of its own
            reconcile.reconcile(self._directory, listed, partial(tenancy.give_back, self._folder.store))

    def _tidy(self, machine: str) -> None:
        """Forget all but the last runs of a machine, and their logs."""
        with suppress(StateError):
            reconcile.prune(self._directory, self._listed)
            ended = [row for row in self._listed.all() if row.name == machine and not row.living]
            for row in ended[limits.runs_kept_max :]:
                reconcile.remove(self._directory, self._listed, row)

    # The ground

    def is_there(self) -> bool:
        return self._look() == self._ground

    def _look(self) -> Ground | None:
        try:
            found = [os.stat(path) for path in (self._folder.mc / "project.sqlite", state.path_in(self._directory))]
        except OSError:
            return None
        return tuple((one.st_dev, one.st_ino) for one in found)

    async def abandon(self) -> None:
        await trio.to_thread.run_sync(self._abandon)

    def _abandon(self) -> None:
        """End all machines without their sockets and their list, which are gone; nothing stays mounted or running."""
        rows = dict(self._started)
        with suppress(StateError):
            rows |= {row.id: row for row in self._listed.living()}
        _end_all([row.supervisor for row in rows.values()], limits.abandon_seconds)
        roots = [root for id in rows for root in _mounted(id)]
        keepers = [keeper for root in roots if (keeper := _keeper_of(root)) is not None]
        for root in roots:  # each saves what it has where that still can be, once its mount is gone
            with suppress(Exception):
                mountpoint.detach(os.fspath(root), lazy=True)
        _end_all(keepers, limits.unsaved_seconds)


def _end_all(pids: list[Pid], seconds: float) -> None:
    """Ask processes to end, and kill those that do not in time."""
    for pid in pids:
        pid.kill(signal.SIGTERM)
    end = time.monotonic() + seconds
    for pid in pids:
        if not pid.wait(max(0.0, end - time.monotonic())):
            pid.kill()
            pid.wait(seconds)


def _mounted(id: str) -> list[Path]:
    """Return where the tree of a machine is mounted, wherever that has been moved to."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    found = [line.split(b" ")[4].decode("unicode_escape").encode("latin-1") for line in lines]
    return [Path(os.fsdecode(path)) for path in found if path.endswith(b"/roots/" + id.encode())]


def _keeper_of(root: Path) -> Pid | None:
    try:
        name = os.fsdecode(os.getxattr(root, "system.monofs.socket"))
        return Pid.of(int(Path(name).stem))
    except (OSError, ValueError):
        return None
