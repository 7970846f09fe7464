"""An Entry: everything a directory says about one of its names."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from store import codec, limits
from store.batch import Batch, Nodes
from store.cid import Cid
from store.errors import Corrupt, TooLarge, WrongKind

Xattrs = tuple[tuple[bytes, bytes], ...]

_TYPE_BITS: Final = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "char": stat.S_IFCHR,
    "block": stat.S_IFBLK,
}
_KINDS: Final = {bits: kind for kind, bits in _TYPE_BITS.items()}
_DEVICES: Final = ("char", "block")


class Entry(NamedTuple):
    """`data` is a CID (content tree, chunk, directory), the bytes themselves (tiny file, symlink's target) or None.

    `mode` has 12 bits, `mtime` is in ns, `size` in bytes, of which `holes` are in holes. `nlink` counts the paths
    inside this tree. `total` is a directory's (entries, bytes, subdirectories), the first two through all depths.
    """

    kind: str
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    holes: int = 0
    nlink: int = 1
    data: bytes | Cid | None = None
    rdev: tuple[int, int] = (0, 0)
    xattrs: Xattrs | Cid = ()
    total: tuple[int, int, int] = (0, 0, 0)

    @property
    def is_dir(self) -> bool:
        return self.kind == "dir"

    @property
    def st_mode(self) -> int:
        return _TYPE_BITS[self.kind] | self.mode

    @property
    def tree(self) -> Cid | None:
        """The root of a directory's tree; None if it is empty. Raises WrongKind for anything but a directory."""
        if self.kind != "dir":
            raise WrongKind("not a directory")
        return self.data if isinstance(self.data, Cid) else None


def type_bits(kind: str) -> int:
    """Return the S_IFMT bits for a kind."""
    return _TYPE_BITS[kind]


def kind_of(st_mode: int) -> str:
    """Return the kind for a stat mode."""
    return _KINDS[stat.S_IFMT(st_mode)]


def encode(entry: Entry) -> dict[str, Any]:
    """Return the entry as a DAG-CBOR map; defaults are left out."""
    doc: dict[str, Any] = {"mode": entry.mode, "mtime": entry.mtime}
    if entry.kind != "file":
        doc["kind"] = entry.kind
    if entry.uid:
        doc["uid"] = entry.uid
    if entry.gid:
        doc["gid"] = entry.gid
    if entry.data is not None and entry.data != b"":
        doc["data"] = entry.data
    if entry.xattrs:
        doc["xattrs"] = entry.xattrs if isinstance(entry.xattrs, Cid) else [list(pair) for pair in entry.xattrs]
    if entry.kind == "dir":
        if entry.data is not None:
            doc["total"] = list(entry.total)
    elif entry.kind in _DEVICES:
        doc["rdev"] = list(entry.rdev)
    elif entry.size:
        doc["size"] = entry.size
    if entry.holes:
        doc["holes"] = entry.holes
    if entry.nlink > 1:
        doc["nlink"] = entry.nlink
    return doc


def decode(doc: Any, cid: Cid) -> Entry:
    """Return the entry in `doc`, which lies in the block `cid`. Raises Corrupt if it breaks the format."""
    try:
        unknown = doc.keys() - _FIELDS
        kind = doc.get("kind", "file")
        xattrs = doc.get("xattrs", ())
        entry = Entry(
            kind,
            doc["mode"],
            doc.get("uid", 0),
            doc.get("gid", 0),
            doc["mtime"],
            doc.get("size", 0),
            doc.get("holes", 0),
            doc.get("nlink", 1),
            doc.get("data"),
            tuple(doc.get("rdev", (0, 0))),
            xattrs if isinstance(xattrs, Cid) or not xattrs else _pairs(xattrs, cid),
            tuple(doc.get("total", (0, 0, 0))),
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise Corrupt(cid, "an entry breaks the format") from None
    if unknown or not _is_good(entry):
        raise Corrupt(cid, f"an entry breaks the format ({entry.kind!r})")
    return entry


_FIELDS: Final = frozenset(
    ("kind", "mode", "uid", "gid", "mtime", "size", "holes", "nlink", "data", "rdev", "xattrs", "total")
)


def _is_good(e: Entry) -> bool:
    """The checks that keep a hostile entry from doing more harm than being wrong."""
    if e.kind not in _TYPE_BITS:
        return False
    numbers = (e.mode, e.uid, e.gid, e.mtime, e.size, e.holes, e.nlink, *e.rdev, *e.total)
    if not all(type(n) is int for n in numbers) or len(e.rdev) != 2 or len(e.total) != 3:
        return False
    if not (0 <= e.mode <= 0o7777 and 0 <= e.uid < 1 << 32 and 0 <= e.gid < 1 << 32 and 1 <= e.nlink < 1 << 31):
        return False
    if not (0 <= e.holes <= e.size <= limits.file_bytes_max and -(1 << 63) <= e.mtime < 1 << 63):
        return False
    if not (0 <= e.rdev[0] < 1 << 12 and 0 <= e.rdev[1] < 1 << 20 and min(e.total) >= 0):
        return False
    if e.kind == "dir":
        return e.data is None or (isinstance(e.data, Cid) and e.data.is_node)
    if e.kind == "symlink":
        return type(e.data) is bytes and 0 < len(e.data) <= limits.target_bytes_max and len(e.data) == e.size
    if e.kind == "file":
        return type(e.data) is not bytes or len(e.data) == e.size <= limits.inline_bytes_max
    return e.data is None


def _pairs(doc: Any, cid: Cid) -> Xattrs:
    pairs = tuple((name, value) for name, value in doc)
    for name, value in pairs:
        if type(name) is not bytes or type(value) is not bytes or not name or b"\0" in name or len(name) > 255:
            raise Corrupt(cid, "an extended attribute breaks the format")
    return pairs


# Extended attributes


def pack_xattrs(batch: Batch, pairs: Iterable[tuple[bytes, bytes]]) -> Xattrs | Cid:
    """Return what an entry holds for these attributes: themselves, or the CID of a block for a large set.

    Raises TooLarge over `xattr_bytes_max`.
    """
    xattrs = tuple(sorted(pairs))
    data = codec.encode([list(pair) for pair in xattrs])
    if len(data) <= limits.xattr_bytes_inline:
        return xattrs
    if len(data) > limits.xattr_bytes_max:
        raise TooLarge(f"extended attributes of {len(data)} bytes are over the limit of {limits.xattr_bytes_max}")
    return batch.put_node(data)


def unpack_xattrs(source: Nodes, entry: Entry) -> Xattrs:
    if not isinstance(entry.xattrs, Cid):
        return entry.xattrs
    doc = codec.decode(entry.xattrs, source.get(entry.xattrs))
    if not isinstance(doc, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in doc):
        raise Corrupt(entry.xattrs, "not a set of extended attributes")
    return _pairs(doc, entry.xattrs)
