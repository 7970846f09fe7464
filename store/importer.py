"""A directory on disk becomes a tree in the store.

It is read through descriptors and no link is followed: whatever somebody does to the directory meanwhile, nothing
outside of it is read. What cannot be read is named and left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from store import directory, disk, limits, links, version
from store import file as files
from store.batch import Batch
from store.chunker import Chunker, FastCdc, Piece
from store.cid import Cid
from store.descent import Descent, Identity
from store.disk import Facts
from store.entry import Entry
from store.errors import StoreError, TooLarge
from store.file import File
from store.progress import SILENT, Progress, Skip
from store.scan import Bounds, Path, Scan, opened, scan
from store.version import Tree

# Non-blocking: opening what has just become a fifo must not wait for somebody to write into it.
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Imported(NamedTuple):
    """`files` counts all that is not a directory. `excluded` are the paths left out because the caller said so."""

    tree: Tree
    cid: Cid
    skipped: tuple[Skip, ...]
    excluded: tuple[bytes, ...]
    files: int
    bytes: int


def import_directory(
    batch: Batch,
    path: Path,
    *,
    chunker: Chunker | None = None,
    progress: Progress = SILENT,
    exclude: tuple[Identity, ...] = (),
    one_file_system: bool = False,
) -> Imported:
    """Put the directory at `path` into `batch`: same files, same CID.

    Directories in `exclude` are left out; with `one_file_system` those of other filesystems are stored empty.
    Files that change meanwhile are stored as they were read. Raises NotFound, WrongKind, NoSpace.
    """
    bounds = Bounds(exclude, one_file_system)
    expected = scan(path, bounds)
    progress.totals(expected.files, expected.bytes)
    with Descent(opened(path)) as descent:
        work = _Import(batch, descent, bounds, expected, chunker or FastCdc(), progress)
        tree = work.run()
    cid = version.put_tree(batch, tree)
    return Imported(tree, cid, tuple(work.skipped), tuple(work.excluded), work.files, work.bytes)


@dataclass(frozen=True, slots=True)
class _Level:
    """A directory we are in: its entry but for its content, the names still to do, and what is done."""

    metadata: Entry
    names: Iterator[bytes]
    done: directory.Builder


@dataclass(frozen=True, slots=True)
class _Group:
    """The paths found so far of a file with several links."""

    entry: Entry
    paths: list[bytes]


class _Import:
    def __init__(
        self, batch: Batch, descent: Descent, bounds: Bounds, expected: Scan, chunker: Chunker, progress: Progress
    ) -> None:
        self.files = self.bytes = 0
        self.skipped: list[Skip] = []
        self.excluded: list[bytes] = []
        self._batch, self._descent, self._bounds = batch, descent, bounds
        self._expected, self._chunker, self._progress = expected, chunker, progress
        self._root = descent.identity
        self._levels: list[_Level] = []
        self._here: list[bytes] = []  # the names on the way from the root
        self._prefix = b""  # the same as a path, with a slash at its end
        self._groups: dict[Identity, _Group] = {}
        self._user = os.geteuid()

    def run(self) -> Tree:
        """Walk the tree in the order of the names, so that each directory is built as it is read."""
        if self._root in self._bounds.exclude:
            raise StoreError("a store cannot be imported into itself")
        try:
            self._begin(self._descent.fd)
        except OSError as error:
            raise StoreError(f"cannot read the directory: {error.strerror}") from None
        while True:
            level = self._levels[-1]
            for name in level.names:
                if self._add(level, name):
                    break  # into a directory: it is the last level now
            else:
                entry = level.done.finish(level.metadata)
                self._levels.pop()
                if not self._levels:
                    return self._linked(entry)
                self._levels[-1].done.add(self._leave(), entry)

    # Directories

    def _add(self, level: _Level, name: bytes) -> bool:
        """Add what is called `name`; True if it is a directory and we are inside now."""
        here = self._descent.fd
        try:
            if len(name) > limits.name_bytes_max:
                raise TooLarge(f"its name is longer than {limits.name_bytes_max} bytes")
            facts = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                return self._enter(name)
            entry = self._file(here, name, facts)
        except OSError as error:
            self._skip(name, error.strerror or str(error))
        except (TooLarge, _Changed) as error:
            self._skip(name, str(error))
        else:
            self.files += 1
            self.bytes += entry.size
            level.done.add(name, entry)
        return False

    def _enter(self, name: bytes) -> bool:
        fd = self._descent.enter(name)
        try:
            if self._descent.identity in self._bounds.exclude:
                self.excluded.append(self._prefix + name)
                os.close(self._descent.leave())
                return False
            self._begin(fd)
        except BaseException:
            os.close(self._descent.leave())
            raise
        self._here.append(name)
        self._prefix += name + b"/"
        return True

    def _leave(self) -> bytes:
        os.close(self._descent.leave())
        name = self._here.pop()
        self._prefix = self._prefix[: -len(name) - 1]
        return name

    def _begin(self, fd: int) -> None:
        """Start on the directory that the descent is in now."""
        metadata = disk.entry(self._batch, os.fstat(fd), disk.xattrs(fd))
        crossed = self._bounds.crosses(self._root, self._descent.identity)
        names = [] if crossed else sorted(map(os.fsencode, os.listdir(fd)))
        self._levels.append(_Level(metadata, iter(names), directory.Builder(self._batch)))

    def _skip(self, name: bytes, reason: str) -> None:
        self.skipped.append(Skip(self._prefix + name, reason))

    # Files

    def _file(self, here: int, name: bytes, facts: Facts) -> Entry:
        """Return the entry of what is not a directory. Raises OSError, TooLarge, _Changed."""
        if facts.st_nlink > 1:
            group = self._groups.get((facts.st_dev, facts.st_ino))
            if group is not None:
                group.paths.append(self._linkable(name))
                self._progress.advance(group.entry.size)
                return group.entry
        if stat.S_ISREG(facts.st_mode):
            return self._regular(here, name, facts)
        self._progress.file(self._prefix + name, 0)
        content = files.EMPTY
        if stat.S_ISLNK(facts.st_mode):
            target = os.readlink(name, dir_fd=here)
            if len(target) > limits.target_bytes_max:  # no Linux filesystem makes one, but others' can be mounted
                raise TooLarge(f"its target is longer than {limits.target_bytes_max} bytes")
            content = File(len(target), 0, target)
        return self._entry(name, facts, disk.beside(here, name), content)

    def _regular(self, here: int, name: bytes, facts: Facts) -> Entry:
        self._progress.file(self._prefix + name, facts.st_size)
        fd = self._open(here, name, facts)
        try:
            facts = os.fstat(fd)  # of what was opened: another file may have taken the name since
            if not stat.S_ISREG(facts.st_mode):
                raise _Changed
            return self._entry(name, facts, fd, self._content(fd, facts))
        finally:
            os.close(fd)

    def _open(self, here: int, name: bytes, facts: Facts) -> int:
        """Open a file without changing its time of access, where that is allowed."""
        if self._user in (0, facts.st_uid):
            try:
                return os.open(name, _OPEN | os.O_NOATIME, dir_fd=here)
            except PermissionError:
                pass
        return os.open(name, _OPEN, dir_fd=here)

    def _content(self, fd: int, facts: Facts) -> File:
        if facts.st_size <= limits.read_bytes:
            data = disk.read(fd, facts.st_size)
            self._progress.advance(len(data))
            return files.from_bytes(self._batch, self._chunker, data)
        return files.from_stream(self._batch, self._chunker, self._watched(disk.pieces(fd, facts)))

    def _watched(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            self._progress.advance(piece[0])
            yield piece

    def _entry(self, name: bytes, facts: Facts, where: int | bytes, content: File) -> Entry:
        if facts.st_nlink == 1:
            return disk.entry(self._batch, facts, disk.xattrs(where), content)
        identity = facts.st_dev, facts.st_ino
        path = self._linkable(name)
        entry = disk.entry(
            self._batch, facts, disk.xattrs(where), content, nlink=max(1, self._expected.paths[identity])
        )
        self._groups[identity] = _Group(entry, [path])
        return entry

    # Hard links

    def _linkable(self, name: bytes) -> bytes:
        path = self._prefix + name
        if len(path) > limits.link_path_bytes_max:
            raise TooLarge(f"the path of a hard link may have {limits.link_path_bytes_max} bytes at most")
        return path

    def _linked(self, root: Entry) -> Tree:
        """Return the tree with its hard links. Where the scan counted other paths than there were, entries change."""
        wrong: dict[bytes, Entry] = {}
        for group in self._groups.values():
            count = len(group.paths)
            if group.entry.nlink != count:
                wrong.update((path, group.entry._replace(nlink=count)) for path in group.paths)
        groups = (tuple(group.paths) for group in self._groups.values())
        return Tree(directory.with_paths(self._batch, root, wrong), links.changed(self._batch, None, (), groups))


class _Changed(Exception):
    def __str__(self) -> str:
        return "it turned into something else while it was read"
