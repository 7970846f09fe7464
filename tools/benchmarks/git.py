"""git, as the oracle: what each commit of a repository holds, byte for byte. The repository itself is only read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tools.benchmarks.bench import CommandFailed

# What would make a working tree anything else than the blobs, byte for byte, or keep a name out of it.
_PLAIN: Final = (
    "core.autocrlf=false", "core.symlinks=true", "core.fileMode=true", "core.protectHFS=false",
    "core.protectNTFS=false", "core.hooksPath=/dev/null", "core.splitIndex=false", "gc.auto=0", "safe.directory=*",
    "user.name=bench", "user.email=bench@localhost", "advice.detachedHead=false", "submodule.recurse=false",
)  # fmt: skip
_NO_ATTRIBUTES: Final = "* -text !eol -filter -ident !working-tree-encoding\n"


class Item(NamedTuple):
    """One file, link or submodule of a commit. `mode` is git's."""

    mode: int
    blob: str


class Git:
    """A bare clone that borrows all objects, with an index and a HEAD of its own."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path = path
        self._environment = _environment(home)

    @classmethod
    def clone(cls, source: Path, path: Path, home: Path) -> Git:
        """Raises CommandFailed if `source` is no repository, or none with all of its history."""
        if run(["-C", source, "rev-parse", "--is-shallow-repository"], home).strip() != b"false":
            raise CommandFailed(f"{source} is a shallow clone: 'git fetch --unshallow' gets the rest of its history")
        run(["clone", "--quiet", "--bare", "--shared", source, path], home)
        (path / "info").mkdir(exist_ok=True)
        (path / "info" / "attributes").write_text(_NO_ATTRIBUTES)  # these come before what the trees say
        return cls(path, home)

    def run(self, *words: str | Path, data: bytes = b"") -> bytes:
        return _run(["--git-dir", self.path, *words], self._environment, data)

    def line(self, tip: str) -> list[str]:
        """Return the first-parent history of a commit, the oldest first."""
        return self.run("rev-list", "--first-parent", "--reverse", tip).decode().split()

    def check_out(self, commit: str, work: Path) -> None:
        """Make `work` hold the commit, as `git checkout` does: what differs from the last one is written, no more."""
        self.run("--work-tree", work, "checkout", "--quiet", "--force", "--detach", commit)

    def changed(self, old: str | None, new: str) -> int:
        """Return how many files one commit has otherwise than the other."""
        words = ["diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-commit-id"]
        names = self.run(*words, old, new) if old else self.run(*words, "--root", new)
        return names.count(b"\0")

    def items(self, commit: str) -> dict[bytes, Item]:
        """Return what a commit holds, by path."""
        found = {}
        for line in self.run("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
            facts, _, path = line.partition(b"\t")
            mode, _kind, blob = facts.decode().split()
            found[path] = Item(int(mode, 8), blob)
        return found

    @contextmanager
    def contents(self) -> Iterator[Contents]:
        argv = [*_command(), "--git-dir", self.path, "cat-file", "--batch"]
        with subprocess.Popen(argv, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield Contents(process)
            assert process.stdin is not None
            process.stdin.close()

    def sizes_of(self, blobs: Iterable[str]) -> dict[str, int]:
        """Return how many bytes each blob holds."""
        wanted = "".join(f"{blob}\n" for blob in blobs).encode()
        listed = self.run("cat-file", "--batch-check=%(objectname) %(objectsize)", "--buffer", data=wanted)
        return {blob: int(size) for blob, size in (line.split() for line in listed.decode().splitlines())}

    def packed(self, commits: list[str], path: Path, home: Path) -> int:
        """Return the bytes of the one pack that `git gc` makes of a repository with just these trees in a row."""
        last: list[str] = []
        for number, commit in enumerate(commits):
            parent = [word for one in last for word in ("-p", one)]
            made = self.run("commit-tree", f"{commit}^{{tree}}", *parent, "-m", f"{number}")
            last = [made.decode().strip()]
        self.run("update-ref", "refs/heads/replayed", last[0])
        run(["init", "--quiet", "--bare", path], home)
        copy = Git(path, home)
        copy.run("fetch", "--quiet", self.path, "refs/heads/replayed:refs/heads/main")
        copy.run("gc", "--quiet", "--prune=now")
        return sum(pack.stat().st_size for pack in path.glob("objects/pack/*.pack"))


class Contents:
    """Blobs, asked for one after the other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._ask, self._answer = process.stdin, process.stdout

    def get(self, blob: str) -> bytes:
        self._ask.write(f"{blob}\n".encode())
        self._ask.flush()
        head = self._answer.readline().split()
        if len(head) != 3 or head[1] != b"blob":
            raise CommandFailed(f"git has no blob {blob}; is this a partial clone?")
        data = self._answer.read(int(head[2]))
        self._answer.read(1)
        return data


def run(words: list[str | Path], home: Path, data: bytes = b"") -> bytes:
    """Run git and return what it says. Raises CommandFailed."""
    return _run(words, _environment(home), data)


def _run(words: list[str | Path], environment: dict[str, str], data: bytes) -> bytes:
    done = subprocess.run([*_command(), *words], env=environment, input=data, capture_output=True, check=False)
    if done.returncode != 0:
        raise CommandFailed(f"git: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return done.stdout


def _command() -> list[str | Path]:
    return ["git", *(word for setting in _PLAIN for word in ("-c", setting))]


def _environment(home: Path) -> dict[str, str]:
    """Nobody's settings, and no repository that this process may run in."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return {**kept, "HOME": os.fspath(home), "GIT_CONFIG_NOSYSTEM": "1", "XDG_CONFIG_HOME": os.fspath(home)}
