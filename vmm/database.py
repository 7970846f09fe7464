"""A small SQLite database that every command asks: WAL, migrations, errors that say which file."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from vmm import limits
from vmm.errors import StateError


class Database:
    """Open for one process; never carry it across a fork. What SQLite raises becomes StateError."""

    def __init__(self, path: Path, migrations: Sequence[str], what: str, *, create: bool = True) -> None:
        """Open the database, made if it is not there, or else taken as empty. `what` says to people what is in it.

        Raises StateError.
        """
        self._path, self._migrations, self._what = path, migrations, what
        directory, name = path.parent, str(path)
        if create or path.exists():
            self._make(directory)
        else:
            directory, name = Path("/"), ":memory:"
        with self.explained():
            self._open(name, directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def rows(self, statement: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        with self.explained():
            return self._database.execute(statement, tuple(values)).fetchall()

    def change(self, statement: str, values: Iterable[Any] = ()) -> None:
        """Do it, in a transaction of its own. Raises sqlite3.IntegrityError, too."""
        with self.explained():
            self._database.execute(statement, tuple(values))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is changed in this block is changed all at once, or not at all."""
        self.change("BEGIN IMMEDIATE")
        try:
            yield
            self.change("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise StateError(f"{self._what} in {self._path} cannot be used: {error}") from None

    def _make(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StateError(f"cannot keep {self._what} in {directory}: {error.strerror}") from None

    def _open(self, name: str, directory: Path) -> None:
        self._database = sqlite3.connect(
            name, timeout=limits.state_busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            self._database.row_factory = sqlite3.Row
            if self._version() != len(self._migrations):
                with _alone(directory):  # two that switch to WAL at once would refuse each other
                    self._database.execute("PRAGMA journal_mode = WAL")
                    self._migrate()
        except BaseException:
            self._database.close()
            raise

    def _migrate(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            version = self._version()
            if version > len(self._migrations):
                raise StateError(f"{self._path} was written by a newer monofs (version {version}); use that")
            for migration in self._migrations[version:]:
                for statement in filter(str.strip, migration.split(";")):
                    self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {len(self._migrations)}")
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # on a full disk SQLite has rolled back already
                self._database.execute("ROLLBACK")
            raise

    def _version(self) -> int:
        return int(self._database.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
