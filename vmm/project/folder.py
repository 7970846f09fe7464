"""A project's folder: monofs.toml and monofs.lock, which people keep, and .mc, which is made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple, Self

from vmm.project.manifest import FILE

LOCK_FILE: Final = "monofs.lock"
MC: Final = ".mc"


class Folder(NamedTuple):
    """Where everything of one project is. Nothing says that it is there."""

    directory: Path

    @property
    def manifest(self) -> Path:
        return self.directory / FILE

    @property
    def lock(self) -> Path:
        return self.directory / LOCK_FILE

    @property
    def mc(self) -> Path:
        return self.directory / MC

    @property
    def store(self) -> Path:
        """The store of the forks' own blocks, a layer over the home store. Its machines are in it, as in any store."""
        return self.mc / "store"

    @property
    def logs(self) -> Path:
        return self.mc / "logs"

    @classmethod
    def find(cls, start: Path) -> Self | None:
        """Return the project that `start` is in: the nearest directory above, or itself, that has a monofs.toml."""
        for directory in (start, *start.parents):
            if (directory / FILE).is_file():
                return cls(directory)
        return None
