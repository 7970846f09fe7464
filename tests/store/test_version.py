"""Trees and versions: one form each, and a subtree that stands on its own."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import codec, directory, limits, links, version
from store import draft as drafts
from store import entry as entries
from store import file as files
from store.batch import Batch
from store.chunker import Chunker
from store.cid import BLAKE3, Cid
from store.draft import Draft
from store.entry import Entry
from store.errors import Corrupt, NotFound, TooLarge, WrongKind
from store.file import File
from store.version import Tree, Version
from tests.store.models import examples, forged, mixed, new_batch, tiny, with_forged_node

NODE, CHUNK = BLAKE3.node(b"some tree"), BLAKE3.raw(b"bytes")
EMPTY_DIR = Entry("dir", 0o755)

MARKS = BLAKE3.node(b"marks")
unmerged = st.builds(
    Version, st.just(NODE), st.frozensets(st.integers(0, 9).map(lambda n: BLAKE3.node(bytes((n,))))),
    st.integers(-(1 << 63), (1 << 64) - 1), st.text(max_size=20), st.text(max_size=20),
    st.none(), st.sampled_from([None, MARKS]), st.sampled_from([None, MARKS]), st.sampled_from([None, NODE]),
)  # fmt: skip
versions = st.builds(
    lambda made, lined: made._replace(line=min(made.previous)) if lined and len(made.previous) > 1 else made,
    unmerged,
    st.booleans(),
)


@given(versions)
@examples(200)
def test_versions_round_trip(made: Version) -> None:
    batch = new_batch()
    cid = version.put_version(batch, made)
    assert version.load(batch, cid) == made
    assert version.tree_cid(batch, cid) == made.tree
    marks = {mark for mark in (made.tombstones, made.conflicts) if mark is not None}
    assert codec.links(cid, batch.get(cid)) == {made.tree, *made.previous, *marks}


def test_too_many_previous_versions() -> None:
    batch = new_batch()
    many = [BLAKE3.node(b"%d" % number) for number in range(limits.previous_max + 1)]
    with pytest.raises(TooLarge):
        version.put_version(batch, Version(NODE, frozenset(many), 1))
    with pytest.raises(Corrupt):
        version.load(batch, batch.put_doc({**GOOD_VERSION, "previous": sorted(many)}))


@given(versions, st.data())
@examples(400)
def test_forged_versions(made: Version, data: st.DataObject) -> None:
    batch = new_batch()
    cid = version.put_version(batch, made)
    other = batch.put_doc(forged(data, codec.decode(cid, batch.get(cid))))
    with suppress(Corrupt, WrongKind):
        found = version.load(batch, other)
        assert isinstance(found, Version) and version.put_version(batch, found) == other


def test_trees_round_trip() -> None:
    batch = new_batch()
    for tree in (Tree(EMPTY_DIR), Tree(EMPTY_DIR._replace(data=NODE, total=(2, 0, 0)), NODE)):
        cid = version.put_tree(batch, tree)
        assert version.load(batch, cid) == version.load_tree(batch, cid) == tree
        assert version.tree_cid(batch, cid) == cid
        later = version.put_version(batch, Version(cid, frozenset(), 5))
        assert version.load_tree(batch, later) == tree and version.tree_cid(batch, later) == cid


ROOT = entries.encode(EMPTY_DIR)
GOOD_TREE = {"type": "tree", "format": 1, "root": ROOT}
GOOD_VERSION = {"type": "version", "format": 1, "tree": NODE, "previous": [], "time": 0}


@pytest.mark.parametrize(
    "doc",
    [
        {**GOOD_TREE, "format": True}, {**GOOD_TREE, "format": "1"}, {"type": "tree", "root": ROOT},
        {"type": "tree", "format": 1}, {**GOOD_TREE, "root": {"mode": 0, "mtime": 0}}, {**GOOD_TREE, "root": NODE},
        {**GOOD_TREE, "links": CHUNK}, {**GOOD_TREE, "links": None}, {**GOOD_TREE, "more": 1},
        {**GOOD_TREE, "root": {**ROOT, "uid": 0}},
        {**GOOD_VERSION, "tree": CHUNK}, {**GOOD_VERSION, "tree": None}, {**GOOD_VERSION, "previous": [CHUNK]},
        {**GOOD_VERSION, "previous": NODE}, {**GOOD_VERSION, "previous": [NODE, NODE]},
        {**GOOD_VERSION, "previous": {}},
        {**GOOD_VERSION, "previous": sorted(map(BLAKE3.node, (b"1", b"2")), reverse=True)},
        {**GOOD_VERSION, "time": 1.5}, {**GOOD_VERSION, "author": ""}, {**GOOD_VERSION, "author": b"me"},
        {**GOOD_VERSION, "message": 5}, {**GOOD_VERSION, "message": ""}, {**GOOD_VERSION, "more": 1},
        {**GOOD_VERSION, "line": NODE}, {**GOOD_VERSION, "line": NODE, "previous": [NODE]},
        {**GOOD_VERSION, "line": None}, {**GOOD_VERSION, "tombstones": None}, {**GOOD_VERSION, "tombstones": []},
        {**GOOD_VERSION, "conflicts": CHUNK}, {**GOOD_VERSION, "conflicts": [NODE]},
    ],
    ids=lambda doc: str(doc)[:80],
)  # fmt: skip
def test_broken(doc: dict[str, object]) -> None:
    batch = new_batch()
    with pytest.raises(Corrupt):
        version.load(batch, batch.put_doc(doc))


@pytest.mark.parametrize("doc", [{**GOOD_TREE, "format": 2}, {**GOOD_VERSION, "format": 99, "anything": 1}], ids=str)
def test_a_later_format_is_named(doc: dict[str, object]) -> None:
    batch = new_batch()
    with pytest.raises(WrongKind, match="newer monofs"):
        version.load(batch, batch.put_doc(doc))


def test_what_is_neither() -> None:
    batch = new_batch()
    leaf = batch.put_doc(["dir", 0, [[b"a", {"mode": 0, "mtime": 0}]]])
    with pytest.raises(WrongKind, match="inside a dir tree"):
        version.load(batch, leaf)
    with pytest.raises(WrongKind, match="content of a file"):
        version.load(batch, batch.put_raw(b"bytes"))
    for doc in ({}, [], 5, {"type": ["tree"]}, {"type": "map"}, ["x\n", 0, []]):
        with pytest.raises(WrongKind, match="some other node"):
            version.load(batch, batch.put_doc(doc))
    with pytest.raises(NotFound):
        version.load(batch, NODE)
    twice = version.put_version(
        batch, Version(version.put_version(batch, Version(NODE, frozenset(), 1)), frozenset(), 2)
    )
    with pytest.raises(Corrupt, match="version of a version"):
        version.load_tree(batch, twice)


def test_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert version.now() == 1_700_000_000 * 10**9
    for useless in ("soon", "", "-5", "²", "1.5", "9" * 5000):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", useless)
        assert 1_700_000_000 * 10**9 < version.now() < 1 << 62
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "9" * 18)
    batch = new_batch()
    late = Version(NODE, frozenset(), version.now())
    assert version.load(batch, version.put_version(batch, late)) == late


# Subtrees

DIRECTORIES = [b"", b"a", b"a/b", b"a-b", b"c"]
PATHS = [d + b"/" + n if d else n for d in DIRECTORIES for n in (b"1", b"2", b"3")]


def whole(batch: Batch, file_of: dict[bytes, int], base: bytes = b"") -> Tree:
    """A tree in which the paths with the same number are one file; of it, what lies below `base`."""
    prefix = base + b"/" if base else b""
    inside = {path[len(prefix) :]: n for path, n in file_of.items() if path.startswith(prefix)}
    groups = {n: tuple(sorted(p for p, m in inside.items() if m == n)) for n in inside.values()}
    made: dict[bytes, dict[bytes, Entry | None]] = {d[len(prefix) :]: {} for d in DIRECTORIES if d.startswith(prefix)}
    made[b""] = {}
    for path, n in inside.items():
        above, _, name = path.rpartition(b"/")
        made[above][name] = Entry("file", 0o644, mtime=n, nlink=len(groups[n]))
    while len(made) > 1:
        deepest = max(made, key=lambda path: (path.count(b"/"), path))
        above, _, name = deepest.rpartition(b"/")
        made[above][name] = directory.with_entries(batch, EMPTY_DIR, made.pop(deepest))
    root = directory.with_entries(batch, EMPTY_DIR, made[b""])
    return Tree(root, links.changed(batch, None, (), groups.values()))


@given(st.dictionaries(st.sampled_from(PATHS), st.integers(0, 6), min_size=1))
@examples(200)
def test_a_subtree_is_the_tree_of_its_files(file_of: dict[bytes, int]) -> None:
    """Hard links that lead out of it lose the paths outside, just as they do when only the directory is imported."""
    with tiny():
        batch = new_batch()
        tree = whole(batch, file_of)
        assert version.subtree(batch, tree, b"") == version.subtree(batch, tree, b"./") == tree
        for base in DIRECTORIES[1:]:
            assert version.subtree(batch, tree, b"/" + base + b"/") == whole(new_batch(), file_of, base)


def test_subtree_of_what_is_none() -> None:
    batch = new_batch()
    tree = whole(batch, {b"a/1": 0, b"a/b/1": 1})
    for path, error in ((b"none", NotFound), (b"a/..", NotFound), (b"a/1", WrongKind), (b"a/1/x", WrongKind)):
        with pytest.raises(error):
            version.subtree(batch, tree, path)


@pytest.mark.parametrize("path", [b"a/none", b"a/b", b"a/1/deeper"])
def test_links_to_what_is_not_there(path: bytes) -> None:
    batch = new_batch()
    tree = whole(batch, {b"a/1": 0, b"a/b/1": 1, b"c/1": 2})
    lie = tree._replace(links=links.changed(batch, None, (), [(path, b"c/1")]))
    with pytest.raises(Corrupt, match="hard link"):
        version.subtree(batch, lie, b"a")


# A whole forged tree, used in every way


def sample(batch: Batch, chunker: Chunker) -> Cid:
    def file(data: bytes, **more: object) -> Entry:
        made = files.from_bytes(batch, chunker, data)
        return Entry("file", 0o644, size=made.size, holes=made.holes, data=made.content)._replace(**more)

    large = entries.pack_xattrs(batch, [(b"user.a", bytes(700))])
    deep = directory.with_entries(batch, EMPTY_DIR, {b"x": file(b"12345678"), b"twin": file(b"same", nlink=2)})
    root = directory.with_entries(
        batch, EMPTY_DIR,
        {
            b"big": file(mixed(1, 900) + bytes(40) + mixed(2, 300)), b"chunk": file(b"one small chunk"),
            b"deep": deep, b"empty": file(b""), b"hole": file(bytes(99)), b"null": Entry("char", 0o666, rdev=(1, 3)),
            b"to": Entry("symlink", 0o777, size=3, data=b"big"), b"twin": file(b"same", nlink=2),
            b"tagged": file(b"t", xattrs=large), b"noted": file(b"n", xattrs=((b"user.n", b"1"),)),
        },
    )  # fmt: skip
    return version.put_tree(batch, Tree(root, links.changed(batch, None, (), [(b"deep/twin", b"twin")])))


def use(batch: Batch, chunker: Chunker, cid: Cid) -> None:
    tree = version.load_tree(batch, cid)
    for path, entry in list(islice(directory.walk(batch, tree.root), 200)):
        with suppress(Corrupt, WrongKind, NotFound, TooLarge):
            links.group(batch, tree.links, path)
        with suppress(Corrupt, WrongKind, NotFound, TooLarge):
            entries.unpack_xattrs(batch, entry)
        with suppress(Corrupt, WrongKind, NotFound, TooLarge):
            directory.with_paths(batch, tree.root, {path: entry})
        if entry.is_dir:
            with suppress(Corrupt, WrongKind, NotFound, TooLarge):
                part = version.subtree(batch, tree, path)
                assert len(list(islice(directory.walk(batch, part.root), 200))) < 200
        elif entry.kind == "file":
            with suppress(Corrupt, WrongKind, NotFound, TooLarge):
                use_file(batch, chunker, File.of(entry))


def use_file(batch: Batch, chunker: Chunker, file: File) -> None:
    assert len(list(islice(file.pieces(batch, 0, file.size), 2000))) < 2000
    assert len(file.read_at(batch, file.size // 2, 5000)) <= 5000
    for offset in (0, file.size // 2, max(0, file.size - 1)):
        draft = Draft(file)
        draft.write(offset, b"edit")
        sealed = drafts.seal(draft, batch, chunker)
        assert sealed.size == max(file.size, offset + 4)


@given(st.data())
@examples(250)
def test_forged_trees(data: st.DataObject) -> None:
    with tiny() as chunker:
        batch = new_batch()
        forgery = with_forged_node(data, batch, sample(batch, chunker))
        with suppress(Corrupt, WrongKind, NotFound, TooLarge):
            use(batch, chunker, forgery)


def test_the_sample_is_good_unless_forged() -> None:
    with tiny() as chunker:
        batch = new_batch()
        cid = sample(batch, chunker)
        tree = version.load_tree(batch, cid)
        assert len(list(directory.walk(batch, tree.root))) == 12
        assert links.group(batch, tree.links, b"twin") == (b"deep/twin", b"twin")
        for _, entry in directory.walk(batch, tree.root):
            if entry.kind == "file":
                use_file(batch, chunker, File.of(entry))
