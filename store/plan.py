"""A plan: what merging other histories into a name comes to. A value; `apply` makes it so in one change, or not at all.

The base is the best common ancestor through `previous`. If there are several (the sides have merged each other before),
the base is a tree that these make when they are merged with each other, in the same way again; where they disagree it
has nothing, so that what one side made of the disagreement is never taken for what both agreed on. If there is none, it
is the newest tree that both histories had at some time; if there is none of these either, there is no base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from store import cid as cids
from store import grouping, history, limits, merge, revision, successor, version
from store.batch import Batch
from store.chunker import Chunker
from store.cid import Cid
from store.conflicts import Conflict
from store.directory import names as split
from store.errors import NotFound, TooLarge, WrongKind
from store.merge import Side, Strategy
from store.names import Name
from store.repository import Repository, Target
from store.staging import Stage
from store.version import Tree, Version

Outcome = Literal["merged", "forward", "nothing"]
_LABEL_LETTERS: Final = 8  # of a CID, from its end: they all begin alike


class Other(NamedTuple):
    """What is merged in, and what to call it."""

    label: str
    version: Cid


class Base(NamedTuple):
    """What the sides began as, None for nothing, and the versions that it was made of.

    `once` are the tombstones that each side had then.
    """

    tree: Tree | None
    versions: tuple[Cid, ...] = ()
    once: tuple[Cid | None, Cid | None] = (None, None)


class Step(NamedTuple):
    """One other merged in: `version` is what the name points at then, `bases` what the base was made of."""

    other: Other
    outcome: Outcome
    bases: tuple[Cid, ...]
    version: Cid
    conflicts: Mapping[bytes, Conflict]


@dataclass(frozen=True, slots=True)
class Plan:
    """`name` is `old` and shall be `new`: its tree goes from `before` to `after`. `start` is a version of `before`."""

    name: str
    old: Name
    new: Name
    before: Cid
    after: Cid
    steps: tuple[Step, ...]
    start: Cid

    @property
    def conflicts(self) -> dict[bytes, Conflict]:
        return {path: one for step in self.steps for path, one in step.conflicts.items()}


def other(repository: Repository, batch: Batch, text: str) -> Other:
    """Return what a revision means, to be merged in. A tree without a version gets one. Raises NotFound, WrongKind."""
    target = repository.resolve(text)
    if split(target.path):
        raise WrongKind(f"'{text}' is a part of a tree; only whole trees can be merged")
    stem = next(revision.spellings(text)).stem.partition("~")[0].partition("@")[0]
    by_cid = target.name is None and (cids.looks_like(stem) or revision.is_prefix(stem))
    label = str(target.version or target.tree)[-_LABEL_LETTERS:] if by_cid else text.rstrip("/")
    return Other(label, _version(repository, batch, target))


def made(
    repository: Repository,
    batch: Batch,
    chunker: Chunker,
    name: str,
    others: Sequence[Other],
    *,
    base: Cid | None = None,
    strategy: Strategy = "merge",
    message: str = "",
) -> Plan:
    """Return the plan of merging `others` into `name`, one after the other. Its blocks are in `batch`, stored nowhere.

    `base` is a tree or a version that takes the place of the common ancestor. Raises NotFound, TooLarge.
    """
    old = repository.name(name)
    if old is None:
        raise NotFound(f"no name '{name}'; 'monofs names' lists them")
    start = ours = _saved(batch, old)
    steps: list[Step] = []
    for one in others:
        steps.append(step(batch, chunker, Other(name, ours), one, base=base, strategy=strategy, message=message))
        ours = steps[-1].version
    new = Name(ours, None, old.made_up) if ours != start else old
    after = version.load_version(batch, new.version).tree if new != old else repository.head(old)
    return Plan(name, old, new, repository.head(old), after, tuple(steps), start)


def caught_up(
    repository: Repository,
    batch: Batch,
    chunker: Chunker,
    planned: Plan,
    *,
    strategy: Strategy = "merge",
    message: str = "",
) -> Plan | None:
    """Return a plan for the name as it is by now, made of one for an earlier tree of it; `batch` must be the same.

    What was to be the result is merged with what was written meanwhile, which takes no longer than that is much. None
    if it is not only the tree of the name that has changed.
    """
    old = repository.name(planned.name)
    if old is None or old.version != planned.old.version or planned.new == planned.old:
        return None
    now = repository.head(old)
    others = [one.other for one in planned.steps if one.outcome != "nothing"]
    ours = Other(planned.name, successor.put(batch, now, [planned.start]))
    made = Other(others[0].label if len(others) == 1 else "merge", planned.new.version)
    # What the second side changed is looked at name by name, so that is ours. To a strategy it matters which is which.
    swapped: dict[Strategy, Strategy] = {"ours": "theirs", "theirs": "ours"}
    last = step(batch, chunker, made, ours, strategy=swapped.get(strategy, strategy))
    after = version.load_version(batch, last.version).tree
    start = _saved(batch, old)
    found = {**planned.conflicts, **last.conflicts}
    message = message or f"merge {', '.join(one.label for one in others)} into {planned.name}"
    cid = successor.put(batch, after, [start, *(one.version for one in others)], message=message, found=found)
    final = planned.steps[-1]
    steps = (*planned.steps[:-1], final._replace(version=cid, conflicts={**final.conflicts, **last.conflicts}))
    return Plan(planned.name, old, Name(cid, None, old.made_up), now, after, steps, start)


def _saved(batch: Batch, name: Name) -> Cid:
    """Return a version of the tree that a name has: what was only committed becomes one."""
    if name.head is None:
        return name.version
    return successor.put(batch, name.head, [name.version], message="saved before a merge")


def apply(repository: Repository, plan: Plan, batch: Batch, stage: Stage) -> None:
    """Make the name point at the merged version. Raises RootMoved if it is not as it was, Held if it is mounted."""
    if plan.new != plan.old:
        repository.set_name(plan.name, plan.old, plan.new, batch, stage)


def step(
    batch: Batch,
    chunker: Chunker,
    ours: Other,
    theirs: Other,
    *,
    base: Cid | None = None,
    strategy: Strategy = "merge",
    message: str = "",
) -> Step:
    """Return what merging one version into another comes to."""
    return _Planner(batch, chunker, base, strategy).step(ours, theirs, message)


class _Planner:
    def __init__(self, batch: Batch, chunker: Chunker, base: Cid | None, strategy: Strategy) -> None:
        self._batch, self._chunker, self._strategy = batch, chunker, strategy
        self._given = base
        self._rounds = 0

    def step(self, ours: Other, theirs: Other, message: str) -> Step:
        batch = self._batch
        bases = history.bases(batch, ours.version, theirs.version) if self._given is None else []
        if theirs.version in bases:
            return Step(theirs, "nothing", (theirs.version,), ours.version, {})
        if ours.version in bases:
            return Step(theirs, "forward", (ours.version,), theirs.version, {})
        base = self._base(ours.version, theirs.version, bases)
        tree, found = self._merged(base, ours, theirs, self._strategy)
        made = successor.put(
            batch,
            version.put_tree(batch, tree),
            [ours.version, theirs.version],
            message=message or f"merge {theirs.label} into {ours.label}",
            found=found,
        )
        return Step(theirs, "merged", base.versions, made, found)

    def _merged(self, base: Base, ours: Other, theirs: Other, strategy: Strategy) -> tuple[Tree, dict[bytes, Conflict]]:
        trees = self._tree(ours.version), self._tree(theirs.version)
        sides = [self._side(one, tree, once) for one, tree, once in zip((ours, theirs), trees, base.once)]
        root = base.tree.root if base.tree is not None else None
        merged = merge.merge(self._batch, self._chunker, root, sides[0], sides[1], strategy=strategy)
        grouped = grouping.grouped(self._batch, base.tree, trees, merged, (ours.label, theirs.label))
        return grouped.tree, {**grouped.conflicts, **merged.conflicts}

    def _side(self, one: Other, tree: Tree, once: Cid | None) -> Side:
        found = version.load_version(self._batch, one.version)
        return Side(one.label, tree.root, (found.time, one.version), found.tombstones, once)

    def _tree(self, cid: Cid) -> Tree:
        return version.load_tree(self._batch, cid)

    # The base

    def _base(self, ours: Cid, theirs: Cid, bases: list[Cid]) -> Base:
        if self._given is not None:
            return self._base_of(self._given)
        if not bases:
            return self._alike(ours, theirs)
        return self._base_of(self._agreed(bases))._replace(versions=tuple(bases))

    def _base_of(self, cid: Cid) -> Base:
        found = version.load(self._batch, cid)
        once = found.tombstones if isinstance(found, Version) else None
        return Base(self._tree(cid), (cid,), (once, once))

    def _agreed(self, bases: Sequence[Cid]) -> Cid:
        """Return a version of what these agree on."""
        self._rounds += len(bases) - 1
        if self._rounds > limits.merge_rounds_max:
            raise TooLarge(
                f"these histories merged each other over {limits.merge_rounds_max} times; give the base: --base"
            )
        agreed, *rest = sorted(bases, key=lambda cid: (version.load_version(self._batch, cid).time, cid))
        for cid in rest:
            below = history.bases(self._batch, agreed, cid)
            base = self._base_of(self._agreed(below)) if below else Base(None)
            found, _ = self._merged(base, Other("", agreed), Other("", cid), "drop")
            made = version.put_tree(self._batch, found)
            agreed = successor.put(self._batch, made, [agreed, cid])
        return agreed

    def _alike(self, ours: Cid, theirs: Cid) -> Base:
        """Return the newest tree that both histories had."""
        of_tree: dict[Cid, tuple[Cid, Version]] = {}
        for cid, found in history.ancestors(self._batch, ours):
            of_tree.setdefault(found.tree, (cid, found))
        for cid, found in history.ancestors(self._batch, theirs):
            if (same := of_tree.get(found.tree)) is not None:
                once = same[1].tombstones, found.tombstones
                return Base(self._tree(cid), tuple(sorted({same[0], cid})), once)
        return Base(None)


def _version(repository: Repository, batch: Batch, target: Target) -> Cid:
    if target.version is not None:
        return target.version
    before = repository.name(target.name) if target.name is not None else None
    return successor.put(batch, target.tree, [before.version] if before is not None else [], message="")
