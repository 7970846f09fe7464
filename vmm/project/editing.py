"""Editing monofs.toml for people: a machine comes or goes, and the rest stays as they wrote it, remarks and all."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmm.errors import BadProject
from vmm.project import toml
from vmm.project.lines import headers_of
from vmm.project.reading import parse_toml, shown


def with_machine(text: str, file: Path, name: str, row: Mapping[str, Any]) -> str:
    """Return `text` with one more machine at its end. Raises BadProject if there is one, or the text is no TOML."""
    wanted = parse_toml(text, file)
    machines = wanted.setdefault("machines", {})
    if not isinstance(machines, dict) or name in machines:
        raise BadProject(f"{shown(file)} has a machine '{name}' already; 'monofs remove {name}' takes it out")
    machines[name] = dict(row)
    above = text.rstrip("\n") + "\n\n" if text.strip() else ""
    section = [f"[machines.{toml.key(name)}]", *(f"{toml.key(key)} = {toml.value(one)}" for key, one in row.items())]
    return _checked(above + "\n".join(section) + "\n", file, wanted)


def without_machine(text: str, file: Path, name: str) -> str:
    """Return `text` without a machine, and without the remarks right above it. Raises BadProject if there is none."""
    wanted = parse_toml(text, file)
    machines = wanted.get("machines")
    if not isinstance(machines, dict) or name not in machines:
        raise BadProject(f"{shown(file)} has no machine '{name}'")
    del machines[name]
    lines = text.splitlines(keepends=True)
    starts = [(_above(lines, line - 1), path) for line, path in headers_of(text)]
    ends = [start for start, _ in starts[1:]] + [len(lines)]
    gone = {
        at for (start, path), end in zip(starts, ends) if path[:2] == ("machines", name) for at in range(start, end)
    }
    made = "".join(line for at, line in enumerate(lines) if at not in gone)
    return _checked(made.rstrip("\n") + "\n" if made.strip() else "", file, wanted)


def _above(lines: list[str], at: int) -> int:
    """Return where the remarks begin that stand right above a line."""
    while at and lines[at - 1].lstrip().startswith("#"):
        at -= 1
    return at


def _checked(text: str, file: Path, wanted: dict[str, Any]) -> str:
    """Return the text if it says what is wanted: an odd file is edited by hand or not at all."""
    try:
        if _trimmed(tomllib.loads(text)) == _trimmed(wanted):
            return text
    except tomllib.TOMLDecodeError:
        pass
    raise BadProject(f"{shown(file)} is written in a way that monofs cannot edit; please do it by hand")


def _trimmed(doc: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in doc.items() if key != "machines" or value}
