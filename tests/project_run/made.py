"""Machines for tests, as a monofs.toml would declare them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vmm.project import wanted
from vmm.project.manifest import Dependency, Machine, Project, Source
from vmm.project.state import Installed
from vmm.project.wanted import Wanted


def machine(name: str, *needs: str | Dependency, **more: Any) -> Machine:
    found = tuple(need if isinstance(need, Dependency) else Dependency(need) for need in needs)
    more.setdefault("command", ("sleep", "1000"))
    return Machine(name, Source("name", "base"), depends_on=found, **more)


def of(one: Machine, *, tree: str = "bafytree", config: dict[str, Any] | None = None) -> Wanted:
    project = Project("shop", Path("/p"), (one,))
    return wanted.of(project, one, Installed(one.name, "base", tree, "bafyversion", None, config or {}), one.env)


def declared(*machines: Machine) -> dict[str, Wanted]:
    return {one.name: of(one) for one in machines}


def changed(one: Wanted, memory: str = "1G") -> Wanted:
    """The same machine, declared otherwise."""
    return replace(one, facts={**one.facts, "memory": memory})
