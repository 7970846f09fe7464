"""The image that `vm run` is to run: which one is meant, and pulled if it has to be."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from store import directory, place, version
from store.errors import NotFound
from store.names import EXPLICIT
from store.oci import images, reference, settings
from store.oci.config import Config
from store.oci.errors import BadReference, RegistryError
from store.oci.reference import Reference
from store.oci.settings import Settings
from store.repository import Repository
from vmm.defaults import Defaults
from vmm.project.manifest import Health


class Image(NamedTuple):
    """`tree` is a CID; `defaults` is how it wants to be run."""

    reference: Reference
    digest: str
    tree: str
    defaults: Defaults

    def doc(self) -> dict[str, Any]:
        """Return what the list of machines says of it."""
        named = {"reference": self.reference.key, "digest": self.digest}
        return {**named, "ports": list(self.defaults.ports), "stop_signal": self.defaults.stop_signal}


def found(store: Path, text: str, policy: str | None) -> Image | None:
    """Return the image that `text` means, from here or from its registry; None if it means a tree, or nothing.

    `policy` says when to pull: always, never, or (also None) if it is missing. No database is open afterwards.
    Raises MonofsError; then nothing is visible that was not.
    """
    known = settings.load(settings.path())
    with _opened(store) as repository:
        wanted = _meant(repository, text, known.default)
        if wanted is None:
            return None
        for each in [] if policy == "always" else _all(repository):
            if (record := images.find(each.store, wanted)) is not None:
                image = images.load(each.cache, record.image)
                return _made(wanted, image, image.read_config(each.cache))
    if policy == "never":
        raise NotFound(f"{_no_name(text, wanted, store)}no image '{wanted.key}' here; --pull missing fetches it")
    return _pulled(store, text, wanted, known)


def defaults_of(config: Config) -> Defaults:
    """Return what a configuration says of how to run the image."""
    health = None if config.health is None else Health(**config.health._asdict())
    shared = {name: getattr(config, name) for name in ("env", "entrypoint", "cmd", "user", "workdir", "ports")}
    return Defaults(**shared, stop_signal=config.stop_signal, health=health)


def _meant(repository: Repository | None, text: str, default: str) -> Reference | None:
    """Return the image that is meant, be it here or not. What means something here already goes on to mean that."""
    for each in _all(repository):
        if each.named(text) is not None:
            return None
        if (here := images.meant(each.store, text)) is not None:
            wanted, record, path = here
            if not path.strip("/."):
                return wanted
            tree = version.load_tree(each.cache, images.load(each.cache, record.image).tree)
            if directory.find(each.cache, tree.root, os.fsencode(path)) is not None:
                return None
    try:
        return reference.parse(text, default)
    except BadReference:
        if text.startswith(EXPLICIT):
            raise
        return None


def _all(repository: Repository | None) -> list[Repository]:
    """Return a store and those that it leans on."""
    return [] if repository is None else [repository, *repository.bases()]


def _pulled(store: Path, text: str, wanted: Reference, known: Settings) -> Image:
    from monofs_fuse.cli import bars, output, pulling  # what speaks to registries takes a while to load
    from store.oci import media, pull

    if sys.stderr.isatty():
        output.note(f"asking for {wanted.key}")
    try:
        source, resolved = pulling.looked_up(wanted, known, media.host())
    except RegistryError as error:
        raise type(error)(f"{_no_name(text, wanted, store)}{error}") from None
    try:
        with closing(Repository.open(store, create=True)) as repository, bars.layers() as watcher:
            got = pull.pull(repository, source, resolved, [wanted], watcher)
    finally:
        source.interrupt()  # the supervisor will be forked from this process: it must not inherit a connection
    return _made(wanted, got.image, got.config)


def _no_name(text: str, wanted: Reference, store: Path) -> str:
    """Say that there is no such name, too, where somebody may have meant one."""
    is_explicit = text.startswith((EXPLICIT, f"{wanted.registry}/"))
    return "" if is_explicit else f"no name '{text}' in {store}; "


def _made(wanted: Reference, image: images.Image, config: Config) -> Image:
    return Image(wanted, image.digest, str(image.tree), defaults_of(config))


@contextmanager
def _opened(store: Path) -> Iterator[Repository | None]:
    """The store; None if there is none yet."""
    if not place.exists(place.config_path(store)):
        place.refuse_strangers(store)
        yield None
        return
    with closing(Repository.open(store, create=False)) as repository:
        yield repository
