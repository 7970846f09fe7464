"""Pruning: what stays is as it was, what goes takes no space, and merges still find what histories have in common."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import blocks, check, history, prune, retention, version
from store.cid import Cid
from store.errors import Held, NotFound, RootMoved
from store.prune import _rewritten
from store.repository import Repository
from store.version import Version
from tests.store.histories import History, tree
from tests.store.models import examples, new_batch
from tests.store.test_history import graphs, made

DAY = 86_400 * 10**9


def identities(past: History, cids: list[Cid]) -> set[Cid]:
    return {version.identity(cid, past.version(cid)) for cid in cids}


@pytest.mark.parametrize("clocks_lie", [False, True])
@examples(300)
@given(data=st.data())
def test_common_ancestors_survive(clocks_lie: bool, data: st.DataObject) -> None:
    """Whatever is kept on one side or both, the best common ancestors are the best of those kept."""
    graph = data.draw(graphs)
    past, cids, above = made(graph, clocks_lie=clocks_lie)
    sides = [data.draw(st.integers(0, len(graph) - 1)) for _ in range(2)]
    left = []
    pruned = []
    for side in sides:
        kept = {number for number in above[side] if number == side or data.draw(st.booleans())}
        everything = dict(history.ancestors(past.batch, cids[side]))
        new = _rewritten(past.batch, everything, {cids[number] for number in kept})
        pruned.append(new[cids[side]])
        left.append(kept)
        after = dict(history.ancestors(past.batch, pruned[-1]))
        assert identities(past, list(after)) == {cids[number] for number in kept}
        for cid, one in after.items():
            old = past.version(version.identity(cid, one))
            assert (one.tree, one.time) == (old.tree, old.time)
            assert one.line is None or one.line in one.previous
    common = left[0] & left[1]
    best = {number for number in common if not any(number in above[other] and number != other for other in common)}
    for one, other in (pruned, pruned[::-1]):
        assert identities(past, history.bases(past.batch, one, other)) == {cids[number] for number in best}


def test_the_line_goes_on_over_a_gap() -> None:
    past = History(new_batch())
    first, side = past.bare(1), past.bare(2)
    ours = past.bare(3, first)
    merge = version.put_version(past.batch, past.version(past.bare(4, ours, side))._replace(line=ours))
    last = past.bare(5, merge)
    everything = dict(history.ancestors(past.batch, last))
    new = _rewritten(past.batch, everything, {first, side, last})
    assert past.version(new[last]) == past.version(last)._replace(
        previous=frozenset((first, side)), line=first, origin=last
    )
    assert [cid for cid, _ in history.line(past.batch, new[last])] == [new[last], first]


# In a store


def days(repository: Repository, count: int, rng: random.Random, name: str = "n") -> list[Version]:
    """Give a name a version a day, each with a file of its own and one that all share."""
    shared = rng.randbytes(50_000)
    for day in range(count):
        batch, stage = repository.batch("test")
        content = {"shared": shared, "own": rng.randbytes(20_000), f"of/{day}": f"{day}" * 500}
        cid = version.put_tree(batch, tree(batch, content))
        repository.publish(name, cid, batch, stage, old=repository.name(name))
        record = repository.name(name)
        assert record is not None
        batch, stage = repository.batch("test")
        dated = version.put_version(batch, repository.version(record)._replace(time=day * DAY))
        repository.set_name(name, record, record._replace(version=dated), batch, stage)
    collected(repository)
    return versions(repository, name)


def versions(repository: Repository, name: str = "n") -> list[Version]:
    record = repository.name(name)
    assert record is not None
    return [one for _, one in history.ancestors(repository.cache, record.version)]


def collected(repository: Repository) -> tuple[int, int]:
    *_, freed = blocks.collect(repository.store, 7)
    return freed.blocks, freed.bytes


def test_what_is_told_is_freed_and_the_rest_is_there(repository: Repository, rng: random.Random) -> None:
    before = days(repository, 10, rng)
    plan = prune.plan(repository, "n", retention.parse("last=2,weekly=2"))
    told = plan.freed(repository)
    assert [one.time // DAY for _, one in plan.kept] == [9, 8, 3]
    assert [one.time // DAY for _, one in plan.dropped] == [7, 6, 5, 4, 2, 1, 0]
    assert versions(repository) == before, "a plan changes nothing"
    prune.apply(repository, plan)
    assert collected(repository) == (told.blocks, told.bytes)
    assert told.bytes > 7 * 20_000
    after = versions(repository)
    assert [(one.tree, one.time) for one in after] == [(before[place].tree, before[place].time) for place in (0, 1, 6)]
    assert check.examine(repository.store).is_clean
    again = prune.plan(repository, "n", retention.parse("last=2,weekly=2"))
    assert not again.dropped and not again.blocks and again.old == again.new
    assert again.freed(repository) == blocks.Freed(0, 0, 0)


def test_what_another_name_has_is_not_freed(repository: Repository, rng: random.Random) -> None:
    days(repository, 5, rng)
    record = repository.name("n")
    assert record is not None
    batch, stage = repository.batch("test")
    repository.set_name("fork", None, record, batch, stage)
    plan = prune.plan(repository, "n", retention.parse("last=1"))
    assert len(plan.dropped) == 4 and plan.freed(repository).blocks == 0
    prune.apply(repository, plan)
    assert collected(repository) == (0, 0)
    assert len(versions(repository, "fork")) == 5 and len(versions(repository)) == 1
    assert history.bases(repository.cache, *(name.version for _, name in repository.names())) != []


def test_whoever_changed_the_name_meanwhile_wins(repository: Repository, rng: random.Random) -> None:
    days(repository, 3, rng)
    plan = prune.plan(repository, "n", retention.parse("last=1"))
    days(repository, 1, rng)
    before = versions(repository)
    with pytest.raises(RootMoved):
        prune.apply(repository, plan)
    assert versions(repository) == before


def test_a_mounted_name_is_left_to_its_mount(repository: Repository, rng: random.Random, tmp_path: Path) -> None:
    last = days(repository, 3, rng)[0]
    repository.lease("n", last.tree, str(tmp_path), "")
    with pytest.raises(Held):
        prune.apply(repository, prune.plan(repository, "n", retention.parse("last=1")))
    assert len(versions(repository)) == 3


def test_a_name_that_is_not_there(repository: Repository) -> None:
    with pytest.raises(NotFound, match="no name"):
        prune.plan(repository, "nobody", retention.parse("last=1"))
