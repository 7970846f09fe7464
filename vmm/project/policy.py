"""When a machine whose command has ended is started again. Pure: the time is handed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from vmm.project import limits
from vmm.project.manifest import Restart


class Ended(NamedTuple):
    """How a run ended: the command's exit code, or 125 and what went wrong. `seconds` is how long the command ran."""

    code: int
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Past:
    """What came before: how often it was started again, how many runs in a row failed, and how many were short.

    `next_start` is when it may start; None is never by itself.
    """

    restarts: int = 0
    failures: int = 0
    short: int = 0
    next_start: float | None = 0.0


def after(past: Past, restart: Restart, ended: Ended, now: float) -> Past:
    """Return what is known once a run has ended that nobody asked to end."""
    is_steady = ended.seconds >= limits.steady_seconds
    failures = 0 if ended.code == 0 else 1 if is_steady else past.failures + 1
    short = 0 if is_steady else past.short + 1
    found = replace(past, failures=failures, short=short, next_start=None)
    if not _again(restart, ended, failures):
        return found
    return replace(found, restarts=past.restarts + 1, next_start=now + pause_seconds(short))


def _again(restart: Restart, ended: Ended, failures: int) -> bool:
    if restart.policy == "no" or (restart.policy == "on-failure" and ended.code == 0):
        return False
    return restart.failures_max is None or failures <= restart.failures_max


def pause_seconds(short: int) -> float:
    """Return how long to wait after so many short runs in a row; a good run is followed by the next at once."""
    if short == 0:
        return 0.0
    doubled: float = limits.pause_seconds_min * 2.0 ** min(short - 1, 64)
    return min(doubled, limits.pause_seconds_max)
