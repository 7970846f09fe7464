"""Making hard links while a tree is exported, wherever its paths lie and however closed their directories are."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from store import directory, links
from store.batch import Nodes
from store.descent import DIRECTORY
from store.entry import Entry
from store.version import Tree

_NAME: Final = b".monofs-links"


class _Group:
    """A file with several paths: how many are still to be made, and its name in the side directory once it exists."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.name: bytes | None = None


class Linker:
    """Keeps a link to each file of which more paths are to come, in a side directory of the destination.

    A path made earlier would not do: by then its directory may be closed even to us.
    """

    def __init__(self, source: Nodes, tree: Tree | None, root: int) -> None:
        self._source, self._tree = source, tree
        self._root = os.dup(root)
        self._groups: dict[bytes, _Group] = {}  # of paths that are still to be made
        self._side: int | None = None
        self._side_name = b""
        self._count = 0

    def __enter__(self) -> Linker:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # whatever is going on already is worse
            self.close()
        os.close(self._root)

    def link(self, path: bytes, here: int, name: bytes, entry: Entry) -> bool:
        """Make `name` a link if this is a further path of a file that exists. Raises OSError, Corrupt, NotFound."""
        group = self._group(path) if entry.nlink > 1 else None
        if group is None or group.name is None:
            return False
        assert self._side is not None
        if group.left > 1:
            os.link(group.name, name, src_dir_fd=self._side, dst_dir_fd=here, follow_symlinks=False)
        else:  # the last one: a file may have as many links as it had, but not one more
            os.rename(group.name, name, src_dir_fd=self._side, dst_dir_fd=here)
        self._made(path, group)
        return True

    def keep(self, path: bytes, here: int, name: bytes) -> None:
        """`name` was made, at `path`: remember it if there are more paths to come. Raises OSError."""
        group = self._groups.get(path)
        if group is None:
            return
        self._made(path, group)
        if group.left:
            kept = b"%d" % self._count
            os.link(name, kept, src_dir_fd=here, dst_dir_fd=self._opened(), follow_symlinks=False)
            group.name = kept
            self._count += 1

    def close(self) -> None:
        """Remove the side directory. Files are left in it only if a path could not be made, or never came."""
        if self._side is not None:
            for name in os.listdir(self._side):
                os.unlink(name, dir_fd=self._side)
            os.close(self._side)
            self._side = None
            os.rmdir(self._side_name, dir_fd=self._root)

    def _group(self, path: bytes) -> _Group | None:
        if path not in self._groups and self._tree is not None:
            paths = links.group(self._source, self._tree.links, path)
            if len(paths) > 1:
                self._groups.update(dict.fromkeys(paths, _Group(len(paths))))
        return self._groups.get(path)

    def _made(self, path: bytes, group: _Group) -> None:
        group.left -= 1
        del self._groups[path]

    def _opened(self) -> int:
        if self._side is None:
            assert self._tree is not None
            name, number = _NAME, 0
            while directory.lookup(self._source, self._tree.root, name) is not None:
                number += 1
                name = _NAME + b"-%d" % number
            os.mkdir(name, 0o700, dir_fd=self._root)
            self._side_name = name
            self._side = os.open(name, DIRECTORY, dir_fd=self._root)
        return self._side
