"""Images out of trees: layers as blobs, the configuration and the manifest that go with them."""

from __future__ import annotations

import datetime
import hashlib
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO, Final, NamedTuple, cast

from store import version
from store.batch import Batch
from store.cid import Cid
from store.oci import digest as digests
from store.oci import limits, media
from store.oci.difference import write_layer
from store.oci.media import Descriptor
from store.progress import Skip

_LEVEL: Final = 6


class Blob(NamedTuple):
    """Bytes that are ready to be sent; `read` may be called again and again."""

    descriptor: Descriptor
    diff_id: str
    read: Callable[[], Iterator[bytes]]


class Step(NamedTuple):
    """A layer to be made: of which trees it is the difference, and what to say about it."""

    old: Cid | None
    new: Cid
    history: dict[str, Any]


class Built(NamedTuple):
    layers: tuple[Blob, ...]
    config: Blob
    manifest: bytes
    skipped: tuple[Skip, ...]

    @property
    def digest(self) -> str:
        return digests.of(self.manifest)


class _Out:
    """Takes a tar archive and keeps it in a file without a name, compressed if so wanted."""

    def __init__(self, file: BinaryIO, *, gzip: bool) -> None:
        self._file = file
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31) if gzip else None  # no time, no name: same bytes
        self._plain, self._packed = hashlib.sha256(), hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._plain.update(data)
        self._put(self._packer.compress(data) if self._packer else data)
        return len(data)

    def finish(self) -> tuple[str, str]:
        """Return the digest and the diff id."""
        if self._packer:
            self._put(self._packer.flush())
        self._file.flush()
        return f"sha256:{self._packed.hexdigest()}", f"sha256:{self._plain.hexdigest()}"

    def _put(self, data: bytes) -> None:
        self._packed.update(data)
        self._file.write(data)
        self.size += len(data)


def build(
    batch: Batch, steps: Sequence[Step], base: dict[str, Any], below: Sequence[Blob], cleanup: ExitStack, *, gzip: bool
) -> Built:
    """Make an image whose layers are those `below` and then one for each step.

    `base` is the configuration it goes on from: its `rootfs` and `history` are those of the layers below.
    """
    skipped: list[Skip] = []
    layers = list(below)
    history = list(base.get("history") or [])
    for step in steps:
        old = None if step.old is None else version.load_tree(batch, step.old)
        file = cleanup.enter_context(tempfile.TemporaryFile())  # noqa: SIM115, that closes it
        out = _Out(file, gzip=gzip)
        skipped += write_layer(batch, old, version.load_tree(batch, step.new), cast(BinaryIO, out))
        digest, diff_id = out.finish()
        media_type = media.OCI_LAYER + ("+gzip" if gzip else "")
        layers.append(Blob(Descriptor(media_type, digest, out.size), diff_id, _reader(file)))
        history.append(step.history)
    diff_ids = [layer.diff_id for layer in layers]
    platform = media.host()
    doc = {"architecture": platform.architecture, "os": platform.os, "config": {}} | base
    doc |= {"rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history}
    config = document(json.dumps(doc, sort_keys=True).encode(), media.OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": media.descriptor_doc(config.descriptor),
        "layers": [media.descriptor_doc(layer.descriptor) for layer in layers],
    }
    return Built(tuple(layers), config, json.dumps(manifest).encode(), tuple(skipped))


def document(data: bytes, media_type: str) -> Blob:
    return Blob(Descriptor(media_type, digests.of(data), len(data)), "", lambda: iter([data]))


def history(text: str, time: int) -> dict[str, Any]:
    moment = datetime.datetime.fromtimestamp(time // 10**9, datetime.UTC)
    return {"created": moment.strftime("%Y-%m-%dT%H:%M:%SZ"), "created_by": text}


def _reader(file: BinaryIO) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        file.seek(0)
        while data := file.read(limits.feed_bytes):
            yield data

    return read
