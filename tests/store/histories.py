"""Histories for tests: trees of a few files given as dicts, and the versions made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from store import directory, links, successor, version
from store import file as files
from store.batch import Batch
from store.chunker import Chunker, FastCdc
from store.cid import Cid
from store.entry import Entry
from store.file import File
from store.version import Tree, Version

Files = Mapping[
    str, "str | bytes | Entry"
]  # path -> content, or the whole entry; a path that ends with / is a directory

CHUNKER = FastCdc()
DIR = Entry("dir", 0o755)


def file(batch: Batch, content: str | bytes, chunker: Chunker = CHUNKER, **more: object) -> Entry:
    """A regular file."""
    data = content.encode() if isinstance(content, str) else content
    made = files.from_bytes(batch, chunker, data)
    return Entry("file", 0o644, size=made.size, holes=made.holes, data=made.content)._replace(**more)


def link(target: str) -> Entry:
    return Entry("symlink", 0o777, size=len(target), data=target.encode())


def tree(batch: Batch, content: Files, groups: Iterable[tuple[str, ...]] = ()) -> Tree:
    """Return the tree of these files; `groups` are the paths that are one file."""
    grouped = [tuple(sorted(path.encode() for path in group)) for group in groups]
    count = {path: len(group) for group in grouped for path in group}
    entries: dict[bytes, Entry] = {}
    for text, what in content.items():
        path = text.rstrip("/").encode()
        entry = what if isinstance(what, Entry) else DIR if text.endswith("/") else file(batch, what)
        entries[path] = entry if entry.is_dir else entry._replace(nlink=count.get(path, 1))
    return Tree(_directory(batch, entries, DIR), links.changed(batch, None, (), grouped))


def _directory(batch: Batch, entries: Mapping[bytes, Entry], own: Entry) -> Entry:
    here: dict[bytes, Entry | None] = {}
    below: dict[bytes, dict[bytes, Entry]] = {}
    for path, entry in entries.items():
        name, slash, rest = path.partition(b"/")
        if slash:
            below.setdefault(name, {})[rest] = entry
        else:
            here[name] = entry
    for name, inside in below.items():
        here[name] = _directory(batch, inside, here.get(name) or DIR)
    return directory.with_entries(batch, own, here)


def shown(batch: Batch, tree: Tree | Cid) -> dict[str, str]:
    """Return what a tree holds: path -> content of a file, `-> target`, or the kind of anything else."""
    whole = version.load_tree(batch, tree) if isinstance(tree, Cid) else tree
    return {path.decode(): _said(batch, entry) for path, entry in directory.walk(batch, whole.root) if not entry.is_dir}


def _said(batch: Batch, entry: Entry) -> str:
    if entry.kind == "file":
        return File.of(entry).read_at(batch, 0, entry.size).decode("latin-1")
    return f"-> {entry.data!r}" if entry.kind == "symlink" else entry.kind


class History:
    """Versions in one batch, a second apart."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._time = 1_000_000_000 * 10**9

    def commit(self, content: Files | Tree, *before: Cid, groups: Iterable[tuple[str, ...]] = ()) -> Cid:
        """Return a new version of these files, as a checkpoint makes it."""
        made = content if isinstance(content, Tree) else tree(self.batch, content, groups)
        cid = successor.put(self.batch, version.put_tree(self.batch, made), before)
        self._time += 10**9
        return version.put_version(self.batch, self.version(cid)._replace(time=self._time))

    def bare(self, time: int, *before: Cid) -> Cid:
        """Return a version with nothing in it, made at that time."""
        empty = version.put_tree(self.batch, Tree(DIR))
        return version.put_version(self.batch, Version(empty, frozenset(before), time))

    def alone(self, cid: Cid) -> Cid:
        """Return the version without what was before it, as pruning leaves it."""
        return version.put_version(self.batch, self.version(cid)._replace(previous=frozenset(), line=None))

    def version(self, cid: Cid) -> Version:
        return version.load_version(self.batch, cid)

    def tree(self, cid: Cid) -> Tree:
        return version.load_tree(self.batch, cid)

    def shown(self, cid: Cid) -> dict[str, str]:
        return shown(self.batch, self.version(cid).tree)
