"""Hard links against a plain partition of paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import limits, links, tree
from store.batch import Batch
from store.cid import Cid
from store.errors import Corrupt
from store.links import Group
from store.nodes import LINKS
from tests.store.models import examples, new_batch, stored, tiny

PATHS = [b"%s/%s" % (d, n) for d in (b"a", b"a/b", b"a-b", b"z") for n in (b"1", b"2", b"3", b"4")] + [
    b"0",
    b"a.",
    b"zz",
]

partitions = st.dictionaries(st.sampled_from(PATHS), st.integers(0, 5)).map(
    lambda files: {tuple(sorted(p for p, f in files.items() if f == file)) for file in set(files.values())}
)


def check(batch: Batch, root: Cid | None, groups: set[Group]) -> None:
    linked = {paths for paths in groups if len(paths) > 1}
    by_path = {path: paths for paths in linked for path in paths}
    for path in PATHS:
        assert links.group(batch, root, path) == by_path.get(path, (path,))
    for directory in (b"", b"a", b"a/b", b"z", b"none", b"a/b/1"):
        prefix = directory + b"/" if directory else b""
        found = list(links.groups_below(batch, root, directory))
        assert len(found) == len(set(found))
        assert set(found) == {paths for paths in linked if any(p.startswith(prefix) for p in paths)}
    assert root == links.changed(new_batch(), None, (), linked)


@given(st.lists(partitions, min_size=1, max_size=4))
@examples(300)
def test_changes_equal_a_fresh_tree(steps: list[set[Group]]) -> None:
    with tiny():
        batch, root, groups = new_batch(), None, set[Group]()
        for wanted in steps:
            root = links.changed(batch, root, groups - wanted, wanted - groups)
            groups = wanted
            check(batch, root, groups)


def test_a_large_group() -> None:
    made = new_batch()
    paths = tuple(b"dir/%05d" % n for n in range(1_500))
    root = links.changed(made, None, (), [paths[::-1]])
    store = stored(made)
    assert links.group(store, root, paths[1234]) == paths
    assert list(links.groups_below(store, root, b"dir")) == [paths]
    batch = Batch(store)
    smaller = links.changed(batch, root, [paths], [paths[1:]])  # one name less
    assert links.group(batch, smaller, paths[-1]) == paths[1:]
    new = [cid for cid in batch.blocks if not store.has(cid)]
    assert len(new) <= 6, "whatever the size of a group, only the nodes at its ends are new"


def test_paths_too_long_for_the_tree_are_files_of_their_own() -> None:
    batch = new_batch()
    long = b"/".join([b"d" * 254] * 258)
    assert len(long) > limits.link_path_bytes_max
    assert links.changed(batch, None, (), [(b"a", long)]) is None
    assert links.changed(batch, None, (), [(b"a",)]) is None


def ring(batch: Batch, **following: bytes) -> Cid:
    pairs = [(path.encode(), [path.encode(), to]) for path, to in sorted(following.items())]
    root = tree.build(batch, LINKS, pairs)
    assert root is not None
    return root


@pytest.mark.parametrize(
    "following",
    [
        {"a": b"b", "b": b"c", "c": b"b"},  # never back at the start
        {"a": b"b", "b": b"b"},
        {"a": b"b"},  # leads nowhere
        {"a": b"c", "b": b"a", "c": b"b", "d": b"a"},  # down twice, and a path that only leads in
        {"a": b"b", "b": b"c", "c": b"d", "d": b"c"},
        {"a": b"d", "b": b"c", "c": b"b", "d": b"b"},
    ],
    ids=str,
)
def test_what_is_no_ring_is_refused(following: dict[str, bytes]) -> None:
    batch = new_batch()
    root = ring(batch, **following)
    with pytest.raises(Corrupt):
        for path in following:
            links.group(batch, root, path.encode())
    with pytest.raises(Corrupt):
        list(links.groups_below(batch, root, b""))


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh"), min_size=1))
@examples(500)
def test_any_map_of_paths_comes_to_an_end(following: dict[str, str]) -> None:
    batch = new_batch()
    root = ring(batch, **{path: to.encode() for path, to in following.items()})
    for path in "abcdefgh":
        try:
            found = links.group(batch, root, path.encode())
        except Corrupt:
            continue
        assert path.encode() in found and list(found) == sorted(set(found))
        ring_of = [path.decode() for path in found]
        if path in following:  # the ring as the format has it, found from any of its paths
            assert [following[p] for p in ring_of] == ring_of[1:] + ring_of[:1]
            assert all(links.group(batch, root, other) == found for other in found)
