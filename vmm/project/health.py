"""Whether a machine is healthy, from what its checks say. Pure: the time is handed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from vmm.project.manifest import Health

Verdict = Literal["starting", "healthy", "unhealthy"]


@dataclass(frozen=True)
class Pulse:
    """`verdict` until now, how many checks in a row failed, when the machine started, when the next check is due."""

    since: float
    due: float
    verdict: Verdict = "starting"
    failures: int = 0


def begun(health: Health, now: float) -> Pulse:
    """Return that of a machine whose command has just begun. It is asked at once: most are up by then."""
    return Pulse(now, now)


def after(pulse: Pulse, health: Health, passed: bool, now: float) -> Pulse:
    """Return what is known after one more check, which ended `now`."""
    due = now + health.interval_seconds
    if passed:
        return replace(pulse, verdict="healthy", failures=0, due=due)
    if pulse.verdict == "starting" and now < pulse.since + health.start_seconds:
        return replace(pulse, due=due)
    failures = pulse.failures + 1
    verdict: Verdict = "unhealthy" if failures >= health.retries else pulse.verdict
    return replace(pulse, verdict=verdict, failures=failures, due=due)
