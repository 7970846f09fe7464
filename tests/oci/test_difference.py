"""Layers made of trees: laid upon the old tree they give the new one, here and in umoci."""

from __future__ import annotations

import io
import os
import random
import subprocess
from pathlib import Path

import pytest

from store import diff, directory
from store.batch import Batch
from store.blocks import Change
from store.cache import Cache
from store.errors import TooLarge
from store.importer import import_directory
from store.memory_store import MemoryStore
from store.oci import difference, limits, overlay
from store.oci.errors import BadImage
from store.oci.unpack import read_layer
from store.version import Tree
from tests.oci.layouts import E, Layout, d, f, hard, ln, tar, unpacked
from tests.oci.test_overlay import layer
from tests.suites import trees


def tree(batch: Batch, *layers: list[E]) -> Tree:
    made = overlay.EMPTY
    for rows in layers:
        made = overlay.apply(batch, made, read_layer(batch, iter([tar(rows)])))
    return made


def between(batch: Batch, old: Tree | None, new: Tree) -> bytes:
    out = io.BytesIO()
    assert difference.write_layer(batch, old, new, out) == ()
    return out.getvalue()


def batch() -> Batch:
    return Batch(Cache(MemoryStore()))


PAIRS = {
    "nothing": ([d("."), f("a")], [d("."), f("a")]),
    "added": ([d(".")], [d("."), d("a", 0o700), f("a/b", b"1"), ln("l", "a"), E("p", "fifo")]),
    "gone": ([d("."), d("a"), d("a/b"), f("a/b/c"), f("x")], [d("."), d("a")]),
    "changed": ([d("."), f("a", b"1"), d("d"), f("d/x")], [d(".", 0o700), f("a", b"2"), d("d", uid=4), f("d/x")]),
    "kinds": (
        [d("."), f("a"), d("b"), f("b/c"), ln("l", "b"), d("e"), d("e/f")],
        [d("."), d("a"), f("a/n"), f("b"), d("l"), f("l/c"), ln("e", "a")],
    ),
    "links": (
        [d("."), f("a"), hard("b", "a"), f("c", b"2"), hard("d", "c"), hard("e", "c"), f("x", b"3"), f("y", b"3")],
        [d("."), f("a"), f("b"), f("c", b"2"), hard("d", "c"), f("x", b"3"), hard("y", "x"), hard("z", "a")],
    ),
    "links that change partners": (
        [d("."), f("a", b"1"), hard("b", "a"), f("c", b"1"), hard("e", "c")],
        [d("."), f("a", b"1"), hard("c", "a"), f("b", b"1"), hard("e", "b")],
    ),
    "deep": (
        [d("."), d("a", 0o711), d("a/b", 0o700), f("a/b/c"), f("a/b/d")],
        [d("."), d("a", 0o711), d("a/b", 0o700), f("a/b/c")],
    ),
    "a name that goes on": ([d("."), d("a"), f("a/x"), f("a.b"), d("ab"), f("ab/y")], [d("."), f("a.b"), d("ab")]),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_a_difference_makes_the_new_of_the_old(name: str, tmp_path: Path) -> None:
    work = batch()
    old, new = (tree(work, rows) for rows in PAIRS[name])
    made = between(work, old, new)
    assert overlay.apply(work, old, read_layer(work, iter([made]))) == new
    assert made == between(work, old, new)
    if os.geteuid() == 0:
        layout = Layout(tmp_path / "image")
        layout.image([between(work, None, old), made])
        facts = trees.facts(unpacked(layout, tmp_path / "bundle"))
        wanted = dict(directory.walk(work, new.root))
        assert facts.keys() == wanted.keys() | {b""}
        for path, entry in wanted.items():
            assert (facts[path].mode & 0o7777, facts[path].uid) == (entry.mode, entry.uid)


def test_random_trees(rng: random.Random) -> None:
    work = batch()
    made = [overlay.EMPTY]
    while len(made) < 40:
        try:
            files: list[str] = []
            made.append(tree(work, *(layer(rng, files) for _ in range(3))))
        except BadImage:
            continue
    for old in rng.sample(made, 12):
        for new in rng.sample(made, 12):
            data = between(work, old, new)
            assert overlay.apply(work, old, read_layer(work, iter([data]))) == new


def test_a_tree_with_everything(tmp_path: Path, rng: random.Random) -> None:
    trees.build(tmp_path / "tree", rng)
    subprocess.run(["rm", "-rf", tmp_path / "tree/_deep"], check=True)  # see the next test
    store = MemoryStore()
    work = Batch(Cache(store))
    got = import_directory(work, tmp_path / "tree")
    store.apply(Change(work.blocks))
    out = io.BytesIO()
    skipped = difference.write_layer(work, None, got.tree, out)
    data = out.getvalue()
    back = overlay.apply(
        work, overlay.EMPTY, read_layer(work, (data[n : n + 65536] for n in range(0, len(data), 65536)))
    )
    lost = {found.path for found in diff.compare(work, got.tree.root, back.root)}
    assert lost == {path for path, _ in skipped}  # sockets, names of attributes that are no text, and nothing else
    assert all(reason.startswith("a tar archive cannot hold") for _, reason in skipped)


def test_too_deep_for_an_image() -> None:
    work = batch()
    deep = directory.with_entries(work, overlay.EMPTY.root, {b"x": overlay.EMPTY.root})
    for _ in range(limits.depth_max):
        deep = directory.with_entries(work, overlay.EMPTY.root, {b"x": deep})
    with pytest.raises(TooLarge, match="1024 names"):
        between(work, None, Tree(deep))


def test_a_name_too_long_to_take_away() -> None:
    work = batch()
    with pytest.raises(TooLarge):
        between(work, tree(work, [f("n" * 252)]), tree(work, [d(".")]))
