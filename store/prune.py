"""Pruning: a name's history without the versions that a policy lets go of.

Versions are blocks and never change, so those that come after a gap are made again, with what is left before them.
Each remembers which version it stands for (`Version.origin`): merges still find what two histories have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

from store import history, rehearsal, version
from store.batch import Batch
from store.blocks import Change, Freed
from store.cid import Cid
from store.errors import NotFound
from store.names import Name
from store.repository import Repository, name_change
from store.retention import Policy
from store.version import Version


class Plan(NamedTuple):
    """What pruning would do. `kept` and `dropped` are versions as they are now, the newest first."""

    name: str
    old: Name
    new: Name
    blocks: Mapping[Cid, bytes]  # of the versions that are made again
    kept: tuple[tuple[Cid, Version], ...]
    dropped: tuple[tuple[Cid, Version], ...]

    def freed(self, repository: Repository) -> Freed:
        """Return what will be freed: what only the dropped versions hold, and the blocks of those made again."""
        return rehearsal.freed_by(repository.store, self.change)

    @property
    def change(self) -> Change:
        return Change(self.blocks, (name_change(self.name, self.old, self.new),))


def plan(repository: Repository, name: str, policy: Policy) -> Plan:
    """Return what pruning `name` by `policy` would do. Nothing is written.

    The newest version always stays. Raises NotFound if there is no such name.
    """
    old = repository.name(name)
    if old is None:
        raise NotFound(f"no name '{name}'; 'monofs names' lists them")
    batch = Batch(repository.cache)
    all_ = dict(history.ancestors(batch, old.version))
    times = policy.kept(one.time for one in all_.values())
    # Of versions of one moment only the one that the name points at is sure to be meant.
    kept = {cid for cid, one in all_.items() if one.time in times} | {old.version}
    head = _rewritten(batch, all_, kept)[old.version]
    there = {cid: data for cid, data in batch.blocks.items() if cid not in all_}
    return Plan(
        name,
        old,
        old._replace(version=head),
        there,
        tuple((cid, one) for cid, one in all_.items() if cid in kept),
        tuple((cid, one) for cid, one in all_.items() if cid not in kept),
    )


def apply(repository: Repository, planned: Plan, *, leased: bool = False) -> None:
    """Carry out a plan, in one transaction; what it lets go of is deleted by the next gc.

    Raises RootMoved if the name was changed since it was planned, Held if it is mounted (the mount says `leased`).
    """
    batch, stage = repository.batch("prune")
    for data in planned.blocks.values():
        batch.put_node(data)
    repository.set_name(planned.name, planned.old, planned.new, batch, stage, leased=leased)


def _rewritten(batch: Batch, all_: Mapping[Cid, Version], kept: Set[Cid]) -> dict[Cid, Cid]:
    """Store the kept versions with only kept ones before them. Returns what each is now."""
    nearest: dict[Cid, frozenset[Cid]] = {}  # of every version: itself if it is kept, or the kept ones before it
    on_line: dict[Cid, Cid | None] = {}  # the one of these that is on its line
    new: dict[Cid, Cid] = {}
    for cid in reversed(history.in_order(all_)):
        one = all_[cid]
        before = frozenset[Cid]().union(*(nearest[previous] for previous in one.previous))
        earlier = one.line or max(one.previous, key=lambda previous: (all_[previous].time, previous), default=None)
        line = None if earlier is None else on_line[earlier]
        if cid not in kept:
            nearest[cid], on_line[cid] = before, line
            continue
        made = one
        if before != one.previous:
            made = one._replace(previous=before, line=line if len(before) > 1 else None, origin=one.origin or cid)
        new[cid] = on_line[cid] = version.put_version(batch, made)
        nearest[cid] = frozenset((new[cid],))
    return new
