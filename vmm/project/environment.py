"""The environment of a machine: what its files of variables and its table say."""

from __future__ import annotations

from pathlib import Path

from vmm.errors import BadProject
from vmm.project.manifest import Machine
from vmm.project.reading import load, shown


def environment(machine: Machine) -> tuple[tuple[str, str], ...]:
    """Return the variables of a machine; a later file counts more than an earlier one, the table most.

    Reads the files. Raises BadProject, with file and line.
    """
    found: dict[str, str] = {}
    for file in machine.env_files:
        found.update(_variables(file))
    found.update(machine.env)
    return tuple(found.items())


def _variables(file: Path) -> dict[str, str]:
    """Return what NAME=VALUE lines say, as they are: quotes are a part of the value."""
    found: dict[str, str] = {}
    for number, line in enumerate(load(file).split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.lstrip().partition("=")
        if not equals or not name.strip() or "\0" in line:
            raise BadProject(f"{shown(file)}:{number}: not NAME=VALUE")
        found[name.strip()] = value
    return found
