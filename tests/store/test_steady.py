"""Readers beside those who let go and collect: what somebody has begun to read he can read to the end."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from store import check, directory, file, version
from store.blocks import dereference
from store.cache import Cache
from store.chunker import FastCdc
from store.cid import Cid
from store.entry import Entry
from store.errors import NotFound
from store.file import File
from store.memory_store import MemoryStore
from store.repository import Repository, Target
from store.staging import Stage
from tests.fuse.cli_command import PROGRAM
from tests.store.children import child
from tests.suites.blocks import drain, hold, node, raw


def lmdb(path: Path) -> Path:
    Repository.init(path / "store").close()
    return path / "store"


def flatfs(path: Path) -> Path:
    Repository.init(path / "store", backend="flatfs").close()
    return path / "store"


def layer(path: Path) -> Path:
    """A layer whose base has half of what is put into it, and lets go of that."""
    base = Repository.init(path / "base", backend="flatfs")
    _put(base, "src", _noise(0)[:300_000])
    base.close()
    Repository.init(path / "store", bases=(path / "base",)).close()
    return path / "store"


@pytest.fixture(params=[lmdb, flatfs, layer])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made: Path = request.param(tmp_path)
    repository = Repository.open(made)
    _put(repository, "src", _noise(0))
    repository.close()
    if (tmp_path / "base").exists():
        forgetful = Repository.open(tmp_path / "base")
        forgetful.forget_name("src")
        drain(forgetful.store)
        forgetful.close()
    return made


@pytest.fixture
def repository(home: Path) -> Iterator[Repository]:
    opened = Repository.open(home)
    yield opened
    opened.close()


def _noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(600_000)


def _put(repository: Repository, name: str, data: bytes) -> None:
    """Make `name` a tree with one file, and nothing else of it."""
    batch, stage = repository.batch("test")
    made = file.from_bytes(batch, FastCdc(), data)
    entry = Entry("file", 0o644, size=made.size, holes=made.holes, data=made.content)
    root = directory.with_entries(batch, Entry("dir", 0o755), {b"f": entry})
    if repository.name(name) is not None:
        repository.forget_name(name)
    repository.publish(name, version.put_tree(batch, version.Tree(root)), batch, stage)


def _read(repository: Repository, tree: Cid) -> bytes:
    """Read all of a tree, with nothing of it in memory."""
    cache = Cache(repository.store)
    entry = directory.lookup(cache, version.load_tree(cache, tree).root, b"f")
    assert entry is not None
    return File.of(entry).read_at(cache, 0, entry.size)


def _replace(pipe: Connection, home: Path) -> None:
    """Let go of the tree, and delete it; in the store below, too."""
    repository = Repository.open(home)
    _put(repository, "src", _noise(1))
    drain(repository.store)
    repository.close()
    _empty(pipe, home.parent / "base")


def _empty(pipe: Connection, home: Path) -> None:
    if home.exists():
        repository = Repository.open(home)
        drain(repository.store)
        repository.close()


def by_another(work: Callable[[Connection, Path], None], home: Path) -> None:
    with child(work, home) as other:
        other.finish()


def check_gone(home: Path, tree: Cid) -> None:
    """When nobody reads any more, everything goes."""
    for path in (home, home.parent / "base"):
        by_another(_empty, path)
    repository = Repository.open(home)
    assert check.examine(repository.store).is_clean
    with pytest.raises(NotFound):
        _read(repository, tree)
    repository.close()


def test_without_a_hold_it_is_gone(home: Path, repository: Repository) -> None:
    tree = repository.resolve("src").tree
    assert _read(repository, tree) == _noise(0)
    by_another(_replace, home)
    with pytest.raises(NotFound):
        _read(repository, tree)


def test_a_reader_reads_to_the_end(home: Path, repository: Repository) -> None:
    """And nobody waits for it: the other one has let go and collected meanwhile."""
    with repository.store.steady():
        tree = repository.resolve("src").tree
        by_another(_replace, home)
        assert _read(repository, tree) == _noise(0)
    assert _read(repository, repository.resolve("src").tree) == _noise(1)
    repository.close()
    check_gone(home, tree)


def test_a_long_reader_holds_its_tree(home: Path, repository: Repository) -> None:
    """By a record, so that this process may write meanwhile."""
    with repository.holding("src", "src/f") as (target, inside):
        assert inside.path == b"f" and inside.tree == target.tree
        by_another(_replace, home)
        _put(repository, "another", b"small")
        assert _read(repository, target.tree) == _noise(0)
    repository.close()
    check_gone(home, target.tree)


def _read_for_ever(pipe: Connection, home: Path, how: str) -> None:
    repository = Repository.open(home)
    with repository.store.steady() if how == "steady" else repository.holding("src"):
        pipe.send(bytes(repository.resolve("src").tree))
        pipe.recv()


@pytest.mark.parametrize("how", ["steady", "holding"])
def test_a_dead_reader_holds_nothing(home: Path, how: str) -> None:
    with child(_read_for_ever, home, how) as reader:
        tree = Cid(reader.pipe.recv())
        by_another(_replace, home)
        reader.kill()
    check_gone(home, tree)


def test_what_is_quicker_than_the_hold_is_asked_again(
    home: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, found = Stage.keep, list[Target]()

    def too_late(stage: Stage, wanted: frozenset[Cid]) -> None:
        monkeypatch.undo()
        by_another(_replace, home)
        keep(stage, wanted)

    monkeypatch.setattr(Stage, "keep", too_late)
    with repository.holding("src") as (target,):
        assert _read(repository, target.tree) == _noise(1)

    def work(target: Target) -> bytes:
        found.append(target)
        if len(found) == 1:
            _put(repository, "src", _noise(2))
            drain(repository.store)
        return _read(repository, target.tree)

    assert repository.retried("src", work) == _noise(2) and len(found) == 2
    with pytest.raises(NotFound):
        repository.retried("nobody", work)


def test_in_memory() -> None:
    store = MemoryStore()
    block, new = raw(b"old"), raw(b"new")
    hold(store, b"r", node(block), blocks=(block, node(block)))
    with store.steady():
        dereference(store, b"r")
        drain(store)
        hold(store, b"s", new, blocks=(new,))
        assert store.get(block[0]) == block[1] and store.root(b"r") and not store.has(new[0])
    assert not store.has(block[0]) and store.has(new[0])


@pytest.mark.parametrize("words", [["cat", "src/f"], ["export", "src", "-"]])
def test_a_command_that_is_slow_to_be_read(home: Path, words: list[str]) -> None:
    """What it prints fills the pipe; meanwhile the name moves on, and all that it had is deleted."""
    text = b"".join(b"%06d\n" % n for n in range(400_000))
    repository = Repository.open(home)
    _put(repository, "src", text)
    repository.close()
    argv = [PROGRAM, "--store", os.fspath(home), *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        began = process.stdout.read(1)
        by_another(_replace, home)
        got = began + process.stdout.read()
    assert process.returncode == 0
    assert all(line in got for line in (b"000000\n", b"200000\n", b"399999\n"))
