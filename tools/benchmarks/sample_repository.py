"""A git repository that is the same wherever it is made: thousands of files, and commits like those of real work."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from tools.benchmarks.bench import CommandFailed

FILES: Final = 6_000
COMMITS: Final = 200
_SEED: Final = 20261122
_WORDS: Final = 4_000
_DIRECTORY_FILES: Final = 25
_BINARIES: Final = 40


def make(path: Path, files: int = FILES, commits: int = COMMITS) -> None:
    """Make a bare repository. Raises CommandFailed."""
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", path], check=True)
    argv = ["git", "--git-dir", os.fspath(path), "fast-import", "--quiet"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        _History(process.stdin, files).write(commits)
        process.stdin.close()
    if process.returncode != 0:
        raise CommandFailed(f"git fast-import failed with {process.returncode}")


class _History:
    """What there is at each time, written for `git fast-import` as it changes."""

    def __init__(self, out: IO[bytes], files: int) -> None:
        self._out = out
        self._rng = random.Random(_SEED)
        self._words = [self._word() for _ in range(_WORDS)]
        self._count = files
        self._made = 0
        self._texts: dict[bytes, list[bytes]] = {}  # path -> lines
        self._binaries: dict[bytes, bytes] = {}
        self._links: list[bytes] = []

    def write(self, commits: int) -> None:
        for number in range(commits):
            changes = list(self._first() if number == 0 else self._more(number))
            self._out.write(b"commit refs/heads/main\ncommitter A B <a@b> %d +0000\n" % (1_700_000_000 + number * 3600))
            message = b"commit %d" % number
            self._out.write(b"data %d\n%s\n" % (len(message), message))
            for change in changes:
                self._out.write(change)

    # Commits

    def _first(self) -> Iterator[bytes]:
        for _ in range(self._count):
            yield self._new_text()
        for number in range(min(_BINARIES, self._count)):
            path = b"assets/image-%03d.bin" % number
            self._binaries[path] = self._rng.randbytes(self._rng.randint(2_000, 400_000))
            yield _file(path, self._binaries[path])
        for number in range(20):
            yield self._link(b"links/link-%d" % number)
        yield _file(b"names/caf\xe9 \xff\x01.txt", b"a name that is not UTF-8\n")
        yield _file("names/\N{SNOWMAN} 'quoted\" \\ name".encode(), b"a name with all that must be quoted\n")

    def _more(self, number: int) -> Iterator[bytes]:
        rng = self._rng
        for _ in range(rng.randint(1, 12)):
            yield self._edited(self._some())
        for _ in range(rng.choice((0, 0, 1, 3))):
            yield self._new_text()
        if number % 3 == 0:
            path = self._some()
            del self._texts[path]
            yield b"D %s\n" % _quoted(path)
        if number % 4 == 0:
            path = rng.choice(sorted(self._binaries))
            old = self._binaries[path]
            at = rng.randrange(len(old))
            self._binaries[path] = old[:at] + rng.randbytes(rng.randint(1, 2_000)) + old[at + rng.randint(0, 500) :]
            yield _file(path, self._binaries[path])
        if number % 5 == 0:
            yield from self._renamed(self._some(), b"moved-%d.c" % number)
        if number % 7 == 0:
            path = self._some()
            yield _file(path, b"\n".join(self._texts[path]), rng.choice((b"100755", b"100644")))
        if number % 11 == 0:
            yield self._link(rng.choice(self._links))
        if number % 20 == 0:
            yield from self._moved_directory(number)
        if number % 25 == 0:  # the same word replaced in every tenth file
            for path in sorted(self._texts)[number % 10 :: 10]:
                yield self._edited(path)

    # Changes

    def _some(self) -> bytes:
        return self._rng.choice(list(self._texts))

    def _new_text(self) -> bytes:
        self._made += 1
        number = self._made
        path = b"%s/%s/part-%d/file-%d.c" % (
            self._words[number // 1000], self._words[number // 100 + 50], number // _DIRECTORY_FILES, number,
        )  # fmt: skip
        lines = [self._line() for _ in range(int(self._rng.lognormvariate(5, 1)) + 1)]
        self._texts[path] = lines
        return _file(path, b"\n".join(lines), b"100755" if number % 30 == 0 else b"100644")

    def _edited(self, path: bytes) -> bytes:
        lines = self._texts[path]
        for _ in range(self._rng.randint(1, 5)):
            at = self._rng.randrange(len(lines) + 1)
            lines[at : at + self._rng.randint(0, 2)] = [self._line() for _ in range(self._rng.randint(0, 3))]
        return _file(path, b"\n".join(lines))

    def _renamed(self, old: bytes, name: bytes) -> Iterator[bytes]:
        new = old.rpartition(b"/")[0] + b"/" + name
        self._texts[new] = self._texts.pop(old)
        yield b"R %s %s\n" % (_quoted(old), _quoted(new))

    def _moved_directory(self, number: int) -> Iterator[bytes]:
        old = self._some().rpartition(b"/")[0]
        new = b"moved/%d" % number
        for path in [path for path in self._texts if path.startswith(old + b"/")]:
            self._texts[new + path[len(old) :]] = self._texts.pop(path)
        yield b"R %s %s\n" % (_quoted(old), _quoted(new))

    def _link(self, path: bytes) -> bytes:
        if path not in self._links:
            self._links.append(path)
        return _file(path, b"../" + self._some(), b"120000")

    # Text

    def _line(self) -> bytes:
        rng = self._rng
        words = (self._words[int(rng.paretovariate(0.6)) % _WORDS] for _ in range(rng.randint(1, 9)))
        return b"    " * rng.randint(0, 3) + b" ".join(words) + b";"

    def _word(self) -> bytes:
        return bytes(self._rng.choices(b"etaoinshrdlucmfwypvbgkjqxz_", k=self._rng.randint(2, 11)))


def _file(path: bytes, data: bytes, mode: bytes = b"100644") -> bytes:
    return b"M %s inline %s\ndata %d\n%s\n" % (mode, _quoted(path), len(data), data)


def _quoted(path: bytes) -> bytes:
    return b'"%s"' % path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
