"""What the vm verbs have in common: the list of machines, made true before it is looked at, and how errors are told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from store.errors import MonofsError
from vmm.errors import VmError

if TYPE_CHECKING:
    from vmm.state import Row, State

FAILED: Final = 125  # monofs itself failed, where other exit codes are the command's


def explained(run: Callable[[], int], code: int = 1) -> int:
    """Run a verb; an error is one line on stderr, and this exit code or the error's own."""
    try:
        return run()
    except (VmError, MonofsError) as error:
        sys.stdout.flush()
        for line in str(error).splitlines():  # of a project's file there may be several
            print(f"monofs: {line}", file=sys.stderr)
        return int(getattr(error, "exit_code", code))
    except OSError as error:
        if code != FAILED or isinstance(error, BrokenPipeError):
            raise
        print(f"monofs: {error}", file=sys.stderr)
        return code


def machines_directory(store: Path) -> Path:
    """Return where a store keeps its machines."""
    return store / "vm"


@contextmanager
def machines(store: Path, *, create: bool = False) -> Iterator[tuple[Path, State]]:
    """The directory of a store's machines, and the list of them. What dead supervisors left is cleared up first."""
    from functools import partial

    from monofs_fuse import tenancy
    from vmm import reconcile, state

    directory = tenancy.machines_directory(store)
    with state.State(directory, create=create) as listed:
        reconcile.reconcile(directory, listed, partial(tenancy.give_back, store))
        yield directory, listed


def settled(store: Path, id: str) -> Row | None:
    """Return a machine whose supervisor has hung up: it has ended, or was killed, and this clears up after it."""
    from vmm import limits

    with machines(store) as (_, listed):
        found = listed.get(id)
    if found is None or not found.living:
        return found
    found.supervisor.wait(limits.end_seconds)  # a process that is killed hangs up before it is gone
    with machines(store) as (_, listed):
        return listed.get(id)


def resolve(store: Path, target: str) -> Any:
    """Return what a CID or name means in a store. Raises MonofsError."""
    from contextlib import closing

    from store.repository import Repository

    with closing(Repository.open(store, create=False)) as repository:
        return repository.resolve(target)
