"""Retention: which versions of a history are worth keeping, said as 'last=5,hourly=24,daily=7'."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from store import limits
from store.errors import BadPolicy

_Moment = datetime.datetime


def _week(moment: _Moment) -> tuple[int, ...]:
    return tuple(moment.isocalendar())[:2]


# What a version's time is cut down to: of all versions with the same one, the newest stands for that hour, day, ...
_PERIODS: Final[dict[str, Callable[[_Moment], tuple[int, ...]]]] = {
    "hourly": lambda moment: (moment.year, moment.month, moment.day, moment.hour),
    "daily": lambda moment: (moment.year, moment.month, moment.day),
    "weekly": _week,
    "monthly": lambda moment: (moment.year, moment.month),
    "yearly": lambda moment: (moment.year,),
}
_LAST: Final = "last"
RULES: Final = (_LAST, *_PERIODS)


class Policy(NamedTuple):
    """How many to keep by each rule; a version stays if one of them wants it."""

    counts: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return ",".join(f"{rule}={count}" for rule, count in self.counts)

    def kept(self, times: Iterable[int]) -> frozenset[int]:
        """Return those of `times` (ns since 1970, looked at in UTC) whose versions stay.

        The newest always does. Hours and days without a version do not use up a rule's count.
        """
        newest_first = sorted(set(times), reverse=True)
        chosen = set(newest_first[:1])
        for rule, count in self.counts:
            chosen.update(newest_first[:count] if rule == _LAST else _newest_of_each(newest_first, rule, count))
        return frozenset(chosen)


def parse(text: str) -> Policy:
    """Raises BadPolicy."""
    counts: dict[str, int] = {}
    for part in text.split(","):
        rule, _, number = part.strip().partition("=")
        if rule not in RULES or not re.fullmatch("[0-9]{1,9}", number):
            raise BadPolicy(f"'{part.strip()}' keeps nothing: use {', '.join(RULES)}, as in 'hourly=24,daily=7'")
        if rule in counts:
            raise BadPolicy(f"'{rule}' is there twice")
        counts[rule] = int(number)
    if not any(counts.values()):
        raise BadPolicy(f"'{text}' would keep nothing; the least is 'last=1'")
    return Policy(tuple((rule, counts[rule]) for rule in RULES if rule in counts))


def _newest_of_each(newest_first: list[int], rule: str, count: int) -> Iterable[int]:
    """Yield the newest time of each of the last `count` periods that have one."""
    seen: set[tuple[int, ...]] = set()
    for time in newest_first:
        period = _PERIODS[rule](_moment(time))
        if period not in seen:
            if len(seen) == count:
                return
            seen.add(period)
            yield time


def _moment(time: int) -> _Moment:
    """Return the UTC moment; times beyond the calendar's end count as its last or first second."""
    seconds = min(max(time // 10**9, limits.calendar_seconds_min), limits.calendar_seconds_max)
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
