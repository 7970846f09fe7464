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
_MTIME_MIN, _MTIME_MAX = -(1 << 63), (1 << 63) - 1


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


def is_kind(text: str) -> bool:
    return text in _TYPE_BITS


def kind_of(st_mode: int) -> str:
    """Return the kind for a stat mode."""
    return _KINDS[stat.S_IFMT(st_mode)]


def encode(entry: Entry) -> dict[str, Any]:
    """Return the entry as a DAG-CBOR map. A time outside of 1677 to 2262 becomes the nearest that 64 bits hold."""
    assert _is_good(entry), f"nobody could read {entry} again"
    return _document(entry)


def _document(entry: Entry) -> dict[str, Any]:
    """Defaults are left out."""
    doc: dict[str, Any] = {"mode": entry.mode, "mtime": min(max(entry.mtime, _MTIME_MIN), _MTIME_MAX)}
    if entry.kind != "file":
        doc["kind"] = entry.kind
    if entry.uid:
        doc["uid"] = entry.uid
    if entry.gid:
        doc["gid"] = entry.gid
    if entry.data is not None and entry.data != b"":
        doc["data"] = entry.data
    if entry.xattrs:
        doc["xattrs"] = entry.xattrs if isinstance(entry.xattrs, Cid) else _doc(entry.xattrs)
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
    return _plain_file(doc) or _decode(doc, cid)


def _plain_file(doc: Any) -> Entry | None:
    """Return the entry if it is that of a file with nothing special. None says nothing: all others, good or bad.

    Nearly all entries are such files, and to decode them is much of what it costs to list a directory.
    """
    try:
        mode, mtime, size, data = doc["mode"], doc["mtime"], doc["size"], doc["data"]
        uid, gid = doc.get("uid", 0), doc.get("gid", 0)
    except (KeyError, TypeError, AttributeError):
        return None
    # As many fields as these, none of which is a default: so there are no others.
    if len(doc) != 4 + (uid != 0) + (gid != 0) or not (
        int is type(mode) is type(mtime) is type(size) is type(uid) is type(gid)
        and 0 <= mode <= 0o7777
        and 0 <= uid < 1 << 32
        and 0 <= gid < 1 << 32
        and _MTIME_MIN <= mtime <= _MTIME_MAX
        and size <= limits.file_bytes_max
    ):
        return None
    if type(data) is Cid:
        if size <= limits.inline_bytes_max:
            return None
    elif type(data) is not bytes or not 0 < size == len(data) <= limits.inline_bytes_max:
        return None
    return Entry("file", mode, uid, gid, mtime, size, 0, 1, data)


def _decode(doc: Any, cid: Cid) -> Entry:
    try:
        xattrs = doc.get("xattrs", ())
        entry = Entry(
            doc.get("kind", "file"),
            doc["mode"],
            doc.get("uid", 0),
            doc.get("gid", 0),
            doc["mtime"],
            doc.get("size", 0),
            doc.get("holes", 0),
            doc.get("nlink", 1),
            doc.get("data"),
            tuple(doc.get("rdev", (0, 0))),
            xattrs if isinstance(xattrs, Cid) else _pairs(xattrs, cid),
            tuple(doc.get("total", (0, 0, 0))),
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise Corrupt(cid, "an entry breaks the format") from None
    # One content, one form: a default that is written out, or a field we do not know, makes it another document.
    if not _is_good(entry) or _document(entry) != doc:
        raise Corrupt(cid, "an entry breaks the format")
    return entry


def _is_good(e: Entry) -> bool:
    """True if this is an entry that a tree can have. So a hostile one does no more harm than being wrong."""
    if type(e.kind) is not str or e.kind not in _TYPE_BITS:
        return False
    numbers = (e.mode, e.uid, e.gid, e.mtime, e.size, e.holes, e.nlink, *e.rdev, *e.total)
    if not all(type(n) is int for n in numbers) or len(e.rdev) != 2 or len(e.total) != 3:
        return False
    if not (0 <= e.mode <= 0o7777 and 0 <= e.uid < 1 << 32 and 0 <= e.gid < 1 << 32 and 1 <= e.nlink < 1 << 31):
        return False
    if not (0 <= e.holes <= e.size <= limits.file_bytes_max and _is_good_set(e.xattrs)):
        return False
    if e.kind == "file":
        return _is_good_content(e.size, e.holes, e.data)
    if e.kind == "symlink":
        good = type(e.data) is bytes and 0 < len(e.data) <= limits.target_bytes_max and b"\0" not in e.data
        return good and e.size == len(e.data or b"") and not e.holes
    if e.kind == "dir":
        amounts = all(0 <= n <= limits.file_bytes_max for n in e.total)
        good = e.nlink == 1 and (e.total == (0, 0, 0) if e.data is None else _is_node(e.data) and e.total[0] > 0)
        return good and amounts and not e.size
    return e.data is None and not e.size and 0 <= e.rdev[0] < 1 << 12 and 0 <= e.rdev[1] < 1 << 20


def _is_good_content(size: int, holes: int, data: object) -> bool:
    if data is None:
        return holes == size and (not size or size >= limits.hole_bytes_min)
    if type(data) is bytes:
        return not holes and 0 < size == len(data) <= limits.inline_bytes_max
    small = size <= limits.inline_bytes_max
    return not small and (_is_node(data) if holes else isinstance(data, Cid)) and holes < size


def _is_good_set(xattrs: Xattrs | Cid) -> bool:
    if isinstance(xattrs, Cid):
        return xattrs.is_node
    return not xattrs or _packed_bytes(xattrs) <= limits.xattr_bytes_inline


def _is_node(value: object) -> bool:
    return isinstance(value, Cid) and value.is_node


def _pairs(doc: Any, cid: Cid) -> Xattrs:
    pairs: Xattrs = tuple((name, value) for name, value in doc)
    last = b""
    for name, value in pairs:
        good = type(name) is bytes and type(value) is bytes and last < name and len(name) <= limits.name_bytes_max
        if not good or b"\0" in name or len(value) > limits.xattr_value_bytes_max:
            raise Corrupt(cid, "an extended attribute breaks the format")
        last = name
    return pairs


# Extended attributes


def pack_xattrs(batch: Batch, pairs: Iterable[tuple[bytes, bytes]]) -> Xattrs | Cid:
    """Return what an entry holds for these attributes: themselves, or the CID of a block for a large set.

    Raises TooLarge over `xattr_bytes_max`.
    """
    xattrs = tuple(sorted(pairs))
    size = _packed_bytes(xattrs)
    if size <= limits.xattr_bytes_inline:
        return xattrs
    if size > limits.xattr_bytes_max:
        raise TooLarge(f"extended attributes of {size} bytes are over the limit of {limits.xattr_bytes_max}")
    return batch.put_doc(_doc(xattrs))


def unpack_xattrs(source: Nodes, entry: Entry) -> Xattrs:
    if not isinstance(entry.xattrs, Cid):
        return entry.xattrs
    doc = codec.decode(entry.xattrs, source.get(entry.xattrs))
    if not isinstance(doc, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in doc):
        raise Corrupt(entry.xattrs, "not a set of extended attributes")
    return _pairs(doc, entry.xattrs)


def _doc(xattrs: Xattrs) -> list[list[bytes]]:
    return [list(pair) for pair in xattrs]


def _packed_bytes(xattrs: Xattrs) -> int:
    return len(codec.encode(_doc(xattrs)))
