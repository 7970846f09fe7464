"""Copying files between this machine and a tree that a guest writes at the same time: nothing found is believed.

No symbolic link is followed below the paths that a person named; those are followed, the tree's own inside the tree.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from vmm import limits
from vmm.confined import open_in

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID


@dataclass
class Copy:
    """One copy; `skipped` has what could not be copied, and why. `set_id` says if those bits may come along."""

    set_id: bool
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def entry(self, source: int, name: str, target: int, new: str, path: str, depth: int = 0) -> None:
        """Copy `name` in the directory `source` to `new` in the directory `target`; goes on after what cannot be."""
        try:
            found = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                self._directory(source, name, target, new, path, depth)
            elif stat.S_ISREG(found.st_mode):
                self._file(source, name, target, new)
            elif stat.S_ISLNK(found.st_mode):
                _clear(target, new)
                os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=target)
            else:
                self.skipped.append((path, "neither a file, a directory nor a symbolic link"))
        except OSError as error:
            self.skipped.append((path, error.strerror or str(error)))

    def _directory(self, source: int, name: str, target: int, new: str, path: str, depth: int) -> None:
        if depth > limits.copy_depth_max:
            raise OSError(errno.ELOOP, f"more than {limits.copy_depth_max} directories deep")
        with _opened(os.open(name, _DIRECTORY, dir_fd=source)) as old:
            with suppress(FileExistsError):
                os.mkdir(new, 0o700, dir_fd=target)
            with _opened(os.open(new, _DIRECTORY, dir_fd=target)) as made:
                for inner in os.listdir(old):
                    self.entry(old, inner, made, inner, f"{path}/{inner}", depth + 1)
                self._finish(os.fstat(old), made)

    def _file(self, source: int, name: str, target: int, new: str) -> None:
        """What was a file a moment ago may be a fifo now: opening must not wait, and it is looked at again."""
        with _opened(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)) as old:
            _check_regular(old)
            with suppress(FileNotFoundError):
                if stat.S_ISLNK(os.stat(new, dir_fd=target, follow_symlinks=False).st_mode):
                    os.unlink(new, dir_fd=target)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with _opened(os.open(new, flags, 0o600, dir_fd=target)) as made:
                _check_regular(made)
                if os.path.sameopenfile(old, made):
                    raise OSError(errno.EINVAL, "it would be copied onto itself")
                os.ftruncate(made, 0)
                while data := os.read(old, limits.MIB):
                    _write(made, data)
                self._finish(os.fstat(old), made)

    def _finish(self, found: os.stat_result, made: int) -> None:
        mode = stat.S_IMODE(found.st_mode)
        os.fchmod(made, mode if self.set_id else mode & ~_SET_ID)
        os.utime(made, ns=(found.st_mtime_ns, found.st_mtime_ns))


def into(root: int, source: str, target: str) -> list[tuple[str, str]]:
    """Copy `source` of this machine to `target` in the tree at `root`; what is made belongs to root.

    As with `cp -r`, an existing directory `target` gets it inside. Returns what was skipped; raises OSError.
    """
    copy = Copy(set_id=True)
    real = os.path.realpath(source, strict=True)
    with (
        _opened(os.open(os.path.dirname(real), _DIRECTORY)) as above,
        _place(root, target, os.path.basename(real)) as at,
    ):
        copy.entry(above, os.path.basename(real), at[0], at[1], source)
    return copy.skipped


def out_of(root: int, source: str, target: str) -> list[tuple[str, str]]:
    """Copy `source` in the tree at `root` to `target` on this machine, where set-id bits from a guest have no business.

    As with `cp -r`, an existing directory `target` gets it inside. Returns what was skipped; raises OSError.
    """
    copy = Copy(set_id=False)
    with _parent_in(root, source) as (above, name):
        new = name if name != "." else "root"
        inside = os.path.isdir(target)
        directory = target if inside else os.path.dirname(os.path.abspath(target))
        with _opened(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as at:
            copy.entry(above, name, at, new if inside else os.path.basename(os.path.abspath(target)), source)
    return copy.skipped


@contextmanager
def _place(root: int, path: str, name: str) -> Iterator[tuple[int, str]]:
    """Yield the directory in the tree, and the name in it, that `path` means as a target for something named `name`."""
    try:
        descriptor = open_in(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        if path.endswith("/"):
            raise
        with _opened(open_in(root, os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)) as above:
            yield above, os.path.basename(path)
        return
    with _opened(descriptor):
        yield descriptor, name


@contextmanager
def _parent_in(root: int, path: str) -> Iterator[tuple[int, str]]:
    """Yield the directory that holds what `path` means in the tree, links followed, and its name there."""
    at = path
    for _ in range(limits.copy_links_max):
        above_path, name = os.path.split(at.rstrip("/"))
        if name in ("", ".", ".."):
            with _opened(open_in(root, at, os.O_RDONLY | os.O_DIRECTORY)) as descriptor:
                yield descriptor, "."
            return
        with _opened(open_in(root, above_path, os.O_RDONLY | os.O_DIRECTORY)) as above:
            try:
                link = os.readlink(name, dir_fd=above)
            except OSError:  # no link, or nothing: `entry` says so
                yield above, name
                return
        at = link if link.startswith("/") else f"{above_path}/{link}"
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_regular(descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _clear(directory: int, name: str) -> None:
    """Make room for a link. A directory stays: the link then fails."""
    with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        os.unlink(name, dir_fd=directory)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
