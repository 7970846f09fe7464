"""Histories: ancestors and best common ancestors are right, whatever the clocks said."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import history, limits, version
from store.cid import Cid
from store.errors import TooLarge, WrongKind
from tests.store.histories import History
from tests.store.models import examples, new_batch

# A graph: for each version its time and the numbers of those before it.
graphs = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        *(
            st.tuples(st.integers(0, 12), st.sets(st.integers(0, number - 1), max_size=3) if number else st.just(set()))
            for number in range(count)
        )
    )
)


def made(graph: tuple[tuple[int, set[int]], ...], *, clocks_lie: bool) -> tuple[History, list[Cid], list[set[int]]]:
    """Return the versions of a graph, and for each the numbers of itself and all before it."""
    past = History(new_batch())
    cids: list[Cid] = []
    above: list[set[int]] = []
    for number, (time, before) in enumerate(graph):
        # The number makes every version another one, although its tree is the same.
        when = (time if clocks_lie else number) * 100 + number
        cids.append(past.bare(when, *(cids[other] for other in before)))
        above.append({number}.union(*(above[other] for other in before)))
    return past, cids, above


@pytest.mark.parametrize("clocks_lie", [False, True])
@examples(300)
@given(data=st.data())
def test_ancestors_and_bases(clocks_lie: bool, data: st.DataObject) -> None:
    graph = data.draw(graphs)
    past, cids, above = made(graph, clocks_lie=clocks_lie)
    one, two = (data.draw(st.integers(0, len(graph) - 1)) for _ in range(2))
    found = [cid for cid, _ in history.ancestors(past.batch, cids[one])]
    assert len(found) == len(set(found)) and set(found) == {cids[number] for number in above[one]}
    assert history.is_ancestor(past.batch, cids[two], cids[one]) == (two in above[one])
    common = above[one] & above[two]
    best = {number for number in common if not any(number in above[other] and number != other for other in common)}
    assert history.bases(past.batch, cids[one], cids[two]) == sorted(cids[number] for number in best)
    assert history.bases(past.batch, cids[two], cids[one]) == sorted(cids[number] for number in best)


@pytest.mark.parametrize("clocks_lie", [False, True])
@examples(100)
@given(data=st.data())
def test_in_order(clocks_lie: bool, data: st.DataObject) -> None:
    graph = data.draw(graphs)
    past, cids, above = made(graph, clocks_lie=clocks_lie)
    start = data.draw(st.integers(0, len(graph) - 1))
    everything = dict(history.ancestors(past.batch, cids[start]))
    order = [cids.index(cid) for cid in history.in_order(everything)]
    assert set(order) == above[start] and len(order) == len(above[start])
    for place, number in enumerate(order):
        assert not above[number] & set(order[:place]), "one before that one came earlier"


def test_ancestors_come_newest_first() -> None:
    past = History(new_batch())
    first = past.bare(1)
    left, right = past.bare(2, first), past.bare(3, first)
    last = past.bare(4, left, right)
    assert [cid for cid, _ in history.ancestors(past.batch, last)] == [last, right, left, first]


def test_the_line_goes_back_where_the_name_was() -> None:
    past = History(new_batch())
    first = past.bare(1)
    old, newer = past.bare(2, first), past.bare(3, first)
    merge = past.bare(4, old, newer)
    lined = version.put_version(past.batch, past.version(merge)._replace(line=old))
    assert [cid for cid, _ in history.line(past.batch, lined)] == [lined, old, first]
    assert [cid for cid, _ in history.line(past.batch, merge)] == [merge, newer, first]


def test_a_common_ancestor_is_found_without_reading_what_is_before_it() -> None:
    past = History(new_batch())
    long: list[Cid] = [past.bare(0)]
    for number in range(500):
        long.append(past.bare(number + 1, long[-1]))
    left, right = past.bare(1000, long[-1]), past.bare(1001, long[-1])
    with mock.patch.object(version, "load_version", side_effect=version.load_version) as load:
        assert history.bases(past.batch, left, right) == [long[-1]]
    assert load.call_count < 10


def test_a_history_that_is_too_long_or_no_history() -> None:
    past = History(new_batch())
    last = past.bare(0)
    for number in range(50):
        last = past.bare(number + 1, last)
    with mock.patch.object(limits, "history_versions_max", 20):
        for ask in (
            lambda: list(history.ancestors(past.batch, last)),
            lambda: list(history.line(past.batch, last)),
            lambda: history.bases(past.batch, last, past.bare(5)),
        ):
            with pytest.raises(TooLarge, match="20 versions"):
                ask()
    with pytest.raises(WrongKind):
        history.bases(past.batch, last, past.version(last).tree)
