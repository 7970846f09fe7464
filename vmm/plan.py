"""A plan: all that a supervisor needs to know to live one machine's life."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vmm.spec import Command, MachineSpec
from vmm.state import Row


@dataclass(frozen=True)
class Plan:
    """Without a command the machine runs until it is told to stop. `timings` is how long what took until now."""

    row: Row
    spec: MachineSpec
    command: Command | None
    directory: Path
    cache: Path
    timeout_seconds: float | None = None
    timings: dict[str, float] = field(default_factory=dict)
