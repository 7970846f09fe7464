"""A habit: how often a mount makes checkpoints by itself, and which versions it keeps."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from monofs_fuse import limits
from store import retention
from store.errors import MonofsError
from store.retention import Policy

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class BadHabit(MonofsError):
    """What was asked for cannot be had. Ask for something else."""


class Habit(NamedTuple):
    """`keep` is None if every version stays."""

    seconds: int
    keep: Policy | None = None


def parse(interval: str, keep: str | None) -> Habit:
    """Return what '10m' and 'hourly=24,daily=7' mean. Raises BadHabit, BadPolicy."""
    return Habit(seconds_of(interval), None if keep is None else retention.parse(keep))


def seconds_of(text: str) -> int:
    """Return how long '90s', '10m', '2h' or '1h30m' is. Raises BadHabit."""
    if not re.fullmatch(r"([0-9]{1,9}[smhd])+", text):
        raise BadHabit(f"'{text}' is no interval: use a number with s, m, h or d, as in 10m or 1h30m")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhd])", text))
    if not limits.auto_seconds_min <= seconds <= limits.auto_seconds_max:
        raise BadHabit(f"'{text}': an interval is between {limits.auto_seconds_min} second and a year")
    return seconds


def shown(seconds: int) -> str:
    """Return an interval as `seconds_of` reads it."""
    parts = []
    for unit, size in reversed(_UNITS.items()):
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts)
