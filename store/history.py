"""History: the versions before a version, through the sets of `previous`.

Times are what clocks said, and clocks lie: they decide in which order versions are read, never what is before what.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from store import directory, limits, version
from store.batch import Nodes
from store.cid import Cid
from store.entry import Entry
from store.errors import TooLarge
from store.version import Version

_OURS: Final = 1  # reached from ours
_THEIRS: Final = 2  # and from theirs
_STALE: Final = 4  # before a common ancestor
_BOTH: Final = _OURS | _THEIRS


def ancestors(source: Nodes, *starts: Cid) -> Iterator[tuple[Cid, Version]]:
    """Yield (CID, Version) of `starts` and all before them, each once, the newest of those known first.

    Holds what stands for each in memory. Raises TooLarge over `history_versions_max`.
    """
    heap = _Heap(source)
    seen: set[Cid] = set()
    new: Iterable[Cid] = starts
    while True:
        for cid in new:
            if cid not in seen:
                seen.add(cid)
                heap.push(cid)
        if len(seen) > limits.history_versions_max:
            raise _too_long()
        if not heap:
            return
        cid, found = heap.pop()
        yield cid, found
        new = found.previous


def line(source: Nodes, start: Cid) -> Iterator[tuple[Cid, Version]]:
    """Yield `start` and what its name pointed at before it, one after the other.

    Behind a version that does not say which of several previous ones that was, the newest.
    """
    cid: Cid | None = start
    for _ in range(limits.history_versions_max):
        if cid is None:
            return
        found = version.load_version(source, cid)
        yield cid, found
        cid = found.line or _newest(source, found.previous)
    raise _too_long()


def touching(source: Nodes, versions: Iterable[tuple[Cid, Version]], path: bytes) -> Iterator[tuple[Cid, Version]]:
    """Yield those in which `path` is not what it was in any of the versions right before. Looks at nothing below it."""
    for cid, one in versions:
        own = there(source, one, path)
        before = [there(source, version.load_version(source, previous), path) for previous in one.previous]
        if own not in before and (before or own is not None):
            yield cid, one


def there(source: Nodes, one: Version, path: bytes) -> Entry | None:
    """Return what a version has at `path`."""
    return directory.find(source, version.load_tree(source, one.tree).root, path)


def in_order(versions: Mapping[Cid, Version]) -> list[Cid]:
    """Return every version before all that are before it, whatever their clocks said; else the newest first.

    What is before them and not among them is left out.
    """
    after = Counter(before for one in versions.values() for before in one.previous if before in versions)
    heap = [(-one.time, cid) for cid, one in versions.items() if not after[cid]]
    heapq.heapify(heap)
    order = []
    while heap:
        _, cid = heapq.heappop(heap)
        order.append(cid)
        for before in versions[cid].previous & versions.keys():
            after[before] -= 1
            if not after[before]:
                heapq.heappush(heap, (-versions[before].time, before))
    return order


def line_first(source: Nodes, one: Version) -> list[Cid]:
    """Return those right before a version, the one on its line first."""
    first = one.line or _newest(source, one.previous)
    return sorted(one.previous, key=lambda cid: (cid != first, cid))


def is_ancestor(source: Nodes, old: Cid, new: Cid) -> bool:
    """True if `old` is `new` or before it."""
    wanted = version.identity(old, version.load_version(source, old))
    return any(version.identity(cid, found) == wanted for cid, found in ancestors(source, new))


def bases(source: Nodes, ours: Cid, theirs: Cid) -> list[Cid]:
    """Return the best common ancestors: those that are not before another one. Sorted; empty if there are none.

    A version and one that stands for it since its history was pruned are one and the same.
    """
    if ours == theirs:
        return [ours]
    paint = _Paint(source)
    paint.mark(ours, _OURS)
    paint.mark(theirs, _THEIRS)
    common: dict[Cid, Cid] = {}
    while paint.fresh:
        cid, found = paint.pop()
        who = version.identity(cid, found)
        flags = paint.marks[who]
        if flags & _BOTH == _BOTH and not flags & _STALE:
            common[who] = min(cid, common.get(who, cid))
            flags |= _STALE
        for before in found.previous:
            paint.mark(before, flags)
    return sorted(_unrelated(source, {cid for who, cid in common.items() if not paint.marks[who] & _STALE}))


def _unrelated(source: Nodes, found: set[Cid]) -> set[Cid]:
    """Return those that are before no other of them. With clocks that went wrong `bases` can meet such, too."""
    if len(found) < 2:
        return found
    loaded = {cid: version.load_version(source, cid) for cid in found}
    before = {cid for one in loaded.values() for cid in one.previous}
    older = {version.identity(cid, one) for cid, one in ancestors(source, *before)}
    return {cid for cid, one in loaded.items() if version.identity(cid, one) not in older}


class _Heap:
    """Versions of which the newest comes first."""

    def __init__(self, source: Nodes) -> None:
        self._source = source
        self._items: list[tuple[int, Cid, Version]] = []

    def __len__(self) -> int:
        return len(self._items)

    def push(self, cid: Cid) -> None:
        self.push_loaded(cid, version.load_version(self._source, cid))

    def push_loaded(self, cid: Cid, found: Version) -> None:
        heapq.heappush(self._items, (-found.time, cid, found))

    def pop(self) -> tuple[Cid, Version]:
        _, cid, found = heapq.heappop(self._items)
        return cid, found


class _Paint:
    """From which side each version was reached. One that gets a new mark after its turn has another turn.

    Marks are of identities. Versions of one identity may have different ones before them, so each has its own turns.
    """

    def __init__(self, source: Nodes) -> None:
        self.marks: dict[Cid, int] = {}
        self.fresh = 0  # waiting, and not known to be stale
        self._twins: dict[Cid, dict[Cid, Version]] = {}
        self._waiting: set[Cid] = set()
        self._heap = _Heap(source)
        self._source = source

    def mark(self, cid: Cid, flags: int) -> None:
        found = version.load_version(self._source, cid)
        who = version.identity(cid, found)
        twins = self._twins.setdefault(who, {})
        is_new = cid not in twins
        twins[cid] = found
        old = self.marks.get(who, 0)
        self.marks[who] = new = old | flags
        if len(self._twins) > limits.history_versions_max:
            raise _too_long()
        if new != old:
            for twin, its in twins.items():
                self._wait(twin, its, old, new)
        elif is_new:
            self._wait(cid, found, old, new)

    def pop(self) -> tuple[Cid, Version]:
        cid, found = self._heap.pop()
        self._waiting.remove(cid)
        self.fresh -= not self.marks[version.identity(cid, found)] & _STALE
        return cid, found

    def _wait(self, cid: Cid, found: Version, old: int, new: int) -> None:
        if cid in self._waiting:
            self.fresh -= not old & _STALE
        else:
            self._waiting.add(cid)
            self._heap.push_loaded(cid, found)
        self.fresh += not new & _STALE


def _newest(source: Nodes, among: frozenset[Cid]) -> Cid | None:
    return max(among, key=lambda cid: (version.load_version(source, cid).time, cid), default=None)


def _too_long() -> TooLarge:
    return TooLarge(
        f"this history has over {limits.history_versions_max} versions; name the version you mean by its CID"
    )
