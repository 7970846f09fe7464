"""Entries: each has one form, which is read back whole; every other document is refused."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import codec, limits
from store import entry as entries
from store.cid import BLAKE3, Cid
from store.entry import Entry
from store.errors import Corrupt, TooLarge, WrongKind
from tests.store.models import JUNK, deep, examples, forged, new_batch

HERE = BLAKE3.node(b"the block an entry lies in")
CHUNK, NODE = BLAKE3.raw(b"bytes"), BLAKE3.node(b"node")
SIZE_MAX, NS_MAX = limits.file_bytes_max, (1 << 63) - 1

uids = st.one_of(st.integers(0, 2), st.integers(0, (1 << 32) - 1))
xattr_names = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name)
xattr_sets = st.one_of(
    st.just(()), st.just(NODE),
    st.dictionaries(xattr_names, st.binary(max_size=30), max_size=4).map(lambda found: tuple(sorted(found.items()))),
)  # fmt: skip
common = {
    "mode": st.integers(0, 0o7777), "uid": uids, "gid": uids, "xattrs": xattr_sets,
    "mtime": st.one_of(st.integers(-NS_MAX - 1, NS_MAX), st.just(0)),
}  # fmt: skip


DEFAULTS = {field: st.just(Entry._field_defaults[field]) for field in Entry._fields if field not in ("kind", *common)}


def of_kind(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Entry]:
    return st.builds(Entry, st.just(kind), **{**common, **DEFAULTS, **fields})


nlinks = st.one_of(st.just(1), st.integers(1, (1 << 31) - 1))
inline = st.binary(min_size=1, max_size=limits.inline_bytes_max)
targets = st.binary(min_size=1, max_size=300).filter(lambda target: b"\0" not in target)
amounts = st.integers(0, SIZE_MAX)
rdevs = st.tuples(st.integers(0, (1 << 12) - 1), st.integers(0, (1 << 20) - 1))
contents = st.one_of(
    st.just((0, 0, None)),
    st.integers(limits.hole_bytes_min, SIZE_MAX).map(lambda size: (size, size, None)),
    inline.map(lambda data: (len(data), 0, data)),
    st.integers(limits.inline_bytes_max + 1, limits.chunk_bytes_max).map(lambda size: (size, 0, CHUNK)),
    st.integers(limits.chunk_bytes_max, SIZE_MAX).flatmap(
        lambda size: st.integers(0, size - 1).map(lambda holes: (size, holes, NODE))
    ),
)
regular = st.builds(
    lambda entry, content: entry._replace(size=content[0], holes=content[1], data=content[2]),
    of_kind("file", nlink=nlinks), contents,
)  # fmt: skip
symlinks = st.builds(
    lambda entry, target: entry._replace(size=len(target), data=target), of_kind("symlink", nlink=nlinks), targets
)
directories = st.one_of(
    of_kind("dir"), of_kind("dir", data=st.just(NODE), total=st.tuples(st.integers(1, SIZE_MAX), amounts, amounts))
)
others = st.one_of(*(of_kind(kind, nlink=nlinks) for kind in ("fifo", "socket")))
devices = st.one_of(*(of_kind(kind, nlink=nlinks, rdev=rdevs) for kind in ("char", "block")))
any_entry = st.one_of(regular, symlinks, directories, others, devices)


def read(doc: Any) -> Entry:
    return entries.decode(codec.decode(HERE, codec.encode(doc)), HERE)


@given(any_entry)
@examples(600)
def test_round_trip(entry: Entry) -> None:
    doc = entries.encode(entry)
    assert read(doc) == entry
    assert stat.S_IMODE(entry.st_mode) == entry.mode and entries.kind_of(entry.st_mode) == entry.kind
    assert not any(value in (0, (), b"") for key, value in doc.items() if key not in ("mode", "mtime"))


@given(any_entry, st.data())
@examples(800)
def test_forged_entries(entry: Entry, data: st.DataObject) -> None:
    """What is read is a good entry in its one form; all else is Corrupt, whatever is wrong."""
    doc = forged(data, entries.encode(entry))
    try:
        found = entries.decode(doc, HERE)
    except Corrupt as error:
        assert error.cid == HERE
    else:
        assert entries.encode(found) == doc


def test_what_is_no_entry() -> None:
    for doc in (*JUNK, deep()):
        if doc != {"mode": 0, "mtime": 0}:
            with pytest.raises(Corrupt):
                entries.decode(doc, HERE)


BASE = {"mode": 0o644, "mtime": 0}


@pytest.mark.parametrize(
    "doc",
    [
        {"mode": 0o644}, {"mtime": 0}, {"mode": 0o10000, "mtime": 0}, {"mode": True, "mtime": 0},
        {"mode": 0, "mtime": 1 << 63}, {"mode": 0, "mtime": -(1 << 63) - 1}, {"mode": 0, "mtime": 0.0},
        {**BASE, "uid": 0}, {**BASE, "gid": 1 << 32}, {**BASE, "nlink": 1}, {**BASE, "nlink": 0},
        {**BASE, "kind": "file"}, {**BASE, "kind": "pipe"}, {**BASE, "later": 1},
        # files
        {**BASE, "size": 0}, {**BASE, "size": 5}, {**BASE, "size": 5, "data": b"1234"}, {**BASE, "data": b""},
        {**BASE, "size": limits.inline_bytes_max + 1, "data": bytes(limits.inline_bytes_max + 1)},
        {**BASE, "size": limits.inline_bytes_max, "data": CHUNK}, {**BASE, "data": CHUNK}, {**BASE, "data": NODE},
        {**BASE, "size": limits.hole_bytes_min - 1, "holes": limits.hole_bytes_min - 1},
        {**BASE, "size": limits.hole_bytes_min}, {**BASE, "size": 70_000, "holes": 65_000},
        {**BASE, "size": 70_000, "holes": 65_536, "data": CHUNK},
        {**BASE, "size": 70_000, "holes": 70_000, "data": NODE},
        {**BASE, "size": 5, "holes": 6, "data": NODE}, {**BASE, "size": 1 << 63, "holes": 1 << 63},
        {**BASE, "size": 300, "data": NODE, "total": [0, 0, 0]}, {**BASE, "rdev": [0, 0]},
        # symbolic links
        {**BASE, "kind": "symlink"}, {**BASE, "kind": "symlink", "data": b"t"},
        {**BASE, "kind": "symlink", "data": b"t", "size": 2}, {**BASE, "kind": "symlink", "data": b"\0", "size": 1},
        {**BASE, "kind": "symlink", "data": b"t" * 4096, "size": 4096},
        {**BASE, "kind": "symlink", "data": NODE, "size": 5},
        # directories
        {**BASE, "kind": "dir", "total": [0, 0, 0]}, {**BASE, "kind": "dir", "data": NODE},
        {**BASE, "kind": "dir", "data": NODE, "total": [0, 0, 0]},
        {**BASE, "kind": "dir", "data": CHUNK, "total": [1, 1, 0]},
        {**BASE, "kind": "dir", "data": NODE, "total": [1, 1]},
        {**BASE, "kind": "dir", "data": NODE, "total": [1, -1, 0]},
        {**BASE, "kind": "dir", "data": NODE, "total": [1, 1 << 63, 0]},
        {**BASE, "kind": "dir", "data": NODE, "total": b"\1\1\1"}, {**BASE, "kind": "dir", "size": 4096},
        {**BASE, "kind": "dir", "nlink": 2}, {**BASE, "kind": "dir", "data": b"inline"},
        # the others
        {**BASE, "kind": "fifo", "size": 1}, {**BASE, "kind": "fifo", "data": b"x"},
        {**BASE, "kind": "fifo", "rdev": [0, 0]},
        {**BASE, "kind": "char"}, {**BASE, "kind": "char", "rdev": [1]}, {**BASE, "kind": "char", "rdev": [1 << 12, 0]},
        {**BASE, "kind": "block", "rdev": [0, 1 << 20]}, {**BASE, "kind": "block", "rdev": b"\1\2"},
        # extended attributes
        {**BASE, "xattrs": []}, {**BASE, "xattrs": CHUNK}, {**BASE, "xattrs": [[b"b", b""], [b"a", b""]]},
        {**BASE, "xattrs": [[b"a", b""], [b"a", b"2"]]}, {**BASE, "xattrs": [[b"", b""]]},
        {**BASE, "xattrs": [[b"a\0", b""]]}, {**BASE, "xattrs": [[b"a"]]}, {**BASE, "xattrs": [["a", b""]]},
        {**BASE, "xattrs": [[b"a", None]]}, {**BASE, "xattrs": {"ab": 1}}, {**BASE, "xattrs": "ab"},
        {**BASE, "xattrs": [[b"a" * 256, b""]]}, {**BASE, "xattrs": [[b"a", bytes(512)]]},
    ],
    ids=lambda doc: str(doc)[:70],
)  # fmt: skip
def test_refused(doc: dict[str, Any]) -> None:
    with pytest.raises(Corrupt):
        read(doc)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("file", 0o644, size=5), Entry("file", 0o644, size=5, data=b"1234"), Entry("pipe", 0),
        Entry("dir", 0o755, data=NODE), Entry("symlink", 0o777), Entry("fifo", 0, rdev=(1 << 12, 0)),
        Entry("file", 0o100644), Entry("file", 0, nlink=0),
    ],
    ids=str,
)  # fmt: skip
def test_what_could_not_be_read_is_never_written(entry: Entry) -> None:
    with pytest.raises(AssertionError):
        entries.encode(entry)


@pytest.mark.parametrize(("mtime", "stored"), [(1 << 70, NS_MAX), (-(1 << 70), -NS_MAX - 1), (NS_MAX, NS_MAX)])
def test_times_that_64_bits_do_not_know(mtime: int, stored: int) -> None:
    assert read(entries.encode(Entry("file", 0o644, mtime=mtime))).mtime == stored


def test_tree_of_what_is_no_directory() -> None:
    assert Entry("dir", 0o755, data=NODE).tree == NODE
    assert Entry("dir", 0o755).tree is None
    with pytest.raises(WrongKind):
        Entry("file", 0o644).tree


# Extended attributes


def with_xattrs(xattrs: entries.Xattrs | Cid) -> Entry:
    return Entry("file", 0o644, xattrs=xattrs)


@given(st.dictionaries(xattr_names, st.binary(max_size=300), max_size=8))
@examples(200)
def test_xattrs_small_and_large(found: dict[bytes, bytes]) -> None:
    batch = new_batch()
    packed = entries.pack_xattrs(batch, sorted(found.items(), reverse=True))
    size = len(codec.encode([list(pair) for pair in sorted(found.items())]))
    assert isinstance(packed, Cid) is (size > limits.xattr_bytes_inline)
    entry = read(entries.encode(with_xattrs(packed)))
    assert entries.unpack_xattrs(batch, entry) == tuple(sorted(found.items()))


def test_xattrs_at_their_limit() -> None:
    batch = new_batch()
    fits = [(b"user.%d" % n, bytes(limits.xattr_value_bytes_max - 64)) for n in range(8)]
    packed = entries.pack_xattrs(batch, fits)
    assert isinstance(packed, Cid) and len(batch.get(packed)) <= limits.xattr_bytes_max
    with pytest.raises(TooLarge, match="524288"):
        entries.pack_xattrs(batch, [*fits, (b"user.more", bytes(1000))])


@given(st.data())
@examples(150)
def test_forged_xattr_blocks(data: st.DataObject) -> None:
    batch = new_batch()
    doc = forged(data, [[b"user.a", bytes(600)], [b"user.b", b"2"]])
    try:
        found = entries.unpack_xattrs(batch, with_xattrs(batch.put_doc(doc)))
    except Corrupt:
        return
    assert [list(pair) for pair in found] == doc and found == tuple(sorted(found))
