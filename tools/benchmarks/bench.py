"""A benchmark run: its work directory, its inputs (made when first asked for), and the samples it has taken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tools.benchmarks import inputs
from tools.benchmarks.inputs import Input

COMMAND_SECONDS_MAX = 600


class Sample(NamedTuple):
    """One measured value. `what` says what was measured; equal `what`s of different tools are compared."""

    what: str
    tool: str
    value: float
    unit: str


class Row(NamedTuple):
    """`measure` yields samples; it is called `repeat` times, once only if the outcome cannot vary."""

    name: str
    summary: str
    measure: Callable[[Bench], Iterator[Sample]]
    varies: bool = True


class CommandFailed(Exception):
    pass


@dataclass
class Bench:
    work: Path
    quick: bool
    repeat: int
    end: float
    samples: dict[tuple[str, str, str], dict[str, list[float]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # tool -> package
    failures: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    load_at_start: float = field(default_factory=lambda: os.getloadavg()[0])

    def __enter__(self) -> Bench:
        self.environment = {
            **os.environ,
            "MONOFS_STORE": os.fspath(self.work / "monofs"),
            "LC_ALL": "C.UTF-8",
            "HOME": os.fspath(self.work / "home"),
            "BORG_BASE_DIR": os.fspath(self.work / "home"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": os.fspath(self.work / "home" / "restic"),
        }
        (self.work / "home").mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for mountpoint in self.work.glob("mnt*"):
            if os.path.ismount(mountpoint):
                self.unmount(mountpoint)

    # Inputs

    @cached_property
    def tree(self) -> Input:
        return self._input("a source tree", inputs.tree)

    @cached_property
    def big_file(self) -> Input:
        return self._input("one large binary", inputs.big_file)

    def _input(self, what: str, make: Callable[[Path, bool], Input]) -> Input:
        self.say(f"making {what}")
        return make(self.work, self.quick)

    # Running

    def run(self, row: Row) -> None:
        """Take the samples of a row. What fails is noted, and the other rows go on."""
        for number in range(self.repeat if row.varies else 1):
            if time.monotonic() > self.end:
                self.unfinished.append(row.name)
                return
            self.say(f"{row.name} {number + 1}")
            try:
                for sample in row.measure(self):
                    by_tool = self.samples.setdefault((row.name, sample.what, sample.unit), {})
                    by_tool.setdefault(sample.tool, []).append(sample.value)
            except (CommandFailed, OSError, subprocess.TimeoutExpired) as error:
                self.failures.append(f"{row.name}: {error}")
                self.say(self.failures[-1])
                return

    def say(self, text: str) -> None:
        print(f"bench: {text}", file=sys.stderr, flush=True)

    def has(self, tool: str, package: str) -> bool:
        """True if a peer is installed; otherwise its absence is reported."""
        if shutil.which(tool):
            return True
        self.absent[tool] = package
        return False

    def command(self, *words: str | Path, cwd: Path | None = None, **environment: str | Path) -> str:
        """Run a command; returns its stdout. Raises CommandFailed."""
        done = subprocess.run(
            [os.fspath(word) for word in words],
            cwd=cwd,
            env={**self.environment, **{key: os.fspath(value) for key, value in environment.items()}},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(
                f"{words[0]} failed with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}"
            )
        return done.stdout.decode(errors="replace")

    def timed(self, *words: str | Path, cwd: Path | None = None, **environment: str | Path) -> float:
        """Run a command; returns the seconds it took."""
        start = time.perf_counter()
        self.command(*words, cwd=cwd, **environment)
        return time.perf_counter() - start

    def empty(self, name: str) -> Path:
        """Return an empty directory of that name in the work directory."""
        path = self.work / name
        if path.exists():
            self.remove(path)
        path.mkdir()
        return path

    def remove(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)

    def unmount(self, mountpoint: Path) -> None:
        if os.geteuid() == 0:
            self.command("umount", mountpoint)
        else:
            self.command("fusermount3", "-u", mountpoint)
