"""Directories against a dict of paths."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import directory, limits
from store.batch import Batch
from store.cid import BLAKE3
from store.entry import Entry
from store.errors import Corrupt, NotFound, TooLarge, WrongKind
from tests.store.models import deep, examples, new_batch, stored, tiny

LINK = Entry("symlink", 0o777, size=1, data=b"d")
odd_names = st.sampled_from([b"a", b"b", b"a-", b"a.", b"\xff\xfe", b"A", b"0"])
names = st.one_of(odd_names, st.integers(0, 99).map(b"%d".__mod__))
files = st.builds(lambda n: Entry("file", 0o644, size=n, data=b"x" * n or None), st.integers(0, 4))
Tree = dict[bytes, "Entry | Tree"]
trees = st.recursive(
    st.dictionaries(names, files, max_size=9),
    lambda inner: st.dictionaries(names, st.one_of(files, inner), max_size=7),
    max_leaves=12,
)


def made(batch: Batch, tree: Tree, root: Entry = Entry("dir", 0o755)) -> Entry:  # noqa: B008
    """The directory of a nested dict, put together with `with_entries`."""
    children = {name: made(batch, child) if isinstance(child, dict) else child for name, child in tree.items()}
    return directory.with_entries(batch, root, children)


def flat(tree: Tree, prefix: bytes = b"") -> dict[bytes, Entry | Tree]:
    found: dict[bytes, Entry | Tree] = {}
    for name, child in tree.items():
        found[prefix + name] = child
        if isinstance(child, dict):
            found |= flat(child, prefix + name + b"/")
    return found


def order(path: bytes) -> list[bytes]:
    """A directory comes before what it holds, and that before its next name."""
    return path.split(b"/")


@given(trees)
@examples(120)
def test_walk_and_totals(tree: Tree) -> None:
    with tiny():
        batch = new_batch()
        root = made(batch, tree)
        expected = flat(tree)
        walked = list(directory.walk(batch, root))
        assert [path for path, _ in walked] == sorted(expected, key=order)
        for path, entry in walked:
            assert entry.is_dir is isinstance(expected[path], dict)
            assert directory.resolve(batch, root, path) == directory.find(batch, root, path) == entry
        sizes = sum(entry.size for _, entry in walked if not entry.is_dir)
        assert root.total == (len(walked), sizes, sum(isinstance(child, dict) for child in tree.values()))
        assert [path for path, _ in directory.walk(batch, root, b"x/y")] == [b"x/y/" + path for path, _ in walked]


@given(trees, st.data())
@examples(120)
def test_edits_equal_a_fresh_directory(tree: Tree, data: st.DataObject) -> None:
    with tiny():
        batch = new_batch()
        root, model = made(batch, tree), dict(tree)
        for _ in range(data.draw(st.integers(1, 4))):
            changes = data.draw(st.dictionaries(names, st.one_of(st.none(), files), max_size=8))
            root = directory.with_entries(batch, root, changes)
            model = {name: child for name, child in (model | changes).items() if child is not None}
            assert root == made(new_batch(), model)
            assert [name for name, _ in directory.entries(batch, root)] == sorted(model)
            for name in (b"a", b"b", b"none"):
                child = model.get(name)
                assert directory.lookup(batch, root, name) == (made(batch, child) if isinstance(child, dict) else child)
                assert [n for n, _ in directory.entries(batch, root, name)] == sorted(n for n in model if n > name)
        assert directory.with_entries(batch, root, dict.fromkeys(model)) == Entry("dir", 0o755)


@given(trees)
@examples(60)
def test_builder_equals_with_entries(tree: Tree) -> None:
    with tiny():
        batch = new_batch()
        builder = directory.Builder(batch)
        for name in sorted(tree):
            child = tree[name]
            builder.add(name, made(batch, child) if isinstance(child, dict) else child)
        metadata = Entry("dir", 0o700, uid=5, mtime=9)
        assert builder.finish(metadata) == made(batch, tree, metadata)


@given(trees, st.data())
@examples(80)
def test_with_paths(tree: Tree, data: st.DataObject) -> None:
    with tiny():
        batch = new_batch()
        paths = [path for path, child in flat(tree).items() if not isinstance(child, dict)]
        chosen = data.draw(st.sets(st.sampled_from(paths)) if paths else st.just(set()))
        new = Entry("file", 0o600, mtime=77, nlink=3)
        found = directory.with_paths(batch, made(batch, tree), dict.fromkeys(chosen, new))

        def replaced(tree: Tree, prefix: bytes = b"") -> Tree:
            return {
                name: replaced(child, prefix + name + b"/") if isinstance(child, dict)
                else new if prefix + name in chosen else child
                for name, child in tree.items()
            }  # fmt: skip

        assert found == made(new_batch(), replaced(tree))


def test_resolve() -> None:
    batch = new_batch()
    root = made(batch, {b"d": {b"e": {b"f": Entry("file", 0o644)}}, b"link": LINK})
    file = directory.resolve(batch, root, b"d/e/f")
    assert file == Entry("file", 0o644)
    assert directory.resolve(batch, root, b"") is root
    for path in (b"/d//e/./f", b"d/e/f/", b"./d/e/f"):
        assert directory.resolve(batch, root, path) == file
    for path in (b"d/x", b"x/y", b"d/../d", b"..", b"d\0", b"D"):
        with pytest.raises(NotFound):
            directory.resolve(batch, root, path)
    for path in (b"d/e/f/g", b"link/e"):
        with pytest.raises(WrongKind):
            directory.resolve(batch, root, path)
    with pytest.raises(WrongKind):
        directory.lookup(batch, file, b"x")
    assert directory.find(batch, root, b"d/e/f/g") is directory.find(batch, root, b"x/y") is None


def test_bad_names_are_our_own_mistake() -> None:
    for name in (b"", b".", b"..", b"a/b", b"a\0", b"n" * 256):
        with pytest.raises(AssertionError):
            directory.with_entries(new_batch(), Entry("dir", 0o755), {name: Entry("file", 0o644)})


def test_a_message_shows_any_path() -> None:
    assert directory.printable("ä/ö".encode()) == "ä/ö"
    assert directory.printable(b"\xff\n\x1b[0m") == "\\xff\\n\\x1b[0m"
    assert directory.printable("\u202e\U000e0001".encode()).isprintable()


def chain(batch: Batch, depth: int, name: bytes) -> Entry:
    entry = Entry("dir", 0o755)
    for _ in range(depth):
        entry = directory.with_entries(batch, entry, {name: entry})
    return entry


def test_walk_goes_to_any_depth_that_is_allowed() -> None:
    batch = new_batch()
    root = chain(batch, limits.depth_max, b"d")
    source = stored(batch)
    *_, (deepest, _) = directory.walk(source, root)
    assert deepest == b"/".join([b"d"] * limits.depth_max)
    deeper = directory.with_entries(batch, root, {b"d": root})
    with pytest.raises(TooLarge, match=str(limits.depth_max)):
        for _ in directory.walk(stored(batch), deeper):
            pass


def test_a_bomb_is_walked_bit_by_bit() -> None:
    """A few nodes can stand for more files than there are atoms; looking at the first of them costs nothing."""
    batch, entry = new_batch(), Entry("dir", 0o755)
    for _ in range(200):
        entry = directory.with_entries(batch, entry, {b"a": entry, b"b": entry})
    assert entry.total[0] == limits.file_bytes_max
    assert len(list(islice(directory.walk(stored(batch), entry), 1000))) == 1000


@pytest.mark.parametrize("doc", [{"mode": 0}, {"mode": 0, "mtime": 0, "kind": "x"}, {"mode": 0, "mtime": 0, "size": 9}])
def test_a_forged_entry_is_corrupt_where_it_is_read(doc: dict[str, object]) -> None:
    batch = new_batch()
    leaf = batch.put_doc(["dir", 0, [[b"bad", doc], [b"good", {"mode": 0, "mtime": 0}]]])
    root = Entry("dir", 0o755, data=leaf, total=(2, 0, 0))
    assert directory.lookup(batch, root, b"good") == Entry("file", 0)
    for read in (lambda: directory.lookup(batch, root, b"bad"), lambda: list(directory.walk(batch, root))):
        with pytest.raises(Corrupt) as caught:
            read()
        assert caught.value.cid == leaf


def test_missing_and_foreign_blocks() -> None:
    batch = new_batch()
    for cid, error in (
        (BLAKE3.node(b"nowhere"), NotFound),
        (batch.put_doc(deep()), WrongKind),
        (batch.put_doc(["links", 0, [[b"a", b"b"]]]), WrongKind),
        (batch.put_node(b"\xff"), Corrupt),
    ):
        with pytest.raises(error):
            directory.lookup(batch, Entry("dir", 0o755, data=cid, total=(1, 0, 0)), b"a")
