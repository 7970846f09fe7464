"""Images made to hurt: layers written entry by entry, and OCI layouts of them that other tools read as well."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import zstandard

LAYER = "application/vnd.oci.image.layer.v1.tar"
MTIME = 1_600_000_000


class E(NamedTuple):
    """One entry of a layer, in few words; what is left out is as for a file of root's."""

    name: str | bytes
    kind: str = "file"
    data: bytes = b""
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    mtime: float = MTIME
    target: str | bytes = ""
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    pax: tuple[tuple[str, str], ...] = ()


def d(name: str | bytes, mode: int = 0o755, **more: Any) -> E:
    return E(name, "dir", mode=mode, **more)


def f(name: str | bytes, data: bytes = b"", mode: int = 0o644, **more: Any) -> E:
    return E(name, "file", data, mode=mode, **more)


def ln(name: str | bytes, target: str | bytes) -> E:
    """A symbolic link."""
    return E(name, "symlink", target=target, mode=0o777)


def hard(name: str | bytes, target: str | bytes) -> E:
    return E(name, "link", target=target, mode=0o644)


_TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "link": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


def text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def tar(entries: Sequence[E], form: Literal[0, 1, 2] = tarfile.PAX_FORMAT) -> bytes:
    """Return the archive of a layer, entries in the order given."""
    out = io.BytesIO()
    for entry in entries:
        member = tarfile.TarInfo(text(entry.name))
        member.type = _TYPES[entry.kind]
        member.mode = entry.mode if entry.mode is not None else 0o755 if entry.kind == "dir" else 0o644
        member.uid, member.gid, member.mtime = entry.uid, entry.gid, entry.mtime
        member.linkname = text(entry.target)
        member.devmajor, member.devminor = entry.rdev
        member.size = len(entry.data)
        pax = {f"SCHILY.xattr.{name}": text(value) for name, value in entry.xattrs}
        member.pax_headers = {**pax, **dict(entry.pax)}
        out.write(member.tobuf(form, "utf-8", "surrogateescape"))
        out.write(entry.data + bytes(-len(entry.data) % 512))
    out.write(bytes(1024))
    return out.getvalue()


def packed(data: bytes, compression: str, gzip_level: int = 1) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, gzip_level, mtime=0)
    return zstandard.ZstdCompressor().compress(data) if compression == "zstd" else data


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """An OCI image layout in a directory."""

    def __init__(self, path: Path, gzip_level: int = 1) -> None:
        self.path, self._gzip_level = path, gzip_level
        self.index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "index.json").write_text(json.dumps(self.index))
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Store bytes; returns their descriptor."""
        digest = sha(data)
        (self.path / "blobs/sha256" / digest[7:]).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def document(self, doc: Any, media_type: str, **more: Any) -> dict[str, Any]:
        return self.blob(json.dumps(doc).encode(), media_type, **more)

    def manifest(
        self, layers: Sequence[bytes], config: Any = None, *, compression: str = "gzip", **platform: str
    ) -> dict[str, Any]:
        """Store an image of these archives; returns the manifest's descriptor."""
        where = {"architecture": "amd64", "os": "linux", **platform}
        doc = {**where, "config": config or {}, "rootfs": {"type": "layers", "diff_ids": [sha(x) for x in layers]}}
        suffix = f"+{compression}" if compression else ""
        blobs = [self.blob(packed(x, compression, self._gzip_level), LAYER + suffix) for x in layers]
        return self.document(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": self.document(doc, "application/vnd.oci.image.config.v1+json"),
                "layers": blobs,
            },
            "application/vnd.oci.image.manifest.v1+json",
        )

    def tag(self, descriptor: dict[str, Any], name: str) -> None:
        self.index["manifests"].append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}})
        (self.path / "index.json").write_text(json.dumps(self.index))

    def image(self, layers: Sequence[bytes], name: str = "latest", **options: Any) -> dict[str, Any]:
        made = self.manifest(layers, **options)
        self.tag(made, name)
        return made


def unpacked(layout: Layout, to: Path, name: str = "latest") -> Path:
    """Return the root that umoci makes of an image."""
    command = ["umoci", "unpack", "--image", f"{layout.path}:{name}", str(to)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return to / "rootfs"
