"""A project in a directory of its own over a home store, its machines fake or real, and a look at how they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.fuse.cli_command import Result
from tests.vm.hosts import Host, until
from vmm import state as vm_state
from vmm.project.folder import Folder

TWO = """
[project]
name = "shop"

[machines.web]
name = "base"
command = ["sh", "-c", "echo web is up; exec sleep 1000"]
depends_on = ["db"]
scripts = { test = ["sh", "-c", "cat f; exit 7"], say = ["echo"], line = "echo line" }

[machines.db]
name = "base"
command = ["sh", "-c", "echo db is up; echo more >> f; exec sleep 1000"]
health = { command = ["grep", "-q", "more", "f"], interval = "1s" }
"""


class Shop(Host):
    """A project in its directory, over a home store with the name base."""

    @property
    def store(self) -> Path:
        return self.directory.parent / "home"

    @property
    def folder(self) -> Folder:
        return Folder(self.directory)

    def declare(self, text: str) -> Shop:
        self.folder.manifest.write_text(text)
        return self

    def own(self, *args: str) -> Result:
        """Run a command on the project's own store."""
        return self.ok("--store", str(self.folder.store), *args)

    def up(self, *args: str) -> list[str]:
        return [" ".join(line.split()) for line in self.ok("up", "-d", *args).lines]

    def ps(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.ok("ps", "--json").json}

    def status(self) -> dict[str, str]:
        return {name: one["status"] for name, one in self.ps().items()}

    def row(self, machine: str) -> vm_state.Row:
        """Return the last run of a machine."""
        with vm_state.State(self.folder.store / "vm") as listed:
            return next(row for row in listed.all() if row.name == machine)

    def supervisor(self) -> int:
        """Return the pid of the project's supervisor: who holds the lock, and talks."""
        inode = f":{os.stat(self.folder.mc / 'supervising').st_ino} "
        (line,) = [line for line in Path("/proc/locks").read_text().splitlines() if inode in line]
        return int(line.split()[4])

    def is_supervised(self) -> bool:
        return (self.folder.mc / "socket").exists()

    def quiet(self) -> None:
        """Nothing lives, nothing is mounted, both stores are whole."""
        until(lambda: not self.left_behind())
        assert self.own("check").code == 0
        assert self.ok("check").code == 0

    def left_behind(self) -> list[str]:
        return [what for what in super().left_behind() if "supervising" not in what]

    def end(self) -> None:
        for row in self._rows():
            if row.supervised:
                row.supervisor.kill()
        for pid in Path("/proc").iterdir():
            if pid.name.isdigit() and int(pid.name) != os.getpid():
                try:
                    if f"MONOFS_STORE={self.store}".encode() in (pid / "environ").read_bytes().split(b"\0"):
                        os.kill(int(pid.name), signal.SIGKILL)
                except OSError:
                    continue
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if str(self.directory) in line:
                subprocess.run(["umount", "-l", line.split()[4]], check=False)
        for log in [*self.folder.logs.glob("*"), *self.folder.store.glob("vm/*/supervisor.log")]:
            print(log, log.read_text())

    def _rows(self) -> list[vm_state.Row]:
        if not (self.folder.store / "vm").exists():
            return []
        with vm_state.State(self.folder.store / "vm", create=False) as listed:
            return listed.living()


def one(command: str, **more: str) -> str:
    """A project with one machine, web."""
    lines = "".join(f"{key} = {value}\n" for key, value in more.items())
    words = json.dumps(["sh", "-c", command])
    return f'[project]\nname = "shop"\n[machines.web]\nname = "base"\ncommand = {words}\n{lines}'
