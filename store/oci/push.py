"""An image goes to a registry: as it came, or with a layer for what has changed since."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

from store import version
from store.batch import Batch
from store.cid import Cid
from store.errors import StoreError
from store.oci import build, images, reference, registry
from store.oci.build import Blob, Step
from store.oci.images import Image, ImageLayer
from store.oci.media import Descriptor
from store.oci.reference import Reference
from store.oci.settings import Settings
from store.progress import Skip
from store.repository import Repository


class Pushed(NamedTuple):
    """`sent` are the layers that went over the wire from here."""

    digest: str
    layers: int
    sent: int
    skipped: tuple[Skip, ...]


class Push:
    """One image on its way to `to`."""

    def __init__(self, repository: Repository, known: Settings, to: Reference) -> None:
        self._repository, self._known, self._to = repository, known, to
        self._target = registry.target(to, known)
        self._batch = Batch(repository.cache, None)
        self._sent = 0

    def image(self, record: Cid) -> Pushed:
        """Push an image as it came, if its layers can still be had; otherwise layers made anew of its trees."""
        image = images.load(self._repository.cache, record)
        if self._placed(image, record):
            self._send(build.document(self._read(image, "config"), ""))
            data = self._read(image, "manifest")
            self._target.put_manifest(self._to.selector, data, image.media_type)
            return Pushed(image.digest, len(image.layers), self._sent, ())
        return self._built(self._again(image), [], json.loads(self._read(image, "config")))

    def tree(self, new: Cid, since: Cid | None, record: Cid | None, text: str) -> Pushed:
        """Push a tree: as one layer, or as what differs from the tree `since`, on the layers of that.

        `record` is the image whose tree `since` is, if it is one's: the new image goes on from its configuration.
        """
        base: dict[str, Any] = {}
        steps: list[Step] = []
        below: list[Blob] = []
        made = build.history(text, version.now())
        if record is not None:
            image = images.load(self._repository.cache, record)
            base = json.loads(self._read(image, "config"))
            if self._placed(image, record):
                below = [_placed_blob(layer) for layer in image.layers]
            else:
                steps = self._again(image)
        elif since is not None:
            steps = [Step(None, since, made)]
        return self._built([*steps, Step(since, new, made)], below, base)

    def _again(self, image: Image) -> list[Step]:
        """Return how to make the layers of an image anew."""
        config = image.read_config(self._repository.cache)
        texts = [entry.created_by for entry in config.history if not entry.empty]
        texts += [""] * (len(image.layers) - len(texts))
        trees = [layer.tree for layer in image.layers]
        olds = [None, *trees]
        return [Step(old, new, build.history(text, 0)) for old, new, text in zip(olds, trees, texts)]

    def _built(self, steps: list[Step], below: list[Blob], base: dict[str, Any]) -> Pushed:
        if not below:
            base = {**base, "history": []}
        with ExitStack() as cleanup:
            made = build.build(self._batch, steps, base, below, cleanup, gzip=True)
            for blob in (*made.layers[len(below) :], made.config):
                self._send(blob)
            self._target.put_manifest(self._to.selector, made.manifest, "application/vnd.oci.image.manifest.v1+json")
            return Pushed(made.digest, len(made.layers), self._sent, made.skipped)

    # Layers as they came

    def _placed(self, image: Image, record: Cid) -> bool:
        """True once the registry has all layers of an image: it had them, or they were brought from where they are."""
        elsewhere = [
            reference.parse(key)
            for key, found in images.every(self._repository.store)
            if found.image == record and reference.parse(key).name != self._to.name
        ]
        return all(self._place(layer, elsewhere) for layer in image.layers)

    def _place(self, layer: ImageLayer, elsewhere: list[Reference]) -> bool:
        if self._target.has_blob(layer.digest):
            return True
        for other in elsewhere:
            if other.registry == self._to.registry and self._target.mount(layer.digest, other.repository):
                return True
        return any(self._copy(layer, other) for other in elsewhere)

    def _copy(self, layer: ImageLayer, other: Reference) -> bool:
        """Pass a layer on from another registry; what comes is verified by the one it goes to."""
        source = registry.remote(other, self._known)
        descriptor = Descriptor(layer.media_type, layer.digest, layer.size)
        try:
            self._target.upload(layer.digest, lambda: source.blob(descriptor))
        except StoreError:
            return False
        self._sent += 1
        return True

    def _send(self, blob: Blob) -> None:
        if not self._target.has_blob(blob.descriptor.digest):
            self._target.upload(blob.descriptor.digest, blob.read)
            self._sent += bool(blob.diff_id)

    def _read(self, image: Image, which: str) -> bytes:
        file = image.manifest if which == "manifest" else image.config
        return file.read_at(self._repository.cache, 0, file.size)


def _placed_blob(layer: ImageLayer) -> Blob:
    """A layer that is where it must be already."""
    return Blob(Descriptor(layer.media_type, layer.digest, layer.size), layer.diff_id, _nothing)


def _nothing() -> Iterator[bytes]:
    raise AssertionError("this layer is not sent")
