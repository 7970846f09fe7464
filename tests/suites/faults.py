"""Faults at any step, without a kernel: a worktree over a store on disk, stores that fail, processes that are killed.

A `Desk` is one mount without FUSE, with the model of `tests.fuse.model` beside it. It writes down outside of the store
which tree it is about to commit and which one it was told is saved, so that whoever comes after a kill knows what must
be there.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import store as store_package
from monofs_fuse import commit
from store import check, place, staging, version
from store.cache import Cache
from store.chunker import Chunker
from store.cid import Cid
from store.entry import Entry
from store.repository import Repository
from store.version import Tree
from tests.fuse.model import InFlight, Node, Pair, Snapshot, built, committed, snapshot
from tests.suites.blocks import State, drain

FILE, DIRECTORY = Entry("file", 0o644), Entry("dir", 0o755)
NAME: Final = "t"

Act = Callable[[str], None]
"""Called before and after each step, with the name of the step; may raise, or never return."""


# Steps


class Steps:
    """Does `act` at step `nth`, and with `ever` at all later ones. Without either it only counts and names them."""

    def __init__(self, act: Callable[[], None] | None = None, nth: int = 0, *, ever: bool = False) -> None:
        self.names: list[str] = []
        self.over = False  # from now on nothing happens
        self._act, self._nth, self._ever = act, nth, ever

    def __call__(self, name: str) -> None:
        if not self.over:
            self.names.append(name)
            count = len(self.names)
            if self._act is not None and (count == self._nth or (self._ever and count > self._nth)):
                self._act()

    @property
    def reached(self) -> bool:
        return len(self.names) >= self._nth


def calmly(step: str) -> None:
    """Nothing happens at any step."""


class Watched:
    """Stands before a store. `before` hears of each of `calls` before it is made, `after` if it went well."""

    def __init__(self, store: Any, before: Act = calmly, after: Act = calmly) -> None:
        self.store = store
        self.before, self.after = before, after
        self.calls: tuple[str, ...] = ("apply", "gc")

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if name not in self.calls:
            return found

        def call(*args: Any) -> Any:
            self.before(f"before {name}")
            result = found(*args)
            self.after(f"after {name}")
            return result

        return call


class WatchedLmdb:
    """Stands before the LMDB environment of a store. `act` hears of each change and each commit before it is made."""

    def __init__(self, env: Any, act: Act) -> None:
        self._env, self.act = env, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, write: bool = False) -> Any:
        txn = self._env.begin(write=write)
        return _WatchedTransaction(txn, self.act) if write else txn


class _WatchedTransaction:
    def __init__(self, txn: Any, act: Act) -> None:
        self._txn, self._act = txn, act

    def __getattr__(self, name: str) -> Any:
        if name in ("put", "delete", "pop"):
            self._act(name)
        return getattr(self._txn, name)

    def __enter__(self) -> _WatchedTransaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            try:
                self._act("commit")
            except BaseException:
                self._txn.abort()
                raise
            self._txn.commit()
        else:
            self._txn.abort()


@contextmanager
def watched_lmdb(store: Watched, act: Act) -> Iterator[None]:
    """Have `act` hear of every LMDB call that changes something."""
    lmdb_store = store.store
    env = lmdb_store._env
    lmdb_store._env = WatchedLmdb(env, act)
    try:
        yield
    finally:
        lmdb_store._env = env


# The desk


class Desk(Pair):
    """A Pair over the store in `path`; its model is what is committed there under the name."""

    def __init__(self, path: Path, chunker: Chunker, act: Act = calmly, name: str = NAME) -> None:
        self.name = name
        opened = Repository.open(path, create=False)
        self.store = Watched(opened.store, act, act)  # type: ignore[assignment]
        self.repository = Repository(path, self.store)  # type: ignore[arg-type]
        self.repository.cache = Cache(self.store, chunk_bytes=0, node_count=0)  # type: ignore[arg-type]
        self.chunker = chunker
        record = self.repository.name(name)
        assert record is not None
        tree = version.load_tree(self.repository.cache, self.repository.head(record))
        self.saved = committed(self.repository.cache, tree)
        self.root = model_of(self.saved)
        self.now = max(known.mtime for known in self.saved.values()) + 1
        self.flight: InFlight | None = None
        self._mount()

    def drop_flight(self) -> None:
        """The commit under way has failed."""
        assert self.flight is not None
        commit.undo(self.tree, self.flight.frozen)
        self.flight = None

    def journaled_commit(self, journal: Journal) -> None:
        """Commit what there is to commit, and say so before and after."""
        self.freeze()
        if self.flight is None:
            return
        journal.begin(built(self.flight.expected, self.chunker, random.Random(0)))
        self.save()
        journal.done(self.head.tree)
        self.flight, flight = None, self.flight
        assert flight.written is not None
        commit.settle(self.tree, flight.frozen, flight.written)
        self.saved = flight.expected

    def close_store(self) -> None:
        self.repository.close()


def make_store(path: Path, backend: str = place.BACKENDS[0]) -> None:
    """Make a store with an empty tree."""
    repository = Repository.init(path, backend=backend)
    batch, stage = repository.batch("test")
    tree = version.put_tree(batch, Tree(Entry("dir", 0o755, mtime=1_000)))
    repository.publish(NAME, tree, batch, stage)
    repository.close()


def model_of(tree: Snapshot) -> Node:
    """Return the model of a tree that was read from a store."""
    nodes: dict[tuple[bytes, ...], Node] = {}
    for path, known in sorted(tree.items()):
        node = nodes.get(known.group)
        if node is None:
            node = nodes[known.group] = Node(
                known.kind, known.mode, known.uid, known.gid, known.mtime, known.rdev, known.target,
                dict(known.xattrs), bytearray(known.data), nlink=len(known.group),
            )  # fmt: skip
        if path:
            above, _, name = path.rpartition(b"/")
            nodes[tree[above].group].names[name] = node
    assert snapshot(nodes[tree[b""].group]) == tree
    return nodes[tree[b""].group]


# Random edits

Edit = tuple[str, *tuple[Any, ...]]
_NAMES = [b"a", b"b", b"c", b"d"]


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def random_edit(rng: random.Random, desk: Desk, size_max: int) -> Edit:
    """Return a step for `desk.do`: mostly content, and enough of names and links."""
    path = _some_path(rng, desk)
    size = rng.choice((1, size_max // 100 + 1, size_max // 10 + 1, size_max))
    edits: dict[Edit, int] = {
        ("create", path, FILE): 12,
        ("create", path, DIRECTORY): 4,
        ("write_at", path, rng.randrange(size), rng.randbytes(rng.randint(1, size))): 24,
        ("cut_at", path, rng.randrange(size)): 6,
        ("link", path, _some_path(rng, desk)): 5,
        ("rename", path, _some_path(rng, desk)): 8,
        ("unlink", path): 5,
        ("rmdir", path): 2,
        ("mode_at", path, rng.choice((0o600, 0o755, 0o4711))): 3,
        ("open", path): 3,
        ("close", rng.randrange(9)): 3,
        ("forget_all",): 2,
    }
    return rng.choices(list(edits), list(edits.values()))[0]


def do(desk: Desk, edit: Edit) -> None:
    """Like `desk.do`, with paths or the number of an open file for the edits that Pair makes through an inode."""
    if edit[0] == "write_open":
        node = desk.opened[edit[1]]
        desk.write(node, desk.tree.inode(node.ino), *edit[2:])
    elif edit[0] in ("cut_at", "mode_at"):
        node = desk.find(edit[1])
        if node is not None:
            {"cut_at": desk.truncate, "mode_at": desk.chmod}[edit[0]](node, desk.walk_to(edit[1]), edit[2])
    else:
        desk.do(edit)


def _some_path(rng: random.Random, desk: Desk) -> bytes:
    at = b""
    while (node := desk.find(at)) is not None and node.is_dir and at.count(b"/") < 3:
        there = sorted(node.names) if rng.random() < 0.6 else _NAMES
        name = rng.choice(there or _NAMES)
        at = at + b"/" + name if at else name
        if rng.random() < 0.4:
            return at
    return at


# The journal, outside of the store


class Journal:
    """An append-only file, written with one call a line, so that it outlives its writer by a kill.

    When a commit begins, a byte goes to the pipe `signs`.
    """

    def __init__(self, path: Path, signs: int | None = None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._signs = signs

    def begin(self, tree: Cid) -> None:
        self.say(f"begin {tree}")
        if self._signs is not None:
            os.write(self._signs, b".")

    def done(self, tree: Cid) -> None:
        self.say(f"done {tree}")

    def say(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


class Promise(NamedTuple):
    """Which trees may be there: the last that was acknowledged, or the one that was being committed."""

    acknowledged: str
    begun: str | None

    @classmethod
    def of(cls, lines: list[str], first: str) -> Promise:
        """What a journal promises; `first` is the tree before it began."""
        acknowledged, begun = first, None
        for line in lines:
            word, _, tree = line.partition(" ")
            if word == "begin":
                begun = tree
            else:
                assert tree == begun, "another tree was saved than the model has"
                acknowledged, begun = tree, None
        return cls(acknowledged, begun)

    def check(self, tree: str) -> None:
        assert tree in (self.acknowledged, self.begun), f"{tree} is there, and not one of {self}"


def head_of(repository: Repository) -> str:
    record = repository.name(NAME)
    assert record is not None, "the name is gone"
    return str(repository.head(record))


# What must be left


def verify(path: Path, promise: Promise) -> str:
    """Open the store that a dead process left. Fail unless the tree is one that was promised, all of it is whole,
    nothing is held that nobody needs, and gc leaves exactly what the roots reach. Returns the tree."""
    repository = Repository.open(path, create=False)
    try:
        tree = head_of(repository)
        promise.check(tree)
        report = check.examine(repository.store)
        assert report.is_clean, [str(problem) for problem in report.problems]
        assert not repository.store.roots(staging.PREFIX), "staged blocks of the dead are still held"
        assert not repository.store.roots(b"lease/"), "the lease of the dead is still there"
        assert_no_garbage(repository)
    finally:
        repository.close()
    return tree


def assert_no_garbage(repository: Repository) -> None:
    """After gc the store has what its roots reach, and nothing else."""
    drain(repository.store)
    state = State.of(repository.store)
    state.check()
    assert state.blocks.keys() == state.reachable()
    assert repository.store.usage().blocks == len(state.blocks)


# Places and processes


@contextmanager
def quick_directory() -> Iterator[Path]:
    """A directory in memory if there is room: a kill takes nothing from a file that was written, synced or not."""
    shared = Path("/dev/shm")
    has_room = shared.is_dir() and shutil.disk_usage(shared).free > 500 << 20
    with tempfile.TemporaryDirectory(prefix="monofs-faults-", dir=shared if has_room else None) as path:
        yield Path(path)


def forked(work: Callable[[], object]) -> int:
    """Run `work` in a child without ever returning into the caller's stack; returns its pid. No store may be open."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def waited(pid: int) -> int:
    """Return the exit status of a child, -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die() -> None:
    """kill -9 of this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_line(number: int) -> None:
    """kill -9 of this process before the nth line in a module of the store that it runs from now on."""
    inside = os.path.dirname(store_package.__file__ or "")
    left = number

    def trace(frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        nonlocal left
        if not frame.f_code.co_filename.startswith(inside):
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
