"""A tree as git would have it: what of a directory is the same in every clone, whoever made it and when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from store import directory
from store.batch import Batch
from store.directory import Builder
from store.entry import Entry
from store.version import Tree

_GIT: Final = b".git"
_DIRECTORY: Final = Entry("dir", 0o755)


class _Level(NamedTuple):
    name: bytes
    rest: Iterator[tuple[bytes, Entry]]
    done: Builder


def plain(batch: Batch, tree: Tree) -> Tree:
    """Return `tree` with what git keeps: files, executable or not, and links; no `.git`, no empty directory.

    All is owned by root, from 1970, and not hard-linked; attributes, fifos, sockets and device nodes are left out.
    """
    levels = [_level(batch, b"", tree.root)]
    while True:
        level = levels[-1]
        for name, entry in level.rest:
            if name == _GIT:
                continue
            if entry.is_dir:
                levels.append(_level(batch, name, entry))
                break
            if (kept := _plain(entry)) is not None:
                level.done.add(name, kept)
        else:
            made = level.done.finish(_DIRECTORY)
            levels.pop()
            if not levels:
                return Tree(made)
            if made.data is not None:
                levels[-1].done.add(level.name, made)


def _level(batch: Batch, name: bytes, entry: Entry) -> _Level:
    return _Level(name, directory.entries(batch, entry), Builder(batch))


def _plain(entry: Entry) -> Entry | None:
    if entry.kind not in ("file", "symlink"):
        return None
    mode = 0o777 if entry.kind == "symlink" else 0o755 if entry.mode & 0o100 else 0o644
    return Entry(entry.kind, mode, size=entry.size, holes=entry.holes, data=entry.data)
