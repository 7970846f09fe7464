"""Images in a store: what is known of each, under which references, and the layers they share.

Roots: `image/<reference>` holds an image; `layer/<diff id>` a layer, and `chain/<chain id>` the tree of a layer with
all those below it. Images hold their layers and trees themselves; the last two are how these are found again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from store import codec
from store import entry as entries
from store import file as files
from store.batch import Batch, Nodes
from store.blocks import Change, RootChange, Store
from store.chunker import FastCdc
from store.cid import Cid
from store.entry import Entry
from store.errors import Corrupt, NotFound, WrongKind
from store.file import File
from store.ledger import RECORD_CID
from store.oci import config as configs
from store.oci import digest as digests
from store.oci import reference as references
from store.oci import settings
from store.oci.config import Config
from store.oci.errors import BadReference
from store.oci.reference import Reference
from store.staging import Stage

IMAGE, LAYER, CHAIN = b"image/", b"layer/", b"chain/"
FORMAT: Final = 1


class ImageLayer(NamedTuple):
    """`digest` and `size` are those of the layer as a registry has it, compressed; `tree` is with all below."""

    layer: Cid
    tree: Cid
    diff_id: str
    digest: str
    media_type: str
    size: int


class Image(NamedTuple):
    """`manifest` and `config` are the documents, byte for byte; `digest` is the manifest's."""

    tree: Cid
    digest: str
    media_type: str
    manifest: File
    config: File
    layers: tuple[ImageLayer, ...]

    def read_config(self, source: Nodes) -> Config:
        return configs.parse(self.config.read_at(source, 0, self.config.size))

    @property
    def size(self) -> int:
        """Bytes in a registry."""
        return sum(layer.size for layer in self.layers)


class Record(NamedTuple):
    """What a reference stands for here. `origin` is the digest that the registry has for the reference."""

    image: Cid
    time: int
    origin: str = ""


def put(batch: Batch, image: Image) -> Cid:
    return batch.put_doc(_doc(image))


def load(source: Nodes, cid: Cid) -> Image:
    """Raises NotFound, Corrupt, WrongKind."""
    doc = codec.decode(cid, source.get(cid)) if cid.is_node else None
    if not isinstance(doc, dict) or doc.get("type") != "image":
        raise WrongKind(f"{cid} is no image")
    if doc.get("format") != FORMAT:
        raise WrongKind(f"the image {cid} has a format that this monofs does not know: use a newer one")
    try:
        layers = tuple(ImageLayer(*(row[key] for key in ImageLayer._fields)) for row in doc["layers"])
        manifest, config = (File.of(entries.decode(doc[key], cid)) for key in ("manifest", "config"))
        image = Image(doc["tree"], doc["digest"], doc["media_type"], manifest, config, layers)
        good = _doc(image) == doc and isinstance(image.tree, Cid) and all(map(_is_good, layers))
    except (KeyError, TypeError, WrongKind):
        good = False
    if not good:
        raise Corrupt(cid, "an image breaks the format")
    return image


def _is_good(layer: ImageLayer) -> bool:
    links, texts = layer[:2], layer[2:5]
    return all(isinstance(x, Cid) for x in links) and all(type(x) is str for x in texts) and type(layer.size) is int


def _doc(image: Image) -> codec.Doc:
    return {
        "type": "image",
        "format": FORMAT,
        "tree": image.tree,
        "digest": image.digest,
        "media_type": image.media_type,
        "manifest": entries.encode(_entry(image.manifest)),
        "config": entries.encode(_entry(image.config)),
        "layers": [layer._asdict() for layer in image.layers],
    }


def _entry(file: File) -> Entry:
    return Entry("file", 0o644, size=file.size, holes=file.holes, data=file.content)


def document(batch: Batch, data: bytes) -> File:
    return files.from_bytes(batch, FastCdc(), data)


# References


def key_of(reference: Reference) -> bytes:
    return IMAGE + reference.key.encode()


def find(store: Store, reference: Reference) -> Record | None:
    record = store.root(key_of(reference))
    return None if record is None else decode(record)


def every(store: Store) -> Iterator[tuple[str, Record]]:
    """Yield each reference, in full, with what it stands for."""
    for key, record in store.roots(IMAGE):
        yield key[len(IMAGE) :].decode(), decode(record)


def encode(record: Record) -> bytes:
    doc: dict[str, Any] = {"image": record.image, "time": record.time}
    return codec.encode(doc | ({"origin": record.origin} if record.origin else {}))


def decode(data: bytes) -> Record:
    """Raises Corrupt."""
    doc = codec.decode(RECORD_CID, data)
    if isinstance(doc, dict):
        image, time, origin = doc.get("image"), doc.get("time"), doc.get("origin", "")
        if isinstance(image, Cid) and type(time) is int and type(origin) is str:
            return Record(image, time, origin)
    raise Corrupt(RECORD_CID, "an image's record breaks the format")


def changed(store: Store, reference: Reference, record: Record | None) -> RootChange:
    """Return the change that makes `reference` stand for `record`, whatever it stood for."""
    key = key_of(reference)
    return RootChange(key, store.root(key), None if record is None else encode(record))


def meant(store: Store, text: str) -> tuple[Reference, Record, str] | None:
    """Return the image that REF[/path] means here, and the path; None if there is none. The longest REF is taken."""
    default = settings.load(settings.path()).default
    parts = text.split("/")
    for count in range(len(parts), 0, -1):
        try:
            reference = references.parse("/".join(parts[:count]), default)
        except BadReference:
            continue
        found = find(store, reference)
        if found is not None:
            return reference, found, "/".join(parts[count:])
    return None


def resolve(store: Store, source: Nodes, text: str) -> tuple[Cid, bytes] | None:
    """Return the tree and the path inside it that REF[/path] means; None if there is no such image here."""
    found = meant(store, text)
    return None if found is None else (load(source, found[1].image).tree, os.fsencode(found[2]))


def run_config(store: Store, source: Nodes, reference: Reference) -> tuple[Cid, Config]:
    """Return the tree of an image and how it wants to be run. Raises NotFound."""
    record = find(store, reference)
    if record is None:
        raise NotFound(f"no image '{reference.key}' here; 'monofs pull {reference.key}' fetches it")
    image = load(source, record.image)
    return image.tree, image.read_config(source)


# Layers


def known_layer(store: Store, diff_id: str) -> Cid | None:
    return _link(store.root(LAYER + diff_id.encode()))


def known_tree(store: Store, chain_id: str) -> Cid | None:
    return _link(store.root(CHAIN + chain_id.encode()))


def found(prefix: bytes, identity: str, cid: Cid) -> RootChange:
    """Return the change that makes a layer or a tree, not known so far, be found again."""
    return RootChange(prefix + identity.encode(), None, codec.encode({"cid": cid}))


def _link(record: bytes | None) -> Cid | None:
    if record is None:
        return None
    doc = codec.decode(RECORD_CID, record)
    cid = doc.get("cid") if isinstance(doc, dict) else None
    if not isinstance(cid, Cid):
        raise Corrupt(RECORD_CID, "a layer's record breaks the format")
    return cid


def chains(diff_ids: Iterable[str]) -> Iterator[str]:
    """Yield the chain id of each layer."""
    chain: str | None = None
    for diff_id in diff_ids:
        chain = digests.chain(chain, diff_id)
        yield chain


def publish(store: Store, batch: Batch, stage: Stage, *changes: RootChange) -> None:
    """Store the batch and change roots, in one transaction. Raises RootMoved; nothing is changed then."""
    dropped = stage.drop()
    stage.new_blocks += store.apply(Change(batch.blocks, (*changes, *dropped)))
    stage.dropped(dropped)
    batch.clear()


def prune(store: Store, source: Nodes) -> int:
    """Remove the roots of layers and trees that no image has; returns how many. Call it `alone`."""
    kept: set[bytes] = set()
    for _, record in every(store):
        diff_ids = [layer.diff_id for layer in load(source, record.image).layers]
        kept.update(LAYER + diff_id.encode() for diff_id in diff_ids)
        kept.update(CHAIN + chain.encode() for chain in chains(diff_ids))
    removed = 0
    for prefix in (LAYER, CHAIN):
        for key, value in store.roots(prefix):
            if key not in kept:
                store.apply(Change(roots=(RootChange(key, value, None),)))
                removed += 1
    return removed


# Who is at work


@contextmanager
def at_work(run_directory: Path, *, alone: bool = False) -> Iterator[bool]:
    """Hold off `prune` while images are fetched. With `alone`: yields False, at once, if any are."""
    fd = os.open(run_directory / "images.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        got = True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            got = False
        yield got
    finally:
        os.close(fd)
