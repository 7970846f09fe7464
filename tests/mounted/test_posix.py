"""The POSIX suite on ext4 and tmpfs, which proves the suite, and on a mount, also one that commits all the time."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounted.conftest import Mount, needs_root, public_directory
from tests.mounted.test_law import imported
from tests.suites import posix

pytestmark = [pytest.mark.mounted, needs_root]
PLACES = ["ext4", "tmpfs", "mount", pytest.param("busy mount", marks=pytest.mark.slow)]


@contextmanager
def tmpfs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path], check=True)
        try:
            yield Path(path)
        finally:
            subprocess.run(["umount", "-l", path], check=True)


@contextmanager
def busy(mount: Mount) -> Iterator[None]:
    """Commits follow one another for as long as the block runs."""
    stop = threading.Event()

    def commit() -> None:
        while not stop.is_set():
            mount.checkpoint()

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """One filesystem for all cases."""
    with public_directory() as directory:
        if request.param == "ext4":
            yield directory
        elif request.param == "tmpfs":
            with tmpfs() as path:
                yield path
        else:
            machine = Mount(directory)
            try:
                machine.start()
                if request.param == "mount":
                    yield machine.dir
                else:
                    with busy(machine):
                        yield machine.dir
                assert machine.checkpoint() == imported(machine.dir), "the law, after all cases"
                assert machine.remount() == imported(machine.dir)
            finally:
                machine.end()
                print(machine.log())


@pytest.fixture
def at(place: Path) -> Path:
    path = Path(tempfile.mkdtemp(dir=place))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("case", posix.CASES, ids=lambda case: case.__name__)
def test_posix(case: posix.Case, at: Path) -> None:
    case(at)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["ext4", "tmpfs", "mount"], indirect=True, scope="module")
@pytest.mark.parametrize("case", posix.SLOW_CASES, ids=lambda case: case.__name__)
def test_posix_slow(case: posix.Case, at: Path) -> None:
    case(at)
