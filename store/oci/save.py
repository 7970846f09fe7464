"""Images go into a file: an OCI layout that is also what `docker save` writes, so that every tool reads it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO, Final

from store.batch import Batch
from store.oci import build, images, media
from store.oci.build import Blob, Step
from store.oci.reference import Reference
from store.progress import Skip
from store.repository import Repository

_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"


def save(repository: Repository, references: Sequence[Reference], out: BinaryIO) -> tuple[Skip, ...]:
    """Write images to `out`, which may be a pipe. Returns what a tar archive cannot hold.

    Layers are made anew of the trees, not compressed: the same trees give the same bytes, and images share them.
    """
    batch = Batch(repository.cache, None)
    skipped: list[Skip] = []
    manifests: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    with ExitStack() as cleanup:
        archive = cleanup.enter_context(tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT))
        written: set[str] = set()
        for reference in references:
            made = _made(repository, batch, reference, cleanup)
            skipped += made.skipped
            manifest = build.document(made.manifest, media.OCI_MANIFEST)
            for blob in (*made.layers, made.config, manifest):
                if blob.descriptor.digest not in written:
                    written.add(blob.descriptor.digest)
                    _add(archive, _path(blob), blob)
            names = {"io.containerd.image.name": reference.key, "org.opencontainers.image.ref.name": reference.key}
            manifests.append({**media.descriptor_doc(manifest.descriptor), "annotations": names})
            tags = [] if reference.digest else [reference.key]
            rows.append({"Config": _path(made.config), "RepoTags": tags, "Layers": [*map(_path, made.layers)]})
        index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": manifests}
        for name, doc in (
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
            ("index.json", index),
            ("manifest.json", rows),
        ):
            _add(archive, name, build.document(json.dumps(doc).encode(), ""))
    return tuple(skipped)


def _made(repository: Repository, batch: Batch, reference: Reference, cleanup: ExitStack) -> build.Built:
    record = images.find(repository.store, reference)
    assert record is not None, "the caller has looked"
    image = images.load(repository.cache, record.image)
    base = json.loads(image.config.read_at(repository.cache, 0, image.config.size))
    config = image.read_config(repository.cache)
    kept = [entry for entry in base.get("history") or [] if not entry.get("empty_layer")]
    texts = kept if len(kept) == len(config.diff_ids) else [{} for _ in config.diff_ids]
    trees = [layer.tree for layer in image.layers]
    olds = [None, *trees]
    steps = [Step(old, new, text) for old, new, text in zip(olds, trees, texts)]
    return build.build(batch, steps, {**base, "history": []}, [], cleanup, gzip=False)


def _path(blob: Blob) -> str:
    return "blobs/" + blob.descriptor.digest.replace(":", "/")


def _add(archive: tarfile.TarFile, name: str, blob: Blob) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = blob.descriptor.size, 0o644
    archive.addfile(member)
    assert archive.fileobj is not None
    for data in blob.read():
        archive.fileobj.write(data)
    rest = -member.size % tarfile.BLOCKSIZE
    archive.fileobj.write(bytes(rest))
    archive.offset += member.size + rest
