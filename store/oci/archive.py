"""Images in files: OCI layouts, as a directory or a tar archive, and what `docker save` writes. Read in place."""

from __future__ import annotations

import json
import os
import posixpath
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

from store.directory import printable
from store.oci import config as configs
from store.oci import digest as digests
from store.oci import limits, media
from store.oci import reference as references
from store.oci.digest import Running
from store.oci.errors import BadImage, BadReference, NotInRegistry
from store.oci.feed import Feed, decompressed
from store.oci.media import Descriptor
from store.oci.reference import Reference
from store.oci.tar import Archive

_NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class Files(Protocol):
    """The files of an archive, by their paths in it."""

    def size(self, path: str) -> int | None:
        """None if there is no such file."""
        ...

    def read(self, path: str) -> Iterator[bytes]: ...


class Found(NamedTuple):
    """An image in an archive: what it is asked for by, and what it is called there."""

    selector: str
    names: tuple[str, ...]


class Opened:
    """An archive of images: the Source they are pulled from."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._made: dict[str, bytes] = {}  # documents that Docker's archives do not have
        self._paths: dict[str, str] = {}  # digest -> path, in Docker's archives
        self._layers: set[str] = set()  # digests of layers that may be compressed all the same
        if files.size("oci-layout") is not None and files.size("index.json") is not None:
            self.images = self._of_layout()
        elif files.size("manifest.json") is not None:
            self.images = self._of_docker()
        else:
            raise BadImage("it holds no images: neither an OCI layout nor what 'docker save' writes")

    # As a Source

    def manifest(self, selector: str) -> tuple[bytes, str]:
        if selector in self._made:
            return self._made[selector], ""
        return self._document(_blob_path(selector), limits.manifest_bytes_max), ""

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        path = self._paths.get(descriptor.digest) or _blob_path(descriptor.digest)
        if self._files.size(path) is None:
            raise NotInRegistry(f"the archive lacks {descriptor.digest}")
        data = self._files.read(path)
        # Docker's archives call layers by what they are when decompressed.
        return decompressed(data, Running("sha256:")) if descriptor.digest in self._layers else data

    def interrupt(self) -> None:
        """Nothing here waits for anybody."""

    # What there is

    def _of_layout(self) -> tuple[Found, ...]:
        doc = media.load(self._document("index.json", limits.manifest_bytes_max), "index.json")
        rows = doc.get("manifests")
        if not isinstance(rows, list) or len(rows) > limits.index_entries_max:
            raise BadImage("index.json lists no manifests, or too many")
        found: dict[str, list[str]] = {}
        for row in rows:
            if not isinstance(row, dict):
                raise BadImage("index.json lists what is no manifest")
            names = found.setdefault(digests.check(row.get("digest")), [])
            annotations = row.get("annotations")
            names += [annotations[key] for key in _NAMES if key in annotations] if isinstance(annotations, dict) else []
        return tuple(
            Found(digest, tuple(name for name in names if isinstance(name, str))) for digest, names in found.items()
        )

    def _of_docker(self) -> tuple[Found, ...]:
        data = self._document("manifest.json", limits.manifest_bytes_max)
        try:
            rows = json.loads(data)
        except (ValueError, RecursionError):
            raise BadImage("manifest.json is no JSON document") from None
        if not isinstance(rows, list) or len(rows) > limits.archive_documents_max:
            raise BadImage("manifest.json is no list of images, or too long")
        return tuple(map(self._image, rows))

    def _image(self, row: Any) -> Found:
        if not isinstance(row, dict) or not isinstance(row.get("Config"), str):
            raise BadImage("manifest.json lists what is no image")
        layers, names = (_texts(row.get(key)) for key in ("Layers", "RepoTags"))
        data = self._document(row["Config"], limits.config_bytes_max)
        config = configs.parse(data)
        if len(layers) != len(config.diff_ids):
            raise BadImage("the image's configuration names other layers than manifest.json")
        rows = []
        for diff_id, path in zip(config.diff_ids, layers):
            self._paths[diff_id] = path
            self._layers.add(diff_id)
            rows.append(Descriptor(media.OCI_LAYER, diff_id, self._unpacked_size(path)))
        digest = digests.of(data)
        self._paths[digest] = row["Config"]
        doc = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": media.descriptor_doc(Descriptor(media.OCI_CONFIG, digest, len(data))),
            "layers": [media.descriptor_doc(layer) for layer in rows],
        }
        manifest = json.dumps(doc).encode()
        self._made[digests.of(manifest)] = manifest
        return Found(digests.of(manifest), names)

    def _unpacked_size(self, path: str) -> int:
        size = self._files.size(path)
        if size is None:
            raise NotInRegistry(f"the archive lacks '{printable(os.fsencode(path))}'")
        first = b""
        for data in self._files.read(path):
            first += data
            if len(first) >= 4:
                break
        if first[257:262] == b"ustar" or len(first) < 4:
            return size
        return sum(map(len, decompressed(self._files.read(path), Running("sha256:"))))

    def _document(self, path: str, size_max: int) -> bytes:
        size = self._files.size(path)
        if size is None:
            raise NotInRegistry(f"the archive lacks '{printable(os.fsencode(path))}'")
        if size > size_max:
            raise BadImage(f"'{printable(os.fsencode(path))}' in the archive is over {size_max} bytes")
        return b"".join(self._files.read(path))


def reference_of(name: str, default: str) -> Reference | None:
    """Return what an image in an archive is called; None if that is a bare tag, or nothing."""
    if "/" not in name and ":" not in name:
        return None
    try:
        return references.parse(name, default)
    except BadReference:
        return None


def _blob_path(digest: str) -> str:
    algorithm, _, value = digests.check(digest).partition(":")
    return f"blobs/{algorithm}/{value}"


def _texts(found: object) -> tuple[str, ...]:
    if found is None:
        return ()
    if not isinstance(found, list) or len(found) > limits.layers_max or not all(isinstance(x, str) for x in found):
        raise BadImage("manifest.json has no list of texts where one must be")
    return tuple(found)


# Where the files are


class _Directory:
    """Only what a layout has: its paths are made here, and never lead elsewhere."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def size(self, path: str) -> int | None:
        if path not in ("oci-layout", "index.json") and not path.startswith("blobs/"):
            return None
        try:
            found = os.lstat(self._path / path)
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def read(self, path: str) -> Iterator[bytes]:
        with open(self._path / path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
            while data := file.read(limits.feed_bytes):
                yield data


class _Tar:
    """Offsets of the files in an archive. Their content is read with pread, by any thread."""

    def __init__(self, file: BinaryIO) -> None:
        self._fd = file.fileno()
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        feed = Feed(self._pieces(0, os.fstat(self._fd).st_size))
        archive = Archive(feed)
        for count, member in enumerate(archive):
            if count > limits.archive_entries_max:
                raise BadImage(f"an archive of images may have {limits.archive_entries_max} entries at most")
            name = posixpath.normpath(os.fsdecode(member.name)).lstrip("/")
            if member.kind == "file" and member.segments is None:
                self._places[name] = feed.position, member.size
            elif member.kind == "symlink":
                self._links[name] = posixpath.normpath(
                    posixpath.join(posixpath.dirname(name), os.fsdecode(member.target))
                )
            elif member.kind == "link":
                self._links[name] = posixpath.normpath(os.fsdecode(member.target)).lstrip("/")

    def size(self, path: str) -> int | None:
        place = self._place(path)
        return None if place is None else place[1]

    def read(self, path: str) -> Iterator[bytes]:
        place = self._place(path)
        assert place is not None, "ask for the size first"
        return self._pieces(*place)

    def _place(self, path: str) -> tuple[int, int] | None:
        name = posixpath.normpath(path)
        for _ in range(limits.symlinks_max):
            if name not in self._links:
                return self._places.get(name)
            name = self._links[name]
        return None

    def _pieces(self, at: int, size: int) -> Iterator[bytes]:
        end = at + size
        while at < end:
            data = os.pread(self._fd, min(limits.feed_bytes, end - at), at)
            if not data:
                raise BadImage("the archive has become shorter")
            yield data
            at += len(data)


def opened(path: Path | None, stdin: BinaryIO, cleanup: ExitStack) -> Opened:
    """Open the archive at `path`, or from `stdin` if that is None. Raises BadImage, OSError."""
    if path is not None and path.is_dir():
        return Opened(_Directory(path))
    file = stdin if path is None else cleanup.enter_context(path.open("rb"))
    if not _is_plain(file):
        file = cleanup.enter_context(_spooled(file))
    try:
        files = _Tar(file)
    except BadImage as error:
        name = "what came" if path is None else printable(os.fsencode(path))
        raise BadImage(f"{name} is no archive of images, or a damaged one: {error}") from None
    return Opened(files)


def _is_plain(file: BinaryIO) -> bool:
    """True for a file that can be read at any offset and is not compressed."""
    try:
        first = os.pread(file.fileno(), 4, 0)
    except OSError:  # a pipe
        return False
    return not first.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd"))


def _spooled(file: BinaryIO) -> BinaryIO:
    """Return a temporary file without a name that holds what comes, decompressed."""
    copy: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115, the caller closes it
    for data in decompressed(iter(lambda: file.read(limits.feed_bytes), b""), Running("sha256:")):
        copy.write(data)
    copy.flush()
    return copy
