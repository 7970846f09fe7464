"""Whether a store is whole: every block is what its CID says, and every count what the references say."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from store import cid as cids
from store import codec, lease, limits, names, repository, shape
from store.blocks import Store
from store.bookmark import Bookmark
from store.cid import Cid
from store.directory import printable
from store.errors import BadCid, Corrupt
from store.layered_store import LayeredStore, seen_through
from store.ledger import RECORD_CID
from store.oci import images
from store.progress import SILENT, Progress
from store.repository import Repository
from store.shape import Shape, Shapes
from store.tables import Tables
from store.whereabouts import Place, places_of

Kind = Literal["corrupt", "missing", "shape", "count", "queue", "record", "held"]
Counts = dict[Cid, int]


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


def examine(
    store: Store,
    progress: Progress | None = None,
    begin: Bookmark | None = None,
    save: Callable[[Bookmark], None] | None = None,
) -> Report:
    """Read every block of the store as it is now, and recount all references. Others may go on writing meanwhile.

    Changes nothing. Holds a count for each block in memory. `progress` gets blocks as files without paths. With `begin`
    the bytes that were read then are not read again, but for those that were bad; nodes are, for their links. `save` is
    told now and then how far this has come, and when it is interrupted.
    """
    usage = store.usage()
    watch = progress or SILENT
    watch.totals(usage.blocks, usage.plain)
    reading = _Reading(watch, begin, save)
    report = store.view(lambda tables: _examined(seen_through(store, tables), reading))
    if not isinstance(store, LayeredStore):
        return report
    unheld = (Problem("held", cid, "is needed here but not held in the base that has it") for cid in store.unheld())
    return Report(report.blocks, report.bytes, (*report.problems, *unheld))


def _examined(tables: Tables, reading: _Reading) -> Report:
    expected: Counts = {}
    corrupt: dict[Cid, str] = {}
    shapes: dict[Cid, str] = {}
    seen = Shapes()
    blocks = 0
    with closing(reading.blocks(tables)) as every:  # so that it can save its place at once
        for found in every:
            blocks += 1
            expected.setdefault(found.cid, 0)
            _count(expected, found.links)
            if found.problem:
                corrupt[found.cid] = found.problem
            if found.shape is not None:
                seen.see(found.cid, found.shape)
                if found.shape.problem:
                    shapes[found.cid] = found.shape.problem
    shapes.update((cid, "ends where no node may end") for cid in seen.torn())
    problems = _count_roots(tables, expected)
    missing = [cid for cid, count in expected.items() if count and not tables.has(cid)]
    places = places_of(tables, frozenset(corrupt).union(missing, shapes))
    problems += [Problem("corrupt", cid, f"is corrupt: {why}", places[cid]) for cid, why in corrupt.items()]
    problems += [Problem("missing", cid, "is missing", places[cid]) for cid in missing]
    problems += [Problem("shape", cid, f"is not canonical: {why}", places[cid]) for cid, why in shapes.items()]
    problems += _wrong_counts(tables, expected, any(cid.is_node for cid in (*corrupt, *missing)))
    return Report(blocks, reading.size, tuple(problems))


class _Reading:
    """One reading of all blocks, in the order of their CIDs: bytes first, then nodes."""

    def __init__(self, progress: Progress, begin: Bookmark | None, save: Callable[[Bookmark], None] | None) -> None:
        self.size = begin.size if begin else 0
        self._progress, self._begin, self._save = progress, begin, save
        self._last = begin.after if begin else None
        self._bad = set(begin.bad) if begin else set[Cid]()
        self._saved = self._raw_size = self.size
        if begin is not None:
            progress.advance(begin.size)

    def blocks(self, tables: Tables) -> Generator[_Found, None, None]:
        try:
            for found in _read(tables, self._skips):
                self.size += found.size
                self._progress.file(b"", found.size)
                self._progress.advance(found.size)
                if not found.cid.is_node and (self._last is None or found.cid > self._last):
                    self._note(found)
                if self.size - self._saved >= limits.check_bytes_per_save:
                    self.save()
                yield found
        except BaseException:
            self.save()
            raise

    def _note(self, found: _Found) -> None:
        self._last = found.cid
        if found.problem:
            self._bad.add(found.cid)  # to be read once more
        else:
            self._raw_size += found.size

    def save(self) -> None:
        if self._save is not None and self._last is not None:
            self._saved = self.size
            self._save(Bookmark(self._last, self._raw_size, frozenset(self._bad)))

    def _skips(self, cid: Cid) -> bool:
        begin = self._begin
        return begin is not None and not cid.is_node and cid <= begin.after and cid not in begin.bad


class _Found(NamedTuple):
    """What reading a block showed."""

    cid: Cid
    size: int
    links: frozenset[Cid]
    problem: str
    shape: Shape | None = None


_Load = tuple[Cid, Callable[[], bytes] | None]


def _read(tables: Tables, skips: Callable[[Cid], bool]) -> Iterator[_Found]:
    """Read and hash every block on all cores: zstd and the hash functions let go of the GIL."""
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads, thread_name_prefix="monofs-check") as pool:
        running: deque[Future[list[_Found]]] = deque()
        every = iter(tables.cids())
        while some := list(islice(every, limits.check_blocks_per_step)):
            loads = [(cid, None if skips(cid) else tables.load(cid)) for cid in some]
            running.append(pool.submit(_all_found, loads))
            if len(running) > 2 * threads:
                yield from running.popleft().result()
        for last in running:
            yield from last.result()


def _all_found(loads: Iterable[_Load]) -> list[_Found]:
    return [_found(cid, load) if load else _Found(cid, 0, frozenset(), "") for cid, load in loads]


def _found(cid: Cid, load: Callable[[], bytes]) -> _Found:
    size = 0
    try:
        cids.checked(cid)
        data = load()
        size = len(data)
        cids.verify(cid, data)
        return _Found(cid, size, codec.links(cid, data), "", shape.of(cid, data))
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
        elif key.startswith(images.IMAGE):
            images.decode(record)
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
