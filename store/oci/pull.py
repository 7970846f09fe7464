"""An image comes from a registry or an archive into the store: verified first, visible only when it is whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

from store import version
from store.batch import Batch
from store.cid import Cid
from store.errors import RootMoved
from store.oci import config as configs
from store.oci import digest as digests
from store.oci import images, layer, limits, media, overlay
from store.oci.config import Config
from store.oci.digest import Running
from store.oci.errors import BadImage
from store.oci.feed import decompressed
from store.oci.images import Image, ImageLayer, Record
from store.oci.media import Descriptor, Index, Manifest, Platform
from store.oci.reference import Reference
from store.oci.unpack import read_layer
from store.progress import Progress
from store.repository import Repository
from store.staging import Stage


class Source(Protocol):
    """Where images come from. Nothing it gives is believed before its digest was compared."""

    def manifest(self, selector: str) -> tuple[bytes, str]:
        """Return the manifest of a tag or digest and what it is said to be, or "". Raises NotInRegistry."""
        ...

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield the bytes of a blob. Any thread may ask."""
        ...

    def interrupt(self) -> None:
        """Break off what other threads are reading, and let go of connections. It cannot be asked any more."""
        ...


class Watcher(Protocol):
    """Told what goes on; called from several threads."""

    def begin(self, number: int, layer: Descriptor, is_here: bool) -> Progress:
        """The layer `number` is next; with `is_here` it need not be fetched. Returns what counts its bytes."""
        ...

    def end(self, number: int) -> None: ...

    def fetched(self, number: int, size: int) -> None:
        """So many bytes more have come for the layer `number`."""
        ...


class Resolved(NamedTuple):
    """A manifest that was chosen for a platform. `origin` is the digest of what the reference itself led to."""

    data: bytes
    media_type: str
    manifest: Manifest
    origin: str
    config_data: bytes
    config: Config


class Pulled(NamedTuple):
    image: Image
    cid: Cid
    config: Config
    new_layers: int
    new_blocks: int


def resolve(source: Source, selector: str, wanted: Platform, *, strict: bool = False) -> Resolved:
    """Return the image for a platform. `strict`: also one that is not in an index must be for it. Raises BadImage."""
    data, media_type = source.manifest(selector)
    origin = selector if ":" in selector else digests.of(data)
    digests.verify(origin, data, "the manifest")
    search = _Search(source, wanted)
    found = search.image(data, media_type, 0)
    if found is None:
        offered = ", ".join(sorted(search.offered)) or "none that is known"
        raise BadImage(f"there is no such image for {wanted}; there is: {offered}")
    data, media_type, manifest = found
    config_data = _document(source, manifest.config, "the image's configuration")
    config = configs.parse(config_data)
    if len(config.diff_ids) != len(manifest.layers):
        raise BadImage("the image's configuration names other layers than its manifest")
    if strict and config.platform.os and media.fitness(wanted, config.platform) is None:
        raise BadImage(f"there is no such image for {wanted}; there is: {config.platform}")
    return Resolved(data, media_type, manifest, origin, config_data, config)


class _Search:
    def __init__(self, source: Source, wanted: Platform) -> None:
        self.offered: set[str] = set()
        self._source, self._wanted = source, wanted
        self._fetches = 0

    def image(self, data: bytes, media_type: str, depth: int) -> tuple[bytes, str, Manifest] | None:
        document = media.parse(data, media_type)
        if isinstance(document, Manifest):
            return data, media.type_of(data, media_type), document
        if depth == limits.index_depth_max:
            raise BadImage(f"indexes in indexes, over {limits.index_depth_max} deep")
        return self._of_index(document, depth)

    def _of_index(self, index: Index, depth: int) -> tuple[bytes, str, Manifest] | None:
        self.offered.update(media.platforms(index))
        for candidate in media.candidates(index, self._wanted):
            if candidate.media_type not in media.ACCEPTED:
                continue
            self._fetches += 1
            if self._fetches > limits.index_fetches_max:
                raise BadImage(f"over {limits.index_fetches_max} manifests to look at for one image")
            data, _ = self._source.manifest(candidate.digest)
            digests.verify(candidate.digest, data, "a manifest in the index")
            found = self.image(data, candidate.media_type, depth + 1)
            if found is not None and (candidate.platform is not None or self._fits(found[2])):
                return found
        return None

    def _fits(self, manifest: Manifest) -> bool:
        """Whether an image is for the platform, where the index does not say."""
        config = configs.parse(_document(self._source, manifest.config, "the image's configuration"))
        self.offered.add(str(config.platform))
        return media.fitness(self._wanted, config.platform) is not None


def pull(
    repository: Repository, source: Source, found: Resolved, references: Sequence[Reference], watcher: Watcher
) -> Pulled:
    """Fetch what the store lacks of an image, and make `references` stand for it, all at once.

    Layers that were read stay, whatever happens after, so that it need not be done again.
    """
    with images.at_work(repository.run_directory):
        layers, count = _layers(repository, source, found, watcher)
        batch, stage = repository.batch("image")
        try:
            rows = tuple(_stacked(repository, batch, found, layers))
            image = Image(
                rows[-1].tree if rows else version.put_tree(batch, overlay.EMPTY),
                digests.of(found.data),
                found.media_type,
                images.document(batch, found.data),
                images.document(batch, found.config_data),
                rows,
            )
            record = Record(images.put(batch, image), version.now(), found.origin)
            _publish(repository, batch, stage, image, record, references)
        except BaseException:
            stage.release()
            raise
    return Pulled(image, record.image, found.config, count, stage.new_blocks)


def _publish(
    repository: Repository, batch: Batch, stage: Stage, image: Image, record: Record, references: Sequence[Reference]
) -> None:
    store = repository.store
    trees = {chain: row.tree for chain, row in zip(images.chains(row.diff_id for row in image.layers), image.layers)}
    while True:
        new = [images.found(images.CHAIN, *pair) for pair in trees.items() if not images.known_tree(store, pair[0])]
        named = [images.changed(store, reference, record) for reference in references]
        try:
            images.publish(store, batch, stage, *new, *named)
        except RootMoved:  # another process pulls some of the same
            continue
        return


def _stacked(repository: Repository, batch: Batch, found: Resolved, layers: list[Cid]) -> Iterator[ImageLayer]:
    """Lay the layers upon each other, but for those that were so before."""
    below: Cid | None = None
    diff_ids = found.config.diff_ids
    for chain, diff_id, cid, descriptor in zip(images.chains(diff_ids), diff_ids, layers, found.manifest.layers):
        tree = images.known_tree(repository.store, chain)
        if tree is None:
            base = overlay.EMPTY if below is None else version.load_tree(batch, below)
            tree = version.put_tree(batch, overlay.apply(batch, base, layer.load(batch, cid)))
        yield ImageLayer(cid, tree, diff_id, descriptor.digest, descriptor.media_type, descriptor.size)
        below = tree


# Fetching


def _layers(repository: Repository, source: Source, found: Resolved, watcher: Watcher) -> tuple[list[Cid], int]:
    """Return the layers, and how many of them had to be fetched, several at a time."""
    got: dict[str, Cid] = {}
    wanted: dict[str, tuple[int, Descriptor]] = {}
    for number, (diff_id, descriptor) in enumerate(zip(found.config.diff_ids, found.manifest.layers)):
        known = images.known_layer(repository.store, diff_id)
        if known is not None:
            got[diff_id] = known
            watcher.begin(number, descriptor, True)
            watcher.end(number)
        else:
            wanted.setdefault(diff_id, (number, descriptor))
    stop = threading.Event()
    with ThreadPoolExecutor(limits.parallel_layers, "layer") as pool:
        tasks: dict[Future[Cid], str] = {}
        try:
            for diff_id, (number, descriptor) in wanted.items():
                fetch = _Fetch(repository, source, watcher, number, descriptor, diff_id, stop.is_set)
                tasks[pool.submit(fetch.run)] = diff_id
            left = set(tasks)
            while left:
                done, left = wait(left, return_when="FIRST_COMPLETED")
                for task in done:
                    got[tasks[task]] = task.result()
        except BaseException:
            stop.set()
            source.interrupt()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [got[diff_id] for diff_id in found.config.diff_ids], len(wanted)


class _Fetch(NamedTuple):
    """One layer on its way: from the source through decompression and tar into blocks, all of it in passing."""

    repository: Repository
    source: Source
    watcher: Watcher
    number: int
    descriptor: Descriptor
    diff_id: str
    is_stopped: Callable[[], bool]

    def run(self) -> Cid:
        batch, stage = self.repository.batch("layer")
        progress = self.watcher.begin(self.number, self.descriptor, False)
        try:
            compressed = self._verified()
            unpacked = Running(self.diff_id)
            made = read_layer(batch, decompressed(compressed, unpacked), progress=progress)
            for _ in compressed:  # what is behind the end, so that all of it is hashed
                pass
            unpacked.verify("a layer, decompressed,")
            cid = layer.put(batch, made)
            self._publish(batch, stage, cid)
        except BaseException:
            stage.release()
            raise
        self.watcher.end(self.number)
        return cid

    def _publish(self, batch: Batch, stage: Stage, cid: Cid) -> None:
        try:
            images.publish(self.repository.store, batch, stage, images.found(images.LAYER, self.diff_id, cid))
        except RootMoved:  # another process has read the same layer meanwhile
            stage.release()

    def _verified(self) -> Iterator[bytes]:
        """Yield the bytes of the blob, as many as were promised; at the end they have the digest that was promised."""
        running, size = Running(self.descriptor.digest), 0
        for data in self.source.blob(self.descriptor):
            if self.is_stopped():
                raise BadImage("another layer could not be fetched")
            size += len(data)
            if size > self.descriptor.size:
                break
            running.update(data)
            self.watcher.fetched(self.number, len(data))
            yield data
        if size != self.descriptor.size:
            more = "more" if size > self.descriptor.size else "fewer"
            raise BadImage(f"a layer has {more} bytes than the {self.descriptor.size} that were promised")
        running.verify("a layer")


def _document(source: Source, descriptor: Descriptor, what: str) -> bytes:
    parts, size = [], 0
    for data in source.blob(descriptor):
        size += len(data)
        if size > descriptor.size:
            break
        parts.append(data)
    if size != descriptor.size:
        raise BadImage(f"{what} has not the {descriptor.size} bytes that were promised")
    whole = b"".join(parts)
    digests.verify(descriptor.digest, whole, what)
    return whole
