"""Transplants: the path is as it was, everything else is as it is, to the CID."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import directory, transplant, version
from store.batch import Batch
from store.errors import NotFound, WrongKind
from store.version import Tree
from tests.store.histories import tree
from tests.store.models import examples, new_batch

PATHS = ["a", "b", "d/a", "d/b", "d/e/a", "d/e/b", "f/a"]
contents = st.dictionaries(st.sampled_from(PATHS), st.integers(0, 3).map(str))


@st.composite
def trees(draw: st.DrawFn) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """Files, and those of them that are one file."""
    files = draw(contents)
    groups = []
    rest = sorted(files)
    while len(rest) > 1 and draw(st.booleans()):
        group = tuple(draw(st.lists(st.sampled_from(rest), min_size=2, max_size=3, unique=True)))
        groups.append(group)
        rest = [path for path in rest if path not in group]
        files.update(dict.fromkeys(group, files[group[0]]))
    return files, groups


def is_in(path: str, at: str) -> bool:
    return path == at or path.startswith(at + "/")


def made(batch: Batch, now: str, then: str) -> Tree:
    return transplant.made(batch, tree(batch, {now: "now"}), tree(batch, {then: "then"}), then.encode())


@examples(500)
@given(trees(), trees(), st.sampled_from([*PATHS, "d", "d/e", "f"]))
def test_a_transplant_is_what_an_import_of_it_would_be(
    now: tuple[dict[str, str], list[tuple[str, ...]]], then: tuple[dict[str, str], list[tuple[str, ...]]], at: str
) -> None:
    batch = new_batch()
    trees = [tree(batch, *side) for side in (now, then)]
    if not any(is_in(path, at) for path in then[0]):
        with pytest.raises(NotFound):
            transplant.made(batch, *trees, at.encode())
        return
    files = {path: text for path, text in now[0].items() if not is_in(path, at)}
    files |= {path: text for path, text in then[0].items() if is_in(path, at)}
    groups = [tuple(path for path in group if not is_in(path, at)) for group in now[1]]
    groups += [tuple(path for path in group if is_in(path, at)) for group in then[1]]
    wanted = tree(batch, files, [group for group in groups if len(group) > 1])
    found = transplant.made(batch, *trees, at.encode())
    emptied = {path for path, entry in directory.walk(batch, found.root) if entry.is_dir and entry.data is None}
    assert not emptied, "a directory that the transplant needs has something in it"
    assert version.put_tree(batch, found) == version.put_tree(batch, wanted)


def test_the_whole_tree() -> None:
    batch = new_batch()
    now, then = tree(batch, {"a": "1"}), tree(batch, {"b": "2", "c": "2"}, [("b", "c")])
    assert transplant.made(batch, now, then, b"") == transplant.made(batch, now, then, b"/.") == then


def test_a_file_in_the_way_of_a_directory_stays() -> None:
    batch = new_batch()
    with pytest.raises(WrongKind, match="'d' is a file now; move it"):
        made(batch, "d", "d/a")


def test_a_directory_in_the_place_of_a_file_goes() -> None:
    batch = new_batch()
    assert version.put_tree(batch, made(batch, "d/a", "d")) == version.put_tree(batch, tree(batch, {"d": "then"}))


def test_what_was_not_there_then() -> None:
    batch = new_batch()
    with pytest.raises(NotFound, match="no 'd/x' in this tree"):
        transplant.made(batch, tree(batch, {"d/x": "1"}), tree(batch, {"d/a": "2"}), b"d/x")
