"""`monofs` as users run it: each command a process of its own, a store of its own."""

from __future__ import annotations

import atexit
import functools
import json
import os
import pty
import select
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb

from store.cid import parse

PROGRAM = os.path.join(sysconfig.get_path("scripts"), "monofs")
ROOT = Path(__file__).parents[2]
SECONDS_MAX = 180  # against a hang; nothing here takes a second but for a disk that others keep busy


# Loads everything, then runs a command whenever it is told to, each in a fork of its own: Python's start and the
# imports are most of the time that a command takes.
_STARTED = """
import encodings.idna, grp, importlib, json, os, pkgutil, pwd, sys, time  # what another user may not be able to load
import fastcdc.fastcdc_cy, monofs_fuse.cli, store
for package in (store, monofs_fuse.cli):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)

def run(argv, env, cwd, user, out, err):
    for number, path in enumerate((os.devnull, out, err)):
        fd = os.open(path, os.O_WRONLY if number else os.O_RDONLY)
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(cwd)
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    sys.argv[1:] = argv
    return monofs_fuse.cli.main()

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = run(**json.loads(line))
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@dataclass
class Monofs:
    """`monofs` with a store in a temporary directory."""

    directory: Path
    more: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "TERM")}
        path = os.path.dirname(PROGRAM) + ":" + kept.get("PATH", "")
        home = {"HOME": str(self.directory), "TZ": "UTC", "MONOFS_STORE": str(self.store)}
        return {**kept, "PATH": path, **home, **self.more}

    def run(self, *args: str | bytes, user: int | None = None, **env: str) -> Result:
        """Run one command to its end, with neither stdout nor stderr on a terminal; quicker than the program itself."""
        with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            request = {
                "argv": list(map(os.fsdecode, args)),
                "env": {**self.env, **env},
                "cwd": os.fspath(self.directory),
                "user": user,
                "out": out.name,
                "err": err.name,
            }
            return Result(started().ask(request), out.read(), err.read().decode())

    def program(self, *args: str | bytes, **env: str) -> Result:
        """Run the program itself."""
        done = subprocess.run(
            [PROGRAM, *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**self.env, **env},
            cwd=self.directory,
            timeout=SECONDS_MAX,
        )
        return Result(done.returncode, done.stdout, done.stderr.decode())

    def ok(self, *args: str | bytes, **options: Any) -> Result:
        result = self.run(*args, **options)
        assert result.code == 0, result.err
        return result

    def fails(self, *args: str | bytes, code: int = 1, **options: Any) -> str:
        """Run a command that must fail; returns the one line that says why."""
        result = self.run(*args, **options)
        assert (result.code, result.out) == (code, b""), result
        assert result.err.startswith("monofs") and result.err.count("\n") == 1, result.err
        return result.err

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """Start a command with pipes for stdout and stderr."""
        pipe = subprocess.PIPE
        return subprocess.Popen([PROGRAM, *args], stdout=pipe, stderr=pipe, env=self.env, cwd=self.directory)

    def on_terminal(self, *args: str, stdout: bool = True, stderr: bool = True) -> tuple[int, bytes, bytes]:
        """Run a command with a terminal; returns (exit code, what the terminal got, what the pipe got)."""
        master, slave = pty.openpty()
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [PROGRAM, *args],
            stdin=subprocess.DEVNULL,
            stdout=slave if stdout else writer,
            stderr=slave if stderr else writer,
            env={**self.env, "TERM": "xterm", "COLUMNS": "120"},
            cwd=self.directory,
        )
        os.close(slave)
        os.close(writer)
        seen = {master: b"", reader: b""}
        waiting = [master, reader]
        while waiting:
            for fd in select.select(waiting, [], [], SECONDS_MAX)[0]:
                try:
                    data = os.read(fd, 65536)
                except OSError:  # how Linux says that nobody has the terminal any more
                    data = b""
                seen[fd] += data
                if not data:
                    waiting.remove(fd)
                    os.close(fd)
        return process.wait(SECONDS_MAX), seen[master], seen[reader]

    def modules(self, *args: str) -> set[str]:
        """Run a command and return the modules that were loaded when it ended."""
        script = "import sys; from monofs_fuse.cli import main; main(); print(*sys.modules, file=sys.stderr)"
        command = [sys.executable, "-c", script, *args]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=self.env, check=True)
        return set(done.stderr.decode().splitlines()[-1].split())


class Started:
    """A process that has loaded monofs, and done `first`, and waits for commands to run."""

    def __init__(self, first: str = "") -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", first + _STARTED], stdin=pipe, stdout=pipe, cwd=ROOT)
        atexit.register(self._end)

    def ask(self, request: dict[str, Any], seconds: float = SECONDS_MAX) -> int:
        """Run a command; returns its exit code."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answered, _, _ = select.select([self._process.stdout], [], [], seconds)
        assert answered, f"no end of {request['argv']}"
        return int(self._process.stdout.readline())

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(SECONDS_MAX)


@functools.cache
def started(first: str = "") -> Started:
    return Started(first)


def plant(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Make files below `directory`; returns it."""
    for path, data in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return directory


def damage(monofs: Monofs, cid: str) -> None:
    """Change a byte of a block in the database."""
    with lmdb.open(os.fspath(monofs.store / "lmdb"), max_dbs=8) as env, env.begin(write=True) as txn:
        blocks = env.open_db(b"blocks", txn=txn)
        value = bytearray(txn.get(parse(cid), db=blocks))
        value[-1] ^= 1
        txn.put(parse(cid), bytes(value), db=blocks)
