"""`monofs vm` as a person runs it, with machines that are fake or real, and a look at what was left behind."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.repository import Repository
from tests.fuse.cli_command import PROGRAM, ROOT, Result, started
from tests.suites.machine import until, wait_gone

FAKE = (sys.executable, os.fspath(ROOT / "tests/vm/fake_machine.py"))
REAL = (PROGRAM,)
SECONDS_MAX = 300


@dataclass
class Host:
    """A store in a directory of its own, and the program to use it with."""

    directory: Path
    program: tuple[str, ...]

    def __post_init__(self) -> None:
        """No name that is nobody's leads out of this machine: it is asked for where nobody listens."""
        self.registries.write_text('default = "localhost:1"\n')

    @property
    def registries(self) -> Path:
        return self.directory / "registries.toml"

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "MONOFS_TEST_RUN", "TMPDIR")}
        return {
            **kept,
            "HOME": str(self.directory),
            "MONOFS_STORE": str(self.store),
            "PYTHONPATH": str(ROOT),
            "MONOFS_REGISTRIES": str(self.registries),
        }

    def popen(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        env = {**self.env, **options.pop("env", {})}
        pipe = subprocess.PIPE
        streams = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **options}
        return subprocess.Popen([*self.program, *args], env=env, cwd=self.directory, **streams)

    def run(self, *args: str, input: bytes | None = None, **options: Any) -> Result:
        if input is None and not options.keys() - {"env"}:
            return self._quick(args, {**self.env, **options.get("env", {})})
        if input is not None:
            options["stdin"] = subprocess.PIPE
        process = self.popen(*args, **options)
        try:
            out, err = process.communicate(input, timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Result(process.returncode, out, err.decode(errors="replace"))

    def _quick(self, args: tuple[str, ...], env: dict[str, str]) -> Result:
        """Run in a fork of a process that has everything loaded: most of a command's time goes there."""
        first = "from tests.vm import fake_machine; fake_machine.install()\n" if self.program == FAKE else ""
        with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            paths = {"out": out.name, "err": err.name, "cwd": str(self.directory)}
            code = started(first + "import pyfuse3, trio\n").ask(
                {"argv": args, "env": env, "user": None, **paths}, SECONDS_MAX
            )
            return Result(code, out.read(), err.read().decode(errors="replace"))

    def ok(self, *args: str, **options: Any) -> Result:
        result = self.run(*args, **options)
        assert result.code == 0, result
        return result

    def fails(self, *args: str, code: int = 125, **options: Any) -> str:
        """Run what must fail before anything was made; returns the one line that says why."""
        result = self.run(*args, **options)
        assert (result.code, result.out) == (code, b""), result
        assert result.err.startswith("monofs") and result.err.count("\n") == 1, result.err
        return result.err

    # What is there

    def machines(self, *, living: bool = False) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ok("vm", "ps", "--json", *([] if living else ["-a"])).json
        return found

    def names(self) -> dict[str, str]:
        """Return the names in the store and the CIDs of their trees."""
        return {name["name"]: name["tree"] for name in self.ok("names", "--json").json["names"]}

    def read(self, cid: str, path: str) -> bytes:
        return self.ok("cat", f"{cid}/{path}").out

    def detached(self, *args: str) -> str:
        return self.ok("vm", "run", "--detach", *args).text.strip()

    def left_behind(self) -> list[str]:
        """Return the processes and mounts that belong to this store."""
        mark = f"MONOFS_STORE={self.store}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return found + [line for line in mounts if str(self.directory) in line]

    def leases(self) -> list[str]:
        repository = Repository.open(self.store)
        try:
            return [lease.mountpoint for lease in repository.leases()]
        finally:
            repository.close()

    def assert_clean(self) -> None:
        """Nothing lives any more, nothing is mounted, no lease is held, and the store is whole."""
        left = [""]

        def nothing() -> bool:
            left[:] = self.left_behind()
            return not left

        try:
            until(nothing)
        except AssertionError:
            raise AssertionError(f"left behind: {left}") from None
        assert self.machines(living=True) == []
        assert self.leases() == []
        assert list(self.store.glob("vm/roots/*")) == []
        assert self.ok("check").code == 0

    def end(self) -> None:
        """Whatever a test left goes."""
        with suppress(Exception):
            for row in self.machines(living=True):
                self.run("vm", "kill", row["id"])
        with suppress(AssertionError):
            until(lambda: not self.left_behind(), 10)
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if str(self.directory) in line:
                subprocess.run(["umount", "-l", line.split()[4]], check=False)


def result_of(result: Result) -> str:
    """Return the CID that `vm run` told on stderr."""
    (line,) = [line for line in result.err.splitlines() if line.startswith("monofs: result ")]
    return line.split()[2]


def wait_for_line(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Wait until a process has written this line to its stdout."""
    assert process.stdout is not None
    while (found := process.stdout.readline()) != line + b"\n":
        assert found, f"it ended without {line!r}: {process.stderr and process.stderr.read()!r}"


@contextmanager
def terminal(host: Host, *args: str, rows: int = 30, columns: int = 100) -> Iterator[Terminal]:
    """Run a command on a terminal of its own."""
    master, slave = pty.openpty()
    made = Terminal(master, slave)
    made.resize(rows, columns)
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *host.program, *args],
        stdin=slave, stdout=slave, stderr=slave, env={**host.env, "TERM": "xterm"}, cwd=host.directory,
    )  # fmt: skip
    made.process = process
    try:
        yield made
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(SECONDS_MAX)
        os.close(master)
        os.close(slave)


class Terminal:
    def __init__(self, master: int, slave: int) -> None:
        self.master, self.slave = master, slave
        self.seen = b""
        self.process: subprocess.Popen[bytes]

    def resize(self, rows: int, columns: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def expect(self, word: bytes) -> bytes:
        """Wait for this on the screen; returns what came before it."""
        end = time.monotonic() + SECONDS_MAX
        while word not in self.seen:
            ready = select.select([self.master], [], [], max(0, end - time.monotonic()))[0]
            assert ready, f"waited in vain for {word!r} in {self.seen!r}"
            self.seen += os.read(self.master, 65536)
        before, _, self.seen = self.seen.partition(word)
        return before

    def client(self) -> int:
        """Return the pid of the command: the child of `setsid --wait`, or, if that did not need one, itself."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else pid

    def code(self) -> int:
        return self.process.wait(SECONDS_MAX)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
    wait_gone(pid)


__all__ = ["FAKE", "REAL", "Host", "Result", "kill", "result_of", "terminal", "until", "wait_for_line"]
