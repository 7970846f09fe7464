"""What a run has found: a document, printed as JSON, as text, or as tables in Markdown. Medians, and the spread."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from tools.benchmarks import caches
from tools.benchmarks.aims import AIMS
from tools.benchmarks.bench import Bench

Doc = dict[str, Any]


def document(bench: Bench, group_of: Callable[[str], str]) -> Doc:
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": _output("git", "describe", "--always", "--dirty"),
        "machine": _machine(bench),
        "inputs": _inputs(bench),
        "quick": bench.quick,
        "results": [
            {
                "group": group_of(row),
                "row": row,
                "what": what,
                "unit": unit,
                "aim": str(AIMS[row, what]) if (row, what) in AIMS else None,
                "tools": {tool: _summary(samples) for tool, samples in by_tool.items()},
                "reached": _is_reached(bench, row, what, by_tool.get("monofs")),
            }
            for (row, what, unit), by_tool in bench.samples.items()
        ],
        "absent": bench.absent,
        "unfinished": bench.unfinished,
        "failures": bench.failures,
    }


def _summary(samples: list[float]) -> Doc:
    return {"median": median(samples), "min": min(samples), "max": max(samples), "samples": samples}


def _is_reached(bench: Bench, row: str, what: str, samples: list[float] | None) -> bool | None:
    """None where there is no aim, or what was measured is not what it is for."""
    aim = AIMS.get((row, what))
    return None if aim is None or bench.quick or not samples else aim.is_reached(median(samples))


# As text


def text(doc: Doc) -> str:
    lines = [f"monofs {doc['commit']}, {doc['when']}"]
    lines += [f"  {key}: {value}" for key, value in {**doc["machine"], **doc["inputs"]}.items()]
    for result in doc["results"]:
        aim = f"; aim: {_aim(result)}" if result["aim"] else ""
        lines += ["", f"[{result['row']}] {result['what']}{aim}"]
        for tool, found in result["tools"].items():
            count = len(found["samples"])
            spread = f"   ({_number(found['min'])} to {_number(found['max'])} in {count})" if count > 1 else ""
            lines.append(f"  {_label(doc, tool):<18} {_number(found['median']):>9} {result['unit']}{spread}")
    return "\n".join([*lines, "", *_notes(doc)])


def _aim(result: Doc) -> str:
    verdict = {True: ", reached", False: ", missed", None: ""}[result["reached"]]
    return f"{result['aim'] or ''}{verdict}"


def _label(doc: Doc, tool: str) -> str:
    return f"plain {doc['machine']['disk']}" if tool == "plain" else tool


def _notes(doc: Doc) -> list[str]:
    notes = [
        f"not installed, so left out: {tool} (tools/bench --install-peers, or apt install {package})"
        for tool, package in doc["absent"].items()
    ]
    if doc["quick"]:
        notes.append("--quick: the inputs are too small and the samples too few for these numbers to mean much")
    if doc["unfinished"]:
        counts = ", ".join(f"{row} {count}" for row, count in doc["unfinished"].items())
        notes.append(f"out of time (--minutes gives more); measured so often: {counts}")
    return notes + [f"FAILED {failure}" for failure in doc["failures"]]


# As Markdown


def markdown(doc: Doc) -> str:
    """Return one table a group, as the README has them."""
    machine = ", ".join(f"{key} {value}" for key, value in doc["machine"].items())
    inputs = "; ".join(f"{key}: {value}" for key, value in doc["inputs"].items())
    parts = [f"{doc['when']}, commit {doc['commit']}: {machine}. {inputs}."]
    for group in dict.fromkeys(result["group"] for result in doc["results"]):
        parts.append(_table(doc, group, [one for one in doc["results"] if one["group"] == group]))
    return "\n\n".join([*parts, *_notes(doc)])


def _table(doc: Doc, group: str, results: list[Doc]) -> str:
    tools = list(dict.fromkeys(tool for one in results for tool in one["tools"]))
    aims = ["aim"] if any(one["aim"] for one in results) else []
    head = [group, *(_label(doc, tool) for tool in tools), *aims]
    rows = [head, ["---"] * len(head)]
    for one in results:
        cells = [_cell(one["tools"].get(tool)) for tool in tools]
        rows.append([f"{one['what']}, {one['unit']}", *cells, *(_aim(one) for _ in aims)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(found: Doc | None) -> str:
    if found is None:
        return ""
    if len(found["samples"]) == 1:
        return _number(found["median"])
    return f"{_number(found['median'])} ({_number(found['min'])}–{_number(found['max'])})"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


# Where


def _machine(bench: Bench) -> Doc:
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?"
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": f"{os.cpu_count()} x {cpu}",
        "memory": f"{memory / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "disk": _filesystem(bench.work.parent),
        "load when it began": f"{bench.load_at_start:.1f}",
        "cold is": "a fresh mount and no caches" if caches.can_drop else "a fresh mount; the disk's caches stayed warm",
    }


def _inputs(bench: Bench) -> Doc:
    made = {name: vars(bench)[name] for name in ("tree", "large", "big_file") if name in vars(bench)}
    return {
        name.replace("_", " "): f"{one.what}: {one.files:,} files, {one.bytes / 1e6:,.0f} MB"
        for name, one in made.items()
    }


def _filesystem(path: Path) -> str:
    return _output("findmnt", "--noheadings", "--output", "FSTYPE", "--target", os.fspath(path)) or "?"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _output(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def to_json(doc: Doc) -> str:
    return json.dumps(doc, indent=2)
