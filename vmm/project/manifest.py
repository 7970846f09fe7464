"""A project as its monofs.toml declares it: frozen values that cannot be wrong. `reading` reads the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from vmm import limits
from vmm.spec import Net, Publish, Volume

FILE: Final = "monofs.toml"

SourceKind = Literal["image", "name", "cid", "directory"]
Condition = Literal["started", "healthy"]
RestartPolicy = Literal["no", "on-failure", "always", "unless-stopped"]


@dataclass(frozen=True)
class Source:
    """Where a machine's tree comes from. `text` is as written: an image's reference, a name, a CID, a path."""

    kind: SourceKind
    text: str


@dataclass(frozen=True)
class Health:
    """The machine is healthy once `command` ends with 0, and unhealthy when it fails `retries` times in a row.

    What fails within `start_seconds` of the machine's start does not count.
    """

    command: tuple[str, ...]
    interval_seconds: float = 10.0
    timeout_seconds: float = 10.0
    retries: int = 3
    start_seconds: float = 0.0


@dataclass(frozen=True)
class Dependency:
    """Another machine of the project that has to be there first."""

    machine: str
    condition: Condition = "started"


@dataclass(frozen=True)
class Restart:
    """What is done when the machine's command has ended. `failures_max` counts those in a row; None is no limit."""

    policy: RestartPolicy = "no"
    failures_max: int | None = None


@dataclass(frozen=True)
class Machine:
    """One machine. None is: as its image says, or as every machine has it.

    `command` takes the place of the image's CMD, `entrypoint` that of its ENTRYPOINT.
    """

    name: str
    source: Source
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    env_files: tuple[Path, ...] = ()
    ports: tuple[Publish, ...] = ()
    volumes: tuple[Volume, ...] = ()
    memory_bytes: int = 512 * limits.MIB
    cpus: int = 1
    workdir: str | None = None
    user: str | None = None
    net: Net = "none"
    depends_on: tuple[Dependency, ...] = ()
    health: Health | None = None
    restart: Restart = field(default_factory=Restart)
    stop_seconds: float = limits.stop_seconds
    scripts: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Project:
    """All machines of a project, in the order of the file. `directory` is where the file lies."""

    name: str
    directory: Path
    machines: tuple[Machine, ...]

    def machine(self, name: str) -> Machine | None:
        return next((machine for machine in self.machines if machine.name == name), None)

    def tree_name(self, machine: str) -> str:
        """Return what the tree of a machine is called in the project's store."""
        return f"{self.name}/{machine}"
