"""The kinds of store there are on disk: how each is made, opened and made smaller."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Final

from store import layered_store, limits, place
from store.blocks import Store
from store.errors import NotAStore, NotFound, StoreError
from store.layered_store import LayeredStore
from store.place import Config

_DATABASES: Final = {"lmdb": "data.mdb", "flatfs": "ledger.db"}  # without this file there is nothing


def make(path: Path, config: Config) -> Store:
    """Make the database of a store, or take the one that a maker who was interrupted left; returns it open.

    It is made beside its place and moved there whole: one that lost power half made could not be opened again.
    """
    home = path / config.backend
    if not place.exists(home):
        partial = path / f"{config.backend}.new"
        shutil.rmtree(partial, ignore_errors=True)
        place.make(partial)
        _plain(partial, config).close()
        place.sync(partial)
        partial.rename(home)
    if not config.bases:
        return _plain(home, config)
    place.make(path / "layer")
    bases = [opened(Path(base), place.read_config(Path(base))) for base in config.bases]
    for base in bases:
        layered_store.register(base, config.identity, path)
    return LayeredStore(_plain(home, config), bases, config.identity, path / "layer")


def opened(path: Path, config: Config, depth: int = 0) -> Store:
    """Open the store in `path`, and those it leans on. Raises NotAStore, StoreError."""
    home = path / config.backend
    if not place.exists(home / _DATABASES[config.backend]):  # or a new one would be made
        raise NotAStore(f"the store at {path} is damaged: its database is missing")
    if depth > limits.bases_max:
        raise StoreError(f"the store at {path} is one of more than {limits.bases_max} that lean on each other")
    bases: list[Store] = []
    try:
        for base in config.bases:
            bases.append(_base(path, Path(base), config, depth))
        top = _plain(home, config)
    except BaseException:
        for store in bases:
            store.close()
        raise
    return LayeredStore(top, bases, config.identity, path / "layer") if bases else top


def compact(path: Path) -> None:
    """Give back to the disk what the database of the store in `path` does not need.

    Raises Held if a process has it open and that must not be, NoSpace.
    """
    config = place.read_config(path)
    home = path / config.backend
    if config.backend == "lmdb":
        from store import lmdb_store

        lmdb_store.compact(home)
        return
    from store.flatfs_store import FlatFsStore

    store = FlatFsStore(home, config.algorithm)
    try:
        store.compact()
    finally:
        store.close()


def check_base(base: Path) -> Config:
    """Return what the store at `base` is, if it may be leaned on. Raises NotFound, NotAStore, FutureStore."""
    if not place.exists(place.config_path(base)):
        raise NotFound(f"no store at {base} to lean on; 'monofs init --store {base}' makes one")
    return place.read_config(base)


def _base(path: Path, base: Path, config: Config, depth: int) -> Store:
    if not place.exists(place.config_path(base)):
        raise StoreError(
            f"the store at {path} leans on the one at {base}, which is not there: put it back, "
            f"or name its new place in {place.config_path(path)}"
        )
    found = place.read_config(base)
    if found.algorithm is not config.algorithm:
        raise StoreError(f"the store at {path} uses {config.algorithm.name}, the one below it at {base} another hash")
    store = opened(base, found, depth + 1)
    try:
        _recognize(store, base, path, config)
    except BaseException:
        store.close()
        raise
    return store


def _recognize(store: Store, base: Path, path: Path, config: Config) -> None:
    """Raise StoreError unless the base holds blocks for the store at `path`, and for no copy of it."""
    known = layered_store.path_of(store, config.identity)
    if known is None:
        raise StoreError(
            f"the store at {base} does not hold what the one at {path} needs: it was told to forget it, or is an "
            "older copy"
        )
    if known.resolve() == path.resolve():
        return
    if place.exists(place.config_path(known)) and place.read_config(known).identity == config.identity:
        raise StoreError(
            f"the store at {path} is a copy of the one at {known}, and both would let go of each other's blocks in "
            f"{base}; 'monofs store copy' makes good copies"
        )
    layered_store.register(store, config.identity, path.resolve())  # it was moved


def adopt(path: Path) -> bool:
    """Have the bases hold what the store in `path` needs, where they were told to forget that store.

    False if some of it is gone; then nothing is changed. No other process may use the store.
    """
    config = place.read_config(path)
    forgot = [Path(base) for base in config.bases if _is_forgotten(Path(base), config)]
    if not forgot:
        return True
    for base in forgot:
        with closing(opened(base, check_base(base))) as store:
            layered_store.register(store, config.identity, path.resolve())
    with closing(opened(path, config)) as store:
        assert isinstance(store, LayeredStore)
        store.repair(lambda _: None)
        if not store.lacking():
            return True
    for base in forgot:
        with closing(opened(base, check_base(base))) as store:
            layered_store.forget(store, config.identity)
    return False


def _is_forgotten(base: Path, config: Config) -> bool:
    with closing(opened(base, check_base(base))) as store:
        return layered_store.path_of(store, config.identity) is None


def _plain(home: Path, config: Config) -> Store:
    if config.backend == "lmdb":
        from store.lmdb_store import LmdbStore

        return LmdbStore(home, config.algorithm)
    from store.flatfs_store import FlatFsStore

    return FlatFsStore(home, config.algorithm)


__all__ = ["adopt", "check_base", "compact", "make", "opened"]
