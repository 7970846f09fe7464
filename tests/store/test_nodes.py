"""Nodes that somebody else made: a node that breaks the format is refused, and nothing worse happens."""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import codec, limits, nodes, tree
from store.batch import Batch
from store.cache import Cache
from store.cid import BLAKE3, Cid
from store.codec import Doc
from store.errors import Corrupt, NotFound, StoreError, WrongKind
from store.nodes import DIRECTORY, FILE, LEVEL_MAX, LINKS, Flavor, Item, Key, Node, encode, good_name
from tests.store.models import JUNK, deep, examples, forged, new_batch, nodes_below, stored, tiny, with_forged_node

CHUNK = BLAKE3.raw(b"chunk")
NODE = BLAKE3.node(b"node")
ENTRY = {"mode": 0o644, "mtime": 0}


def decoded(doc: Doc) -> Node:
    data = codec.encode(doc)
    return Node.decode(BLAKE3.node(data), data)


@pytest.mark.parametrize(
    ("doc", "totals"),
    [
        (["dir", 0, [[b"a", ENTRY], [b"b", {**ENTRY, "size": 7}]]], (2, 7, 0)),
        (["dir", 0, [[b"d", {**ENTRY, "kind": "dir", "total": [5, 6, 1]}], [b"e", {"kind": "dir"}]]], (7, 6, 2)),
        (["dir", 1, [[b"m", NODE, 10, 20, 1], [b"z", NODE, 1, 2, 0]]], (11, 22, 1)),
        (["links", 0, [[b"a", b"d/e"], [b"d/e", b"a"]]], ()),
        (["links", 3, [[b"a/b", NODE]]], ()),
        (["file", 0, [[5, CHUNK], [100, None], [1, CHUNK]]], (106, 100)),
        (["file", 1, [[5, NODE, 0], [100, NODE, 100]]], (105, 100)),
    ],
)
def test_good_nodes(doc: Doc, totals: tuple[int, ...]) -> None:
    node = decoded(doc)
    assert (node.flavor.name, node.level, node.items, node.totals) == (*doc, totals)
    assert encode(node.flavor, node.level, [codec.encode(item) for item in node.items]) == codec.encode(doc)


@pytest.mark.parametrize(
    "doc",
    [
        ["dir", 0, []],
        ["dir", -1, [[b"a", ENTRY]]],
        ["dir", LEVEL_MAX + 1, [[b"a", NODE, 1, 1, 1]]],
        ["dir", True, [[b"a", NODE, 1, 1, 1]]],
        ["dir", 0, {}],
        ["dir", 0, [[b"b", ENTRY], [b"a", ENTRY]]],
        ["dir", 0, [[b"a", ENTRY], [b"a", ENTRY]]],
        *(["dir", 0, [[name, ENTRY]]] for name in (b"", b".", b"..", b"a/b", b"a\0", b"n" * 256, "a", 5, None)),
        ["dir", 0, [[b"a", ENTRY, 1]]],
        ["dir", 0, [[b"a"]]],
        ["dir", 0, [b"a"]],
        ["dir", 0, [[b"a", []]]],
        ["dir", 0, [[b"a", {**ENTRY, "size": -1}]]],
        ["dir", 0, [[b"a", {**ENTRY, "size": 1 << 63}]]],
        ["dir", 0, [[b"a", {**ENTRY, "size": b"1"}]]],
        ["dir", 0, [[b"a", {"kind": "dir", "total": [1, 2]}]]],
        ["dir", 0, [[b"a", {"kind": "dir", "total": [1, -2, 0]}]]],
        ["dir", 0, [[b"a", {"kind": "dir", "total": 5}]]],
        ["dir", 1, [[b"a", CHUNK, 1, 1, 1]]],
        ["dir", 1, [[b"a", NODE, 1, 1]]],
        ["dir", 1, [[b"a", NODE, 1, 1, -1]]],
        ["dir", 1, [[b"a", None, 1, 1, 1]]],
        ["links", 0, [[b"a", b""]]],
        ["links", 0, [[b"a", b"/a"]]],
        ["links", 0, [[b"a", b"b/../c"]]],
        ["links", 0, [[b"a//b", b"b"]]],
        ["links", 0, [[b"a", b"b", b"c"]]],
        ["links", 0, [[b"a", 5]]],
        ["links", 0, [[b"a/" * limits.link_path_bytes_max + b"a", b"b"]]],
        ["links", 1, [[b"a", NODE, 1]]],
        ["file", 0, [[0, CHUNK]]],
        ["file", 0, [[-5, CHUNK]]],
        ["file", 0, [[5, NODE]]],
        ["file", 0, [[5, b"bytes"]]],
        ["file", 0, [[5]]],
        ["file", 0, [[5.0, CHUNK]]],
        ["file", 0, [[(1 << 63) - 1, None], [1, CHUNK]]],
        ["file", 1, [[5, CHUNK, 0]]],
        ["file", 1, [[5, NODE, 6]]],
        ["file", 1, [[5, None, 5]]],
        ["file", 1, [[5, NODE]]],
    ],
    ids=lambda doc: str(doc)[:60],
)
def test_broken_nodes(doc: Doc) -> None:
    with pytest.raises(Corrupt) as caught:
        decoded(doc)
    assert str(caught.value).isprintable()


def test_other_documents() -> None:
    others: list[Doc] = [["tree", 0, []], [[], 0, []], [{}, 0, []], ["dir", 0], ["dir", 0, [], 0], {"type": "tree"}]
    for doc in (*JUNK, deep(), [deep(), 0, []], *others):
        with pytest.raises(WrongKind):
            decoded(doc)


def test_depth_inside_a_node() -> None:
    for doc in (
        ["dir", deep(), [[b"a", ENTRY]]],
        ["dir", 0, deep()],
        ["links", 0, [[b"a", deep()]]],
        ["file", 0, [[5, deep()]]],
    ):
        with pytest.raises(Corrupt):
            decoded(doc)


def test_bytes_are_no_node() -> None:
    with pytest.raises(WrongKind):
        Node.decode(BLAKE3.raw(b"\x83"), b"\x83")
    with pytest.raises(Corrupt):
        Node.decode(BLAKE3.node(b"\x83"), b"\x83")


@pytest.mark.parametrize("name", [b"a", b"...", b"a" * 255, b"\xff\n", b" ", b"-rf"])
def test_good_names(name: bytes) -> None:
    assert good_name(name)


# Whole trees in which one node lies


def sample(flavor: Flavor, batch: Batch) -> tuple[Cid, list[Key]]:
    if flavor is FILE:
        items = [[1 + n % 7, None if n % 5 == 0 else BLAKE3.raw(bytes((n,)))] for n in range(60)]
        ends = [sum(item[0] for item in items[: n + 1]) for n in range(60)]
        root = tree.build(batch, FILE, zip(ends, items))
        assert root is not None
        return root, list(ends)
    names = [b"%02d" % n for n in range(60)]
    values: list[object] = [*names[1:], names[0]] if flavor is LINKS else [{**ENTRY, "size": n} for n in range(1, 61)]
    root = tree.build(batch, flavor, ((name, [name, value]) for name, value in zip(names, values)))
    assert root is not None
    return root, list(names)


def use(batch: Batch, flavor: Flavor, root: Cid, keys: list[Key]) -> None:
    """Do everything that is done with trees. Only a StoreError may come of it, and it must come to an end."""
    with suppress(Corrupt, WrongKind, NotFound):
        found = list(islice(tree.items(batch, flavor, root), 1000))
        assert len(found) < 1000 and found == sorted(found, key=lambda pair: pair[0])
    for key in keys[::9]:
        with suppress(Corrupt, WrongKind, NotFound):
            tree.find(batch, flavor, root, key)
        with suppress(Corrupt, WrongKind, NotFound):
            assert len(list(islice(tree.seek(batch, flavor, root, key), 1000))) < 1000
        with suppress(Corrupt, WrongKind, NotFound):
            edited = tree.edit(batch, flavor, root, {key: None})
            assert edited is None or list(tree.items(batch, flavor, edited)) is not None
    with suppress(Corrupt, WrongKind, NotFound):
        tree.totals(batch, flavor, root)


@pytest.mark.parametrize("flavor", [DIRECTORY, LINKS, FILE], ids=["directory", "links", "file"])
@given(st.data())
@examples(250)
def test_forged_trees(flavor: Flavor, data: st.DataObject) -> None:
    with tiny():
        batch = new_batch()
        root, keys = sample(flavor, batch)
        use(batch, flavor, with_forged_node(data, batch, root), keys)


@given(st.data())
@examples(300)
def test_forged_nodes(data: st.DataObject) -> None:
    with tiny():
        batch = new_batch()
        flavor = data.draw(st.sampled_from([DIRECTORY, LINKS, FILE]))
        root, _ = sample(flavor, batch)
        cid = data.draw(st.sampled_from(nodes_below(batch, root)))
        doc = codec.decode(cid, batch.get(cid))
        with suppress(Corrupt, WrongKind):
            node = decoded(forged(data, doc))
            assert node.totals == node.flavor.totals(node.level, node.items)


@pytest.mark.parametrize("flavor", [DIRECTORY, LINKS, FILE], ids=["directory", "links", "file"])
def test_every_lie_of_a_parent_is_seen(flavor: Flavor) -> None:
    """Key, length, totals: what an inner item says of its child must be so."""
    with tiny():
        batch = new_batch()
        root, keys = sample(flavor, batch)
        _, level, items = codec.decode(root, batch.get(root))
        assert level >= 1
        wrong: list[Item] = [[*items[-1]] for field in range(len(items[-1])) if field != 1]
        for item, field in zip(wrong, (n for n in range(len(items[-1])) if n != 1)):
            item[field] = item[field] + (b"+" if isinstance(item[field], bytes) else 1)
            if flavor is FILE and field == 2:
                item[field] -= 2  # more holes than bytes would be seen at once
            lie = batch.put_doc([flavor.name, level, [*items[:-1], item]])
            with pytest.raises(Corrupt, match="its parent"):
                tree.find(batch, flavor, lie, keys[-1])


def test_a_child_that_reaches_into_its_neighbour_is_refused() -> None:
    """Sorted in itself, but not where it hangs: such names could be listed and not found, or the other way round."""
    batch = new_batch()
    first = batch.put_doc(["links", 0, [[b"a", b"b"], [b"m", b"n"]]])
    second = batch.put_doc(["links", 0, [[b"c", b"d"], [b"x", b"y"]]])
    root = batch.put_doc(["links", 1, [[b"m", first], [b"x", second]]])
    with pytest.raises(Corrupt, match="its parent"):
        list(tree.items(batch, LINKS, root))
    deeper = batch.put_doc(["links", 2, [[b"m", batch.put_doc(["links", 1, [[b"m", first]]])],
                                         [b"x", batch.put_doc(["links", 1, [[b"x", second]]])]]])  # fmt: skip
    with pytest.raises(Corrupt, match="its parent"):
        tree.find(batch, LINKS, deeper, b"x")


def test_levels_that_do_not_go_down_are_refused() -> None:
    batch = new_batch()
    leaf = batch.put_doc(["links", 0, [[b"a", b"b"]]])
    for level in (0, 2, 3, LEVEL_MAX):
        inner = batch.put_doc(["links", level, [[b"a", leaf]]]) if level else leaf
        root = batch.put_doc(["links", 2 if level != 2 else 1, [[b"a", inner]]])
        with pytest.raises((Corrupt, WrongKind)):
            list(tree.items(batch, LINKS, batch.put_doc(["links", 4, [[b"a", root]]])))


def test_large_forged_nodes_do_not_fill_the_memory() -> None:
    """The cache counts nodes, and one of a megabyte holds as much as a hundred good ones."""
    batch = new_batch()
    large = [batch.put_doc(["file", 0, [[n, None]] * 250_000]) for n in (1, 2)]
    small = batch.put_doc(["links", 0, [[b"a", b"b"]]])
    cache = Cache(stored(batch), node_count=60)
    first, second, third = cache.node(large[0]), cache.node(small), cache.node(large[1])
    assert cache.node(small) is second and cache.node(large[1]) is third
    assert cache.node(large[0]) is not first


def test_errors_are_store_errors() -> None:
    assert issubclass(Corrupt, StoreError) and issubclass(WrongKind, StoreError)


def test_what_is_plainly_good_is_good(rng: random.Random) -> None:
    """The quick look at a directory's leaf never lets through what the thorough one refuses."""
    names: list[Any] = [
        b"a",
        b"b",
        b"",
        b".",
        b"..",
        b"a/b",
        b"a\0",
        b"x" * 255,
        b"x" * 256,
        "text",
        7,
        None,
        b"...",
        b"\xff",
    ]
    entries: list[Any] = [{}, {"size": 5}, {"kind": "dir"}, {"kind": "dir", "total": [1, 2, 3]}, {"size": 2**63 - 1}]
    bad: list[Any] = [7, None, [], {"size": -1}, {"size": 2**63}, {"size": True}, {"size": "5"}, {"size": None}]
    bad += [{"kind": "dir", "total": total} for total in (7, [1, 2], [1, 2, -3], [1, 2, "3"], [1, 2, 2**63], (1, 2, 3))]
    quick = 0
    for _ in range(5000):
        count = rng.randrange(1, 5)
        chosen = rng.sample(names, count)
        if rng.random() < 0.8:
            chosen = sorted(name for name in chosen if isinstance(name, bytes)) or [b"z"]
        items: list[Any] = [[name, rng.choice(entries if rng.random() < 0.8 else entries + bad)] for name in chosen]
        if rng.random() < 0.1:
            items[0] = rng.choice([[], [b"a"], [b"a", {}, 1], 7, None, (b"a", {})])
        thorough = super(nodes.Directory, DIRECTORY).check(0, items)
        if nodes._are_plainly_entries(items):
            assert thorough is None, items
            quick += 1
        assert DIRECTORY.check(0, items) == thorough
    assert quick > 500
