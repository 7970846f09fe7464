"""Which machines there are and were: one SQLite database, which every command asks and every supervisor writes."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from vmm.database import Database
from vmm.errors import MachineNameTaken, NoMachine
from vmm.pids import Pid, boot_id

LIVING: Final = ("starting", "running", "stopping")
ENDED: Final = ("exited", "failed", "died")  # its command ended; we failed; its supervisor was killed

NOBODY: Final = Pid(0, -1)

_MIGRATIONS: Final = (
    """
    CREATE TABLE machines (
        id TEXT PRIMARY KEY,
        name TEXT,
        status TEXT NOT NULL,
        created REAL NOT NULL,
        started REAL,
        ended REAL,
        target TEXT NOT NULL,
        tree TEXT,
        root TEXT NOT NULL,
        mounted INTEGER NOT NULL,
        fork TEXT,
        keep TEXT,
        discard INTEGER NOT NULL,
        remove INTEGER NOT NULL,
        spec TEXT NOT NULL,
        command TEXT NOT NULL,
        boot TEXT NOT NULL,
        supervisor TEXT NOT NULL,
        pids TEXT NOT NULL,
        engine TEXT,
        exit_code INTEGER,
        error TEXT,
        timings TEXT NOT NULL,
        result TEXT,
        kept TEXT
    ) STRICT;
    CREATE UNIQUE INDEX living_names ON machines (name) WHERE status IN ('starting', 'running', 'stopping');
    """,
    "ALTER TABLE machines ADD COLUMN image TEXT NOT NULL DEFAULT '{}'",
)


@dataclass(frozen=True)
class Row:
    """All that is known of one machine. `command` is empty for one that only waits for `exec`.

    `root` is where its tree is mounted, for it alone if `mounted`; `tree` is the CID that it began with.
    `fork` is the name in the store that it works on, None if it cannot write or uses somebody else's mount; one that
    is the `target` too was there before, and stays.
    `kept` is the name under which `result`, the tree's CID at the end, can be found.
    `image` says which image the tree is, if it is one: reference, digest, ports, stop_signal; and with an empty
    `command` the env, workdir and user that those of `exec` have.
    """

    id: str
    target: str
    root: str
    spec: dict[str, Any]
    command: dict[str, Any]
    name: str | None = None
    status: str = "starting"
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    tree: str | None = None
    mounted: bool = False
    fork: str | None = None
    keep: str | None = None
    discard: bool = False
    remove: bool = False
    boot: str = ""
    supervisor: Pid = NOBODY
    pids: dict[str, list[Pid]] = field(default_factory=dict)
    engine: str | None = None
    exit_code: int | None = None
    error: str | None = None
    timings: dict[str, float] = field(default_factory=dict)
    result: str | None = None
    kept: str | None = None
    image: dict[str, Any] = field(default_factory=dict)

    @property
    def living(self) -> bool:
        return self.status in LIVING

    @property
    def supervised(self) -> bool:
        return self.boot == boot_id() and self.supervisor.is_alive()

    def processes(self) -> list[Pid]:
        """QEMU and the virtiofsds, as far as they are of this boot."""
        return [pid for pids in self.pids.values() for pid in pids] if self.boot == boot_id() else []


_COLUMNS: Final = tuple(one.name for one in fields(Row))
_JSON: Final = frozenset(("spec", "command", "supervisor", "pids", "timings", "image"))
_FLAGS: Final = frozenset(("discard", "mounted", "remove"))


class State(Database):
    """The list of machines."""

    def __init__(self, directory: Path, *, create: bool = True) -> None:
        """Open the state in `directory`, made if it is not there, or else taken as empty. Raises StateError."""
        super().__init__(path_in(directory), _MIGRATIONS, "the list of machines", create=create)

    # Asking

    def all(self) -> list[Row]:
        """Return every machine, the newest first."""
        return list(map(_row, self.rows("SELECT * FROM machines ORDER BY created DESC, id")))

    def living(self) -> list[Row]:
        return [row for row in self.all() if row.living]

    def get(self, id: str) -> Row | None:
        return next(map(_row, self.rows("SELECT * FROM machines WHERE id = ?", (id,))), None)

    def find(self, text: str) -> Row:
        """Return the machine that a person means: its name, its ID or the beginning of that.

        Of several with one name it is the living one, or else the newest. Raises NoMachine.
        """
        rows = self.all()
        named = [row for row in rows if row.name == text]
        if named:
            return next((row for row in named if row.living), named[0])
        found = [row for row in rows if text and row.id.startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise NoMachine(f"several machines have an ID that begins with '{text}'; write more of it")
        raise NoMachine(f"no machine '{text}'; 'monofs vm ps -a' lists them")

    # Changing

    def add(self, row: Row) -> Row:
        """Enter a new machine, with this process as its supervisor. Raises MachineNameTaken."""
        row = replace(row, created=time.time(), boot=boot_id(), supervisor=Pid.current())
        values = [_value(name, getattr(row, name)) for name in _COLUMNS]
        columns, marks = ", ".join(_COLUMNS), ", ".join("?" * len(_COLUMNS))
        try:
            self.change(f"INSERT INTO machines ({columns}) VALUES ({marks})", values)  # noqa: S608
        except sqlite3.IntegrityError:
            raise MachineNameTaken(
                f"a machine named '{row.name}' is running; choose another --name, or 'monofs vm stop {row.name}'"
            ) from None
        return row

    def update(self, id: str, **changes: Any) -> None:
        """Change columns of one machine; one that was removed meanwhile stays so."""
        assert changes.keys() <= set(_COLUMNS)
        assignments = ", ".join(f"{name} = ?" for name in changes)
        values = [_value(name, value) for name, value in changes.items()]
        self.change(f"UPDATE machines SET {assignments} WHERE id = ?", (*values, id))  # noqa: S608

    def remove(self, id: str) -> None:
        self.change("DELETE FROM machines WHERE id = ?", (id,))


def document(row: Row) -> dict[str, Any]:
    """Return all there is to know of a machine, for JSON."""
    return {name: getattr(row, name) for name in _COLUMNS}


def path_in(directory: Path) -> Path:
    return directory / "machines.sqlite"


def new_id() -> str:
    return secrets.token_hex(6)


def _value(name: str, value: Any) -> Any:
    if isinstance(value, str):  # a path in a tree may be any bytes, which SQLite's texts may not
        return value.encode("utf-8", "backslashreplace").decode()
    return json.dumps(value) if name in _JSON else int(value) if name in _FLAGS else value


def _row(found: sqlite3.Row) -> Row:
    values = {name: found[name] for name in _COLUMNS}
    values.update({name: json.loads(found[name]) for name in _JSON})
    values.update({name: bool(found[name]) for name in _FLAGS})
    return row_of(values)


def row_of(doc: dict[str, Any]) -> Row:
    """The reverse of `document`."""
    values = dict(doc)
    values["supervisor"] = Pid(*values["supervisor"])
    values["pids"] = {what: [Pid(*pid) for pid in pids] for what, pids in values["pids"].items()}
    return Row(**values)
