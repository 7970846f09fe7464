"""What is wished of a project's machines, and what came of it: kept in the project's state.

Commands write wishes; only the supervisor writes what came of them. Either may be killed at any moment.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from vmm.pids import boot_id
from vmm.project.health import Verdict
from vmm.project.policy import Ended, Past
from vmm.project.state import State
from vmm.project.wanted import Wanted

Phase = Literal["down", "starting", "running", "stopping"]


class Key(NamedTuple):
    """Tells one wish from another: a machine that was started for one does not fulfil the other.

    The generation is another one whenever somebody asks for a machine to be started anew.
    """

    essence: str
    generation: int


@dataclass(frozen=True)
class Wish:
    """`up`: it is to run. `patience` is how long it may take to end, in seconds; 0 is no time at all."""

    wanted: Wanted
    up: bool
    generation: int
    patience: float

    @property
    def key(self) -> Key:
        return Key(self.wanted.essence, self.generation)


@dataclass(frozen=True)
class Run:
    """The last run of a machine. `vm` is its ID in the list of machines; `wanted` what it was started as.

    `past.next_start` is a time of the clock on the wall here.
    """

    vm: str
    key: Key
    wanted: Wanted
    phase: Phase = "down"
    health: Verdict | None = None
    past: Past = field(default_factory=Past)
    ended: Ended | None = None


class Wishes:
    """The wishes in a state that is open."""

    def __init__(self, state: State) -> None:
        self._state = state

    def all(self) -> dict[str, Wish]:
        """Return every wish, by the machine's name. None of those from before the host was restarted is for it to run.

        Raises StateError.
        """
        rows = self._state.rows("SELECT * FROM wished ORDER BY rowid")
        return {row["machine"]: _wish(row) for row in rows}

    def runs(self) -> dict[str, Run]:
        return {row["machine"]: _run(row) for row in self._state.rows("SELECT * FROM runs")}

    # Commands

    def wish_up(self, wanted: Iterable[Wanted], anew: Iterable[str] = ()) -> None:
        """Let these run as they are declared; those named in `anew` are started once more whatever they do now."""
        again = set(anew)
        with self._state.together():
            for one in wanted:
                doc = json.dumps(one.doc())
                self._state.change(
                    "INSERT INTO wished VALUES (?, 1, 1, ?, ?, ?) ON CONFLICT (machine) DO UPDATE SET up = 1, "
                    "generation = generation + ?, patience = excluded.patience, wanted = excluded.wanted, "
                    "boot = excluded.boot",
                    (one.machine, one.stop_seconds, doc, boot_id(), int(one.machine in again)),
                )

    def wish_down(self, machines: Mapping[str, float | None]) -> None:
        """Let these not run; the number is the patience, None is the machine's own."""
        with self._state.together():
            for machine, seconds in machines.items():
                self._state.change(
                    "UPDATE wished SET up = 0, patience = coalesce(?, json_extract(wanted, '$.stop_seconds')) "
                    "WHERE machine = ?",
                    (seconds, machine),
                )

    def forget(self, machine: str) -> None:
        """Nothing more is known of a machine that is down."""
        with self._state.together():
            self._state.change("DELETE FROM wished WHERE machine = ?", (machine,))
            self._state.change("DELETE FROM runs WHERE machine = ?", (machine,))

    # The supervisor

    def put_run(self, machine: str, run: Run) -> None:
        past, ended = run.past, run.ended
        values = (
            *(machine, run.vm, *run.key, json.dumps(run.wanted.doc()), run.phase, run.health),
            *(past.restarts, past.failures, past.short, past.next_start),
            *((None, None, None) if ended is None else (ended.code, ended.seconds, ended.error)),
        )
        marks = ", ".join("?" * len(values))
        self._state.change(f"INSERT OR REPLACE INTO runs VALUES ({marks})", values)  # noqa: S608


def _wish(row: sqlite3.Row) -> Wish:
    wanted = Wanted.of_doc(json.loads(row["wanted"]))
    return Wish(wanted, bool(row["up"]) and row["boot"] == boot_id(), row["generation"], row["patience"])


def _run(row: sqlite3.Row) -> Run:
    ended = None if row["code"] is None else Ended(row["code"], row["seconds"], row["error"])
    past = Past(row["restarts"], row["failures"], row["short"], row["next_start"])
    wanted = Wanted.of_doc(json.loads(row["wanted"]))
    return Run(row["vm"], Key(row["essence"], row["generation"]), wanted, row["phase"], row["health"], past, ended)
