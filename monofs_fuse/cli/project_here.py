"""The project that a command is about: what its machines are to be, and what they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from vmm.errors import NoMachine, WrongState

if TYPE_CHECKING:
    from vmm.project.folder import Folder
    from vmm.project.manifest import Project
    from vmm.project.plan import Running
    from vmm.project.wanted import Wanted
    from vmm.project.wishes import Run, Wish

Report = dict[str, dict[str, Any]]


def folder() -> Folder:
    """Return that of the project that we are in. Raises NoProject."""
    from monofs_fuse.project import stores

    return stores.find()


def installed_folder() -> Folder:
    """Return that of the project, in which something was installed. Raises NoProject, WrongState."""
    found = folder()
    if not (found.mc / "project.sqlite").exists():
        raise WrongState(f"nothing is installed in {found.directory}; 'monofs install' does that, 'monofs up' too")
    return found


def read(found: Folder) -> Project:
    """Raises BadProject."""
    from vmm.project import reading

    return reading.read(found.manifest)


def declared(found: Folder, project: Project) -> dict[str, Wanted]:
    """Return what the machines are to be that are declared and installed. Raises BadProject, BadSpec, WrongState."""
    from vmm.project import wanted
    from vmm.project.environment import environment
    from vmm.project.state import State

    with State(found.mc) as state:
        made = {one.machine: one for one in state.installed()}
    missing = [one.name for one in project.machines if one.name not in made]
    if missing:  # only where nothing is to be done but to look
        raise WrongState(f"machine '{missing[0]}' is not installed; 'monofs install' does that")
    return {one.name: wanted.of(project, one, made[one.name], environment(one)) for one in project.machines}


class Book(NamedTuple):
    """What is written of the machines that somebody wanted to run."""

    wishes: dict[str, Wish]
    runs: dict[str, Run]


def book(found: Folder) -> Book:
    from vmm.project.state import State
    from vmm.project.wishes import Wishes

    with State(found.mc) as state:
        kept = Wishes(state)
        return Book(kept.all(), kept.runs())


def known(name: str, names: Iterable[str]) -> None:
    """Raise NoMachine if nothing is known of it."""
    if name not in names:
        raise NoMachine(f"no machine '{name}' has been up in this project; 'monofs ps' lists its machines")


def is_up(one: dict[str, Any]) -> bool:
    """True for a machine that runs, or will without anybody asking for it again."""
    if one["phase"] != "down":
        return True
    if one["wished"] == "down" or one["blocked_by"]:
        return False
    return bool(one["next_start"] is not None or one["waits_for"] or not one["is_current"])


def running(found: Folder, report: Report) -> dict[str, Running]:
    """Return what a plan for `up` has to know of the machines."""
    from vmm.project.plan import Running

    kept = book(found)
    made = {}
    for name, one in report.items():
        wish, run = kept.wishes.get(name), kept.runs.get(name)
        if wish is None:
            continue  # it was let go just now
        if is_up(one) and wish.up:
            is_run = run is not None and one["phase"] != "down" and one["is_current"]
            made[name] = Running(run.wanted if run is not None and is_run else wish.wanted)
        elif wish.up:
            made[name] = Running(wish.wanted, alive=False, why=how_it_ended(one))
        elif one["phase"] != "down":
            made[name] = Running(wish.wanted, alive=False, why="it is being stopped")
    return made


def how_it_ended(one: dict[str, Any]) -> str:
    if one["blocked_by"]:
        return f"it waits for {one['blocked_by']}, which does not run"
    if one["error"]:
        return str(one["error"])
    return "" if one["exit_code"] is None else f"it ended with exit code {one['exit_code']}"
