"""The sources of machines: where their trees come from, found for the first time or brought as they are locked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monofs_fuse import progress
from monofs_fuse.cli import bars
from monofs_fuse.cli.pulling import looked_up
from monofs_fuse.cli.vm_image import defaults_of
from store import checkout, importer, version
from store import cid as cids
from store import directory as directories
from store.batch import Batch
from store.cid import Cid
from store.errors import BadCid, MonofsError, NotFound, Skipped, StoreError
from store.oci import digest as digests
from store.oci import images, media, pull, reference, settings
from store.oci.errors import RegistryError
from store.oci.images import Image
from store.oci.pull import Resolved, Source
from store.oci.reference import Reference
from store.oci.settings import Settings
from store.repository import Repository
from store.staging import Stage
from vmm.errors import BadProject
from vmm.project.lock import Locked
from vmm.project.manifest import FILE, Machine


@dataclass(frozen=True)
class Found:
    """A tree that is in the home store, held there until `stage` is released; `config` says how it wants to be run."""

    locked: Locked
    config: dict[str, Any] = field(default_factory=dict)
    stage: Stage | None = None

    @property
    def tree(self) -> Cid:
        return cids.parse(self.locked.tree)

    def release(self) -> None:
        if self.stage is not None:
            with suppress(StoreError):  # else the next who opens the store does
                self.stage.release()


def find(home: Repository, machine: Machine, directory: Path, *, ask: bool) -> Found:
    """Return what a machine's source stands for now. With `ask` a registry is asked although the image is here.

    Raises BadProject, with the key, StoreError.
    """
    with _explained(machine):
        if machine.source.kind == "image":
            return _image(home, machine, ask)
        return _imported(home, machine, directory) if machine.source.kind == "directory" else _named(home, machine)


def bring(home: Repository, machine: Machine, directory: Path, locked: Locked) -> Found:
    """Return the tree that is locked, fetched if it is not here; never another one. Raises BadProject, StoreError."""
    with _explained(machine):
        tree = _checked(home, locked.tree)
        if machine.source.kind == "image":
            return _locked_image(home, machine, locked)
        if home.store.has(tree):
            return Found(locked)
        found = _anew(home, machine, directory)
        if found is not None and found.locked.tree == locked.tree:
            return found
        if found is None:
            raise BadProject(
                f"the tree {tree} is not in {home.path}, and nor is '{machine.source.text}'; import it, or copy it "
                "there from where it is ('monofs store copy')"
            )
        found.release()
        raise BadProject(
            f"'{machine.source.text}' is {found.locked.tree} now, and monofs.lock has {tree}; "
            f"'monofs update {machine.name}' locks what it is now"
        )


def _anew(home: Repository, machine: Machine, directory: Path) -> Found | None:
    """Return what a source that is no image stands for now; None for a name or a CID that is not here."""
    if machine.source.kind == "directory":
        return _imported(home, machine, directory)
    try:
        return _named(home, machine)
    except NotFound:
        return None


def newest(machine: Machine, home: Repository, directory: Path) -> Locked:
    """Return what would be locked now. Of an image only the documents are read; nothing is kept."""
    if machine.source.kind == "image":
        with _explained(machine):
            wanted, known = _reference(machine)
            source, found = _looked_up(wanted, known)
            source.interrupt()
            digest, platform = digests.of(found.data), str(found.config.platform)
            return Locked(machine.name, machine.source, "", str(wanted), digest, platform)
    found_now = find(home, machine, directory, ask=False)
    found_now.release()
    return found_now.locked


# Images


def _reference(machine: Machine) -> tuple[Reference, Settings]:
    known = settings.load(settings.path())
    return reference.parse(machine.source.text, known.default), known


def _image(home: Repository, machine: Machine, ask: bool) -> Found:
    wanted, _ = _reference(machine)
    record = images.find(home.store, wanted)
    image = _pulled(home, wanted) if record is None or ask else images.load(home.cache, record.image)
    return _found_image(home, machine, image, str(wanted))


def _locked_image(home: Repository, machine: Machine, locked: Locked) -> Found:
    assert locked.reference is not None and locked.digest is not None
    image = _by_digest(home, locked.digest)
    if image is None:
        image = _pulled(home, reference.parse(locked.pulled_as))
    found = _found_image(home, machine, image, locked.reference)
    if found.locked != locked:
        raise BadProject(
            f"{locked.pulled_as} is the tree {found.locked.tree} for {found.locked.platform}, and monofs.lock has "
            f"{locked.tree} for {locked.platform}; 'monofs update {machine.name}' locks it anew"
        )
    return found


def _by_digest(home: Repository, digest: str) -> Image | None:
    for _, record in images.every(home.store):
        image = images.load(home.cache, record.image)
        if image.digest == digest:
            return image
    return None


def _found_image(home: Repository, machine: Machine, image: Image, text: str) -> Found:
    config = image.read_config(home.cache)
    locked = Locked(machine.name, machine.source, str(image.tree), text, image.digest, str(config.platform))
    return Found(locked, defaults_of(config).doc())


def _pulled(home: Repository, wanted: Reference) -> Image:
    source, found = _looked_up(wanted, settings.load(settings.path()))
    try:
        with bars.layers() as watcher:
            return pull.pull(home, source, found, [wanted], watcher).image
    finally:
        source.interrupt()


def _looked_up(wanted: Reference, known: Settings) -> tuple[Source, Resolved]:
    try:
        return looked_up(wanted, known, media.host())
    except RegistryError as error:
        raise type(error)(f"{wanted}: {error}") from None


# Other trees


def _named(home: Repository, machine: Machine) -> Found:
    text = machine.source.text
    if machine.source.kind == "cid":
        _checked(home, text)
    target = home.resolve(text)
    if not directories.names(target.path):
        return Found(Locked(machine.name, machine.source, str(version.tree_cid(home.cache, target.tree))))
    batch, stage = home.batch("install")
    part = version.subtree(batch, version.load_tree(home.cache, target.tree), target.path)
    return _staged(machine, batch, stage, version.put_tree(batch, part))


def _imported(home: Repository, machine: Machine, directory: Path) -> Found:
    path = Path(os.path.normpath(directory / os.path.expanduser(machine.source.text)))
    batch, stage = home.batch("install")
    try:
        with progress.watched() as watcher:
            done = importer.import_directory(batch, path, progress=watcher, exclude=tuple(_ours(path, home)))
        if done.skipped:
            skipped, reason = done.skipped[0]
            shown = directories.printable(skipped)
            raise Skipped(f"'{shown}' in '{machine.source.text}' cannot be read: {reason}", [shown])
        return _staged(machine, batch, stage, version.put_tree(batch, checkout.plain(batch, done.tree)))
    except BaseException:
        with suppress(StoreError):
            stage.release()
        raise


def _ours(path: Path, home: Repository) -> Iterator[tuple[int, int]]:
    """Yield what is no part of a directory that is imported: what git and monofs keep there."""
    for one in (path / ".git", path / ".mc", home.path):
        with suppress(OSError):
            found = os.stat(one, follow_symlinks=False)
            yield found.st_dev, found.st_ino


def _staged(machine: Machine, batch: Batch, stage: Stage, tree: Cid) -> Found:
    batch.flush()
    return Found(Locked(machine.name, machine.source, str(tree)), stage=stage)


def _checked(home: Repository, text: str) -> Cid:
    tree = cids.parse(text)
    if tree[2] != home.store.algorithm.code:
        raise BadCid(f"the store at {home.path} uses {home.store.algorithm.name}, and {text} is of another hash")
    return tree


@contextmanager
def _explained(machine: Machine) -> Iterator[None]:
    """What goes wrong with a source is told with its key."""
    try:
        yield
    except (MonofsError, BadProject) as error:
        raise BadProject(f"{FILE}: machines.{machine.name}.{machine.source.kind}: {error}") from None
