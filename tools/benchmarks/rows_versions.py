"""Rows about versions: what diff, merge and a checkpoint cost beside the size of the tree, when ten files differ.

Each size is a tool of its own, so that the rows show side by side whether they are flat.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from store import changes, directory, plan, version
from store.batch import Batch
from store.chunker import FastCdc
from store.cid import Cid
from store.entry import Entry
from store.names import Name
from store.plan import Other
from store.repository import Repository
from store.version import Tree
from tools.benchmarks.bench import Bench, Row, Sample

_DIRECTORY_FILES = 100
_CHANGES = 10
_DIR = Entry("dir", 0o755)


def versions(bench: Bench) -> Iterator[Sample]:
    for size in bench.scale.sizes:
        store = bench.empty("versions")
        repository = Repository.init(store)
        _make(repository, size)
        repository.close()
        tool = f"{size:,} files"
        for what, seconds in _measured(store):
            yield Sample(what, tool, seconds * 1000, "ms")
        for command in (["diff", "src", "ours"], ["merge", "ours", "theirs"]):
            seconds = bench.timed("monofs", "--store", store, *command)
            yield Sample(f"the command monofs {' '.join(command)}", tool, seconds * 1000, "ms")
        bench.remove(store)


def _measured(store: Path) -> Iterator[tuple[str, float]]:
    """Everything with nothing in the cache yet."""
    repository = Repository.open(store)
    start = time.process_time()
    old, new = (version.load_tree(repository.cache, repository.resolve(name).tree).root for name in ("src", "ours"))
    found = list(changes.between(repository.cache, old, new))
    yield "diff, CPU", time.process_time() - start
    assert len(found) == _CHANGES, found
    repository.close()

    repository = Repository.open(store)
    batch, _ = repository.batch("bench")
    cutter = FastCdc()
    start = time.process_time()
    made = plan.made(repository, batch, cutter, "ours", [_other(repository, "theirs")])
    yield "plan of a merge, ten changes on each side, CPU", time.process_time() - start
    assert not made.conflicts and made.new != made.old
    repository.close()

    repository = Repository.open(store)
    batch, stage = repository.batch("bench")
    name = repository.name("third")
    assert name is not None and name.head is not None
    start = time.process_time()
    repository.publish("third", name.head, batch, stage, old=name)
    yield "checkpoint with ten tombstones, CPU", time.process_time() - start
    repository.close()


def _other(repository: Repository, name: str) -> Other:
    found = repository.resolve(name).version
    assert found is not None
    return Other(name, found)


def _make(repository: Repository, size: int) -> None:
    """`src`; `ours` and `theirs`, which changed ten files each; `third`, which has a head with ten fewer."""
    batch, stage = repository.batch("bench")
    root = _tree(batch, size)
    base = version.put_tree(batch, Tree(root))
    repository.publish("src", base, batch, stage)
    old = repository.name("src")
    assert old is not None
    for number, name in enumerate(("ours", "theirs", "third")):
        batch, stage = repository.batch("bench")
        repository.set_name(name, None, old, batch, stage)
        batch, stage = repository.batch("bench")
        tree = _changed(batch, root, size, number, gone=name == "third")
        if name == "third":
            repository.set_name(name, old, Name(old.version, tree), batch, stage)
        else:
            repository.publish(name, tree, batch, stage, old=old)


def _tree(batch: Batch, size: int) -> Entry:
    top = directory.Builder(batch)
    for number in range(-(-size // _DIRECTORY_FILES)):
        inside = directory.Builder(batch)
        for index in range(min(_DIRECTORY_FILES, size - number * _DIRECTORY_FILES)):
            data = b"%d of %d" % (index, number)
            inside.add(b"file-%03d" % index, Entry("file", 0o644, size=len(data), data=data))
        top.add(b"dir-%06d" % number, inside.finish(_DIR))
    return top.finish(_DIR)


def _changed(batch: Batch, root: Entry, size: int, which: int, *, gone: bool) -> Cid:
    """Change ten files, far from each other, or delete them; others for each `which`."""
    step = max(1, size // _CHANGES)
    by_directory: dict[bytes, dict[bytes, Entry | None]] = {}
    for number in range(_CHANGES):
        at = (number * step + which) % size
        data = b"changed by %d" % which
        entry = None if gone else Entry("file", 0o644, size=len(data), data=data)
        inside = by_directory.setdefault(b"dir-%06d" % (at // _DIRECTORY_FILES), {})
        inside[b"file-%03d" % (at % _DIRECTORY_FILES)] = entry
    new: dict[bytes, Entry | None] = {}
    for name, inside in by_directory.items():
        old = directory.lookup(batch, root, name)
        assert old is not None
        new[name] = directory.with_entries(batch, old, inside)
    return version.put_tree(batch, Tree(directory.with_entries(batch, root, new)))


ROWS = (Row("versions", "diff, merge and checkpoint of ten changes, in trees of all sizes", versions),)
