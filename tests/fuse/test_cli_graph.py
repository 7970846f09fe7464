"""The drawing beside a log."""

from __future__ import annotations

import pytest

from monofs_fuse.cli import graph

# item -> those right before it, in the order in which they are drawn; the drawing
CASES = {
    "a line": ("cba", {"c": "b", "b": "a", "a": ""}, ["* c", "* b", "* a"]),
    "a merge": (
        "mcxba",
        {"m": "cx", "c": "b", "x": "b", "b": "a", "a": ""},
        ["* m", "|\\", "* | c", "| * x", "|/", "* b", "* a"],
    ),
    "a history of its own": ("mxca", {"m": "cx", "x": "", "c": "a", "a": ""}, ["* m", "|\\", "| * x", "* c", "* a"]),
    "one that ends on the left": (
        "mcxy",
        {"m": "cx", "c": "", "x": "y", "y": ""},
        ["* m", "|\\", "* | c", " /", "* x", "* y"],
    ),
    "three": (
        "mcxzb",
        {"m": "cxz", "c": "b", "x": "b", "z": "b", "b": ""},
        ["* m", "|\\", "|_|\\", "* | | c", "| * | x", "| | * z", "|/ /", "|/", "* b"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_drawings(case: str) -> None:
    order, before, wanted = CASES[case]
    rows = graph.drawn((one, list(before[one])) for one in order)
    found = [f"{drawing} {item}" if item else drawing.rstrip() for drawing, item in rows]
    assert found == wanted
