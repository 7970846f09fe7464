"""What the tests of images share: pulling without a terminal, and what a tree looks like on disk."""

from __future__ import annotations

import stat
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from store import version
from store.batch import Batch
from store.blocks import Change
from store.cache import Cache
from store.exporter import export_directory
from store.memory_store import MemoryStore
from store.oci import archive, media, overlay, pull, reference
from store.oci.media import Descriptor
from store.oci.pull import Pulled
from store.oci.unpack import read_layer
from store.progress import SILENT, Progress
from store.repository import Repository
from store.version import Tree
from tests.suites import trees


class Quiet:
    """Counts what came, and what was here."""

    def __init__(self) -> None:
        self.fetched_bytes = 0
        self.here: list[int] = []
        self.done: list[int] = []

    def begin(self, number: int, layer: Descriptor, is_here: bool) -> Progress:
        if is_here:
            self.here.append(number)
        return SILENT

    def end(self, number: int) -> None:
        self.done.append(number)

    def fetched(self, number: int, size: int) -> None:
        self.fetched_bytes += size


def pulled(
    repository: Repository, source: pull.Source, selector: str, *names: str, watcher: Quiet | None = None
) -> Pulled:
    found = pull.resolve(source, selector, media.parse_platform("linux/amd64"))
    return pull.pull(repository, source, found, [reference.parse(name) for name in names], watcher or Quiet())


def loaded(repository: Repository, path: Path, *names: str, watcher: Quiet | None = None) -> Pulled:
    """Pull the first image of an archive."""
    with ExitStack() as cleanup:
        stdin: BinaryIO = cleanup.enter_context(path.open("rb")) if path.is_file() else None  # type: ignore[assignment]
        opened = archive.opened(path, stdin, cleanup)
        return pulled(repository, opened, opened.images[0].selector, *names, watcher=watcher)


def stacked(layers: Sequence[bytes], piece_bytes: int = 50_000) -> tuple[Cache, Tree]:
    """Return what the archives of layers make, in memory."""
    store = MemoryStore()
    batch = Batch(Cache(store))
    tree = overlay.EMPTY
    for data in layers:
        pieces = (data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes))
        tree = overlay.apply(batch, tree, read_layer(batch, pieces))
    store.apply(Change(batch.blocks))
    return Cache(store), tree


def on_disk(source: Cache, tree: Tree, to: Path) -> dict[bytes, trees.Facts]:
    export_directory(source, tree, to)
    return trees.facts(to)


def of_image(repository: Repository, got: Pulled, to: Path) -> dict[bytes, trees.Facts]:
    return on_disk(repository.cache, version.load_tree(repository.cache, got.image.tree), to)


def now() -> int:
    """The time from which on what umoci makes by itself is dated; the clock of files is a little behind."""
    return time.time_ns() - 10**9


def without_now(facts: dict[bytes, trees.Facts], theirs: dict[bytes, trees.Facts], start: int) -> object:
    """Leave out the times of directories that umoci made without being told a time."""
    return {
        path: fact._replace(mtime=0)
        if stat.S_ISDIR(fact.mode) and path in theirs and theirs[path].mtime >= start
        else fact
        for path, fact in facts.items()
    }


def differences(theirs: dict[bytes, trees.Facts], ours: dict[bytes, trees.Facts], start: int) -> list[str]:
    left, right = without_now(theirs, theirs, start), without_now(ours, theirs, start)
    assert isinstance(left, dict)
    assert isinstance(right, dict)
    return [
        f"{path!r}: {left.get(path)} {right.get(path)}"
        for path in sorted(left.keys() | right.keys())
        if left.get(path) != right.get(path)
    ]
