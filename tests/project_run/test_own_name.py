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

from tests.fuse.cli_command import ROOT
from tests.project_run.made import machine, of
from tests.project_run.projects import base, project
from tests.vm.hosts import FAKE, Host
from vmm.project.folder import Folder

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
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, FAKE)
    base(made, tmp_path / "tree")
    yield made
    made.end()


@pytest.fixture
def folder(host: Host, tmp_path: Path) -> Folder:
    return project(host, tmp_path / "p", {"web": "base"})


def run(host: Host, folder: Folder, script: str, **env: str) -> Any:
    """Run a machine until its command has ended; returns its row, or what went wrong."""
    wanted = json.dumps(of(machine("web", command=("sh", "-c", script))).doc())
    id = os.urandom(6).hex()
    done = subprocess.run(
        [sys.executable, "-c", _START, str(folder.store), wanted, id],
        env={**host.env, **env},
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    last = json.loads(done.stdout)[-1]
    if "raised" in last:
        return last["raised"]
    code = int(host.ok("--store", str(folder.store), "vm", "wait", id).text)
    (row,) = [one for one in host.ok("--store", str(folder.store), "vm", "ps", "-a", "--json").json if one["id"] == id]
    assert row["exit_code"] == code
    return row


def ok(host: Host, folder: Folder, *args: str) -> str:
    return host.ok("--store", str(folder.store), *args).text


def test_it_lives_in_its_name(host: Host, folder: Folder) -> None:
    row = run(host, folder, "cat f; echo new > f")
    assert (row["exit_code"], row["kept"], row["fork"]) == (0, "shop/web", "shop/web")
    assert ok(host, folder, "cat", "shop/web/f") == "new\n"
    assert ok(host, folder, "cat", "shop/web~1/f") == "old\n"
    versions = len(ok(host, folder, "log", "shop/web", "--json").splitlines())
    run(host, folder, "test $(cat f) = new")
    assert len(ok(host, folder, "log", "shop/web", "--json").splitlines()) == versions, "nothing changed"
    assert [one["name"] for one in json.loads(ok(host, folder, "names", "--json"))["names"]] == ["shop/web"]


def test_a_name_that_is_in_use(host: Host, folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    ok(host, folder, "mount", "shop/web", str(tmp_path / "mnt"))
    try:
        assert f"mounted on {tmp_path / 'mnt'}" in run(host, folder, "true")
    finally:
        ok(host, folder, "umount", str(tmp_path / "mnt"))
    assert run(host, folder, "true")["exit_code"] == 0


def test_a_machine_that_does_not_boot_leaves_its_name_alone(host: Host, folder: Folder) -> None:
    row = run(host, folder, "true", FAKE_BOOT_FAILS="1")
    assert (row["status"], row["kept"]) == ("failed", "shop/web")
    assert ok(host, folder, "cat", "shop/web/f") == "old\n"
