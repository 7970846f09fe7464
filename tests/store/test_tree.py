"""The balanced tree against a sorted dict: its shape is a function of its items, and an edit touches O(depth) nodes."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate, groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import codec, limits, tree
from store.batch import Batch
from store.cid import BLAKE3, Cid
from store.errors import WrongKind
from store.nodes import DIRECTORY, FILE, LINKS, Flavor, Item, Key
from tests.store.models import examples, mixed, new_batch, tiny

CHUNKS = [BLAKE3.raw(bytes((n,))) for n in range(6)]
SUBTREE = BLAKE3.node(b"a directory")


def leaves(batch: Batch, flavor: Flavor, root: Cid | None) -> list[Item]:
    """Read the whole tree without tree.py and hold every node to the rules of the format; returns all items."""
    row, level = ([] if root is None else [root]), None
    while row:
        nodes = [codec.decode(cid, batch.get(cid)) for cid in row]
        assert all(len(batch.get(cid)) <= limits.block_bytes_max for cid in row)
        (name,), (here,) = {node[0] for node in nodes}, {node[1] for node in nodes}  # one level: equal depth
        assert name == flavor.name and (level is None or here == level - 1)
        items: list[Item] = [item for node in nodes for item in node[2]]
        check_boundaries(flavor, here, [node[2] for node in nodes])
        if here == 0:
            return items
        assert level is not None or len(items) > 1, "a root with a single child"
        row, level = [item[1] for item in items], here
    return []


def check_boundaries(flavor: Flavor, level: int, nodes: list[list[Item]]) -> None:
    """The boundary rule once more, from the text of FORMAT.md."""
    for number, items in enumerate(nodes):
        size = 0
        for count, item in enumerate(items, 1):
            size += len(codec.encode(item))
            marked = count >= limits.node_items_min and not flavor.label(item)[level] & limits.node_boundary_mask
            ends = marked or (count >= 2 and size >= limits.node_bytes_soft)
            last = count == len(items)
            assert not ends or last, "a node goes on behind a boundary"
            assert ends or not last or number == len(nodes) - 1, "a node ends without a boundary"


def check(batch: Batch, flavor: Flavor, root: Cid | None, model: Mapping[Key, Item]) -> None:
    """Hold the tree to a dict with the same items, and its root to that of a tree built afresh."""
    pairs = sorted(model.items(), key=lambda pair: pair[0])
    assert leaves(batch, flavor, root) == [item for _, item in pairs]
    assert root == tree.build(new_batch(), flavor, pairs)
    assert list(tree.items(batch, flavor, root)) == pairs
    assert tree.totals(batch, flavor, root) == flavor.totals(0, [item for _, item in pairs])


def check_lookups(batch: Batch, flavor: Flavor, root: Cid | None, model: Mapping[Key, Item], probes: list[Key]) -> None:
    pairs = sorted(model.items(), key=lambda pair: pair[0])
    keys = [key for key, _ in pairs]
    for probe in probes:
        assert tree.find(batch, flavor, root, probe) == model.get(probe)
        assert list(tree.seek(batch, flavor, root, probe)) == pairs[bisect_left(keys, probe) :]


# Named trees: directories and links

names = st.one_of(st.integers(0, 400).map(b"%03d".__mod__), st.binary(min_size=1, max_size=3)).filter(
    lambda name: name not in (b".", b"..") and not {0, 0x2F}.intersection(name)
)
files = st.builds(lambda size: {"mode": 0o644, "mtime": 0, "size": size}, st.integers(1, limits.file_bytes_max))
directories = st.builds(
    lambda *total: {"kind": "dir", "mode": 0o755, "mtime": 0, "data": SUBTREE, "total": list(total)},
    *(st.sampled_from([0, 1, 70_000, limits.file_bytes_max]) for _ in range(3)),
)
entries = st.one_of(files, directories, st.just({"mode": 0, "mtime": 1}))
paths = st.lists(names, min_size=1, max_size=3).map(b"/".join)

named = pytest.mark.parametrize(
    ("flavor", "keys", "values"), [(DIRECTORY, names, entries), (LINKS, paths, paths)], ids=["directory", "links"]
)


@named
@given(st.data())
@examples(250)
def test_named_edits_equal_a_fresh_build(
    flavor: Flavor, keys: st.SearchStrategy[bytes], values: st.SearchStrategy[object], data: st.DataObject
) -> None:
    with tiny():
        batch, root, model = new_batch(), None, dict[Key, Item]()
        rounds = data.draw(st.lists(st.dictionaries(keys, values, max_size=60), min_size=1, max_size=4), "set")
        for wanted in rounds:
            gone = data.draw(st.sets(st.sampled_from(sorted(model))) if model else st.just(set()), "removed")
            gone |= data.draw(st.sets(keys, max_size=3), "removed, may not be there")
            changes: dict[Key, Item | None] = dict.fromkeys(gone)
            changes |= {key: [key, value] for key, value in wanted.items()}
            root = tree.edit(batch, flavor, root, changes)
            model = {key: item for key, item in (model | changes).items() if item is not None}
            check(batch, flavor, root, model)
        check_lookups(batch, flavor, root, model, [*sorted(model)[::7], *data.draw(st.lists(keys, max_size=4))])


@given(st.dictionaries(names, files, min_size=1, max_size=80), st.randoms(use_true_random=False))
@examples(150)
def test_order_of_edits_does_not_matter(wanted: dict[bytes, object], order: random.Random) -> None:
    with tiny():
        batch, root = new_batch(), None
        steps: list[tuple[bytes, Item | None]] = [(key, [key, value]) for key, value in wanted.items()]
        order.shuffle(steps)
        passing = order.sample(sorted(wanted), len(wanted) // 3)  # these come, go and come back
        for key, item in [*steps, *((key, None) for key in passing), *((key, [key, wanted[key]]) for key in passing)]:
            root = tree.edit(batch, DIRECTORY, root, {key: item})
        check(batch, DIRECTORY, root, {key: [key, value] for key, value in wanted.items()})


def test_removing_everything_gives_no_tree() -> None:
    with tiny():
        batch = new_batch()
        pairs: list[tuple[Key, Item]] = [(b"%03d" % n, [b"%03d" % n, {"mode": 0, "mtime": n}]) for n in range(200)]
        root = tree.build(batch, DIRECTORY, pairs)
        assert tree.edit(batch, DIRECTORY, root, {key: None for key, _ in pairs}) is None
        assert tree.edit(batch, DIRECTORY, root, {key: None for key, _ in pairs[1:]}) == tree.build(
            new_batch(), DIRECTORY, pairs[:1]
        )
        assert tree.edit(batch, DIRECTORY, None, {b"x": None}) is None
        assert tree.totals(batch, DIRECTORY, None) == (0, 0, 0)


# File content

lengths = st.integers(1, 9)
pieces = st.tuples(lengths, st.sampled_from([None, *CHUNKS])).map(list)


def by_end(items: list[Item]) -> dict[Key, Item]:
    return dict(zip(accumulate(item[0] for item in items), items, strict=True))


@given(st.lists(pieces, max_size=120), st.data())
@examples(500)
def test_file_edits_equal_a_fresh_build(items: list[Item], data: st.DataObject) -> None:
    with tiny():
        batch = new_batch()
        root = tree.build(batch, FILE, by_end(items).items())
        for _ in range(data.draw(st.integers(1, 4), "edits")):
            first = data.draw(st.integers(0, len(items)), "from")
            last = data.draw(st.integers(first, len(items)), "to")
            new = data.draw(st.lists(pieces, max_size=40), "new")
            if last < len(items):  # what follows keeps its place, so the length may not change
                new = trimmed(new, sum(item[0] for item in items[first:last]))
            before = sum(item[0] for item in items[:first])
            changes: dict[Key, Item | None] = {before + end: None for end in by_end(items[first:last])}
            changes |= {before + end: item for end, item in by_end(new).items()}
            root = tree.edit(batch, FILE, root, changes)
            items = items[:first] + new + items[last:]
            check(batch, FILE, root, by_end(items))
        size = sum(item[0] for item in items)
        check_lookups(batch, FILE, root, by_end(items), [0, 1, size, size + 1, *data.draw(st.lists(lengths))])


def trimmed(items: list[Item], length: int) -> list[Item]:
    """Return the first of `items`, as long together as `length`."""
    out: list[Item] = []
    for size, cid in items:
        if size < length:
            out.append([size, cid])
            length -= size
    return [*out, [length, CHUNKS[0]]] if length else out


# The real format


def big_directory(count: int) -> list[tuple[Key, Item]]:
    rng = random.Random(5)
    return [
        (name, [name, {"mode": 0o644, "mtime": rng.randrange(1 << 60), "size": 1 + n, "data": BLAKE3.raw(name)}])
        for n, name in enumerate(b"file-%06d" % n for n in range(count))
    ]


def test_one_edit_in_100000_items_rewrites_one_node_a_level() -> None:
    pairs = big_directory(100_000)
    batch = new_batch()
    root = tree.build(batch, DIRECTORY, pairs)
    assert root is not None
    depth = tree.load(batch, DIRECTORY, root).level + 1
    assert depth == 3
    rng, made = random.Random(6), []
    for key, item in rng.sample(pairs, 40):
        middle = rng.choice([{key: [key, {**item[1], "size": 7}]}, {key: None}, {key + b"+": [key + b"+", item[1]]}])
        have = set(batch.blocks)
        tree.edit(batch, DIRECTORY, root, middle)
        made.append(len(batch.blocks.keys() - have))
    # An edit rewrites one node on each level; one more where a boundary comes or goes, which one edit in ~50 does.
    assert max(made) <= 2 * depth and sum(made) <= (depth + 0.5) * len(made), made


def test_node_sizes() -> None:
    batch = new_batch()
    tree.build(batch, DIRECTORY, big_directory(20_000))
    sizes = sorted(map(len, batch.blocks.values()))
    assert sizes[-1] < limits.node_bytes_soft + 1024
    assert 5_000 < sum(sizes) / len(sizes) < 20_000  # a node of ~96 entries


@pytest.mark.parametrize("flavor", [DIRECTORY, LINKS], ids=["directory", "links"])
def test_largest_items_fit_into_blocks(flavor: Flavor) -> None:
    def item(n: int) -> Item:
        if flavor is LINKS:
            path = b"/".join([b"%03d" % n, *[b"x" * 251] * 260])[: limits.link_path_bytes_max]
            return [path, path]
        name = b"%03d" % n + b"n" * 252
        xattrs = [[b"user.a", bytes(limits.xattr_bytes_inline - 20)]]
        return [name, {"kind": "symlink", "mode": 0, "mtime": 0, "data": b"t" * 4095, "size": 4095, "xattrs": xattrs}]

    batch = new_batch()
    pairs = [(item(n)[0], item(n)) for n in range(60)]
    root = tree.build(batch, flavor, pairs)
    assert leaves(batch, flavor, root) == [item for _, item in pairs]
    edited = tree.edit(batch, flavor, root, {pairs[30][0]: None})
    assert edited == tree.build(new_batch(), flavor, pairs[:30] + pairs[31:])


def test_names_that_never_mark_a_boundary_still_make_bounded_nodes() -> None:
    """Someone who picks names by their hash gets large nodes, but not larger than a block."""
    marks = ([b"%06d" % n, {"mode": 0, "mtime": 0}] for n in range(40_000))
    unmarked = [(i[0], i) for i in marks if DIRECTORY.label(i)[0] & limits.node_boundary_mask]
    batch = new_batch()
    root = tree.build(batch, DIRECTORY, unmarked)
    assert len(leaves(batch, DIRECTORY, root)) == len(unmarked)
    assert max(map(len, batch.blocks.values())) < limits.node_bytes_soft + 1024


def test_equal_chunks_make_a_balanced_tree() -> None:
    """All chunks of a file may be the same one: its label is the same everywhere."""
    for chunk in (BLAKE3.raw(b""), next(c for c in map(BLAKE3.raw, map(bytes, range(1, 999))) if not c[4] & 63)):
        batch = new_batch()
        items = [[limits.chunk_bytes_max, chunk]] * 30_000
        root = tree.build(batch, FILE, by_end(items).items())
        assert leaves(batch, FILE, root) == items
        assert len(batch.blocks) < 6


def test_totals_stop_at_the_limit() -> None:
    """Three sparse files are larger together than 63 bits can say; the directory is as good as any other."""
    batch = new_batch()
    entry = {"mode": 0, "mtime": 0, "size": limits.file_bytes_max, "holes": limits.file_bytes_max}
    pairs = [(b"%04d" % n, [b"%04d" % n, entry]) for n in range(3000)]
    root = tree.build(batch, DIRECTORY, pairs)
    assert tree.totals(batch, DIRECTORY, root) == (3000, limits.file_bytes_max, 0)
    assert list(tree.items(batch, DIRECTORY, root)) == pairs


def test_flavors_do_not_mix() -> None:
    batch = new_batch()
    root = tree.build(batch, LINKS, [(b"a", [b"a", b"b"])])
    with pytest.raises(WrongKind, match="'links'"):
        tree.find(batch, DIRECTORY, root, b"a")
    with pytest.raises(WrongKind, match="plain bytes"):
        tree.find(batch, DIRECTORY, batch.put_raw(mixed(1, 10)), b"a")


def test_every_piece_of_a_run_is_found() -> None:
    """Labels repeat in the tiny format; runs of one flavour of item are where shapes go wrong first."""
    with tiny():
        for count in range(1, 80):
            for chunk in CHUNKS:
                items = [[3, chunk]] * count
                batch = new_batch()
                root = tree.build(batch, FILE, by_end(items).items())
                assert [len(list(group)) for _, group in groupby(leaves(batch, FILE, root))] == [count]
                shorter = tree.edit(batch, FILE, root, {3 * count: None})
                check(batch, FILE, shorter, by_end(items[:-1]))
