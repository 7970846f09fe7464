"""A quick look at a directory on disk: how much there is to import, and what is linked to what."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from store.descent import Descent, Identity
from store.disk import Facts
from store.errors import NotFound, StoreError, TooLarge, WrongKind

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where an import ends: at the directories in `exclude`, and if asked to where another filesystem begins."""

    exclude: tuple[Identity, ...] = ()
    one_file_system: bool = False

    def crosses(self, root: Identity, here: Identity) -> bool:
        return self.one_file_system and here[0] != root[0]


class Scan(NamedTuple):
    """`paths` counts, for every file with more than one link, those links that lie inside."""

    files: int
    bytes: int
    paths: Counter[Identity]


def scan(path: Path, bounds: Bounds = Bounds()) -> Scan:
    """Count the files below `path` and their bytes; what cannot be read is not counted. Raises NotFound, WrongKind."""
    files = size = 0
    paths: Counter[Identity] = Counter()
    with Descent(opened(path)) as descent:
        for facts in _files(descent, bounds):
            files += 1
            if stat.S_ISREG(facts.st_mode):
                size += facts.st_size
            if facts.st_nlink > 1:
                paths[facts.st_dev, facts.st_ino] += 1
    return Scan(files, size, paths)


def opened(path: Path) -> int:
    """Return a descriptor of the directory that is to be imported; here alone a link is followed."""
    shown = os.fsdecode(path)
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"no directory '{shown}'") from None
    except NotADirectoryError:
        raise WrongKind(f"'{shown}' is not a directory") from None
    except OSError as error:
        raise StoreError(f"cannot read '{shown}': {error.strerror}") from None


def _files(descent: Descent, bounds: Bounds) -> Iterator[Facts]:
    """Yield the facts of everything that is not a directory."""
    root = descent.identity
    waiting: list[list[str]] = [[]]  # on each level, the directories still to look into
    yield from _listed(descent.fd, waiting[-1])
    while True:
        if waiting[-1]:
            try:
                descent.enter(os.fsencode(waiting[-1].pop()))
            except (OSError, TooLarge):
                continue
            waiting.append([])
            if descent.identity not in bounds.exclude and not bounds.crosses(root, descent.identity):
                yield from _listed(descent.fd, waiting[-1])
        elif descent.depth:
            waiting.pop()
            os.close(descent.leave())
        else:
            return


def _listed(directory: int, directories: list[str]) -> Iterator[Facts]:
    """Yield the facts of the files in one directory; the names of directories go into `directories`."""
    try:
        with os.scandir(directory) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                else:
                    yield entry.stat(follow_symlinks=False)
    except OSError:
        return
