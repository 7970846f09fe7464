"""A benchmark run: its work directory, its inputs (made when first asked for), and the samples it has taken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """`measure` yields samples; it is called as often as was asked for, but not over `repeat_max` times."""

    name: str
    summary: str
    measure: Callable[[Bench], Iterator[Sample]]
    repeat_max: int = 1000


class CommandFailed(Exception):
    pass


class Scale(NamedTuple):
    """How large the rows about size become."""

    files: int = 1_000_000
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    gib: float = 20
    aged_gib: float = 2

    @classmethod
    def quick(cls) -> Scale:
        return cls(files=300, sizes=(10, 300), gib=0.02, aged_gib=0.01)


def path(text: str) -> Path:
    """Return what a path on the command line means; tools/bench itself goes elsewhere before we begin."""
    return Path(os.environ.get("MONOFS_BENCH_FROM", ""), text)


@dataclass
class Bench:
    work: Path
    quick: bool
    repeat: int
    end: float
    scale: Scale = field(default_factory=Scale)
    samples: dict[tuple[str, str, str], dict[str, list[float]]] = field(default_factory=dict)
    tools: frozenset[str] = frozenset()  # the only ones to measure, unless empty
    kept: Path | None = None  # where what takes long to make is kept for the next run
    absent: dict[str, str] = field(default_factory=dict)  # tool -> package
    failures: list[str] = field(default_factory=list)
    unfinished: dict[str, int] = field(default_factory=dict)  # row -> how often it was measured
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
    def base(self) -> Path:
        """The directory with `tree` and `large` in it, both there."""
        tree, large = self.tree, self.large
        assert tree.path.parent == large.path.parent
        return tree.path.parent

    @cached_property
    def tree(self) -> Input:
        return self._input("a source tree", inputs.tree)

    @cached_property
    def large(self) -> Input:
        return self._input("a large file", inputs.large)

    @cached_property
    def archive(self) -> Path:
        """The tree as a tar archive."""
        path = self.work / "tree.tar"
        self.command("tar", "-cf", path, "-C", self.tree.path, ".")
        return path

    @cached_property
    def repository(self) -> Path:
        """The tree as the one commit of a bare git repository, packed."""
        path = self.work / "tree.git"
        git = ("git", "--git-dir", path, "--work-tree", self.tree.path, "-c", "user.name=bench", "-c", "user.email=b@c")
        self.say("making a git repository of it")
        self.command("git", "init", "--quiet", "--bare", "--initial-branch=main", path)
        self.command(*git, "add", "--all", "--force", ".", cwd=self.tree.path)
        self.command(*git, "commit", "--quiet", "--message=all")
        self.command("git", "--git-dir", path, "repack", "-adq")
        return path

    @cached_property
    def big_file(self) -> Input:
        return self._input("one large binary", inputs.big_file)

    def _input(self, what: str, make: Callable[[Path, bool], Input]) -> Input:
        self.say(f"making {what}")
        made = make(self.work, self.quick)
        os.sync()
        return made

    # Running

    def run(self, rows: list[Row]) -> None:
        """Take the samples of all rows, once each and then again, so that what happens beside them hits every one.

        What fails is noted, and the others go on.
        """
        for number in range(self.repeat):
            for row in rows:
                if number >= row.repeat_max:
                    continue
                if time.monotonic() > self.end:
                    self.unfinished.setdefault(row.name, number)
                    continue
                self.say(f"{row.name} {number + 1}")
                with self.failure_of(row.name):
                    for sample in row.measure(self):
                        by_tool = self.samples.setdefault((row.name, sample.what, sample.unit), {})
                        by_tool.setdefault(sample.tool, []).append(sample.value)

    @contextmanager
    def failure_of(self, what: str) -> Iterator[None]:
        """Note what fails in here, and go on."""
        try:
            yield
        except (CommandFailed, OSError, subprocess.TimeoutExpired) as error:
            self.failures.append(f"{what}: {error}")
            self.say(self.failures[-1])

    def say(self, text: str) -> None:
        print(f"bench: {text}", file=sys.stderr, flush=True)

    def wants(self, tool: str) -> bool:
        return not self.tools or tool in self.tools

    def has(self, tool: str, package: str) -> bool:
        """True if a program is installed; otherwise its absence is reported."""
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
