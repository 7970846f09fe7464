"""Stores with a tree of any size and a history of fixed length, made straight through the store: no file is written.

In every version ten files change, whatever the size. What is asked of such a store must cost the same in all sizes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from store import directory, version
from store.batch import Batch
from store.cid import Cid
from store.entry import Entry
from store.names import Name
from store.repository import Repository
from store.version import Tree

CHANGES: Final = 10  # files that one version changes
VERSIONS: Final = 100
OFTEN: Final = b"dir-000000/file-000"  # every tenth version changes it
OFTEN_TIMES: Final = VERSIONS // 10
TRIES: Final = 3  # names of each kind, so that what writes can be tried as often

_DIRECTORY_FILES: Final = 100
_DIR: Final = Entry("dir", 0o755)


@contextmanager
def store(work: Path, size: int, kept: Path | None) -> Iterator[Path]:
    """A store to work in, at `work`. It is made only once if there is a place to keep a copy of it."""
    original = None if kept is None else kept / f"history-{size}"
    if original is not None and original.exists():
        shutil.copytree(original, work)
    else:
        repository = Repository.init(work)
        make(repository, size)
        repository.close()
        if original is not None:
            half = original.with_name(original.name + ".part")
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(work, half)
            half.rename(original)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def make(repository: Repository, size: int, tries: int = TRIES) -> None:
    """`src`, with its history; and of each, as often as it is tried: `ours` and `theirs`, which changed ten files each
    since; `fewer`, which has a head with ten fewer; `long`, with as long a history of its own.
    """
    batch, stage = repository.batch("bench")
    root = large_tree(batch, size)
    repository.publish("src", version.put_tree(batch, Tree(root)), batch, stage)
    for attempt in range(tries):
        repository.set_name(f"long-{attempt}", None, repository.name("src"), *repository.batch("bench"))
        _grown(repository, f"long-{attempt}", root, size)
    root = _grown(repository, "src", root, size)
    src = repository.name("src")
    assert src is not None
    for attempt in range(tries):
        for which, kind in enumerate(("ours", "theirs", "fewer")):
            name = f"{kind}-{attempt}"
            repository.set_name(name, None, src, *repository.batch("bench"))
            if kind in ("ours", "theirs"):
                committed(repository, name, root, size, VERSIONS + which)
            elif kind == "fewer":
                batch, stage = repository.batch("bench")
                tree = version.put_tree(batch, Tree(_changed(batch, root, size, VERSIONS + which)))
                repository.set_name(name, src, Name(src.version, tree), batch, stage)


def _grown(repository: Repository, name: str, root: Entry, size: int) -> Entry:
    for number in range(1, VERSIONS):
        root = committed(repository, name, root, size, number)
    return root


def committed(repository: Repository, name: str, root: Entry, size: int, number: int) -> Entry:
    batch, stage = repository.batch("bench")
    new = _changed(batch, root, size, number, by=name)
    repository.publish(name, version.put_tree(batch, Tree(new)), batch, stage, old=repository.name(name))
    return new


def large_tree(batch: Batch, size: int) -> Entry:
    top = directory.Builder(batch)
    for number in range(-(-size // _DIRECTORY_FILES)):
        inside = directory.Builder(batch)
        for index in range(min(_DIRECTORY_FILES, size - number * _DIRECTORY_FILES)):
            data = b"%d of %d" % (index, number)
            inside.add(b"file-%03d" % index, Entry("file", 0o644, size=len(data), data=data))
        top.add(b"dir-%06d" % number, inside.finish(_DIR))
    return top.finish(_DIR)


def _changed(batch: Batch, root: Entry, size: int, number: int, by: str | None = None) -> Entry:
    """Change ten files, far from each other, or delete them (by None): others for each of ten `number`s in a row."""
    by_directory: dict[bytes, dict[bytes, Entry | None]] = {}
    for count in range(CHANGES):
        at = (count * (size // CHANGES) + number % 10) % size
        data = b"%d by %s" % (number, (by or "").encode())
        entry = None if by is None else Entry("file", 0o644, size=len(data), data=data)
        inside = by_directory.setdefault(b"dir-%06d" % (at // _DIRECTORY_FILES), {})
        inside[b"file-%03d" % (at % _DIRECTORY_FILES)] = entry
    new: dict[bytes, Entry | None] = {}
    for name, inside in by_directory.items():
        old = directory.lookup(batch, root, name)
        assert old is not None
        new[name] = directory.with_entries(batch, old, inside)
    return directory.with_entries(batch, root, new)


def tree_of(repository: Repository, name: str) -> Entry:
    return version.load_tree(repository.cache, repository.resolve(name).tree).root


def version_of(repository: Repository, name: str) -> Cid:
    record = repository.name(name)
    assert record is not None
    return record.version
