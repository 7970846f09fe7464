"""A merge: two trees that began as one, and what becomes of each name in them.

What happens to a name, by what the sides did to it since their base ("=" is: as the other side did it):

              unchanged  modified  metadata  deleted  added   kind     renamed
    unchanged    -          M         X         D       A       K        R
    modified     M        lines(1)   M+X      keep(2)   -     both(3)  M at R(4)
    metadata     X         X+M      fields(5) keep(2)   -     both(3)  X at R(4)
    deleted      D        keep(2)   keep(2)     D       -     keep(2)  keep(6)
    added        A          -         -         -     both(3)   -      both(3)
    kind         K        both(3)   both(3)   keep(2)   -     both(3)  keep(6)
    renamed      R        M at R(4) X at R(4) keep(6) both(3) keep(6)  both(6)

Both sides did the same: that, and no conflict, in every row.
(1) If both are text and their changes do not touch, a file with the changes of both. Else (3).
(2) What was changed stays, the conflict is told. If nothing but the time was changed the deletion stands.
(3) Both contents: the newer version's under the name, the other's beside it as NAME~WHOSE. Two directories become one.
    If one is a directory it keeps the name. Content that is equal is there once, its metadata as in (5).
(4) The change is made where the file now is. Only content that moved unchanged is known to have moved, and only if no
    other content that came or went is equal to it. If the other side has something at the new name: (2) and (3).
(5) Field by field: mode, owner, group, each attribute. What both changed differently is the newer version's, and told.
    Of two times the later, without a word.
(6) Nothing is given up: all new names are there, and the conflict is told.

A directory is merged name by name; one that one side deleted stays if something stays in it. Symbolic links and special
files are as files that are no text. Hard links: see `grouping`. A subtree that is equal on two sides is not read.

A name that the base has not, that one side has and of which the other has a tombstone that the base has not: it was
deleted since, where the version that had it is pruned. If it is what was buried it is gone, else (2). A name that was
buried before the base came back. Without any base every tombstone counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from store import diff, directory, edits, fields, limits, renames, text, tombstones
from store import file as files
from store.batch import Batch
from store.chunker import Chunker
from store.cid import Cid
from store.conflicts import Conflict
from store.entry import Entry
from store.errors import TooLarge
from store.file import File
from store.renames import Renames

Strategy = Literal["merge", "ours", "theirs", "union", "drop"]
STRATEGIES: Final = ("merge", "ours", "theirs", "union")  # `drop` is for bases: nobody shall take a conflict for agreed


class Side(NamedTuple):
    """One of the two. `rank` orders them the same way whoever is merged into whom: the larger is the newer.

    `buried` are its tombstones, `once` those that it had already at the base.
    """

    label: str
    root: Entry
    rank: tuple[int, bytes]
    buried: Cid | None = None
    once: Cid | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """`changes` are to the first side's tree. `copies` are, for each side, where content went that lost its name."""

    root: Entry
    changes: Mapping[bytes, Entry | None]
    conflicts: Mapping[bytes, Conflict]
    copies: tuple[Mapping[bytes, bytes], Mapping[bytes, bytes]]


def merge(
    batch: Batch,
    chunker: Chunker,
    base: Entry | None,
    ours: Side,
    theirs: Side,
    *,
    strategy: Strategy = "merge",
) -> Merged:
    """Merge two trees. Nothing is stored but in `batch`, and nothing is read that is equal on both sides.

    Which side is which matters to nothing but the `ours` and `theirs` strategies. Raises TooLarge, Corrupt, NotFound.
    """
    merger = _Merger(batch, chunker, base, (ours, theirs), strategy)
    merger.run()
    root = edits.made(batch, ours.root, merger.changes, merger.hollow)
    return Merged(root, merger.changes, merger.conflicts, (merger.copies[0], merger.copies[1]))


class _Names(NamedTuple):
    """A directory to be merged name by name. `here` is the side of which the names are there unless we say otherwise.

    0 is ours, 1 theirs. A side without a directory here has deleted it; it is `here` then.
    """

    path: bytes
    base: Cid | None
    sides: tuple[Entry | None, Entry | None]
    here: int


@dataclass
class _Merger:
    batch: Batch
    chunker: Chunker
    base: Entry | None
    sides: tuple[Side, Side]
    strategy: Strategy
    changes: dict[bytes, Entry | None] = field(default_factory=dict)
    conflicts: dict[bytes, Conflict] = field(default_factory=dict)
    hollow: set[bytes] = field(default_factory=set)  # deleted by one side: they stay only if something stays in them
    copies: tuple[dict[bytes, bytes], dict[bytes, bytes]] = field(default_factory=lambda: ({}, {}))
    _waiting: list[_Names] = field(default_factory=list)
    _moved: list[tuple[bytes, Entry, Entry, Entry, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The newer side's metadata and names stand, whoever is merged into whom.
        self._first = 0 if self.sides[0].rank >= self.sides[1].rank else 1
        self._renames: list[Renames] = [renames.NONE, renames.NONE]

    def run(self) -> None:
        ours, theirs = (side.root for side in self.sides)
        base = self.base
        if base is not None and base not in (ours, theirs) and ours != theirs:
            self._renames = [
                renames.between(self.batch, base, side.root, other.root)
                for side, other in (self.sides, self.sides[::-1])
            ]
        self._new_of = [moves.new_of for moves in self._renames]
        self._entry(b"", base, (ours, theirs), 0)
        self._walk()
        while self._moved:
            path, old, moved, changed, mover = self._moved.pop()
            self.changes[path] = moved
            self._entry(path, old, (moved, changed) if mover == 0 else (changed, moved), mover)
            self._walk()
        self._tell_renames()
        for side in (0, 1):
            self._bury(side)

    def _walk(self) -> None:
        while self._waiting:
            names = self._waiting.pop()
            if names.path.count(b"/") >= limits.depth_max or len(names.path) > limits.link_path_bytes_max:
                raise TooLarge(
                    f"directories that both sides changed may be {limits.depth_max} deep at most, "
                    f"with paths of {limits.link_path_bytes_max} bytes"
                )
            for name, base, sides in self._names(names):
                self._entry(names.path + b"/" + name if names.path else name, base, sides, names.here)

    def _names(self, of: _Names) -> Iterator[tuple[bytes, Entry | None, tuple[Entry | None, Entry | None]]]:
        """Yield the names that the other side than `here` changed, with what each has there."""
        here, there = of.sides[of.here], of.sides[1 - of.here]
        assert there is not None
        mine = here.tree if here is not None else None
        against = of.base if of.base is not None or here is None else mine
        for name, old, new in diff.pairs(self.batch, against, there.tree):
            found = None if here is None else directory.lookup(self.batch, here, name)
            base = old if of.base is not None else None
            yield name, base, (found, new) if of.here == 0 else (new, found)

    # One name

    def _entry(self, path: bytes, base: Entry | None, sides: tuple[Entry | None, Entry | None], here: int) -> None:
        """Decide what is at `path`. What side `here` has is there already."""
        mine, other = sides[here], sides[1 - here]
        if _same(mine, other) or _same(other, base):
            return
        if _same(mine, base):
            self._set(path, other)
            if base is None and (above := path.rpartition(b"/")[0]) in self.hollow:
                self._conflict(above, "deleted", stands=1 - here)  # one deleted the directory, the other put this in it
            return
        if base is not None and (mine is None or other is None):
            self._gone(path, base, sides, here)
        elif mine is not None and other is not None:
            self._both(path, base, (mine, other) if here == 0 else (other, mine), here)

    def _gone(self, path: bytes, base: Entry, sides: tuple[Entry | None, Entry | None], here: int) -> None:
        """One side deleted it, the other did something else to it."""
        keeper = 0 if sides[0] is not None else 1
        kept = sides[keeper]
        assert kept is not None
        to = self._new_of[1 - keeper].get(path)
        if (
            to is not None
            and kept.kind == base.kind
            and directory.find(self.batch, self.sides[keeper].root, to) is None
        ):
            moved = directory.find(self.batch, self.sides[1 - keeper].root, to)
            assert moved is not None
            self.changes[path] = None
            self._moved.append((to, base, moved, kept, 1 - keeper))
        elif kept.is_dir and base.is_dir:
            if _metadata(kept) == _metadata(base):
                self.hollow.add(path)
            elif not self._settled(path, "deleted", sides, here):
                self._conflict(path, "deleted", stands=keeper)
            else:
                return
            self.changes[path] = kept._replace(data=None, total=(0, 0, 0))
            inside = (None, kept) if keeper == 1 else (kept, None)
            self._waiting.append(_Names(path, base.tree, inside, 1 - keeper))
        elif _is_only_touched(base, kept):
            self._set(path, None)
        elif not self._settled(path, "deleted", sides, here):
            self._set(path, kept)
            self._conflict(path, "deleted", stands=keeper)

    def _both(self, path: bytes, base: Entry | None, sides: tuple[Entry, Entry], here: int) -> None:
        """Both have it, in different forms; neither is that of the base."""
        kind = sides[0].kind
        if kind != sides[1].kind:
            touched = [base is not None and _is_only_touched(base, side) for side in sides]
            if any(touched):
                self._set(path, sides[1 if touched[0] else 0])
            else:
                self._keep_both(path, "kind", sides, here)
            return
        old = base if base is not None and base.kind == kind else None
        content: Entry | None = sides[here]
        if kind == "dir":
            inside = (sides[0], sides[1])
            if sides[0].data != sides[1].data:
                self._waiting.append(_Names(path, old.tree if old else None, inside, here))
        else:
            content = self._content(old, sides)
        if content is None:
            self._keep_both(path, "content", sides, here)
            return
        ranked = sides[self._first], sides[1 - self._first]
        if self.strategy in ("ours", "theirs"):
            ranked = sides if self.strategy == "ours" else (sides[1], sides[0])
        entry, clashes = fields.merged(self.batch, old, *ranked, content)
        self._set(path, entry)
        if clashes and self.strategy in ("merge", "union"):
            self._conflict(path, "metadata", stands=self._first, detail=", ".join(clashes))

    def _content(self, base: Entry | None, sides: tuple[Entry, Entry]) -> Entry | None:
        """Return an entry with the merged content; None if both must be kept."""
        ours, theirs = sides
        if _content(ours) == _content(theirs) or (base is not None and _content(theirs) == _content(base)):
            return ours
        if base is not None and _content(ours) == _content(base):
            return theirs
        if base is None or ours.kind != "file":
            return None
        first, second = sides[self._first], sides[1 - self._first]
        texts = [text.lines(self.batch, File.of(one)) for one in (base, first, second)]
        if texts[0] is None or texts[1] is None or texts[2] is None:
            return None
        data = text.merged(texts[0], texts[1], texts[2], union=self.strategy == "union")
        if data is None:
            return None
        made = files.from_bytes(self.batch, self.chunker, data)
        return ours._replace(size=made.size, holes=made.holes, data=made.content)

    # Conflicts

    def _keep_both(self, path: bytes, kind: str, sides: tuple[Entry, Entry], here: int) -> None:
        if self._settled(path, kind, sides, here):
            return
        first = self._first
        if sides[0].is_dir != sides[1].is_dir:
            first = 0 if sides[0].is_dir else 1
        copy = self._free(path, self.sides[1 - first].label)
        self._set(path, sides[first])
        self._set(copy, sides[1 - first]._replace(nlink=1))
        self.copies[1 - first][path] = copy
        self._conflict(path, kind, stands=first, copy=copy)

    def _settled(self, path: bytes, kind: str, sides: tuple[Entry | None, Entry | None], here: int) -> bool:
        """True if the strategy says what to do about a conflict; that is done then."""
        if self.strategy == "drop":
            self._set(path, None)
        elif self.strategy in ("ours", "theirs"):
            self._set(path, sides[0 if self.strategy == "ours" else 1])
        else:
            return False
        return True

    def _conflict(self, path: bytes, kind: str, *, stands: int, copy: bytes | None = None, detail: str = "") -> None:
        if self.strategy in ("merge", "union"):
            stand, other = self.sides[stands].label, self.sides[1 - stands].label
            self.conflicts.setdefault(path, Conflict(kind, stand, other, copy, detail))

    def _set(self, path: bytes, entry: Entry | None) -> None:
        self.changes[path] = entry

    def _free(self, path: bytes, label: str) -> bytes:
        """Return a name beside `path` that says whose the content is and that nobody has."""
        above, slash, name = path.rpartition(b"/")
        whose = b"~" + label.encode("utf-8", "surrogateescape").replace(b"/", b"-").replace(b"\0", b"")[-80:]
        for number in range(1, 1 << 20):
            end = whose if number == 1 else whose + b".%d" % number
            free = above + slash + name[: limits.name_bytes_max - len(end)] + end
            if free not in self.changes and all(
                directory.find(self.batch, side.root, free) is None for side in self.sides
            ):
                return free
        raise TooLarge(f"no free name beside '{directory.printable(path)}'")

    # What is seen only from afar

    def _tell_renames(self) -> None:
        """A file that one side moved and the other deleted, or moved elsewhere, is at every new name."""
        for side, moves in enumerate(self._renames):
            other = self.sides[1 - side].root
            for new, old in moves.old_of.items():
                elsewhere = self._new_of[1 - side].get(old)
                gone = directory.find(self.batch, other, old) is None and elsewhere != new
                if gone and not any(above in self._new_of[1 - side] for above in renames.above_of(old)):
                    self._conflict(new, "renamed", stands=side, detail=directory.printable(elsewhere or b""))

    def _bury(self, side: int) -> None:
        """Take away what `side` once deleted and the other still has, if it is still that."""
        mine, other = self.sides[side], self.sides[1 - side]
        for path, buried in tombstones.since(self.batch, mine.once, mine.buried):
            found = directory.find(self.batch, other.root, path)
            if found is None or directory.find(self.batch, mine.root, path) is not None:
                continue
            if self.base is not None and directory.find(self.batch, self.base, path) is not None:
                continue  # there the base decides
            if tombstones.identity(self.batch.algorithm, found) != buried.was:
                self._conflict(path, "deleted", stands=1 - side)
            elif found.is_dir:
                self.hollow.add(path)
            else:
                self._set(path, None)


def _same(one: Entry | None, other: Entry | None) -> bool:
    """True if both are the same file, of however many names."""
    if one is None or other is None:
        return one is other
    return one._replace(nlink=1) == other._replace(nlink=1)


def _content(entry: Entry) -> tuple[object, ...]:
    return entry.kind, entry.size, entry.data, entry.rdev


def _is_only_touched(base: Entry, entry: Entry) -> bool:
    """True if nothing but its time was changed."""
    return _content(entry) == _content(base) and _metadata(entry) == _metadata(base)


def _metadata(entry: Entry) -> tuple[object, ...]:
    """Without the time: that changes by itself."""
    return entry.mode, entry.uid, entry.gid, entry.xattrs
