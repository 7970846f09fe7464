"""Conflicts: they stay in the versions that follow until they are resolved, and forged ones are corrupt."""

from __future__ import annotations

import pytest

from store import conflicts, limits, successor, version
from store.cid import BLAKE3, Cid
from store.conflicts import Conflict
from store.errors import Corrupt
from tests.store.histories import History, tree
from tests.store.models import new_batch

BOTH, KEPT = Conflict("content", "a", "b", b"d/f~b"), Conflict("deleted", "a", "b", None, "more")


def told(past: History, cid: Cid, path: bytes = b"") -> dict[bytes, Conflict]:
    return dict(conflicts.below(past.batch, past.version(cid).conflicts, path))


@pytest.fixture
def past() -> History:
    return History(new_batch())


@pytest.fixture
def first(past: History) -> Cid:
    made = version.put_tree(past.batch, tree(past.batch, {"d/f": "1", "d/f~b": "2", "g": "3"}))
    before = past.bare(0)
    return successor.put(past.batch, made, [before], found={b"d/f": BOTH, b"g": KEPT})


def test_they_are_taken_over_until_they_are_resolved(past: History, first: Cid) -> None:
    assert told(past, first) == {b"d/f": BOTH, b"g": KEPT}
    assert told(past, first, b"d") == told(past, first, b"d/f") == {b"d/f": BOTH} and told(past, first, b"d/") == {}
    same = past.commit({"d/f": "changed", "d/f~b": "2", "g": "3", "new": ""}, first)
    assert told(past, same) == told(past, first)
    assert told(past, past.commit({"d/f": "1", "g": "3"}, same)) == {b"g": KEPT}
    assert told(past, past.commit({"d/f": "1", "d/f~b": "2"}, same)) == {b"d/f": BOTH}
    assert past.version(past.commit({"d/f~b": "2"}, same)).conflicts is None
    left = conflicts.without(past.batch, past.version(same).conflicts, [b"g"])
    marked = successor.with_marks(past.batch, same, None, left, "resolved")
    assert told(past, marked) == {b"d/f": BOTH} and past.version(marked).previous == {same}
    assert past.version(marked).tree == past.version(same).tree


def test_a_path_that_is_too_long_is_left_out(past: History) -> None:
    long = b"/".join([b"n" * 255] * 260)
    assert len(long) > limits.link_path_bytes_max
    assert conflicts.put(past.batch, {long: KEPT, b"": KEPT}) is None


GOOD = {"kind": "content", "stands": "a", "other": "b"}


@pytest.mark.parametrize(
    "doc",
    [
        {}, {"kind": "content"}, {**GOOD, "kind": "luck"}, {**GOOD, "kind": []}, {**GOOD, "stands": 1},
        {**GOOD, "other": b"b"}, {**GOOD, "copy": b"../x"}, {**GOOD, "copy": b""}, {**GOOD, "copy": "text"},
        {**GOOD, "copy": None}, {**GOOD, "copy": BLAKE3.raw(b"")}, {**GOOD, "detail": ""}, {**GOOD, "more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_broken_ones_are_corrupt(doc: dict[str, object]) -> None:
    batch = new_batch()
    with pytest.raises(Corrupt):
        list(conflicts.below(batch, batch.put_doc(["conflicts", 0, [[b"a", doc]]])))
