"""Which machines there are and were: one SQLite database, which every command asks and every supervisor writes."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from vmm import limits
from vmm.errors import MachineNameTaken, NoMachine, StateError
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
)


@dataclass(frozen=True)
class Row:
    """All that is known of one machine. `command` is empty for one that only waits for `exec`.

    `root` is where its tree is mounted, for it alone if `mounted`; `tree` is the CID that it began with.
    `fork` is the name in the store that it works on, None if it cannot write or uses somebody else's mount.
    `kept` is the name under which `result`, the tree's CID at the end, can be found.
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
_JSON: Final = frozenset(("spec", "command", "supervisor", "pids", "timings"))
_FLAGS: Final = frozenset(("discard", "mounted", "remove"))


class State:
    """Open for one process; never carry it across a fork."""

    def __init__(self, directory: Path, *, create: bool = True) -> None:
        """Open the state in `directory`, made if it is not there, or else taken as empty. Raises StateError."""
        self._path = path_in(directory)
        if not create and not self._path.exists():
            directory, self._path = Path("/"), Path(":memory:")
        else:
            self._make(directory)
        with self._explained():
            self._open(directory)

    def _make(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StateError(f"cannot keep machines in {directory}: {error.strerror}") from None

    def _open(self, directory: Path) -> None:
        self._database = sqlite3.connect(
            self._path, timeout=limits.state_busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            self._database.row_factory = sqlite3.Row
            if self._version() != len(_MIGRATIONS):
                with _alone(directory):  # two that switch to WAL at once would refuse each other
                    self._database.execute("PRAGMA journal_mode = WAL")
                    self._migrate()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    # Asking

    def all(self) -> list[Row]:
        """Return every machine, the newest first."""
        with self._explained():
            return list(map(_row, self._database.execute("SELECT * FROM machines ORDER BY created DESC, id")))

    def living(self) -> list[Row]:
        return [row for row in self.all() if row.living]

    def get(self, id: str) -> Row | None:
        with self._explained():
            found = self._database.execute("SELECT * FROM machines WHERE id = ?", (id,)).fetchone()
        return None if found is None else _row(found)

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
        with self._explained():
            try:
                self._database.execute(
                    f"INSERT INTO machines ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})",  # noqa: S608
                    values,
                )
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
        with self._explained():
            self._database.execute(f"UPDATE machines SET {assignments} WHERE id = ?", (*values, id))  # noqa: S608

    def remove(self, id: str) -> None:
        with self._explained():
            self._database.execute("DELETE FROM machines WHERE id = ?", (id,))

    # Inside

    def _migrate(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            version = self._version()
            if version > len(_MIGRATIONS):
                raise StateError(f"{self._path} was written by a newer monofs (version {version}); use that")
            for migration in _MIGRATIONS[version:]:
                for statement in filter(str.strip, migration.split(";")):
                    self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
            self._database.execute("COMMIT")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise

    def _version(self) -> int:
        return int(self._database.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateError(f"the list of machines in {self._path} cannot be used: {error}") from None


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def document(row: Row) -> dict[str, Any]:
    """Return all there is to know of a machine, for JSON."""
    return {name: getattr(row, name) for name in _COLUMNS}


def path_in(directory: Path) -> Path:
    return directory / "machines.sqlite"


def new_id() -> str:
    return secrets.token_hex(6)


def _value(name: str, value: Any) -> Any:
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
