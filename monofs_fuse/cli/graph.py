"""The graph beside a log: a line for each history, drawn with | / \\ and _."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

_T = TypeVar("_T")
Row = tuple[str, _T | None]  # the drawing, and what it stands beside; None in between


def drawn(items: Iterable[tuple[_T, Sequence[_T]]]) -> Iterator[Row[_T]]:
    """Yield rows for (item, those right before it), where each item comes before all that are before it."""
    lanes: list[_T] = []  # what each line leads to
    for item, before in items:
        if item not in lanes:
            lanes.append(item)
        own = lanes.index(item)
        while item in lanes[own + 1 :]:
            other = lanes.index(item, own + 1)
            yield _joined(len(lanes), own, other), None
            del lanes[other]
        yield " ".join("*" if lane == own else "|" for lane in range(len(lanes))), item
        if not before:
            if own < len(lanes) - 1:
                yield _closed(len(lanes), own), None
            del lanes[own]
            continue
        lanes[own] = before[0]
        for more in before[1:]:
            if more in lanes:
                yield _crossed(len(lanes), own, lanes.index(more)), None
            else:
                lanes.append(more)
                yield _parted(len(lanes), own), None


def _joined(count: int, own: int, other: int) -> str:
    """The line `other` ends in the line `own`, left of it; those on its right move up."""
    return _bridged(_straight(other), own) + "/" + " /" * (count - other - 1)


def _parted(count: int, own: int) -> str:
    """A new line, the last, begins at the line `own`."""
    return _bridged(_straight(count - 1), own) + "\\"


def _crossed(count: int, own: int, other: int) -> str:
    """The line `own` is joined to `other` and both go on."""
    low, high = sorted((own, other))
    return _bridged(_straight(high), low) + "_" + _straight(count - high).rstrip()


def _closed(count: int, own: int) -> str:
    """The line `own` has come to its beginning; those on its right move up."""
    return _straight(own) + " /" * (count - own - 1)


def _straight(count: int) -> str:
    return "| " * count


def _bridged(row: str, own: int) -> str:
    """Return `row` with a bridge from the line `own` to its end, but for the last place."""
    start = 2 * own + 1
    return row[:start] + row[start:-1].replace(" ", "_")
