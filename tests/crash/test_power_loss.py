"""Power loss: what a process wrote is recorded, cut off at any write, and only part of what was not synced survives.

strace records every write, sync, new name and rename below the store. A cut keeps what was synced by then; of the rest
any sectors may have reached the disk, in any order, and of the names any beginning. Each outcome is opened and must
hold a tree from before or after a commit, whole, and what was acknowledged before the cut.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from store.chunker import Chunker
from store.errors import NotFound
from store.repository import Repository
from tests.crash.long_run import format_of
from tests.suites.faults import (
    FILE,
    NAME,
    Desk,
    Journal,
    Promise,
    do,
    head_of,
    make_store,
    quick_directory,
    random_edit,
    verify,
)

SECTOR: Final = 512  # what a disk writes whole or not at all


# What is recorded


class Write(NamedTuple):
    path: str
    offset: int
    data: bytes
    is_synced: bool  # it was on disk when the call returned


class Truncated(NamedTuple):
    path: str
    size: int


class Sync(NamedTuple):
    path: str


class Created(NamedTuple):
    """A new file, or a directory."""

    path: str
    is_directory: bool


class Renamed(NamedTuple):
    old: str
    new: str


class Removed(NamedTuple):
    path: str


class Said(NamedTuple):
    """A line of the journal."""

    line: str


Event = Write | Truncated | Sync | Created | Renamed | Removed | Said
Change = Created | Renamed | Removed

_CALLS: Final = "openat,mkdir,rename,write,pwrite64,pwritev,writev,fsync,fdatasync,ftruncate,msync,unlink,lseek"
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_PATH: Final = re.compile(r"^(-?\d+)<((?:\\x[0-9a-f]{2})*)>")

_FAILED: Final = re.compile(r"= -1 E\w+ \(")


def record(command: list[str], trace: Path) -> list[str]:
    """Run a command under strace. Returns the lines of the trace, without what failed."""
    strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", "1000000000", "--seccomp-bpf", "-o", os.fspath(trace)]
    subprocess.run([*strace, "-e", f"trace={_CALLS}", *command], check=True)
    calls, begun = list[str](), dict[str, str]()
    for line in trace.read_text().splitlines():
        thread, call = line.split(maxsplit=1)
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        elif call.startswith("<..."):
            calls.append(begun.pop(thread) + call.partition("resumed>")[2])
        elif not call.startswith(("---", "+++")):
            calls.append(call)
    return [call for call in calls if not _FAILED.search(call[-200:])]


def events(lines: list[str], store: Path, journal: Path) -> Iterator[Event]:
    """Read a trace: everything that happened to files below `store`, and the lines of the journal."""
    inside = os.fspath(store)
    synced: dict[str, bool] = {}  # descriptor -> opened with O_DSYNC
    places: dict[str, int] = {}  # descriptor -> where the next write goes
    known: set[str] = set()
    for line in lines:
        call, _, rest = line.partition("(")
        first = _PATH.match(rest)
        fd, path = (first[1], _text(first[2])) if first else ("", "")
        result = rest.rpartition(" = ")[2]
        if call == "openat":
            opened = _PATH.match(result)
            assert opened is not None, line
            synced[opened[1]], places[opened[1]] = "O_DSYNC" in rest, 0
            path = _text(opened[2])
            if "O_CREAT" in rest and path not in known and _is_below(path, inside) and not path.endswith("-shm"):
                known.add(path)
                yield Created(path, False)
        elif call in ("mkdir", "rename"):
            names = [os.path.abspath(_text(name)) for name in _STRING.findall(rest)]
            if _is_below(names[-1], inside):
                yield Created(names[0], True) if call == "mkdir" else Renamed(names[0], names[1])
            if call == "rename":
                known.update([names[1] + path.removeprefix(names[0]) for path in known if _is_below(path, names[0])])
        elif path == os.fspath(journal):
            yield Said(_bytes(_STRING.findall(rest)[0]).decode().strip())
        elif call == "lseek":
            places[fd] = int(result)
        elif call == "unlink":
            path = os.path.abspath(_text(_STRING.findall(rest)[0]))
            if _is_below(path, inside) and path in known:
                known.remove(path)
                yield Removed(path)
        elif not (_is_below(path, inside) or inside.startswith(path + "/")) or path.endswith(("/lock.mdb", "-shm")):
            continue  # LMDB and SQLite make these anew when nobody has them open
        elif call in ("fsync", "fdatasync"):
            yield Sync(path)
        elif call in ("pwrite64", "pwritev", "writev", "write"):
            data = b"".join(map(_bytes, _STRING.findall(rest)))
            assert int(result) == len(data)
            if call.startswith("pwrite"):
                places[fd] = int(rest.rpartition(") = ")[0].rpartition(", ")[2])
            yield Write(path, places[fd], data, synced[fd])
            places[fd] += len(data)
        elif call == "ftruncate":
            yield Truncated(path, int(rest.rpartition(") = ")[0].rpartition(", ")[2]))
        else:
            raise AssertionError(f"nobody expected {call} of {path}")


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


def _bytes(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal.replace("\\x", ""))


def _text(hexadecimal: str) -> str:
    return os.fsdecode(_bytes(hexadecimal))


# What a disk keeps


@dataclass
class _File:
    synced: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # written since; None: cut off there


class Disk:
    """Files and names as they were synced, and what was done since."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[str, _File | None] = {}  # by the names that were seen last; None is a directory
        self._names: dict[str, _File | None] = {}  # those that are on the disk
        self._changes: list[tuple[Change, _File | None]] = []  # of names, not synced yet, in order

    def do(self, event: Event) -> None:
        match event:
            case Write(path, offset, data, is_synced):
                file = self._file(path)
                file.pending.append((offset, data))
                if is_synced:  # O_DSYNC is about this write alone
                    file.pending.pop()
                    _put(file.synced, offset, data)
                    assert offset // SECTOR == (offset + len(data) - 1) // SECTOR, "it could be torn"
            case Truncated(path, size):
                self._file(path).pending.append((size, None))
            case Sync(path):
                if self._files.get(path) is None:
                    self._sync_names(path)
                else:
                    file = self._file(path)
                    for offset, data in file.pending:
                        _put(file.synced, offset, data)
                    file.pending.clear()
            case Created(path, is_directory):
                self._files[path] = None if is_directory else _File()
                self._changes.append((event, self._files[path]))
            case Renamed(_, new):
                _rename(self._files, event)
                self._changes.append((event, self._files[new]))
            case Removed(path):
                self._changes.append((event, self._files.pop(path)))

    def before(self, event: Event) -> Disk:
        """Return the disk at the moment when `event` has been asked for: a synced write may be there or not."""
        if not (isinstance(event, Write) and event.is_synced):
            return self
        other = Disk(self.directory)
        old = self._file(event.path)
        new = _File(old.synced, [*old.pending, (event.offset, event.data)])
        other._names = {path: new if file is old else file for path, file in self._names.items()}
        other._changes = [(change, new if file is old else file) for change, file in self._changes]
        return other

    def _file(self, path: str) -> _File:
        file = self._files[path]
        assert file is not None
        return file

    def _sync_names(self, directory: str) -> None:
        """Names of other directories may still be lost."""
        rest = []
        for change, file in self._changes:
            if os.path.dirname(_name(change)) == directory:
                _apply(self._names, change, file)
            else:
                rest.append((change, file))
        self._changes = rest

    def outcome(self, rng: random.Random, share: float, to: Path) -> None:
        """Write one of the states the disk can be found in; of what was not synced about `share` survived."""
        names = dict(self._names)
        for change, file in self._changes[: round(len(self._changes) * share)]:
            _apply(names, change, file)
        to.mkdir()
        for path in sorted(names):
            file, target = names[path], to / Path(path).relative_to(self.directory)
            if not target.parent.is_dir():
                continue  # the directory it was in is lost
            if file is None:
                target.mkdir()
            elif path.endswith("/lock.mdb"):  # it was only ever written through memory
                target.write_bytes(rng.choice((b"", bytes(70_000), rng.randbytes(70_000))))
            else:
                target.write_bytes(_survived(file, rng, share))


def _apply(names: dict[str, _File | None], change: Change, file: _File | None) -> None:
    if isinstance(change, Removed):
        names.pop(change.path, None)
        return
    if isinstance(change, Renamed):
        _rename(names, change)
    names[_name(change)] = file


def _rename(names: dict[str, _File | None], change: Renamed) -> None:
    """Move a name, and if it is a directory's all that is synced below it."""
    for path in [path for path in names if _is_below(path, change.old)]:
        names[change.new + path.removeprefix(change.old)] = names.pop(path)


def _name(change: Change) -> str:
    return change.new if isinstance(change, Renamed) else change.path


def _put(data: bytearray, offset: int, more: bytes | None) -> None:
    if more is None:
        del data[offset:]
        return
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(more)] = more


def _survived(file: _File, rng: random.Random, share: float) -> bytes:
    data = bytearray(file.synced)
    for offset, more in file.pending:
        if more is None:
            if rng.random() < share:
                _put(data, offset, None)
            continue
        for start in range(0, len(more), SECTOR):
            if rng.random() < share:
                _put(data, offset + start, more[start : start + SECTOR])
    return data


# The test


def work(directory: str, is_tiny: str, backend: str) -> None:
    """Make a store, then edit and commit. Runs under strace."""
    path = Path(directory)
    with format_of(is_tiny == "tiny") as chunker:
        journal = Journal(path / "journal")
        make_store(path / "store", backend)
        journal.say("made")
        desk = Desk(path / "store", chunker)
        lease = desk.repository.lease(NAME, desk.head.tree, "/nowhere", "/nowhere.sock")
        rng = random.Random(is_tiny)
        for number in range(12):
            for _ in range(8):
                do(desk, random_edit(rng, desk, 400 if is_tiny == "tiny" else 60_000))
            desk.journaled_commit(journal)
            if number % 3 == 0:
                desk.head.checkpoint()
            desk.head.collect()
        desk.repository.release(lease)
        desk.close_store()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "backend", "cuts_max"), [("tiny", "lmdb", None), ("real", "lmdb", None), ("tiny", "flatfs", 250)]
)
def test_whatever_survives_is_a_tree_that_was_promised(
    kind: str, backend: str, cuts_max: int | None, rng: random.Random
) -> None:
    with quick_directory() as quick, format_of(kind == "tiny") as chunker:
        (quick / "work").mkdir()
        code = (
            f"from tests.crash.test_power_loss import work; work({os.fspath(quick / 'work')!r}, {kind!r}, {backend!r})"
        )
        lines = record([sys.executable, "-c", code], quick / "trace")
        happened = list(events(lines, quick / "work" / "store", quick / "work" / "journal"))
        trees = cut_everywhere(happened, quick, chunker, rng, backend, cuts_max)
    assert len(trees) > 12


def cut_everywhere(
    happened: list[Event], quick: Path, chunker: Chunker, rng: random.Random, backend: str, cuts_max: int | None
) -> set[str]:
    """Cut the power before each event, or so many of them; returns the trees that were there then."""
    chosen = set(range(len(happened)) if cuts_max is None else rng.sample(range(len(happened)), cuts_max))
    disk, first = Disk(quick / "work"), first_tree(quick / "first")
    said: list[str] = []
    trees: set[str] = set()
    for number, event in enumerate(happened):
        if isinstance(event, Said):
            said.append(event.line)
            continue
        # While the store is being made there is much that can be half done.
        for _ in range((2 if said else 25 if cuts_max is None else 2) if number in chosen else 0):
            share = rng.choice((0.0, 1.0, 0.5, rng.random()))
            disk.before(event).outcome(rng, share, quick / "cut")
            try:
                trees.add(tree := look_at(quick / "cut" / "store", said, first, backend))
                if tree and rng.random() < 0.1:
                    go_on(quick / "cut" / "store", chunker)
            except BaseException:
                print(f"cut at {number} of {len(happened)}: {str(event)[:200]}; {share} of the rest survived")
                raise
            shutil.rmtree(quick / "cut")
        disk.do(event)
    return trees


def first_tree(path: Path) -> str:
    make_store(path)
    repository = Repository.open(path, create=False)
    try:
        return head_of(repository)
    finally:
        repository.close()


def look_at(path: Path, said: list[str], first: str, backend: str) -> str:
    """Open what survived. Until the store was made it may be none, and then it can be made now."""
    if said:
        assert said[0] == "made"
        return verify(path, Promise.of(said[1:], first))
    try:
        repository = Repository.open(path, create=False)
    except NotFound:
        make_store(path, backend)
        return verify(path, Promise(first, None))
    has_name = repository.name(NAME) is not None
    repository.close()
    return verify(path, Promise(first, None)) if has_name else ""


def go_on(path: Path, chunker: Chunker) -> None:
    """The next mount works on with what is there."""
    desk = Desk(path, chunker)
    desk.create(b"afterwards", FILE)
    desk.write_at(b"afterwards", 0, b"written after the power came back")
    desk.commit()
    desk.look()
    desk.close_store()
