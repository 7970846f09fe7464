"""Making the list of machines true: what a dead supervisor left behind goes, and its machine is said to have died."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vmm import limits
from vmm.errors import VmError
from vmm.state import Row, State
from vmm.tenancy import Returned

GiveBack = Callable[[Row], Returned]


def reconcile(directory: Path, state: State, give_back: GiveBack) -> list[Row]:
    """Clear up after every machine whose supervisor is gone; returns those machines as they are now.

    `give_back` saves and unmounts the tree of one. Others that reconcile meanwhile wait or find nothing to do.
    """
    if all(row.supervised for row in state.living()):
        return []
    with _alone(directory):
        return [_clear(directory, state, row, give_back) for row in state.living() if not row.supervised]


def _clear(directory: Path, state: State, row: Row, give_back: GiveBack) -> Row:
    for pid in row.processes():  # they die with their supervisor; this is for one that did not get that far
        pid.kill()
        pid.wait(limits.end_seconds)
    problem = "its supervisor was killed"
    returned = Returned(None)
    try:
        returned = give_back(row)
    except VmError as error:
        problem = f"{problem}; {error}"
    with suppress(FileNotFoundError):
        (directory / row.id / "socket").unlink()
    state.update(
        row.id,
        status="died",
        ended=time.time(),
        exit_code=125,
        error=f"{problem}; {returned.note}" if returned.note else problem,
        result=returned.result,
        kept=returned.kept,
    )
    found = state.get(row.id)
    assert found is not None
    return found


def prune(directory: Path, state: State) -> None:
    """Keep the list bounded: forget the oldest of the ended machines, and their logs. No tree goes with them."""
    ended = [row for row in state.all() if not row.living]
    for row in ended[limits.ended_machines_max :]:
        remove(directory, state, row)


def remove(directory: Path, state: State, row: Row) -> None:
    """Forget one ended machine and its logs."""
    state.remove(row.id)
    remove_logs(directory / row.id)


def remove_logs(directory: Path) -> None:
    """Remove the directory of one machine. No tree is ever mounted in it."""
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory / "reconciling", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
