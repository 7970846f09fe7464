"""What is in .mc, and what is to run: one SQLite database, which every command of the project asks.

The machines that run are in the store's own list (`vmm.state`); here is what they were made from.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vmm.database import Database

STATE: Final = "project.sqlite"  # in .mc
_MIGRATIONS: Final = (
    """
    CREATE TABLE installed (
        machine TEXT PRIMARY KEY,
        source TEXT NOT NULL,
        digest TEXT,
        tree TEXT NOT NULL,
        version TEXT NOT NULL,
        config TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE wished (
        machine TEXT PRIMARY KEY,
        up INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        patience REAL NOT NULL,
        wanted TEXT NOT NULL,
        boot TEXT NOT NULL
    ) STRICT;
    CREATE TABLE runs (
        machine TEXT PRIMARY KEY,
        vm TEXT NOT NULL,
        essence TEXT NOT NULL,
        generation INTEGER NOT NULL,
        wanted TEXT NOT NULL,
        phase TEXT NOT NULL,
        health TEXT,
        restarts INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        short INTEGER NOT NULL,
        next_start REAL,
        code INTEGER,
        seconds REAL,
        error TEXT
    ) STRICT;
    """,
)


@dataclass(frozen=True)
class Installed:
    """What a machine was made from. `tree` is its reference, `version` the Version that its fork began with (CIDs).

    `source` is as monofs.lock has it; `digest` that of the image's manifest, None for what is no image; `config` the
    image's configuration, as far as running it needs that: env, entrypoint, cmd, user, workdir, ports, stop_signal.
    """

    machine: str
    source: str
    tree: str
    version: str
    digest: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


class State(Database):
    """What the project's commands know."""

    def __init__(self, mc: Path) -> None:
        """Open the state in .mc, made if it is not there. Raises StateError."""
        super().__init__(mc / STATE, _MIGRATIONS, "the project's state")

    # What is installed

    def installed(self) -> list[Installed]:
        """Return what every machine was made from, by name."""
        return list(map(_installed, self.rows("SELECT * FROM installed ORDER BY machine")))

    def put_installed(self, made: Installed) -> None:
        """Remember what a machine was made from, whatever was known of it before."""
        values = (made.machine, made.source, made.digest, made.tree, made.version, json.dumps(made.config))
        columns = "machine, source, digest, tree, version, config"
        self.change(f"INSERT OR REPLACE INTO installed ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)  # noqa: S608

    def remove_installed(self, machine: str) -> None:
        self.change("DELETE FROM installed WHERE machine = ?", (machine,))


def _installed(row: sqlite3.Row) -> Installed:
    values = {name: row[name] for name in row.keys()}  # noqa: SIM118, iterating a Row gives values
    return Installed(**{**values, "config": json.loads(values["config"])})
