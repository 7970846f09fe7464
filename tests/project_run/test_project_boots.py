"""A project with machines that are machines: the guest's own view of being up, checked, reached, stopped and kept."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project_run.projects import Shop
from tests.vm.guests import busybox_tree
from tests.vm.hosts import REAL, kill, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mounted,
    pytest.mark.skipif(os.geteuid() != 0, reason="machines need root"),
]

SHOP = """
[project]
name = "shop"

[machines.web]
name = "base"
command = ["sh", "-c", "while :; do echo hello | nc -l -p 80; done"]
ports = ["PORT:80"]
depends_on = { db = "healthy" }
restart = "always"
memory = "128M"

[machines.db]
name = "base"
command = ["sh", "-c", "WORDS"]
health = { command = ["sh", "-c", "test -s count"], interval = "1s", retries = 60 }
memory = "128M"
env = { WHO = "db" }
scripts = { count = ["sh", "-c", "echo $WHO; wc -l < count"] }
"""
WORDS = (
    "echo was $(cat count 2>&-); echo x >> count; trap 'echo bye >> count; exit 0' TERM; while :; do sleep 0.1; done"
)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    (tmp_path / "shop").mkdir()
    made = Shop(tmp_path / "shop", REAL)
    made.ok("import", str(busybox_tree(tmp_path / "tree")), "--name", "base")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    yield made.declare(SHOP.replace("PORT", str(port)).replace("WORDS", WORDS))
    made.end()


def hello(shop: Shop) -> bytes:
    (port,) = shop.ps()["web"]["ports"]
    try:
        with socket.create_connection(("127.0.0.1", int(port.partition(":")[2].partition("->")[0])), 10) as client:
            return client.recv(100)
    except OSError:
        return b""


def test_a_project_of_two_machines(shop: Shop) -> None:
    assert shop.up("--wait") == ["start db", "start web"]
    assert shop.ps()["db"]["health"] == "healthy"
    until(lambda: hello(shop) == b"hello\n")
    assert shop.ok("exec", "db", "--", "sh", "-c", "echo $WHO").text == "db\n"
    assert shop.ok("run", "count").lines == ["db", "1"]

    saved = shop.ok("checkpoint", "shop/db", "-m", "while it runs").text.strip()
    assert shop.ok("cat", f"{saved}/count", "--store", str(shop.folder.store)).text == "x\n"

    first = shop.row("web")
    kill(first.pids["qemu"][0].number)
    until(lambda: shop.row("web").id != first.id and shop.status()["web"] == "running", 120)
    until(lambda: hello(shop) == b"hello\n")
    assert shop.ps()["web"]["restarts"] == 1

    kill(shop.supervisor())
    assert shop.ok("logs", "db").lines == ["was"]
    assert [line.split()[1] for line in shop.ok("down").lines] == ["web", "db"]
    assert shop.own("cat", "shop/db/count").text == "x\nbye\n", "its command was asked, and had its say"
    shop.quiet()

    assert shop.ok("run", "db:count").lines == ["db", "2"], "booted for that, on the tree as it is"
    shop.up("db")
    until(lambda: "was x bye" in shop.ok("logs", "db", "--tail", "1").text)
    shop.ok("reset", "--force", "db")
    until(lambda: shop.ok("logs", "db", "--tail", "1").lines == ["was"])
    shop.ok("down")
    shop.quiet()
