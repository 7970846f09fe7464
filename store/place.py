"""The place of a store: the directory it lies in, with the file that says what it is."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from store.cid import ALGORITHMS, Algorithm
from store.errors import FutureStore, NotAStore, StoreError

FORMAT: Final = 1
_BACKEND: Final = "lmdb"
_OURS: Final = frozenset(("lmdb", "lmdb.new", "run", "monofs-store.new"))  # a store that is being made has these


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


def read_config(path: Path) -> Algorithm:
    """Return the hash function of the store in `path`. Raises NotAStore, FutureStore, StoreError."""
    config = config_path(path)
    try:
        doc = json.loads(config.read_text())
        found, name, backend = doc["format"], doc["hash"], doc["backend"]
    except OSError as error:
        raise StoreError(f"cannot read {config}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise NotAStore(f"{config} is damaged: it must name format, hash and backend") from None
    if (type(found), found, backend) != (int, FORMAT, _BACKEND) or name not in list(ALGORITHMS):
        raise FutureStore(
            f"the store at {path} has format {found!r}, hash {name!r} and backend {backend!r}; "
            f"this monofs knows format {FORMAT}: use a newer monofs"
        )
    return ALGORITHMS[name]


def write_config(path: Path, algorithm: Algorithm) -> None:
    """Say what the store in `path` is. Written last and at once: a directory with this file in it is a whole store."""
    config = config_path(path)
    partial = config.with_suffix(".new")
    with partial.open("w") as out:
        json.dump({"format": FORMAT, "hash": algorithm.name, "backend": _BACKEND}, out)
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
