"""From what is wished and what is, what a project's supervisor does next. Pure: the time is handed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from vmm.project.health import Verdict
from vmm.project.manifest import Dependency
from vmm.project.policy import Ended, Past
from vmm.project.wishes import Key, Phase, Wish


@dataclass(frozen=True)
class Seen:
    """How one machine is. `key` is what it was last started for, `ended` how that went if it is over.

    `asked` is the patience with which it was told to stop, None if it was not.
    """

    phase: Phase = "down"
    key: Key | None = None
    health: Verdict | None = None
    past: Past = field(default_factory=Past)
    ended: Ended | None = None
    asked: float | None = None
    ports: frozenset[int] = frozenset()  # of the host, that it has taken

    @property
    def alive(self) -> bool:
        return self.phase != "down"


class Start(NamedTuple):
    machine: str


class Stop(NamedTuple):
    """End it; 0 seconds is at once."""

    machine: str
    seconds: float


NOTHING = Seen()


def actions(wishes: Mapping[str, Wish], seen: Mapping[str, Seen], now: float) -> list[Start | Stop]:
    """Return what can be done now. What has to wait for something else is not among it."""
    return [*_stops(wishes, seen), *_starts(wishes, seen, now)]


def _stops(wishes: Mapping[str, Wish], seen: Mapping[str, Seen]) -> Iterator[Stop]:
    wrong = [
        name
        for name, wish in wishes.items()
        if (one := seen.get(name, NOTHING)).alive and not (wish.up and one.key == wish.key)
    ]
    free = [name for name in wrong if not _is_needed(name, wishes, seen)]
    for name in free or wrong:  # all needed: two declarations of different times may make a circle
        asked, patience = seen[name].asked, wishes[name].patience
        if asked is None or patience < asked:
            yield Stop(name, patience)


def _starts(wishes: Mapping[str, Wish], seen: Mapping[str, Seen], now: float) -> Iterator[Start]:
    for name, wish in wishes.items():
        one = seen.get(name, NOTHING)
        is_possible = wish.up and not one.alive and is_due(wish, one, now)
        if is_possible and not waits_for(wish, wishes, seen) and not _is_port_in_use(wish, wishes, seen):
            yield Start(name)


def _is_port_in_use(wish: Wish, wishes: Mapping[str, Wish], seen: Mapping[str, Seen]) -> bool:
    """Whether a machine that is about to go still has a port that this one is to have."""
    wanted = {one.host_port for one in wish.wanted.publish}
    return any(
        one.ports & wanted and one.alive and not (name in wishes and wishes[name].up and one.key == wishes[name].key)
        for name, one in seen.items()
    )


def is_due(wish: Wish, one: Seen, now: float) -> bool:
    """Whether a machine that is down may start: for a new wish always, else when its past says."""
    if one.key != wish.key:
        return True
    return one.past.next_start is not None and now >= one.past.next_start


def is_over(wish: Wish, one: Seen) -> bool:
    """True for a machine that will not run again unless somebody asks for it."""
    return not one.alive and (not wish.up or (one.key == wish.key and one.past.next_start is None))


def _is_needed(name: str, wishes: Mapping[str, Wish], seen: Mapping[str, Seen]) -> bool:
    """Whether a machine that needs this one is on its way down and not there yet. One that stays up does not count."""
    if wishes[name].up:
        return False  # it is only restarted
    return any(
        seen.get(other, NOTHING).alive and not wish.up
        for other, wish in wishes.items()
        if other != name and any(need.machine == name for need in wish.wanted.needs)
    )


def waits_for(wish: Wish, wishes: Mapping[str, Wish], seen: Mapping[str, Seen]) -> list[str]:
    """Return what has to be there before this machine starts and is not."""
    return [need.machine for need in wish.wanted.needs if not _is_there(need, wishes, seen)]


def _is_there(need: Dependency, wishes: Mapping[str, Wish], seen: Mapping[str, Seen]) -> bool:
    wish, one = wishes.get(need.machine), seen.get(need.machine, NOTHING)
    if wish is None or not wish.up or one.key != wish.key:
        return False
    if need.condition == "healthy" and wish.wanted.health is not None:
        return one.phase == "running" and one.health == "healthy"
    # One that did its work and ended well has been started, too.
    return one.phase == "running" or (one.ended is not None and one.ended.code == 0 and is_over(wish, one))


def blocked_by(name: str, wishes: Mapping[str, Wish], seen: Mapping[str, Seen]) -> str | None:
    """Return a machine that this one waits for in vain: it is down and will stay so. None: there is hope."""
    for needed in waits_for(wishes[name], wishes, seen):
        wish = wishes.get(needed)
        if wish is None or is_over(wish, seen.get(needed, NOTHING)) or blocked_by(needed, wishes, seen) is not None:
            return needed
    return None


def wakes_at(wishes: Mapping[str, Wish], seen: Mapping[str, Seen]) -> float | None:
    """Return when the next machine is due that is down for now; None if only events matter."""
    times = [
        one.past.next_start
        for name, wish in wishes.items()
        if wish.up
        and not (one := seen.get(name, NOTHING)).alive
        and one.key == wish.key
        and one.past.next_start is not None
        and not waits_for(wish, wishes, seen)
        and not _is_port_in_use(wish, wishes, seen)
    ]
    return min(times, default=None)


def is_done(wishes: Mapping[str, Wish], seen: Mapping[str, Seen]) -> bool:
    """True when there is nothing left to look after: all is down and nothing will start by itself."""
    return all(
        is_over(wish, seen.get(name, NOTHING))
        or (not seen.get(name, NOTHING).alive and blocked_by(name, wishes, seen) is not None)
        for name, wish in wishes.items()
    )
