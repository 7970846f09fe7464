"""Projects for tests: a directory with a monofs.toml, in a place of its own with a home store of its own."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

from store.repository import Repository
from tests.fuse.cli_command import Monofs, plant
from vmm.project.folder import Folder
from vmm.project.state import Installed, State


class Shop(Monofs):
    """`monofs` in the directory of a project; the home store is beside it."""

    def __init__(self, at: Path, home: Path | None = None, name: str = "shop") -> None:
        directory = at / name
        directory.mkdir(parents=True, exist_ok=True)
        self.home = home or at / "home"
        # No file of registries, and no credentials: `at` is the home directory.
        super().__init__(directory, {"MONOFS_STORE": str(self.home), "HOME": str(at)})

    @property
    def folder(self) -> Folder:
        return Folder(self.directory)

    def declare(self, text: str) -> Shop:
        self.folder.manifest.write_text(text)
        return self

    def base(self, files: dict[str, bytes], name: str = "base") -> str:
        """Make a name in the home store be these files; returns the tree's CID."""
        at = self.directory.parent / "made"
        shutil.rmtree(at, ignore_errors=True)
        return self.ok("import", str(plant(at, files)), "--name", name, "--update").lines[0]

    def change(self, machine: str, files: dict[str, bytes]) -> str:
        """Change the fork of a machine, as a mount would; returns its tree's CID."""
        at = self.directory.parent / "changed"
        shutil.rmtree(at, ignore_errors=True)
        store = str(self.folder.store)
        name = f"{self.directory.name}/{machine}"
        return self.ok("--store", store, "import", str(plant(at, files)), "--name", name, "--update").lines[0]

    def names(self) -> dict[str, str]:
        """Return the trees that there are in the project's own store."""
        with closing(Repository.open(self.folder.store, create=False)) as own:
            return {name: str(own.head(record)) for name, record in own.names()}

    def rows(self) -> dict[str, Installed]:
        with State(self.folder.mc) as state:
            return {row.machine: row for row in state.installed()}

    def locked(self) -> str:
        return self.folder.lock.read_text()

    def actions(self, *args: str, **env: Any) -> dict[str, str]:
        """Install; returns what was done about each machine."""
        return {row["machine"]: row["action"] for row in self.ok("install", "--json", *args, **env).json}

    def clone(self, at: Path, home: Path | None = None) -> Shop:
        """Return a second clone: what git would have of this one, elsewhere, over another home store."""
        other = Shop(at, home, self.directory.name)
        shutil.rmtree(other.directory)
        shutil.copytree(self.directory, other.directory, symlinks=True, ignore=lambda at, names: {".mc"} & set(names))
        return other

    def seen(self) -> dict[str, tuple[int, int]]:
        """Return what stays the same of a project's files if nothing is written."""
        paths = [self.folder.manifest, self.folder.lock, self.directory / ".gitignore", self.folder.mc / ".gitignore"]
        return {path.name + path.parent.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def check_whole(shop: Shop) -> None:
    """Both stores are clean, and everything below the project's names can be read."""
    for store in (shop.home, shop.folder.store):
        if (store / "monofs-store.json").exists():
            assert "\n" in shop.ok("--store", os.fspath(store), "check").text
    for name in shop.names():
        shop.ok("--store", str(shop.folder.store), "export", name, "-")
