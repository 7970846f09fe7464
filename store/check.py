"""Whether a store is whole: every block is what its CID says, and every count what the references say."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, NamedTuple

from store import cid as cids
from store import codec, lease, limits, names, repository
from store.blocks import Store
from store.cid import Cid
from store.directory import printable
from store.errors import BadCid, Corrupt, StoreError
from store.layered_store import seen_through
from store.ledger import RECORD_CID
from store.nodes import DIRECTORY, Node
from store.progress import SILENT, Progress
from store.repository import Repository
from store.tables import Tables

Kind = Literal["corrupt", "missing", "count", "queue", "record"]
Counts = dict[Cid, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block is needed. `root` is a name, a pinned CID, or who else holds it; `path` lies in its tree."""

    root: str
    path: bytes

    def __str__(self) -> str:
        return f"{self.root}/{printable(self.path)}" if self.path else self.root


@dataclass(frozen=True, slots=True)
class Problem:
    """`cid` is None if it is no single block's; of `places` there may be a few more than those that are told."""

    kind: Kind
    cid: Cid | None
    text: str
    places: tuple[Place, ...] = ()

    def __str__(self) -> str:
        block = f"block {self.cid} " if self.cid else ""
        told = ", ".join(map(str, self.places[: limits.check_places_max]))
        more = " and more" if len(self.places) > limits.check_places_max else ""
        return block + self.text + (f"; in {told}{more}" if told else "")


@dataclass(frozen=True, slots=True)
class Report:
    """What an examination found. `blocks` and `bytes` are how many were read."""

    blocks: int
    bytes: int
    problems: tuple[Problem, ...]

    @property
    def is_clean(self) -> bool:
        return not self.problems

    @property
    def corrupt(self) -> frozenset[Cid]:
        return frozenset(p.cid for p in self.problems if p.kind == "corrupt" and p.cid)


class Repaired(NamedTuple):
    """`lost` blocks were taken out, `rescued` trees pinned because nothing readable led to them any more."""

    counts: int
    lost: int
    rescued: tuple[Cid, ...]


# Examining


def examine(store: Store, progress: Progress | None = None) -> Report:
    """Read every block of the store as it is now, and recount all references. Others may go on writing meanwhile.

    Changes nothing. Holds a count for each block in memory. `progress` gets blocks as files without paths.
    """
    usage = store.usage()
    watch = progress or SILENT
    watch.totals(usage.blocks, usage.plain)
    return store.view(lambda tables: _examined(seen_through(store, tables), watch))


def _examined(tables: Tables, progress: Progress) -> Report:
    expected: Counts = {}
    corrupt: dict[Cid, str] = {}
    blocks = size = 0
    for found in _read(tables):
        blocks += 1
        size += found.size
        progress.file(b"", found.size)
        progress.advance(found.size)
        expected.setdefault(found.cid, 0)
        _count(expected, found.links)
        if found.problem:
            corrupt[found.cid] = found.problem
    problems = _count_roots(tables, expected)
    missing = [cid for cid, count in expected.items() if count and not tables.has(cid)]
    places = _places(tables, frozenset(corrupt).union(missing))
    problems += [Problem("corrupt", cid, f"is corrupt: {why}", places[cid]) for cid, why in corrupt.items()]
    problems += [Problem("missing", cid, "is missing", places[cid]) for cid in missing]
    problems += _wrong_counts(tables, expected, any(cid.is_node for cid in (*corrupt, *missing)))
    return Report(blocks, size, tuple(problems))


class _Found(NamedTuple):
    """What reading a block showed."""

    cid: Cid
    size: int
    links: frozenset[Cid]
    problem: str


_Load = tuple[Cid, Callable[[], bytes]]


def _read(tables: Tables) -> Iterator[_Found]:
    """Read and hash every block on all cores: zstd and the hash functions let go of the GIL."""
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads, thread_name_prefix="monofs-check") as pool:
        running: deque[Future[list[_Found]]] = deque()
        every = iter(tables.cids())
        while some := [(cid, tables.load(cid)) for cid in islice(every, limits.check_blocks_per_step)]:
            running.append(pool.submit(_all_found, some))
            if len(running) > 2 * threads:
                yield from running.popleft().result()
        for last in running:
            yield from last.result()


def _all_found(loads: Iterable[_Load]) -> list[_Found]:
    return [_found(cid, load) for cid, load in loads]


def _found(cid: Cid, load: Callable[[], bytes]) -> _Found:
    size = 0
    try:
        cids.checked(cid)
        data = load()
        size = len(data)
        cids.verify(cid, data)
        return _Found(cid, size, codec.links(cid, data), "")
    except Corrupt as error:
        return _Found(cid, size, frozenset(), error.why)
    except BadCid as error:
        return _Found(cid, size, frozenset(), str(error))


def _count(counts: Counts, links: Iterable[Cid]) -> None:
    for link in links:
        counts[link] = counts.get(link, 0) + 1


def _count_roots(tables: Tables, expected: Counts) -> list[Problem]:
    """Count what the roots refer to; returns those that cannot be read."""
    problems: list[Problem] = []
    for key, record in tables.roots():
        with suppress(Corrupt):
            _count(expected, codec.links_of_record(RECORD_CID, record))
        if damage := _damage(key, record):
            problems.append(Problem("record", None, f"the record of {printable(key)} is damaged: {damage}"))
    return problems


def _damage(key: bytes, record: bytes) -> str:
    """Return what is wrong with a root's record; empty if nothing is."""
    try:
        codec.links_of_record(RECORD_CID, record)
        if key.startswith(repository.NAME):
            names.decode(record)
        elif key.startswith(lease.PREFIX):
            lease.decode(key, record)
    except Corrupt as error:
        return error.why
    return ""


def _wrong_counts(tables: Tables, expected: Counts, links_unknown: bool) -> list[Problem]:
    problems: list[Problem] = []
    unknown = more = 0
    for problem, is_excess in _count_problems(tables, expected):
        if is_excess and links_unknown:
            unknown += 1
        elif len(problems) < limits.check_counts_max:
            problems.append(problem)
        else:
            more += 1
    if unknown:
        problems.append(Problem("count", None, f"{unknown} counts are too high for want of the nodes above"))
    if more:
        problems.append(Problem("count", None, f"{more} more counts are wrong"))
    return problems


def _count_problems(tables: Tables, expected: Counts) -> Iterator[tuple[Problem, bool]]:
    """Yield each wrong count, and whether it is too high."""
    queued = set(tables.queued())
    for cid, count in tables.counts():
        if not count:
            expected.setdefault(cid, 0)  # garbage that was lost; gc will take it out
    for cid, count in expected.items():
        found = tables.count(cid)
        if found != count:
            text = f"has {'no count' if found is None else f'count {found}'}, but {count} refer to it"
            yield Problem("count", cid, text), found is not None and found > count
        elif not count and cid not in queued:
            yield Problem("queue", cid, "is needed by nothing, but does not wait to be deleted"), False
    for cid, count in tables.counts():
        if cid not in expected:
            yield Problem("count", cid, f"has count {count}, but is not here and nothing refers to it"), True
    for cid in queued:
        if expected.get(cid) != 0:
            why = f"{expected[cid]} refer to it" if cid in expected else "is not here"
            yield Problem("queue", cid, f"waits to be deleted, but {why}"), False


# Where bad blocks are needed


def _places(tables: Tables, bad: frozenset[Cid]) -> dict[Cid, tuple[Place, ...]]:
    """Return the first few places of each bad block."""
    places: dict[Cid, list[Place]] = {cid: [] for cid in bad}
    if bad:
        above = _above(tables, bad)
        for root, starts in sorted(_roots(tables), key=_people_first):
            _walk(tables, root, starts, above, places)
    return {cid: tuple(found) for cid, found in places.items()}


def _above(tables: Tables, bad: frozenset[Cid]) -> set[Cid]:
    """Return the bad blocks and every node from which a root leads to one."""
    above, below = set(bad), set[Cid]()  # `below`: nodes with nothing bad under them
    for _, starts in _roots(tables):
        stack = [(RECORD_CID, iter(starts))]
        while stack:
            cid, links = stack[-1]
            for link in links:
                if link in above:
                    above.add(cid)
                elif link.is_node and link not in below:
                    stack.append((link, iter(codec.links(link, tables.load(link)()))))
                    break
            else:
                stack.pop()
                if cid not in above:
                    below.add(cid)
                elif stack:
                    above.add(stack[-1][0])
    return above


def _walk(tables: Tables, root: str, starts: Iterable[Cid], above: set[Cid], places: dict[Cid, list[Place]]) -> None:
    """Add the places of bad blocks below `starts`; of a tree that several versions share, those in the newest."""
    seen: set[tuple[Cid, bytes]] = set()
    todo = deque((start, root, b"") for start in starts)
    while todo:
        cid, label, path = todo.popleft()
        if cid not in above or (cid, path) in seen:
            continue
        seen.add((cid, path))
        if cid not in places:
            todo.extend(_below(root, label, path, cid, tables.load(cid)()))
        elif len(places[cid]) <= limits.check_places_max:
            places[cid].append(Place(label, path))


def _below(root: str, label: str, path: bytes, cid: Cid, data: bytes) -> Iterator[tuple[Cid, str, bytes]]:
    """Yield each link of a node, with the root and path that it belongs to."""
    doc = codec.decode(cid, data)
    if isinstance(doc, dict) and doc.get("type") == "version":
        previous = doc.get("previous")
        for link in sorted(codec.links(cid, data)):
            is_previous = isinstance(previous, list) and link in previous
            yield link, f"{root} (version {link})" if is_previous else label, path
        return
    leaf = _directory_leaf(cid, data)
    if leaf is None:
        yield from ((link, label, path) for link in sorted(codec.links(cid, data)))
        return
    for name, entry in leaf.items:
        here = path + b"/" + name if path else name
        yield from ((value, label, here) for value in entry.values() if isinstance(value, Cid))


def _directory_leaf(cid: Cid, data: bytes) -> Node | None:
    try:
        node = Node.decode(cid, data)
    except StoreError:
        return None
    return node if node.flavor is DIRECTORY and node.level == 0 else None


def _roots(tables: Tables) -> Iterator[tuple[str, list[Cid]]]:
    """Yield what people call each root, and what it refers to, the newest first."""
    for key, record in tables.roots():
        try:
            links = sorted(codec.links_of_record(RECORD_CID, record))
            if key.startswith(repository.NAME):
                version = names.decode(record).version
                links.sort(key=lambda link, version=version: link == version)  # type: ignore[misc]
            yield _called(key, record), links
        except Corrupt:
            continue


def _called(key: bytes, record: bytes) -> str:
    if key.startswith(lease.PREFIX):
        return _MOUNT + printable(os.fsencode(lease.decode(key, record).mountpoint))
    for prefix in (repository.NAME, repository.PIN):
        if key.startswith(prefix):
            return printable(key[len(prefix) :])
    return _HELD + printable(key)


_MOUNT: Final = "the mount on "
_HELD: Final = "what is held by "


def _people_first(root: tuple[str, list[Cid]]) -> tuple[bool, str]:
    return root[0].startswith((_MOUNT, _HELD)), root[0]


# Repairing


def repair(target: Repository, report: Report) -> Repaired:
    """Take out the blocks that `report` found corrupt, and recount everything, in one transaction.

    The bytes that are lost come back when the same content is stored again. What only a corrupt node led to is
    garbage then, but for whole trees: these are pinned.
    """
    return target.store.repair(lambda tables: _repaired(seen_through(target.store, tables), report.corrupt))


def _repaired(tables: Tables, suspects: frozenset[Cid]) -> Repaired:
    bad = {cid for cid in suspects if tables.has(cid) and _found(cid, tables.load(cid)).problem}
    expected: Counts = {}
    for cid in tables.cids():
        expected.setdefault(cid, 0)
        if cid.is_node and cid not in bad:
            found = _found(cid, tables.load(cid))
            _count(expected, found.links)
            if found.problem:
                bad.add(cid)
    for key in [key for key, record in tables.roots() if _damage(key, record)]:
        tables.set_root(key, None)
    _count_roots(tables, expected)
    for cid in bad:
        tables.lose(cid)
        if not expected[cid]:
            del expected[cid]
    rescued = tuple(cid for cid, count in expected.items() if not count and tables.count(cid) and _is_tree(tables, cid))
    for cid in rescued:
        tables.set_root(*repository.pin_root(cid))
        expected[cid] = 1
    return Repaired(_recount(tables, expected), len(bad), rescued)


def _recount(tables: Tables, expected: Counts) -> int:
    """Make counts and queue what they should be; returns how many counts were wrong."""
    strange = [cid for cid, _ in tables.counts() if cid not in expected]
    wrong = [(cid, count) for cid, count in expected.items() if tables.count(cid) != count]
    queued = set(tables.queued())
    for cid in strange:
        tables.drop_count(cid)
    for cid, count in wrong:
        tables.set_count(cid, count)
    for cid in queued:
        if expected.get(cid) != 0:
            tables.unqueue(cid)
    for cid, count in expected.items():
        if not count and cid not in queued:
            tables.queue(cid)
    return len(strange) + len(wrong)


def _is_tree(tables: Tables, cid: Cid) -> bool:
    if not cid.is_node:
        return False
    doc = codec.decode(cid, tables.load(cid)())
    return isinstance(doc, dict) and doc.get("type") in ("tree", "version")
