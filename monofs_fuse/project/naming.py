"""The names of projects' machines: which store is meant by a target like shop/web, where nobody says --store."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from monofs_fuse.project import stores
from store import layered_store, place, revision
from store.errors import MonofsError, NotFound, StoreError
from store.repository import Repository
from vmm.errors import VmError
from vmm.project import reading
from vmm.project.folder import MC, Folder


class OfTwoProjects(MonofsError):
    """Targets that no store has together. Say --store."""


def is_candidate(text: object) -> bool:
    """True for what may be a machine's name, by its looks alone."""
    return isinstance(text, str) and "/" in text.strip("/") and not text.startswith(("/", "./", "../", "~"))


def store_of(texts: Iterable[str], home: Path) -> Path | None:
    """Return the project's store that has all of `texts` that are names of machines; None if none of them is one.

    The project that we are in comes first, then the home store's own names and images, then other projects that
    lean on it. Raises OfTwoProjects, StoreError.
    """
    found = {store for text in texts if (store := _store_of(text, home)) is not None}
    if len(found) > 1:
        where = " and ".join(sorted(str(one.parent.parent) for one in found))
        raise OfTwoProjects(f"these are machines of two projects, {where}, which have no store in common")
    return next(iter(found), None)


def names(home: Path, prefix: str) -> Iterator[str]:
    """Yield the names in the store of the project that we are in; elsewhere those in others that begin so."""
    folder = here()
    stores_ = [folder.store] if folder is not None else _projects(home) if "/" in prefix else []
    for store in stores_:
        with suppress(StoreError), _opened(store) as own:
            yield from [name for name, _ in own.names() if name.startswith(prefix)]


def _store_of(text: str, home: Path) -> Path | None:
    folder = here()
    if folder is not None:
        try:
            if _has(folder.store, text):
                return folder.store
        except StoreError:  # that is of interest if this project is meant
            if text.startswith(f"{_name_of(folder)}/"):
                raise
    if not place.exists(place.config_path(home)) or _is_known(home, text):
        return None
    found = [store for store in _projects(home) if _had(store, text)]
    if len(found) > 1:
        raise OfTwoProjects(
            f"'{text}' is a name in several projects: {', '.join(sorted(str(one.parent.parent) for one in found))}; "
            "say it in that project's folder"
        )
    return found[0] if found else None


def here() -> Folder | None:
    """Return the project that we are in, if it is installed, and not planted by somebody else above where we are."""
    folder = Folder.find(Path.cwd())
    with suppress(StoreError):  # that of root, say, into which we may not look
        return folder if folder is not None and _is_trusted(folder) and stores.is_installed(folder) else None
    return None


def _is_trusted(folder: Folder) -> bool:
    """A store is a database that is mapped into memory: nobody else's is opened unless it is asked for."""
    us = os.geteuid()
    try:
        is_open_to_all = bool(os.stat(folder.directory).st_mode & stat.S_IWOTH)
        return os.stat(folder.mc).st_uid in (us, 0) or (us == 0 and not is_open_to_all)
    except OSError:
        return False


@contextmanager
def _opened(store: Path) -> Iterator[Repository]:
    with stores.opened(Folder(store.parent.parent)) as opened:
        yield opened.own


def _has(store: Path, text: str) -> bool:
    with _opened(store) as own:
        return any("/" in one.stem and own.name(one.stem) is not None for one in revision.spellings(text))


def _had(store: Path, text: str) -> bool:
    with suppress(StoreError):
        return _has(store, text)
    return False


def _is_known(home: Path, text: str) -> bool:
    with closing(Repository.open(home, create=False)) as repository, suppress(NotFound):
        repository.resolve(text)
        return True
    return False


def _projects(home: Path) -> list[Path]:
    """Return the stores of the projects that lean on the home store, and are there."""
    if not place.exists(place.config_path(home)):
        return []
    with closing(Repository.open(home, create=False)) as repository:
        tops = [Path(top.path) for top in layered_store.tops(repository.store)]
    return [path for path in tops if path.parent.name == MC and place.exists(place.config_path(path))]


def _name_of(folder: Folder) -> str:
    with suppress(VmError):
        return reading.read(folder.manifest).name
    return reading.default_name(folder.directory)
