"""The documents of the OCI image specification and of Docker's before it: index, manifest, and what they list."""

from __future__ import annotations

import json
import platform as machines
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from store.oci import digest as digests
from store.oci import limits
from store.oci.errors import BadImage

_T = TypeVar("_T")

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1"

INDEXES: Final = (OCI_INDEX, DOCKER_LIST)
MANIFESTS: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
ACCEPTED: Final = (*MANIFESTS, *INDEXES)
_CONFIGS: Final = (OCI_CONFIG, DOCKER_CONFIG)

# Layer types: what the name ends with says how it is compressed. The "foreign" ones are fetched as any other.
_LAYERS: Final = (
    OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    _DOCKER_LAYER,
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_COMPRESSIONS: Final = ("", "+gzip", "+zstd", ".gzip", ".zstd")


class Platform(NamedTuple):
    """`variant` is "" where nothing says which."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, self))


class Descriptor(NamedTuple):
    """Bytes somewhere else: what they are, their digest and how many."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None


class Index(NamedTuple):
    manifests: tuple[Descriptor, ...]


class Manifest(NamedTuple):
    config: Descriptor
    layers: tuple[Descriptor, ...]


def parse(data: bytes, media_type: str = "") -> Index | Manifest:
    """Return the index or manifest in `data`; `media_type` is what it was said to be. Raises BadImage."""
    doc = load(data, "the manifest")
    if doc.get("schemaVersion") == 1 or media_type.startswith(_SCHEMA_1):
        raise BadImage("the image has a manifest of Docker's schema 1, which is no longer read; push it again")
    if doc.get("schemaVersion") != 2:
        raise BadImage("the manifest has no schemaVersion 2")
    said = doc.get("mediaType", media_type) or media_type
    if media_type in ACCEPTED and said != media_type:
        raise BadImage(f"the manifest says that it is {_shown(said)}, but it came as {media_type}")
    has_list, has_layers = "manifests" in doc, "layers" in doc or "config" in doc
    if has_list == has_layers:  # one digest must not mean two things
        raise BadImage("the manifest is neither a list of manifests nor an image, or both at once")
    if (has_list and said in MANIFESTS) or (has_layers and said in INDEXES):
        raise BadImage(f"the manifest is not what it says: {_shown(said)}")
    if has_list:
        return Index(_list(doc, "manifests", limits.index_entries_max, _descriptor))
    config = _descriptor(doc.get("config"))
    if config.media_type not in _CONFIGS:
        raise BadImage(f"it is no image of a filesystem but {_shown(config.media_type)}")
    if config.size > limits.config_bytes_max:
        raise BadImage(f"the image's configuration is over {limits.config_bytes_max} bytes")
    layers = _list(doc, "layers", limits.layers_max, _descriptor)
    for layer in layers:
        _check_layer(layer)
    return Manifest(config, layers)


def type_of(data: bytes, media_type: str) -> str:
    """Return what a manifest is to be called, whatever it came as."""
    said = load(data, "the manifest").get("mediaType")
    return next((name for name in (media_type, said) if name in MANIFESTS), OCI_MANIFEST)


def load(data: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in `data`. Raises BadImage."""
    try:
        doc = json.loads(data)
    except (ValueError, RecursionError):
        raise BadImage(f"{what} is no JSON document") from None
    if not isinstance(doc, dict):
        raise BadImage(f"{what} is no JSON object")
    return doc


def descriptor_doc(descriptor: Descriptor) -> dict[str, Any]:
    doc: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.platform is not None:
        os, architecture, variant = descriptor.platform
        doc["platform"] = {"architecture": architecture, "os": os} | ({"variant": variant} if variant else {})
    return doc


def _check_layer(layer: Descriptor) -> None:
    for base in _LAYERS:
        if layer.media_type.startswith(base) and layer.media_type[len(base) :] in _COMPRESSIONS:
            break
    else:
        encrypted = "; it is encrypted" if layer.media_type.endswith("+encrypted") else ""
        raise BadImage(f"a layer of a kind that is not known: {_shown(layer.media_type)}{encrypted}")
    if layer.size > limits.blob_bytes_max:
        raise BadImage(f"a layer of {layer.size} bytes is over the limit of {limits.blob_bytes_max}")


def _descriptor(doc: Any) -> Descriptor:
    if not isinstance(doc, dict) or type(doc.get("size")) is not int or doc["size"] < 0:
        raise BadImage("a descriptor in the manifest needs mediaType, digest and size")
    media_type = doc.get("mediaType", "")
    if not isinstance(media_type, str):
        raise BadImage("a mediaType in the manifest is no text")
    return Descriptor(media_type, digests.check(doc.get("digest")), doc["size"], _platform(doc.get("platform")))


def _platform(doc: Any) -> Platform | None:
    if doc is None:
        return None
    fields = [doc.get(key, "") for key in ("os", "architecture", "variant")] if isinstance(doc, dict) else [None]
    texts = [field for field in fields if isinstance(field, str)]
    if len(texts) != 3:
        raise BadImage("a platform in the manifest is not text")
    return normal(Platform(*texts)) if texts[0] or texts[1] else None


def _list(doc: dict[str, Any], key: str, length_max: int, item: Callable[[Any], _T]) -> tuple[_T, ...]:
    found = doc.get(key)
    if not isinstance(found, list):
        raise BadImage(f"'{key}' of the manifest is no list")
    if len(found) > length_max:
        raise BadImage(f"'{key}' of the manifest has {len(found)} entries; {length_max} are allowed")
    return tuple(map(item, found))


# Platforms

_ARCHITECTURES: Final = {
    "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armv8l": "arm64", "armhf": "arm/v7",
    "armv7l": "arm/v7", "armel": "arm/v6", "armv6l": "arm/v6",
    "i386": "386", "i486": "386", "i586": "386", "i686": "386",
}  # fmt: skip


_PLAIN: Final = re.compile("[A-Za-z0-9._+-]{0,64}")  # it is shown to people


def parse_platform(text: str) -> Platform:
    """Return the platform OS/ARCH[/VARIANT]; an architecture alone is one of Linux. Raises BadImage."""
    parts = text.lower().split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if len(parts) > 3 or not all(part and part.isascii() and part.replace("_", "").isalnum() for part in parts):
        raise BadImage(f"'{_shown(text)}' is no platform: OS/ARCH[/VARIANT], as linux/arm64")
    architecture, _, variant = _ARCHITECTURES.get(parts[1], parts[1]).partition("/")
    return normal(Platform(parts[0], architecture, parts[2] if len(parts) == 3 else variant))


def host() -> Platform:
    return parse_platform("linux/" + machines.machine().lower())


def normal(platform: Platform) -> Platform:
    """Return the one spelling of a platform: arm64 is always v8, and arm is v7 where nothing else is said.

    Raises BadImage.
    """
    if not all(map(_PLAIN.fullmatch, platform)):
        raise BadImage("a platform is no plain words")
    os, architecture, variant = platform
    architecture, _, implied = _ARCHITECTURES.get(architecture, architecture).partition("/")
    variant = variant or implied
    if architecture == "arm64" and variant in ("8", "v8"):
        variant = ""
    if architecture == "arm":
        variant = variant or "v7"
        variant = variant if variant.startswith("v") else "v" + variant
    return Platform(os, architecture, variant)


def fitness(wanted: Platform, offered: Platform) -> int | None:
    """Return how far `offered` is from what was wanted, 0 for exactly it; None if it will not do."""
    if wanted[:2] != offered[:2]:
        return None
    if wanted.variant == offered.variant:
        return 0
    if wanted.architecture == "arm":  # an older one runs on a newer machine
        newer, older = wanted.variant[1:], offered.variant[1:]
        return int(newer) - int(older) if newer.isdigit() and older.isdigit() and int(older) < int(newer) else None
    return 1 if not offered.variant else None


def candidates(index: Index, wanted: Platform) -> list[Descriptor]:
    """Return the descriptors to look at, the best first. Those that say nothing of a platform are the last."""
    ranked: list[tuple[int, Descriptor]] = []
    for found in index.manifests:
        if found.platform is None:
            ranked.append((1000, found))
        elif (distance := fitness(wanted, found.platform)) is not None:
            ranked.append((distance, found))
    return [found for _, found in sorted(ranked, key=lambda pair: pair[0])]


def platforms(index: Index) -> list[str]:
    """Return what an index offers, for a message; what is of no known platform (attestations) is left out."""
    known = (found.platform for found in index.manifests)
    return sorted({_shown(platform) for platform in known if platform and platform.os != "unknown"})


def _shown(text: object) -> str:
    return ascii(str(text)[:120])[1:-1]
