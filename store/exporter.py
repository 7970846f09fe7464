"""A tree in the store becomes a directory on disk.

Everything is made anew and through directory descriptors, so that no tree, however it was forged, can write outside
of the destination. What cannot be restored is named, and the rest is done.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from store import directory, disk, limits
from store.batch import Nodes
from store.descent import DIRECTORY, Descent
from store.directory import printable
from store.entry import Entry
from store.errors import Corrupt, NameTaken, NoSpace, NotFound, StoreError
from store.file import File
from store.linker import Linker
from store.progress import SILENT, Progress, Skip
from store.restore import Restorer, Where
from store.scan import Path
from store.version import Tree

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_INSPECT: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FATAL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_ACLS: Final = (b"system.posix_acl_default", b"system.posix_acl_access")


class Exported(NamedTuple):
    """`skipped` names what is missing or not as it was. `files` counts all that is not a directory."""

    skipped: tuple[Skip, ...]
    files: int
    bytes: int


def export_directory(
    source: Nodes, tree: Tree, destination: Path, *, progress: Progress = SILENT, owner: bool | None = None
) -> Exported:
    """Write `tree` to a new or empty directory. About `owner` see restore.Restorer.

    Raises NameTaken, NotFound (no parent directory), NoSpace; what is done by then stays.
    """
    entries, size, _ = tree.root.total
    progress.totals(entries, size)
    with (
        _translated(destination),
        Descent(_made(destination)) as descent,
        Linker(source, tree, descent.fd) as linker,
    ):
        work = _Export(source, descent, linker, progress, Restorer(source, owner))
        work.run(tree.root)
    return Exported(tuple(work.skipped), work.files, work.bytes)


def export_entry(
    source: Nodes, entry: Entry, destination: Path, *, progress: Progress = SILENT, owner: bool | None = None
) -> Exported:
    """Write what is not a directory to `destination`, which must not exist. Raises NameTaken, NotFound, NoSpace."""
    parent, name = os.path.split(os.path.abspath(os.fsencode(destination)))
    progress.totals(1, entry.size)
    with (
        _translated(destination),
        Descent(os.open(parent, DIRECTORY & ~os.O_NOFOLLOW)) as descent,
        Linker(source, None, descent.fd) as linker,
    ):
        if _exists(descent.fd, name):
            raise NameTaken(f"'{printable(os.fsencode(destination))}' exists already")
        work = _Export(source, descent, linker, progress, Restorer(source, owner))
        work.file(name, entry)
    return Exported(tuple(work.skipped), work.files, work.bytes)


@dataclass(frozen=True, slots=True)
class _Level:
    """A directory we are in: its name, its entry, and the entries still to do."""

    name: bytes
    entry: Entry
    rest: Iterator[tuple[bytes, Entry]]


class _Export:
    def __init__(self, source: Nodes, descent: Descent, linker: Linker, progress: Progress, restorer: Restorer) -> None:
        self.files = self.bytes = 0
        self.skipped: list[Skip] = []
        self._source, self._descent, self._linker = source, descent, linker
        self._progress, self._restorer = progress, restorer
        self._levels: list[_Level] = []
        self._prefix = b""  # the path from the root, with a slash at its end

    # Directories

    def run(self, root: Entry) -> None:
        """Make everything. A directory gets its own mode and time once all that it holds is there."""
        self._levels.append(_Level(b"", root, self._entries(root)))
        while self._levels:
            level = self._levels[-1]
            for name, entry in level.rest:
                if not entry.is_dir:
                    self.file(name, entry)
                elif self._enter(name, entry):
                    break  # into this directory: it is the last level now
            else:
                self._finish()

    def _entries(self, entry: Entry) -> Iterator[tuple[bytes, Entry]]:
        try:
            yield from directory.entries(self._source, entry)
        except (Corrupt, NotFound) as error:
            self._skip(b"", f"entries of this directory are lost: {error}")

    def _enter(self, name: bytes, entry: Entry) -> bool:
        self._progress.file(self._prefix + name, 0)
        if self._descent.depth == limits.depth_max:
            self._skip(name, f"directories may be {limits.depth_max} deep at most")
            return False
        try:
            os.mkdir(name, 0o700, dir_fd=self._descent.fd)
            self._descent.enter(name)
        except OSError as error:
            self._failed(name, error)
            return False
        self._levels.append(_Level(name, entry, self._entries(entry)))
        self._prefix += name + b"/"
        return True

    def _finish(self) -> None:
        """Leave the innermost directory; its content is complete."""
        level = self._levels.pop()
        if not self._levels:
            self._linker.close()
        else:
            self._prefix = self._prefix[: -len(level.name) - 1]
        fd = self._descent.leave()  # before its mode may forbid to look for its parent
        try:
            self._restore(level.name, Where(fd), level.entry)
        finally:
            os.close(fd)

    # Files

    def file(self, name: bytes, entry: Entry) -> None:
        """Make what is not a directory."""
        path, here = self._prefix + name, self._descent.fd
        self._progress.file(path, entry.size)
        try:
            if self._linked(path, here, name, entry):
                self._progress.advance(entry.size)
            else:
                self._create(here, name, entry)
                self._keep(path, here, name)
        except OSError as error:
            self._failed(name, error)
        except (Corrupt, NotFound) as error:
            self._skip(name, str(error))
        else:
            self.files += 1
            self.bytes += entry.size

    def _linked(self, path: bytes, here: int, name: bytes, entry: Entry) -> bool:
        try:
            return self._linker.link(path, here, name, entry)
        except OSError as error:
            self._failed(name, error, "a copy, not a hard link: ")
        except (Corrupt, NotFound) as error:
            self._skip(name, f"a copy, not a hard link: {error}")
        return False

    def _keep(self, path: bytes, here: int, name: bytes) -> None:
        try:
            self._linker.keep(path, here, name)
        except OSError as error:
            self._failed(name, error, "its hard links become copies: ")

    def _create(self, here: int, name: bytes, entry: Entry) -> None:
        if entry.kind == "file":
            self._create_regular(here, name, entry)
        elif entry.kind == "symlink":
            assert isinstance(entry.data, bytes)
            os.symlink(entry.data, name, dir_fd=here)
            self._restore(name, Where(disk.beside(here, name), follow=False), entry)
        else:
            os.mknod(name, (entry.st_mode & ~0o7777) | 0o600, os.makedev(*entry.rdev), dir_fd=here)
            fd = os.open(name, _INSPECT, dir_fd=here)
            try:
                self._restore(name, Where(b"/proc/self/fd/%d" % fd), entry)
            finally:
                os.close(fd)

    def _create_regular(self, here: int, name: bytes, entry: Entry) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=here)
        try:
            self._write(fd, File.of(entry))
            self._restore(name, Where(fd), entry)
        except (OSError, StoreError):
            os.unlink(name, dir_fd=here)  # half a file is worse than none
            raise
        finally:
            os.close(fd)

    def _write(self, fd: int, content: File) -> None:
        at = 0
        for length, data in content.pieces(self._source, 0, content.size):
            if data is not None:
                _write_at(fd, data, at)
            at += length
            self._progress.advance(length)
        if content.holes:
            os.ftruncate(fd, content.size)  # the end may be a hole

    # What went wrong

    def _restore(self, name: bytes, where: Where, entry: Entry) -> None:
        self._restorer.restore(where, entry, lambda reason: self._skip(name, reason))

    def _failed(self, name: bytes, error: OSError, meaning: str = "") -> None:
        if error.errno in _FATAL:
            raise error
        self._skip(name, meaning + (error.strerror or str(error)))

    def _skip(self, name: bytes, reason: str) -> None:
        self.skipped.append(Skip((self._prefix + name).rstrip(b"/"), reason))


def _write_at(fd: int, data: bytes, at: int) -> None:
    done = os.pwrite(fd, data, at)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], at + done)


def _exists(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _made(destination: Path) -> int:
    """Return a descriptor of the destination, which is new or empty."""
    shown = printable(os.fsencode(destination))
    with suppress(FileExistsError):
        os.mkdir(destination, 0o700)
    try:
        fd = os.open(destination, DIRECTORY & ~os.O_NOFOLLOW)
    except NotADirectoryError:
        raise NameTaken(f"'{shown}' exists and is no directory") from None
    if os.listdir(fd):
        os.close(fd)
        raise NameTaken(f"'{shown}' is not empty; an export needs a new or an empty directory")
    for name in _ACLS:  # what is made inside would inherit them
        with suppress(OSError):
            os.removexattr(fd, name)
    with suppress(OSError):
        os.chmod(fd, 0o700)  # an access list, inherited from above, may have left us less
    return fd


@contextmanager
def _translated(destination: Path) -> Iterator[None]:
    shown = printable(os.fsencode(destination))
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"no directory to make '{shown}' in") from None
    except OSError as error:
        if error.errno in _FATAL[:2]:
            raise NoSpace(f"no space left for '{shown}'; what is there is not the whole tree") from None
        raise StoreError(f"cannot write '{shown}': {error.strerror}") from None
