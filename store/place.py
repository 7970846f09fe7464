"""The place of a store: the directory it lies in, with the file that says what it is."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from store.cid import ALGORITHMS, BLAKE3, Algorithm
from store.errors import FutureStore, NotAStore, StoreError

FORMAT: Final = 1
_FORMAT_LAYERED: Final = 2  # so that a monofs which knows no bases does not open a store that leans on some
BACKENDS: Final = ("lmdb", "flatfs")  # the first is the default
_OURS: Final = frozenset(  # a store that is being made has these
    (*BACKENDS, *(f"{backend}.new" for backend in BACKENDS), "layer", "run", "vm", "monofs-store.new")
)


class Config(NamedTuple):
    """What a store is. `bases` are the directories of those it leans on, which know it by its `identity`."""

    algorithm: Algorithm = BLAKE3
    backend: str = BACKENDS[0]
    bases: tuple[str, ...] = ()
    identity: str = ""

    @property
    def format(self) -> int:
        return _FORMAT_LAYERED if self.bases else FORMAT


def config_path(path: Path) -> Path:
    return path / "monofs-store.json"


def exists(path: Path) -> bool:
    """Raises StoreError if that cannot be told."""
    try:
        return path.exists()
    except OSError as error:
        raise StoreError(f"cannot look into {path.parent}: {error.strerror}") from None


def refuse_strangers(path: Path) -> None:
    """Raise NotAStore if `path` holds anything that no store has."""
    try:
        found = set(os.listdir(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise NotAStore(f"{path} is no monofs store: {error.strerror}") from None
    if not found <= _OURS:
        raise NotAStore(f"{path} is not empty and no monofs store; name another directory with --store")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep every other process out that comes here too. Ends with this process at the latest."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def read_config(path: Path) -> Config:
    """Return what the store in `path` is. Raises NotAStore, FutureStore, StoreError."""
    config = config_path(path)
    try:
        doc = json.loads(config.read_text())
        found, name, backend = doc["format"], doc["hash"], doc["backend"]
        bases, identity = doc.get("bases", []), doc.get("identity", "")
    except OSError as error:
        raise StoreError(f"cannot read {config}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotAStore(f"{config} is damaged: it must name format, hash and backend") from None
    if type(found) is not int or not FORMAT <= found <= _FORMAT_LAYERED:
        raise FutureStore(
            f"the store at {path} has format {found!r}; this monofs knows {FORMAT} to {_FORMAT_LAYERED}: "
            "use a newer monofs"
        )
    for what, value, known in (("hash", name, tuple(ALGORITHMS)), ("backend", backend, BACKENDS)):
        if value not in known:
            raise FutureStore(
                f"the store at {path} has {what} {value!r}; this monofs knows {', '.join(known)}: use a newer monofs"
            )
    if not _are_bases(found, bases, identity):
        raise NotAStore(f"{config} is damaged: format {_FORMAT_LAYERED}, bases and identity go together")
    return Config(ALGORITHMS[name], backend, tuple(bases), identity)


def _are_bases(found: int, bases: Any, identity: Any) -> bool:
    if found == FORMAT:
        return bool(bases == [] and identity == "")
    good = isinstance(bases, list) and bases and all(isinstance(base, str) and base.startswith("/") for base in bases)
    return bool(good and isinstance(identity, str) and re.fullmatch("[0-9a-f]{32}", identity))


def write_config(path: Path, made: Config) -> None:
    """Say what the store in `path` is. Written last and at once: a directory with this file in it is a whole store."""
    config = config_path(path)
    partial = config.with_suffix(".new")
    doc: dict[str, Any] = {"format": made.format, "hash": made.algorithm.name, "backend": made.backend}
    if made.bases:
        doc |= {"bases": list(made.bases), "identity": made.identity}
    with partial.open("w") as out:
        json.dump(doc, out)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    partial.rename(config)
    sync(path)


def make(path: Path) -> None:
    """Make a directory and what is missing above it; no loss of power takes it away again."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for directory in missing:
        sync(directory.parent)


def sync(path: Path) -> None:
    """Return once the names in a directory are on the disk."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
