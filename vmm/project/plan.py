"""A plan: what has to be done so that the machines that run are those that the project declares. Pure.

Steps come in an order in which they can be done one after another: what is needed before what needs it, and for
machines that go the other way round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Literal

from vmm.errors import BadSpec, NoMachine
from vmm.project import wanted
from vmm.project.wanted import Wanted

Action = Literal["start", "restart", "stop", "keep"]


@dataclass(frozen=True)
class Running:
    """A machine that is up, or is meant to be. Not `alive`: it has ended, and is not about to be started again."""

    wanted: Wanted
    alive: bool = True
    why: str = ""  # how it ended


@dataclass(frozen=True)
class Step:
    machine: str
    action: Action
    why: str = ""

    def __str__(self) -> str:
        return f"{self.action:<8}{self.machine}" + (f"  ({self.why})" if self.why else "")


@dataclass(frozen=True)
class Plan:
    """What is done, in this order. Machines that nothing is done with are in it too, as `keep`."""

    steps: tuple[Step, ...]

    @property
    def changes(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action != "keep")


def up(declared: Iterable[Wanted], running: Mapping[str, Running], names: Collection[str] = ()) -> Plan:
    """Plan that `names` (none: all) run as declared, and what they need. With no names, what is not declared goes.

    Raises NoMachine, BadSpec if machines need each other in a circle.
    """
    by_name = {one.machine: one for one in declared}
    chosen = with_needs(by_name, names)
    gone = {} if names else {name: one.wanted for name, one in running.items() if name not in by_name}
    stops = [Step(name, "stop", "no longer in monofs.toml") for name in reversed(ordered(gone)) if running[name].alive]
    return Plan((*stops, *(_step(by_name[name], running.get(name)) for name in chosen)))


def _step(one: Wanted, now: Running | None) -> Step:
    if now is None:
        return Step(one.machine, "start")
    if not now.alive:
        return Step(one.machine, "start", now.why)
    reasons = wanted.differences(now.wanted, one)
    return Step(one.machine, "restart", "; ".join(reasons)) if reasons else Step(one.machine, "keep")


def down(running: Mapping[str, Running], names: Collection[str] = ()) -> Plan:
    """Plan that `names` (none: all) do not run. What needs a machine is stopped before it. Raises NoMachine."""
    for name in names:
        if name not in running:
            raise NoMachine(f"no machine '{name}' runs; 'monofs ps' lists those of the project")
    everything = {name: one.wanted for name, one in running.items()}
    order = [name for name in reversed(ordered(everything)) if not names or name in names]
    return Plan(tuple(Step(name, "stop") for name in order if running[name].alive))


def with_needs(declared: Mapping[str, Wanted], names: Collection[str] = ()) -> list[str]:
    """Return `names` (none: all) and what they need, in order. Raises NoMachine, BadSpec."""
    found: set[str] = set()
    left = list(names or declared)
    while left:
        name = left.pop()
        if name not in declared:
            raise unknown(name, declared)
        if name not in found:
            found.add(name)
            left += (need.machine for need in declared[name].needs)
    return [name for name in ordered(declared) if name in found]


def unknown(name: str, declared: Iterable[str]) -> NoMachine:
    there = ", ".join(sorted(declared)) or "none"
    return NoMachine(f"no machine '{name}' in monofs.toml; there are: {there}")


def ordered(machines: Mapping[str, Wanted]) -> list[str]:
    """Return all names, what is needed before what needs it, else as they come. Raises BadSpec for a circle."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, one in machines.items():
        sorter.add(name, *(need.machine for need in one.needs if need.machine in machines))
    try:
        sorter.prepare()
    except CycleError as error:
        raise BadSpec(f"machines need each other in a circle: {' -> '.join(error.args[1])}") from None
    rank = {name: number for number, name in enumerate(machines)}
    return list(_layers(sorter, rank))


def _layers(sorter: TopologicalSorter[str], rank: Mapping[str, int]) -> Iterator[str]:
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=rank.__getitem__)
        yield from ready
        sorter.done(*ready)
