"""A plot of what was measured in several sizes: how CPU time grows with the number of files. As text, and as SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any, Final, NamedTuple

_SIZE: Final = re.compile(r"([0-9,]+) files")
_OF: Final = ", CPU"
_COLUMNS: Final = 64
_ROWS: Final = 20
_COLOURS: Final = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22",
)  # fmt: skip


class Series(NamedTuple):
    """What was measured, and (files, ms) in order."""

    title: str
    points: tuple[tuple[int, float], ...]


class _Frame(NamedTuple):
    """Both axes are logarithmic and go from one power of ten to another."""

    left: int
    right: int
    low: int
    high: int

    @classmethod
    def around(cls, lines: Sequence[Series]) -> _Frame:
        sizes = [size for line in lines for size, _ in line.points]
        values = [value for line in lines for _, value in line.points]
        left, right = math.floor(math.log10(min(sizes))), math.ceil(math.log10(max(sizes)))
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return cls(left, max(right, left + 1), low, max(high, low + 1))

    def x(self, size: int) -> float:
        """From 0 to 1."""
        return (math.log10(size) - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        return (math.log10(value) - self.low) / (self.high - self.low)


def series(doc: dict[str, Any]) -> list[Series]:
    """Return what can be drawn of a document of `report`: CPU time that was measured in several sizes.

    Of several rounds the least is taken: what else the machine did can only have added to it.
    """
    found = []
    for result in doc["results"]:
        sizes = {tool: _SIZE.fullmatch(tool) for tool in result["tools"]}
        if not result["what"].endswith(_OF) or result["unit"] != "ms" or len(sizes) < 2 or not all(sizes.values()):
            continue
        points = [
            (int(size[1].replace(",", "")), max(result["tools"][tool]["min"], 0.01))
            for tool, size in sizes.items()
            if size
        ]
        found.append(Series(result["what"].removesuffix(_OF), tuple(sorted(points))))
    return found


def text(lines: Sequence[Series]) -> str:
    """Return a drawing for a terminal; where lines meet one letter hides the other."""
    if not lines:
        return "nothing to plot: run tools/bench versions with at least two --sizes"
    frame = _Frame.around(lines)
    cells = [[" "] * (_COLUMNS + 1) for _ in range(_ROWS + 1)]
    for letter, line in zip(_letters(), lines, strict=False):
        for column in range(_COLUMNS + 1):
            value = _at(line, frame.left + column / _COLUMNS * (frame.right - frame.left))
            if value is not None:
                cells[round(frame.y(value) * _ROWS)][column] = "."
        for size, value in line.points:
            cells[round(frame.y(value) * _ROWS)][round(frame.x(size) * _COLUMNS)] = letter
    drawn = ["ms of CPU time"]
    for number in range(_ROWS, -1, -1):
        power = frame.low + number / _ROWS * (frame.high - frame.low)
        label = f"{10.0**power:g}" if abs(power - round(power)) < 1e-9 else ""
        drawn.append(f"{label:>8} |{''.join(cells[number])}".rstrip())
    drawn.append(" " * 9 + "+" + "-" * (_COLUMNS + 1))
    ends = f"{10**frame.left:,}", f"{10**frame.right:,} files"
    drawn.append(" " * 10 + ends[0] + ends[1].rjust(_COLUMNS + 1 - len(ends[0])))
    return "\n".join([*drawn, *(f"  {letter}  {line.title}" for letter, line in zip(_letters(), lines, strict=False))])


def _letters() -> str:
    return "abcdefghijklmnopqrstuvwxyz"


def _at(line: Series, power: float) -> float | None:
    """Return the value between two points, as a straight line of logarithms has it."""
    for (one, before), (two, after) in zip(line.points, line.points[1:], strict=False):
        first, second = math.log10(one), math.log10(two)
        if first <= power <= second:
            share = (power - first) / (second - first)
            return float(before ** (1 - share) * after**share)
    return None


# SVG

_WIDTH, _HEIGHT = 640, 420
_LEFT, _TOP, _RIGHT, _BELOW = 70, 34, 40, 60
_LEGEND = 18


def svg(lines: Sequence[Series], title: str) -> str:
    """Return the same as an SVG image, with the titles of the lines below it."""
    frame = _Frame.around(lines)
    bottom = _HEIGHT - _BELOW
    whole = _HEIGHT + _LEGEND * -(-len(lines) // 2) + 10

    def x(size: int) -> float:
        return round(_LEFT + frame.x(size) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(bottom - frame.y(value) * (bottom - _TOP), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {whole}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{_WIDTH}" height="{whole}" fill="white"/>',
        f'<text x="{_LEFT}" y="20">{escape(title)}</text>',
    ]
    for power in range(frame.low, frame.high + 1):
        at = y(10.0**power)
        parts.append(f'<line x1="{_LEFT}" y1="{at}" x2="{_WIDTH - _RIGHT}" y2="{at}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{10.0**power:g} ms</text>')
    for power in range(frame.left, frame.right + 1):
        at = x(10**power)
        parts.append(f'<line x1="{at}" y1="{_TOP}" x2="{at}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{10**power:,}</text>')
    parts.append(
        f'<text x="{_WIDTH / 2}" y="{bottom + 36}" text-anchor="middle">'
        "files in the tree (dotted: what grows as it does)</text>"
    )
    powers = min(frame.right - frame.left, frame.high - frame.low)
    ends = (x(10**frame.left), y(10.0**frame.low), x(10 ** (frame.left + powers)), y(10.0 ** (frame.low + powers)))
    parts.append('<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="#999" stroke-dasharray="2 4"/>'.format(*ends))
    for number, line in enumerate(lines):
        parts += _drawn(number, line, [(x(size), y(value)) for size, value in line.points])
    return "\n".join([*parts, "</svg>", ""])


def _drawn(number: int, line: Series, places: list[tuple[float, float]]) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    dashes = ' stroke-dasharray="7 4"' if number >= len(_COLOURS) else ""
    points = " ".join(f"{x},{y}" for x, y in places)
    left, top = _LEFT + number % 2 * (_WIDTH - _LEFT) // 2, _HEIGHT + number // 2 * _LEGEND
    return [
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>',
        *(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places),
        f'<path d="M{left} {top - 5}h20" stroke="{colour}" stroke-width="3"{dashes}/>',
        f'<text x="{left + 26}" y="{top}">{escape(line.title)}</text>',
    ]
