"""What `tools/test` adds to pytest: nothing is skipped unseen, and no mount outlives the run.

The run's id is its directory for temporary files: every process the tests start has it in its environment,
and everything they mount lies below it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

# Nothing is skipped unseen


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        for item in items:
            if item.get_closest_marker("mounted"):
                item.add_marker(pytest.mark.skip(reason="needs /dev/fuse"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and _in_ci() and not hasattr(report, "wasxfail"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and _in_ci():
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"With CI=true every test must run. {reason}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    run = os.environ.get("MONOFS_TEST_RUN")
    left = [] if run is None else sweep(run)
    if left:
        terminalreporter.section("left over by the tests, now cleaned up", yellow=True)
        for what in left:
            terminalreporter.line(what)
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section(f"{len(skipped)} TESTS DID NOT RUN: 'tools/test -rs' says why", red=True)


# No mount outlives the run

_GRACE_SECONDS = 10.0


def sweep(run: str) -> list[str]:
    """End the processes and take away the mounts of a run; returns what they were."""
    _wait(run, 3.0)  # a daemon may just be saving after its mount is gone
    left = [f"process {pid}: {_command(pid)}" for pid in _processes(run)]
    _signal(run, signal.SIGTERM)
    _wait(run, _GRACE_SECONDS)
    _signal(run, signal.SIGKILL)
    for path in reversed(list(_mounts(run))):
        left.append(f"mount {os.fsdecode(path)}")
        lazily = [b"umount", b"-l"] if os.geteuid() == 0 else [b"fusermount3", b"-uz"]
        subprocess.run([*lazily, b"--", path], check=False, capture_output=True)
    return left


def _wait(run: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(_processes(run)) and time.monotonic() < end:
        time.sleep(0.05)


def _signal(run: str, number: signal.Signals) -> None:
    for pid in _processes(run):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _processes(run: str) -> Iterator[int]:
    mark = b"MONOFS_TEST_RUN=" + os.fsencode(run)
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if (
                entry.name.isdigit()
                and int(entry.name) not in (os.getpid(), _tracker())
                and mark in Path(entry.path, "environ").read_bytes().split(b"\0")
            ):
                yield int(entry.name)


def _tracker() -> int | None:
    """Return the process that multiprocessing gives pytest itself; it ends with pytest."""
    pid: int | None = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
    return pid


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "?"


def _mounts(run: str) -> Iterator[bytes]:
    below = os.fsencode(run) + b"/"
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        path = line.split(b" ")[4].decode("unicode_escape").encode("latin-1")  # space, tab and so on are octal there
        if path.startswith(below):
            yield path


if __name__ == "__main__":
    sweep(sys.argv[1])
