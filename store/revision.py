"""A revision: how people name a version of a tree, and a path in it.

NAME, CID or a unique beginning of one; then any of ~N (N versions back on its line) and @{TIME} (as it was then);
then /PATH.
"""

from __future__ import annotations

import re
import time as clock
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from store import history, version
from store.batch import Nodes
from store.cid import Cid
from store.directory import printable
from store.errors import NotFound
from store.version import Version

_STEPS: Final = re.compile(r"(?P<stem>.*?)(?P<steps>(?:~[0-9]*|@\{[^{}]*\})+)", re.DOTALL)
_STEP: Final = re.compile(r"~(?P<back>[0-9]*)|@\{(?P<time>[^{}]*)\}")
_AGO: Final = re.compile(
    r"(?:an?|([0-9]{1,9})) *(second|sec|s|minute|min|m|hour|h|day|d|week|w|month|year|y)s?(?: +ago)?"
)
_UNITS: Final = {
    "second": 1, "sec": 1, "s": 1, "minute": 60, "min": 60, "m": 60, "hour": 3600, "h": 3600, "day": 86400, "d": 86400,
    "week": 7 * 86400, "w": 7 * 86400, "month": 30 * 86400, "year": 365 * 86400, "y": 365 * 86400,
}  # fmt: skip
_BACK_MAX: Final = 9  # digits
_LAST_MAX: Final = 500  # characters of a name with its steps
LENGTH: Final = 59  # of a CID as monofs prints it
PREFIX_LENGTH_MIN: Final = 10  # of which all CIDs of a store share the first 7


class Spelled(NamedTuple):
    """A text taken apart: `stem` is a name or a CID, `steps` go back from there."""

    stem: str
    steps: str
    path: str


def spellings(text: str) -> Iterator[Spelled]:
    """Yield what a text can mean, the longest stem first: names and paths both have slashes in them."""
    parts = text.split("/")
    for count in range(len(parts), 0, -1):
        first, rest = "/".join(parts[:count]), "/".join(parts[count:])
        yield Spelled(first, "", rest)
        last = parts[count - 1]
        if len(last) <= _LAST_MAX and (found := _STEPS.fullmatch(last)):
            yield Spelled("/".join([*parts[: count - 1], found["stem"]]), found["steps"], rest)


def is_prefix(text: str) -> bool:
    """True for what may be the beginning of a CID."""
    return PREFIX_LENGTH_MIN <= len(text) < LENGTH and re.fullmatch("b[a-z2-7]+", text) is not None


def unique(prefix: str, among: Iterable[Cid]) -> Cid | None:
    """Return the one of `among` whose text begins so; None if there is none. Raises NotFound if there are several."""
    found = {cid for cid in among if str(cid).startswith(prefix)}
    if len(found) > 1:
        some = ", ".join(sorted(map(str, found))[:3])
        raise NotFound(
            f"'{prefix}' begins {len(found)} CIDs: {some}{' ...' if len(found) > 3 else ''}; type more of it"
        )
    return next(iter(found), None)


def follow(source: Nodes, start: Cid, steps: str) -> tuple[Cid, Version]:
    """Return the version that `steps` lead to from the version `start`. Raises NotFound."""
    at = start, version.load_version(source, start)
    for step in _STEP.finditer(steps):
        time = step["time"]
        at = _back(source, at[0], step["back"]) if time is None else _as_of(source, at[0], time)
    return at


def _back(source: Nodes, start: Cid, digits: str) -> tuple[Cid, Version]:
    count = int(digits or 1) if len(digits) <= _BACK_MAX else 10**_BACK_MAX
    number = -1
    for number, found in enumerate(history.line(source, start)):
        if number == count:
            return found
    raise NotFound(f"no version {count} before {_short(start)}: there {_are(number)} before it")


def _as_of(source: Nodes, start: Cid, text: str) -> tuple[Cid, Version]:
    moment = parse_time(text)
    oldest = None
    for cid, found in history.line(source, start):
        if found.time <= moment:
            return cid, found
        oldest = found.time
    since = datetime.fromtimestamp((oldest or 0) // 10**9).isoformat(" ") if _has_date(oldest) else "later"
    raise NotFound(f"no version of {_short(start)} is as old as '{printable(text.encode())}': the first is of {since}")


def moment(ns: int) -> str:
    """Return a time in ns since 1970 as ISO 8601 in UTC."""
    seconds, rest = divmod(ns, 10**9)
    return clock.strftime("%Y-%m-%dT%H:%M:%S", clock.gmtime(seconds)) + f".{rest:09d}Z"


def parse_time(text: str, now: Callable[[], float] = clock.time) -> int:
    """Return ns since 1970 of a time such as 2026-11-22, 2026-11-22T10:30, 2 hours ago, yesterday. Raises NotFound.

    A time without a zone is local. A month is 30 days, a year 365.
    """
    plain = " ".join(text.split()).lower()
    seconds = now()
    if plain in ("now", "yesterday"):
        return int((seconds - (86400 if plain == "yesterday" else 0)) * 10**9)
    if found := _AGO.fullmatch(plain):
        return int((seconds - int(found[1] or 1) * _UNITS[found[2]]) * 10**9)
    try:
        moment = datetime.fromisoformat(plain.upper())
        # Whole seconds mean all of that second, whole minutes of that minute: what was saved then is meant too.
        if not moment.microsecond:
            day = re.fullmatch(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}", plain)
            moment += timedelta(days=1 if day else 0, seconds=0 if day else 1, microseconds=-1)
        return int(moment.timestamp() * 10**6) * 1000 + 999
    except (ValueError, OverflowError, OSError):
        shown = printable(text.encode("utf-8", "surrogateescape"))
        raise NotFound(f"'{shown}' is no time; try 2026-11-22T10:30, '2 hours ago' or 'yesterday'") from None


def _has_date(ns: int | None) -> bool:
    return ns is not None and 0 <= ns // 10**9 < 1 << 37


def _short(cid: Cid) -> str:
    return f"{str(cid)[:20]}..."


def _are(count: int) -> str:
    return {0: "is none", 1: "is one"}.get(count, f"are {count}")
