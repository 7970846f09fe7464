"""A project's stores: its own in .mc, for what its machines change, and the home store that this leans on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from store import backends, place
from store.errors import MonofsError, StoreError
from store.layered_store import LayeredStore
from store.repository import Repository
from vmm.project.folder import Folder


class Stores(NamedTuple):
    """Both are open. The home store is opened once, below the other: LMDB allows no more than that in a process."""

    own: Repository
    home: Repository


class NoProject(MonofsError):
    """There is no monofs.toml here, nor above. Make one, or go to where it is."""


def find(start: Path | None = None) -> Folder:
    """Return the project that we are in. Raises NoProject."""
    found = Folder.find(start or Path.cwd())
    if found is None:
        raise NoProject("no monofs.toml here, nor in a directory above; 'monofs add NAME IMAGE' makes one")
    return found


def is_installed(folder: Folder) -> bool:
    return place.exists(place.config_path(folder.store))


def home_of(folder: Folder) -> Path:
    """Return the home store of an installed project. Raises StoreError."""
    return Path(place.read_config(folder.store).bases[0])


@contextmanager
def alone(folder: Folder) -> Iterator[None]:
    """Keep other commands that change the project out; .mc is made for that. Ends with this process at the latest."""
    folder.mc.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder.mc / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def make(folder: Folder, home: Path) -> None:
    """Make what .mc is to have, and is not there yet. If the home store has forgotten it, it is held again, if it can.

    Raises StoreError.
    """
    folder.mc.mkdir(mode=0o700, exist_ok=True)
    ignore = folder.mc / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    if not is_installed(folder):
        Repository.open(home, create=True).close()
        Repository.init(folder.store, bases=(home,)).close()
    elif place.exists(place.config_path(home_of(folder))) and not backends.adopt(folder.store):
        raise StoreError(
            f"{home_of(folder)} was told to forget this project, and does not have all that it needs any more: remove "
            f".mc ('rm -rf {folder.mc}'), and 'monofs install' makes a new one"
        )


@contextmanager
def opened(folder: Folder) -> Iterator[Stores]:
    """Open the stores of an installed project. Raises StoreError if they cannot be used, with what to do."""
    try:
        own = Repository.open(folder.store, create=False)
    except StoreError as error:
        if " is a copy of " not in str(error):
            raise
        raise StoreError(
            f"{folder.mc} was copied from another project's folder, and both would work on the same trees: "
            f"remove it here ('rm -rf {folder.mc}'), and 'monofs install' makes a new one"
        ) from None
    with closing(own):
        assert isinstance(own.store, LayeredStore)
        yield Stores(own, Repository(home_of(folder), own.store.bases[0]))


def ignore_in_git(folder: Folder) -> None:
    """Have git ignore .mc, if nothing in .gitignore says so yet."""
    file = folder.directory / ".gitignore"
    text = file.read_text(errors="surrogateescape") if file.exists() else ""
    if not {".mc", ".mc/", "/.mc", "/.mc/"} & {line.strip() for line in text.splitlines()}:
        with file.open("a") as out:
            out.write(("\n" if text and not text.endswith("\n") else "") + ".mc/\n")
