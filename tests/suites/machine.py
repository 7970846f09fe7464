"""One mount under test, driven from outside as a person would: started, killed, looked at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from monofs_fuse import mountpoint, mounts
from store import version
from store.chunker import FastCdc
from store.entry import Entry
from store.repository import Repository


class Machine:
    """A store with the name 't', and a directory to mount it on."""

    def __init__(self, root: Path, store: Path | None = None) -> None:
        self.store = store or root / "store"
        self.dir = root / "mnt"
        self.dir.mkdir()
        repository = Repository.open(self.store)
        batch, stage = repository.batch("test")
        tree = version.put_tree(batch, version.Tree(Entry("dir", 0o755)))
        repository.publish("t", tree, batch, stage)
        repository.close()
        FastCdc()  # compiled modules are loaded before a fork, not in every child

    def start(self, target: str = "t", **options: object) -> Path:
        """Mount in a child, so that this process has no store open and no threads when it forks."""
        code = (
            "import sys; from pathlib import Path; from monofs_fuse import mounts\n"
            f"mounts.start(Path({os.fspath(self.store)!r}), {target!r}, {os.fspath(self.dir)!r}, **{options!r})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return self.dir

    def status(self) -> dict[str, object]:
        return mounts.status(self.store, os.fspath(self.dir))[0]

    def checkpoint(self) -> str:
        return mounts.checkpoint(os.fspath(self.dir))

    def umount(self, **options: bool) -> str | None:
        return mounts.umount(os.fspath(self.dir), **options)

    @property
    def pid(self) -> int:
        return int(str(self.status()["pid"]))

    def kill(self) -> None:
        """kill -9; the mount point stays behind, dead."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted((self.store / "run").glob("*.log")))

    def end(self) -> None:
        """Whatever the test left behind goes."""
        if mountpoint.mounted(os.fspath(self.dir)) is None:
            return
        try:
            pid = self.pid
        except Exception:
            pid = 0
        subprocess.run(["umount", "-l", os.fspath(self.dir)], check=False)
        if pid:
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid)


def wait_gone(pid: int, seconds: float = 120) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        import select

        poller = select.poll()
        poller.register(fd, select.POLLIN)
        assert poller.poll(seconds * 1000), f"process {pid} did not end"
    finally:
        os.close(fd)


def until(condition, seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    """Wait for something that only another process can tell."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
