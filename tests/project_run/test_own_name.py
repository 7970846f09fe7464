"""A machine that lives in a name itself: nothing is forked, and what it writes is there the next time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.cli_command import ROOT, plant
from tests.project_run.made import machine, of
from tests.project_run.projects import Shop, one
from tests.vm.hosts import FAKE

pytestmark = [pytest.mark.mounted, pytest.mark.skipif(os.geteuid() != 0, reason="machines need root")]

_START = """
import json, sys
from pathlib import Path
from tests.vm import fake_machine
fake_machine.install()
from monofs_fuse.project import running
from vmm import client
from vmm.project.wanted import Wanted
said = []
try:
    for doc in client.hear(running.start(Path(sys.argv[1]), Wanted.of_doc(json.loads(sys.argv[2])), sys.argv[3])):
        said.append(doc)
        if "begun" in doc or "ended" in doc:
            break
except Exception as error:
    said.append({"raised": str(error)})
print(json.dumps(said))
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    (tmp_path / "shop").mkdir()
    made = Shop(tmp_path / "shop", FAKE)
    made.ok("import", str(plant(tmp_path / "tree", {"f": b"old\n"})), "--name", "base")
    made.declare(one("true")).ok("install")
    yield made
    made.end()


def run(shop: Shop, script: str, **env: str) -> Any:
    """Run a machine until its command has ended; returns its row, or what went wrong."""
    wanted = json.dumps(of(machine("web", command=("sh", "-c", script))).doc())
    id = os.urandom(6).hex()
    done = subprocess.run(
        [sys.executable, "-c", _START, str(shop.folder.store), wanted, id],
        env={**shop.env, **env},
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    last = json.loads(done.stdout)[-1]
    if "raised" in last:
        return last["raised"]
    code = int(shop.own("vm", "wait", id).text)
    (row,) = [one for one in shop.own("vm", "ps", "-a", "--json").json if one["id"] == id]
    assert row["exit_code"] == code
    return row


def test_it_lives_in_its_name(shop: Shop) -> None:
    row = run(shop, "cat f; echo new > f")
    assert (row["exit_code"], row["kept"], row["fork"]) == (0, "shop/web", "shop/web")
    assert shop.own("cat", "shop/web/f").text == "new\n"
    assert shop.own("cat", "shop/web~1/f").text == "old\n"
    versions = len(shop.own("log", "shop/web", "--json").lines)
    run(shop, "test $(cat f) = new")
    assert len(shop.own("log", "shop/web", "--json").lines) == versions, "nothing changed"
    assert [one["name"] for one in shop.own("names", "--json").json["names"]] == ["shop/web"]


def test_a_name_that_is_in_use(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    shop.own("mount", "shop/web", str(tmp_path / "mnt"))
    try:
        assert f"mounted on {tmp_path / 'mnt'}" in run(shop, "true")
    finally:
        shop.own("umount", str(tmp_path / "mnt"))
    assert run(shop, "true")["exit_code"] == 0


def test_a_machine_that_does_not_boot_leaves_its_name_alone(shop: Shop) -> None:
    row = run(shop, "true", FAKE_BOOT_FAILS="1")
    assert (row["status"], row["kept"]) == ("failed", "shop/web")
    assert shop.own("cat", "shop/web/f").text == "old\n"
