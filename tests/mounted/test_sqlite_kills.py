"""A database in a mount whose daemon is killed: what sqlite had committed is there, and the database is whole."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted.conftest import Mount, needs_root
from tests.mounted.programs import sqlite
from tests.mounted.test_law import imported

pytestmark = [pytest.mark.mounted, pytest.mark.slow, needs_root]

KILLS = 4

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("pragma journal_mode=" + sys.argv[2])
connection.execute("pragma synchronous=extra")  # full does not sync the directory that the journal is deleted from
connection.execute("create table if not exists log (n integer primary key, data)")
(n,) = connection.execute("select coalesce(max(n), 0) from log").fetchone()
while True:
    n += 1
    connection.execute("begin immediate")
    connection.execute("insert into log values (?, randomblob(3000))", (n,))
    connection.execute("update log set data = randomblob(2000) where n = ?", (n // 2,))
    connection.execute("commit")
    print(n, flush=True)
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_what_was_committed_outlives_the_daemon(machine: Mount, mount: Path, journal: str, rng: random.Random) -> None:
    for kill in range(KILLS):
        last = write_until_killed(machine, mount / "db", journal, rng.randrange(1, 30))
        machine.start()
        count, largest, check = sqlite(
            mount / "db", "select count(*) from log; select max(n) from log; pragma integrity_check"
        ).split()
        assert check == "ok" and count == largest, f"kill {kill}"
        assert int(count) in (last, last + 1), f"kill {kill}: {last} were committed, and {count} are there"
    assert machine.checkpoint() == imported(mount)


def write_until_killed(machine: Mount, database: Path, journal: str, commits: int) -> int:
    """Return the last transaction that sqlite said was committed before the daemon was gone."""
    argv = [sys.executable, "-c", WRITER, str(database), journal]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        assert writer.stdout is not None
        for _ in range(commits):
            last = int(writer.stdout.readline())
        machine.kill()
        rest = [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]
    return max([last, *rest])
