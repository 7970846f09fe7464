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
from pathlib import Path

import pytest
from hypothesis import settings

# Nothing is skipped unseen


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    examples_max = os.environ.get("MONOFS_TEST_EXAMPLES")
    for item in items:
        if item.get_closest_marker("mounted") and not os.access("/dev/fuse", os.R_OK | os.W_OK):
            item.add_marker(pytest.mark.skip(reason="needs /dev/fuse"))
        if examples_max is not None:
            _draw_fewer(item, int(examples_max))


def _draw_fewer(item: pytest.Item, examples_max: int) -> None:
    """Let a property be tried on fewer examples than it asks for: `tools/check` is for a quick answer."""
    machine = getattr(item, "cls", None)
    for holder, attribute in ((getattr(item, "obj", None), "_hypothesis_internal_use_settings"), (machine, "settings")):
        asked = getattr(holder, attribute, None)
        if isinstance(asked, settings) and asked.max_examples > examples_max:
            setattr(getattr(holder, "__func__", holder), attribute, settings(asked, max_examples=examples_max))


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
    config = terminalreporter.config
    shared = hasattr(config, "workerinput") or config.pluginmanager.hasplugin("dsession")  # others may be at it still
    left = [] if run is None or shared else sweep(run)
    if left:
        terminalreporter.section("left over by the tests, now cleaned up", yellow=True)
        for what in left:
            terminalreporter.line(what)
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section(f"{len(skipped)} TESTS DID NOT RUN: 'tools/test -rs' says why", red=True)


def pytest_configure() -> None:
    """A run in the background of a script would have Ctrl-C ignored, by all that it starts too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _other_users_get_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp()
    for directory in (base, *base.parents):
        if os.fspath(directory) == os.environ.get("MONOFS_TEST_RUN", "/"):
            return
        if "pytest-of-" in os.fspath(directory):
            directory.chmod(0o755)


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
    """Yield what the tests started; not pytest, nor what it started for itself: xdist's workers and their like."""
    mark = b"MONOFS_TEST_RUN=" + os.fsencode(run)
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if (
                entry.name.isdigit()
                and int(entry.name) != os.getpid()
                and mark in Path(entry.path, "environ").read_bytes().split(b"\0")
                and not any(own in Path(entry.path, "cmdline").read_bytes() for own in _PYTESTS_OWN)
            ):
                yield int(entry.name)


_PYTESTS_OWN = (b"multiprocessing.resource_tracker", b"exec(eval(sys.stdin.readline()))", b"-m\0pytest")


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
