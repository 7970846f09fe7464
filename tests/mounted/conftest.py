"""Real mounts for tests: each has its own store, and nothing of it is left when the test ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from monofs_fuse import mountpoint
from tests.mounted.programs import build
from tests.suites import counted
from tests.suites.machine import Machine

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it changes owners and mounts tmpfs")


class Mount(Machine):
    """A Machine that knows the processes it started, whatever they do."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._daemons: list[int] = []  # pidfds: their numbers are never another process

    def start(self, target: str = "t", **options: object) -> Path:
        path = super().start(target, **options)
        self._daemons.append(os.pidfd_open(self.pid))
        return path

    def start_tight(self) -> Path:
        """Mount with limits so low that it commits, waits for room and asks the kernel to forget all the time."""
        code = (
            "import sys; from pathlib import Path; from monofs_fuse import limits, mounts\n"
            "limits.inodes_max, limits.trim_seconds, limits.commit_seconds = 15, 0.02, 0.02\n"
            "limits.dirty_names_soft, limits.dirty_names_hard = 7, 30\n"
            "limits.unsaved_bytes_soft, limits.unsaved_bytes_hard = 100_000, 1_000_000\n"
            "limits.unsaved_bytes_scattered = 300_000\n"
            f"mounts.start(Path({os.fspath(self.store)!r}), 't', {os.fspath(self.dir)!r})"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        self._daemons.append(os.pidfd_open(self.pid))
        return self.dir

    def start_counted(self, target: str = "t") -> Path:
        """Mount with a daemon that counts what it does (see `counted.counts`)."""
        counted.start(self.store, target, self.dir)
        self._daemons.append(os.pidfd_open(self.pid))
        return self.dir

    def remount(self, tight: bool = False) -> str:
        """Unmount and mount again. Returns the tree's CID in between."""
        cid = self.umount()
        assert cid is not None
        if tight:
            self.start_tight()
        else:
            self.start()
        return cid

    def end(self) -> None:
        """Unmount, give the daemons time to go, and kill those that do not."""
        if mountpoint.mounted(os.fspath(self.dir)) is not None:
            subprocess.run(["umount", "-l", os.fspath(self.dir)], check=False)
        daemons, self._daemons = self._daemons, []
        for daemon in daemons:
            if not _ended(daemon, 20):
                print("a daemon did not end by itself")
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(daemon, signal.SIGKILL)
                _ended(daemon, 20)
            os.close(daemon)
        assert mountpoint.mounted(os.fspath(self.dir)) is None


def _ended(daemon: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(daemon, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


@contextmanager
def public_directory() -> Iterator[Path]:
    """A temporary directory that other users can reach, too."""
    with tempfile.TemporaryDirectory(prefix="monofs-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture
def machine() -> Iterator[Mount]:
    """A store with an empty tree, not mounted yet."""
    with public_directory() as directory:
        made = Mount(directory)
        yield made
        made.end()
        print(made.log())  # pytest shows it when the test fails


@pytest.fixture
def mount(machine: Mount) -> Path:
    """An empty tree, mounted."""
    return machine.start()


@pytest.fixture
def work(machine: Mount) -> Iterator[Path]:
    """A mount. Whatever the test leaves in it must be what is saved, and what comes back after a remount."""
    from tests.mounted.test_law import imported  # which needs what is above

    path = machine.start()
    yield path
    cid = imported(path)
    assert machine.checkpoint() == cid
    assert machine.remount() == cid
    assert imported(path) == cid


@pytest.fixture
def home(machine: Mount) -> Path:
    """A plain directory beside the mount."""
    path = machine.dir.parent / "home"
    path.mkdir()
    return path


@pytest.fixture
def source(home: Path) -> Path:
    """A tree with all there is, on the host's own filesystem."""
    path = home / "source"
    build(path)
    return path
