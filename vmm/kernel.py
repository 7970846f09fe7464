"""The guest's kernel: which one, its modules, and the uncompressed image in it, which starts faster."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from . import limits
from .errors import NoKernel

_INSTALL: Final = "run 'apt-get install linux-image-cloud-amd64', or name one with --kernel"
_RELEASE: Final = re.compile(rb"Linux version (\S{1,100}) ")
# Packages unpacked rather than installed may lie below the cache.
_FETCHED: Final = "fetched"


@dataclass(frozen=True)
class Kernel:
    """An image for QEMU, and where its modules are; without modules everything has to be built in."""

    image: Path
    release: str
    modules: Path | None


def find(cache: Path, chosen: Path | None) -> Kernel:
    """Return the chosen kernel, or the newest of the host that has what a guest needs. Raises NoKernel."""
    if chosen is not None:
        return load(cache, chosen)
    for root in (Path("/"), cache / _FETCHED):
        for image in _candidates(root):
            if _can_boot(modules_of(image, root)):
                return load(cache, image, root)
    raise NoKernel(f"no guest kernel was found (one in /boot whose /lib/modules have virtiofs); {_INSTALL}")


def _candidates(root: Path) -> Iterator[Path]:
    """Cloud kernels first: they are small and made for this."""
    found = sorted((root / "boot").glob("vmlinuz-*"), key=_version, reverse=True)
    readable = [image for image in found if os.access(image, os.R_OK)]
    yield from sorted(readable, key=lambda image: "cloud" not in image.name)


def _version(image: Path) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", image.name)]


def modules_of(image: Path, root: Path) -> Path:
    """Where the modules of an installed kernel are, by its file's name."""
    return root / "lib/modules" / image.name.removeprefix("vmlinuz-")


def _can_boot(modules: Path) -> bool:
    try:
        names = (modules / "modules.dep").read_text() + (modules / "modules.builtin").read_text()
    except (OSError, ValueError):
        return False
    return "/virtiofs.ko" in names


def load(cache: Path, image: Path, root: Path = Path("/")) -> Kernel:
    """Return a kernel image as QEMU starts it fastest. Raises NoKernel."""
    try:
        with open(image, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if len(data) > limits.kernel_bytes_max:
                raise NoKernel(f"{image} is larger than any kernel")
            release = _release(data)
            if release is None:
                raise NoKernel(f"{image} is not an x86_64 Linux kernel (neither bzImage nor vmlinux)")
            fast = image if data[:4] == b"\x7fELF" else _unpacked(cache, data)
    except (OSError, ValueError) as error:
        raise NoKernel(f"the kernel {image} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    modules = root / "lib/modules" / release
    return Kernel(fast or image, release, modules if modules.is_dir() else None)


def _release(data: mmap.mmap) -> str | None:
    if data[:4] == b"\x7fELF":
        found = _RELEASE.search(data)
        return found[1].decode(errors="replace") if found else None
    if len(data) < 0x250 or data[0x202:0x206] != b"HdrS":
        return None
    (at,) = struct.unpack_from("<H", data, 0x20E)
    words = data[at + 0x200 : at + 0x200 + 100].split(b"\0")[0].split()
    release = words[0].decode(errors="replace") if at and words else None
    return release if release and "/" not in release else None


def _unpacked(cache: Path, data: mmap.mmap) -> Path | None:
    """The vmlinux in a bzImage, kept under the hash of what it came from; None if it is packed in an unknown way."""
    kept = cache / f"vmlinux-{hashlib.sha256(data).hexdigest()[:32]}"
    if kept.exists():
        return kept
    (sectors,) = struct.unpack_from("<B", data, 0x1F1)
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = ((sectors or 4) + 1) * 512 + offset
    image = unpack(data[start : start + length])
    if image is None or not has_pvh_note(image):
        return None
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    keep(kept, image)
    return kept


def keep(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file of the cache, whole or not at all. QEMU reads it as another user, through a descriptor."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(data)
    new.chmod(mode)
    new.replace(path)


def unpack(payload: bytes) -> bytes | None:
    """Undo a kernel's compression, whichever it is; None if that is not possible here. Never more than the limit."""
    most = limits.kernel_bytes_max
    try:
        if payload.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(31).decompress(payload, most)
        if payload.startswith((b"\xfd7zXZ", b"\x5d\0\0")):
            return lzma.LZMADecompressor().decompress(payload, most)
        if payload.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(payload, most)
        if payload.startswith(b"\x28\xb5\x2f\xfd"):
            return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(payload)).read(most)
        if payload.startswith(b"\x02\x21\x4c\x18"):
            return _unpack_lz4(payload[4:], most)
    except (
        zlib.error,
        lzma.LZMAError,
        gzip.BadGzipFile,
        zstandard.ZstdError,
        OSError,
        ValueError,
        IndexError,
        EOFError,
    ):
        pass
    return None


def _unpack_lz4(data: bytes, most: int) -> bytes:
    """The old lz4 format: blocks of at most 8 MiB, each after its length. The last length is the kernel's."""
    whole = bytearray()
    at = 0
    while at + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        whole += _unpack_lz4_block(data[at + 4 : at + 4 + size])
        at += 4 + size
        if len(whole) > most:
            raise ValueError("too large")
    return bytes(whole)


def _unpack_lz4_block(data: bytes) -> bytearray:
    """A few seconds for a kernel, once; no library for it is everywhere."""
    out, at, end = bytearray(), 0, len(data)
    while at < end:
        token = data[at]
        at += 1
        literals, repeated = token >> 4, token & 15
        if literals == 15:
            more = 255
            while more == 255:
                more = data[at]
                literals += more
                at += 1
        out += data[at : at + literals]
        at += literals
        if at >= end:
            break
        distance = data[at] | data[at + 1] << 8
        at += 2
        if repeated == 15:
            more = 255
            while more == 255:
                more = data[at]
                repeated += more
                at += 1
        repeated += 4
        start = len(out) - distance
        if distance == 0 or start < 0:
            raise ValueError("not lz4")
        if distance >= repeated:
            out += out[start : start + repeated]
        else:
            pattern = out[start:]
            out += (pattern * (repeated // distance + 1))[:repeated]
    return out


def has_pvh_note(image: bytes) -> bool:
    """Whether QEMU can start this ELF image: it asks for Xen's note 18, the entry in 32-bit mode."""
    if image[:6] != b"\x7fELF\x02\x01" or len(image) < 64:
        return False
    (table,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    for index in range(min(count, 64)):
        at = table + index * size
        if at + 56 > len(image):
            return False
        (kind,) = struct.unpack_from("<I", image, at)
        start, _, _, length = struct.unpack_from("<4Q", image, at + 8)
        if kind == 4 and b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0" in image[start : start + length]:
            return True
        if kind == 4 and b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0" in image[start : start + length]:
            return True
    return False
