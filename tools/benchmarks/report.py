"""What a run has found, as JSON and as text: medians, and how far the samples lie apart."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from tools.benchmarks.bench import Bench

Doc = dict[str, Any]

AIMS: Final = {
    ("import", "files/s"): "at least 3,500",
    ("big", "MB/s"): "at least 160",
    ("changed", "MB more"): "at most 2.5",
    ("insert", "MB more"): "at most 0.25",
    ("start", "s"): "at most 0.4",
}


def document(bench: Bench) -> Doc:
    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": _output("git", "describe", "--always", "--dirty"),
        "machine": _machine(bench),
        "inputs": _inputs(bench),
        "quick": bench.quick,
        "results": [
            {
                "row": row,
                "what": what,
                "unit": unit,
                "tool": tool,
                "median": median(samples),
                "min": min(samples),
                "max": max(samples),
                "samples": samples,
            }
            for (row, what, unit), by_tool in bench.samples.items()
            for tool, samples in by_tool.items()
        ],
        "absent": bench.absent,
        "unfinished": bench.unfinished,
        "failures": bench.failures,
    }


def print_json(doc: Doc) -> None:
    print(json.dumps(doc, indent=2))


def print_text(doc: Doc) -> None:
    print(f"monofs {doc['commit']}, {doc['when']}")
    for key, value in {**doc["machine"], **doc["inputs"]}.items():
        print(f"  {key}: {value}")
    if doc["quick"]:
        print("  --quick: the inputs are too small and the samples too few for these numbers to mean much")
    for row, what, unit in dict.fromkeys((one["row"], one["what"], one["unit"]) for one in doc["results"]):
        found = [one for one in doc["results"] if (one["row"], one["what"], one["unit"]) == (row, what, unit)]
        print(f"\n[{row}] {what}{_aim(row, unit)}")
        for one in found:
            print(f"  {one['tool']:<18} {_number(one['median']):>9} {unit}{_spread(one)}")
    for tool, package in doc["absent"].items():
        print(f"\nnot installed, so left out: {tool} (tools/bench --install-peers, or apt install {package})")
    for row in doc["unfinished"]:
        print(f"\nout of time before all of: {row} (--minutes gives more)")
    for failure in doc["failures"]:
        print(f"\nFAILED {failure}")


def _spread(one: Doc) -> str:
    count = len(one["samples"])
    return f"   ({_number(one['min'])} to {_number(one['max'])} in {count})" if count > 1 else ""


def _aim(row: str, unit: str) -> str:
    """Return what monofs wants to reach, where that was set down."""
    found = AIMS.get((row, unit))
    return f"; aim: {found}" if found else ""


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


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
    }


def _inputs(bench: Bench) -> Doc:
    made = {name: vars(bench)[name] for name in ("tree", "big_file") if name in vars(bench)}
    return {
        name.replace("_", " "): f"{one.what}: {one.files:,} files, {one.bytes / 1e6:,.0f} MB"
        for name, one in made.items()
    }


def _filesystem(path: Path) -> str:
    return _output("findmnt", "--noheadings", "--output", "FSTYPE,SOURCE", "--target", os.fspath(path)) or "?"


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
