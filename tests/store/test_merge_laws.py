"""What holds of every merge, on histories that are made up: the laws."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import diff, directory, plan, tombstones, version
from store.cid import BLAKE3, Cid
from store.entry import Entry
from store.plan import Other, Step
from tests.store.histories import CHUNKER, DIR, History, file, link
from tests.store.models import examples, new_batch

FILES = ["a", "b", "d/a", "d/b", "d/e/f", "g/h"]
Op = tuple[str, int, int]


@dataclass
class World:
    """Files of eight lines. Every line ever written is another one, so that content tells where it comes from."""

    name: str
    files: dict[str, list[str] | str | int] = field(default_factory=dict)  # lines; a link's target; a directory's mode
    modes: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def fork(self, name: str) -> World:
        copied = {path: list(what) if isinstance(what, list) else what for path, what in self.files.items()}
        return World(name, copied, dict(self.modes))

    def do(self, op: Op) -> None:
        what, which, where = op
        paths = sorted(self.files)
        path = paths[which % len(paths)] if paths else None
        if what == "write":
            self._put(FILES[which % len(FILES)], [self._line() for _ in range(8)])
        elif what == "link":
            self._put(FILES[which % len(FILES)], self._line())
        elif what == "mkdir":
            self._put(FILES[which % len(FILES)], 0o700 + where % 8)
        elif path is None:
            return
        elif what == "delete":
            self._drop(path)
        elif what == "rmdir" and "/" in path:
            self._drop(path.partition("/")[0])
        elif what == "edit" and isinstance(lines := self.files[path], list) and lines:
            lines[where % len(lines)] = self._line()
        elif what == "insert" and isinstance(lines := self.files[path], list):
            lines.insert(where % (len(lines) + 1), self._line())
        elif what == "chmod" and not isinstance(self.files[path], int):
            self.modes[path] = (0o600, 0o640, 0o755)[where % 3]
        elif what == "move":
            self._move(path, f"{self.name}-{self.count}" if where % 2 else f"{self.name}/{self.count}")
        elif what == "movedir" and "/" in path:
            above = path.partition("/")[0]
            self._move(above, f"{self.name}-{self.count}")
        self.count += 1

    def _line(self) -> str:
        self.count += 1
        return f"{self.name}{self.count}"

    def _put(self, path: str, what: list[str] | str | int) -> None:
        above = path
        while "/" in above:  # what is in the way goes
            above = above.rpartition("/")[0]
            self.files.pop(above, None)
        self._drop(path)
        self.files[path] = what

    def _drop(self, path: str) -> None:
        for one in self._at(path):
            del self.files[one]
            self.modes.pop(one, None)

    def _move(self, old: str, new: str) -> None:
        for one in self._at(old):
            self.files[new + one[len(old) :]] = self.files.pop(one)
            if one in self.modes:
                self.modes[new + one[len(old) :]] = self.modes.pop(one)

    def _at(self, path: str) -> list[str]:
        return [one for one in self.files if one == path or one.startswith(path + "/")]

    def commit(self, past: History, *before: Cid) -> Cid:
        entries: dict[str, Entry] = {}
        for path, what in self.files.items():
            if isinstance(what, int):
                entries[path] = DIR._replace(mode=what)
            elif isinstance(what, str):
                entries[path] = link(what)
            else:
                text = "".join(line + "\n" for line in what)
                entries[path] = file(past.batch, text, mode=self.modes.get(path, 0o644))
        return past.commit(entries, *before)


def ops(*kinds: str, size: int = 6) -> st.SearchStrategy[list[Op]]:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 11), st.integers(0, 11)), max_size=size)


STAYING = ("write", "edit", "edit", "insert", "delete", "rmdir", "chmod", "link", "mkdir")
MOVING = (*STAYING, "move", "move", "movedir")
Histories = tuple[list[Op], ...]


def histories(*kinds: str, sides: int = 2) -> st.SearchStrategy[Histories]:
    first = st.lists(st.tuples(st.just("write"), st.integers(0, 11), st.just(0)), min_size=2, max_size=8)
    return st.tuples(first, *(ops(*kinds) for _ in range(sides)))


NAMES = ("x", "y", "z")


def forked(drawn: Histories) -> tuple[History, Cid, list[Cid], list[World]]:
    """Return a base and what each side made of it, in one to three checkpoints."""
    past = History(new_batch())
    world = World("base")
    for op in drawn[0]:
        world.do(op)
    base = world.commit(past)
    heads, worlds = [], []
    for name, side in zip(NAMES, drawn[1:]):
        mine, head = world.fork(name), base
        for start in range(0, max(1, len(side)), 2):
            for op in side[start : start + 2]:
                mine.do(op)
            head = mine.commit(past, head)
        heads.append(head)
        worlds.append(mine)
    return past, base, heads, worlds


def joined(past: History, ours: Cid, theirs: Cid, names: tuple[str, str] = ("x", "y"), base: Cid | None = None) -> Step:
    return plan.step(past.batch, CHUNKER, Other(names[0], ours), Other(names[1], theirs), base=base)


def tree_of(past: History, cid: Cid) -> Cid:
    return past.version(cid).tree


def everything(past: History, cid: Cid) -> dict[bytes, Entry]:
    """All entries; what a directory's says about what is in it is left out."""
    return {path: diff.own(entry) for path, entry in directory.walk(past.batch, past.tree(cid).root)}


def plain(past: History, cid: Cid) -> dict[bytes, Entry]:
    """All but directories, which come and go with what is in them."""
    return {path: entry for path, entry in everything(past, cid).items() if not entry.is_dir}


def tokens(past: History, cid: Cid) -> set[str]:
    return {token for text in past.shown(cid).values() for token in text.replace("'", " ").split()}


both = pytest.mark.parametrize("kinds", [STAYING, MOVING], ids=["staying", "moving"])


@both
@examples(150)
@given(data=st.data())
def test_from_either_side_and_with_oneself(kinds: tuple[str, ...], data: st.DataObject) -> None:
    past, base, (ours, theirs), _ = forked(data.draw(histories(*kinds)))
    there, back = joined(past, ours, theirs), joined(past, theirs, ours, ("y", "x"))
    assert tree_of(past, there.version) == tree_of(past, back.version)
    assert there.conflicts == back.conflicts
    for one in (ours, theirs, base):
        assert joined(past, one, one).version == one
        assert joined(past, one, base).version == one
        assert joined(past, base, one).version == one
    # Whoever has merged can merge again: nothing is left to do, from either side.
    assert joined(past, there.version, theirs).outcome == "nothing"
    assert joined(past, theirs, there.version).outcome == "forward"


@both
@examples(150)
@given(data=st.data())
def test_what_only_one_side_touched(kinds: tuple[str, ...], data: st.DataObject) -> None:
    """It is as that side has it; what one deleted and the other left alone is gone; no line is lost."""
    past, base, (ours, theirs), _ = forked(data.draw(histories(*kinds)))
    step = joined(past, ours, theirs)
    old, mine, other, new = (everything(past, cid) for cid in (base, ours, theirs, step.version))
    moved = kinds is MOVING  # then a change goes where the file went
    for path in old.keys() | mine.keys() | other.keys():
        for one, two in ((mine, other), (other, mine)):
            wanted = two.get(path)
            if one.get(path) == old.get(path) and not moved and not (wanted is not None and wanted.is_dir):
                found = new.get(path)
                assert found == wanted or (wanted is None and found is not None and found.is_dir), path
            if path in old and path not in one and wanted == old[path] and not wanted.is_dir:
                assert path not in new, path
    for side in (ours, theirs):
        assert tokens(past, side) - tokens(past, base) <= tokens(past, step.version)
    if not moved:
        copies = {one.copy for one in step.conflicts.values()}
        assert new.keys() <= mine.keys() | other.keys() | copies


@both
@examples(100)
@given(data=st.data())
def test_three_in_any_order(kinds: tuple[str, ...], data: st.DataObject) -> None:
    past, _, heads, _ = forked(data.draw(histories(*kinds, sides=3)))
    made = set()
    for first, second, third in permutations(range(3)):
        step = joined(past, heads[first], heads[second])
        last = joined(past, step.version, heads[third])
        if step.conflicts or last.conflicts:
            return
        made.add(tree_of(past, last.version))
    assert len(made) == 1


@examples(100)
@given(histories(*STAYING))
def test_a_deletion_travels_although_the_history_was_pruned(drawn: Histories) -> None:
    past, base, (ours, theirs), _ = forked(drawn)
    old, mine, other = (plain(past, cid) for cid in (base, ours, theirs))
    for left, right in ((past.alone(ours), past.alone(theirs)), (pruned(past, ours), pruned(past, theirs))):
        step = joined(past, left, right)
        new = plain(past, step.version)
        back = joined(past, right, left, ("y", "x"))
        assert tree_of(past, step.version) == tree_of(past, back.version)
        for path, entry in old.items():
            for one, two, deleter in ((mine, other, left), (other, mine, right)):
                if path not in one and two.get(path) == entry:
                    buried = tombstones.find(past.batch, past.version(deleter).tombstones, path)
                    if buried is not None and buried.was == tombstones.identity(BLAKE3, entry):
                        assert path not in new, path
                    else:  # it was changed before it was deleted: without the history that could be another file
                        assert path in step.conflicts or path in {one.copy for one in step.conflicts.values()}
        for side in (ours, theirs):
            assert tokens(past, side) - tokens(past, base) <= tokens(past, step.version)


def pruned(past: History, cid: Cid) -> Cid:
    """The version right behind one that has nothing in it, from before all others."""
    first = past.bare(0)
    return version.put_version(past.batch, past.version(cid)._replace(previous=frozenset((first,)), line=None))


@both
@examples(60)
@given(data=st.data())
def test_sides_that_have_merged_each_other(kinds: tuple[str, ...], data: st.DataObject) -> None:
    """Several best common ancestors: still the same from either side, and no line is lost."""
    past, base, (ours, theirs), _ = forked(data.draw(histories(*kinds)))
    one = joined(past, ours, theirs).version
    two = joined(past, theirs, ours, ("y", "x")).version
    left = edited(past, one, "left", data.draw(st.integers(0, 20)))
    right = edited(past, two, "right", data.draw(st.integers(0, 20)))
    there, back = joined(past, left, right), joined(past, right, left, ("y", "x"))
    assert tree_of(past, there.version) == tree_of(past, back.version)
    for side in (left, right):
        before = tokens(past, one) | tokens(past, two)
        assert tokens(past, side) - before <= tokens(past, there.version)
    if one != two and ours not in (base, one) and theirs not in (base, two):
        assert set(there.bases) == {ours, theirs} or len(there.bases) == 1


def edited(past: History, cid: Cid, name: str, which: int) -> Cid:
    """A version in which one file has a line more."""
    whole = past.tree(cid)
    paths = sorted(path for path, entry in plain(past, cid).items() if entry.kind == "file")
    if not paths:
        return past.commit({name: name}, cid)
    path = paths[which % len(paths)]
    text = past.shown(cid)[path.decode()] + name + "\n"
    entry = directory.find(past.batch, whole.root, path)
    assert entry is not None
    made = file(past.batch, text, mode=entry.mode)
    return past.commit(whole._replace(root=directory.with_paths(past.batch, whole.root, {path: made})), cid)
