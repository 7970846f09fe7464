"""The table of merge.py, cell by cell, and each of its notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from unittest import mock

import pytest

from store import conflicts, directory, history, limits, links, plan
from store import entry as entries
from store.batch import Batch
from store.cache import Cache
from store.cid import Cid
from store.conflicts import Conflict
from store.entry import Entry
from store.errors import TooLarge
from store.memory_store import MemoryStore
from store.merge import Strategy
from store.nodes import Node
from store.plan import Other, Step
from store.version import Tree
from tests.store.histories import CHUNKER, DIR, Files, History, file, link
from tests.store.models import new_batch


@dataclass
class Fork:
    """A base and two versions made of it; the right one is the newer."""

    past: History
    base: Cid
    left: Cid
    right: Cid

    def merged(self, *, strategy: Strategy = "merge") -> Step:
        """Merge both ways: the tree must be the same, unless the strategy takes sides."""
        there = self._step("left", self.left, "right", self.right, strategy)
        if strategy in ("merge", "union"):
            back = self._step("right", self.right, "left", self.left, strategy)
            assert self.past.version(back.version).tree == self.past.version(there.version).tree
            assert back.conflicts == there.conflicts
            assert self.past.version(back.version).previous == self.past.version(there.version).previous
        return there

    def _step(self, ours: str, mine: Cid, theirs: str, other: Cid, strategy: Strategy) -> Step:
        return plan.step(self.past.batch, CHUNKER, Other(ours, mine), Other(theirs, other), strategy=strategy)


def fork(base: Files, left: Files, right: Files, /, **groups: list[tuple[str, ...]]) -> Fork:
    past = History(new_batch())
    first = past.commit(base, groups=groups.get("base", []))
    made = [past.commit(side, first, groups=groups.get(name, [])) for name, side in (("left", left), ("right", right))]
    return Fork(past, first, *made)


class Outcome(NamedTuple):
    files: dict[str, str]
    conflicts: dict[str, tuple[str, str]]  # path -> kind, whose is there


def outcome(base: Files, left: Files, right: Files, strategy: Strategy = "merge") -> Outcome:
    made = fork(base, left, right)
    step = made.merged(strategy=strategy)
    told = {path.decode(): (one.kind, one.stands) for path, one in step.conflicts.items()}
    kept = conflicts.below(made.past.batch, made.past.version(step.version).conflicts)
    assert dict(kept) == step.conflicts, "they stay in the version"
    return Outcome(made.past.shown(step.version), told)


TEXT = "1\n2\n3\n4\n5\n6\n7\n"
KEEP = {"keep": "always there"}

# What one side can do to the file f with that text; "right" does it otherwise than "left".


def done(what: str, side: str) -> Files:
    lines = {"left": TEXT.replace("2", "left"), "right": TEXT.replace("6", "right")}
    batch = new_batch()
    bits = {"left": 0o600, "right": 0o755}
    done_: dict[str, Files] = {
        "unchanged": {"f": TEXT},
        "modified": {"f": lines[side]},
        "metadata": {"f": file(batch, TEXT, mode=bits[side])},
        "touched": {"f": file(batch, TEXT, mtime={"left": 7, "right": 9}[side])},
        "deleted": {},
        "kind": {"f": link(side)},
        "renamed": {f"{side}-f": TEXT},
    }
    return {**KEEP, **done_[what]}


M, X, D, K, R = "modified", "metadata", "deleted", "kind", "renamed"
BOTH = TEXT.replace("2", "left").replace("6", "right")
OLD, LEFT, RIGHT = TEXT, TEXT.replace("2", "left"), TEXT.replace("6", "right")
AT_LEFT, AT_RIGHT = "-> b'left'", "-> b'right'"


@pytest.mark.parametrize(
    ("left", "right", "files", "told"),
    [
        (M, M, {"f": BOTH}, {}),
        (M, X, {"f": LEFT}, {}),
        (M, D, {"f": LEFT}, {"f": ("deleted", "left")}),
        (M, K, {"f": AT_RIGHT, "f~left": LEFT}, {"f": ("kind", "right")}),
        (M, R, {"right-f": LEFT}, {}),
        (X, M, {"f": RIGHT}, {}),
        (X, X, {"f": OLD}, {"f": ("metadata", "right")}),
        (X, D, {"f": OLD}, {"f": ("deleted", "left")}),
        (X, K, {"f": AT_RIGHT, "f~left": OLD}, {"f": ("kind", "right")}),
        (X, R, {"right-f": OLD}, {}),
        (D, M, {"f": RIGHT}, {"f": ("deleted", "right")}),
        (D, X, {"f": OLD}, {"f": ("deleted", "right")}),
        (D, D, {}, {}),
        (D, K, {"f": AT_RIGHT}, {"f": ("deleted", "right")}),
        (D, R, {"right-f": OLD}, {"right-f": ("renamed", "right")}),
        (K, M, {"f": RIGHT, "f~left": AT_LEFT}, {"f": ("kind", "right")}),
        (K, X, {"f": OLD, "f~left": AT_LEFT}, {"f": ("kind", "right")}),
        (K, D, {"f": AT_LEFT}, {"f": ("deleted", "left")}),
        (K, K, {"f": AT_RIGHT, "f~left": AT_LEFT}, {"f": ("content", "right")}),
        (K, R, {"f": AT_LEFT, "right-f": OLD}, {"f": ("deleted", "left")}),
        (R, M, {"left-f": RIGHT}, {}),
        (R, X, {"left-f": OLD}, {}),
        (R, D, {"left-f": OLD}, {"left-f": ("renamed", "left")}),
        (R, K, {"f": AT_RIGHT, "left-f": OLD}, {"f": ("deleted", "right")}),
        (
            R, R, {"left-f": OLD, "right-f": OLD},
            {"left-f": ("renamed", "left"), "right-f": ("renamed", "right")},
        ),
        ("touched", D, {}, {}),
        (D, "touched", {}, {}),
        ("touched", M, {"f": RIGHT}, {}),
        ("touched", K, {"f": AT_RIGHT}, {}),
    ],
)  # fmt: skip
def test_the_table(left: str, right: str, files: dict[str, str], told: dict[str, tuple[str, str]]) -> None:
    assert outcome(done("unchanged", "left"), done(left, "left"), done(right, "right")) == ({**KEEP, **files}, told)


@pytest.mark.parametrize("what", ["unchanged", M, X, D, K, R, "touched"])
def test_what_only_one_side_did_or_both_alike(what: str) -> None:
    base, changed = done("unchanged", "left"), done(what, "left")
    wanted = fork(base, base, changed)
    assert outcome(base, changed, base) == outcome(base, base, changed)
    assert outcome(base, base, changed) == (wanted.past.shown(wanted.right), {})
    both = fork(base, changed, changed)
    step = both.merged()
    assert (both.past.shown(step.version), step.conflicts) == (both.past.shown(both.right), {})


# Added by both


def test_added_by_both() -> None:
    assert outcome({}, {"f": "same"}, {"f": "same"}) == ({"f": "same"}, {})
    assert outcome({}, {"f": "a"}, {"f": "b"}) == ({"f": "b", "f~left": "a"}, {"f": ("content", "right")})
    assert outcome({}, {"f": link("x")}, {"f": "b"}) == ({"f": "b", "f~left": "-> b'x'"}, {"f": ("kind", "right")})
    assert outcome({}, {"d/a": "1"}, {"d/b": "2"}) == ({"d/a": "1", "d/b": "2"}, {})
    later = file(new_batch(), "same", mtime=9)
    assert outcome({}, {"f": "same"}, {"f": later}) == ({"f": "same"}, {})
    other = file(new_batch(), "same", mode=0o600)
    assert outcome({}, {"f": "same"}, {"f": other}) == ({"f": "same"}, {"f": ("metadata", "right")})


def test_a_directory_keeps_the_name() -> None:
    assert outcome({}, {"x/a": "1"}, {"x": "file"}) == ({"x/a": "1", "x~right": "file"}, {"x": ("kind", "left")})
    assert outcome({"x": "0"}, {"x/a": "1"}, {"x": "2"}) == ({"x/a": "1", "x~right": "2"}, {"x": ("kind", "left")})


def test_a_file_renamed_to_where_the_other_put_one() -> None:
    found = outcome({"f": TEXT}, {"g": TEXT}, {"f": RIGHT, "g": "new"})
    assert found.files == {"f": RIGHT, "g": "new", "g~left": TEXT}
    assert found.conflicts == {"f": ("deleted", "right"), "g": ("content", "right")}


def test_two_files_renamed_to_one_name() -> None:
    found = outcome({"a": "aaa", "b": "bbb"}, {"c": "aaa", "b": "bbb"}, {"c": "bbb", "a": "aaa"})
    assert found.files == {"c": "bbb", "c~left": "aaa"} and found.conflicts == {"c": ("content", "right")}


def test_names_for_copies_that_are_taken() -> None:
    found = outcome({}, {"f": "a", "f~left": "taken"}, {"f": "b", "f~left.2": "too"})
    assert found.files == {"f": "b", "f~left": "taken", "f~left.2": "too", "f~left.3": "a"}
    long = "n" * 255
    assert outcome({}, {long: "a"}, {long: "b"}).files == {long: "b", "n" * 250 + "~left": "a"}


# Text


def test_lines() -> None:
    binary = {name: f"{name}\0{TEXT}" for name in ("base", "left", "right")}
    for base, left, right, files in (
        (TEXT, LEFT, TEXT.replace("2", "right"), {"f": TEXT.replace("2", "right"), "f~left": LEFT}),
        (TEXT, LEFT, TEXT.replace("3", "right"), {"f": TEXT.replace("3", "right"), "f~left": LEFT}),
        (TEXT, LEFT + "end\n", RIGHT.replace("6", "x").replace("right", "x"), {"f": None}),
        (TEXT, "0\n" + TEXT, TEXT + "8", {"f": "0\n" + TEXT + "8"}),
        (TEXT, TEXT.replace("2\n", ""), RIGHT, {"f": RIGHT.replace("2\n", "")}),
        (TEXT, "", RIGHT, {"f": RIGHT, "f~left": ""}),
        (TEXT, LEFT, LEFT + "8\n", {"f": LEFT + "8\n"}),
        (binary["base"], binary["left"], binary["right"], {"f": binary["right"], "f~left": binary["left"]}),
        ("a\r\nb\r\nc\r\n", "A\r\nb\r\nc\r\n", "a\r\nb\r\nC\r\n", {"f": "A\r\nb\r\nC\r\n"}),
        ("a\rb\n1\n2\n", "a\rB\n1\n2\n", "a\rb\n1\n3\n", {"f": "a\rB\n1\n3\n"}),
    ):  # fmt: skip
        found = outcome({"f": base}, {"f": left}, {"f": right})
        if files["f"] is not None:
            assert found.files == files, (base, left, right)
        assert bool(found.conflicts) == (len(found.files) > 1)


def test_merged_text_has_the_metadata_of_both() -> None:
    batch = new_batch()
    left = file(batch, LEFT, mode=0o755, mtime=5, uid=3)
    right = file(batch, RIGHT, mtime=9, xattrs=((b"user.a", b"1"),))
    made = fork({"f": file(batch, TEXT, mtime=7)}, {"f": left}, {"f": right})
    step = made.merged()
    found = directory.find(made.past.batch, made.past.tree(step.version).root, b"f")
    assert found is not None and not step.conflicts
    assert (found.mode, found.uid, found.mtime, found.xattrs) == (0o755, 3, 9, ((b"user.a", b"1"),))


@pytest.mark.parametrize(
    ("strategy", "files"),
    [
        ("ours", {"t": "LEFT\n", "f": "left", "gone": "changed"}),
        ("theirs", {"t": "RIGHT\n", "f": "right"}),
        ("union", {"t": "RIGHT\nLEFT\n", "f": "left", "gone": "changed"}),
    ],
)
def test_strategies(strategy: Strategy, files: dict[str, str]) -> None:
    base = {"t": "base\n", "f": link("x"), "gone": "0", "only": "0"}
    left = {"t": "LEFT\n", "f": "left", "gone": "changed", "only": "0"}
    right = {"t": "RIGHT\n", "f": "right", "only": "1"}
    found = outcome(base, left, right, strategy)
    if strategy == "union":
        assert found.conflicts == {"f": ("content", "right"), "gone": ("deleted", "left")}
        files = {**files, "f": "right", "f~left": "left"}
    else:
        assert found.conflicts == {}
    assert found.files == {**files, "only": "1"}


# Directories


def test_a_deleted_directory_in_which_something_was_changed() -> None:
    base = {"d/a": "1", "d/b": "2", "d/e/c": "3", "k": ""}
    gone = {"k": ""}
    assert outcome(base, gone, {**base, "d/b": "new"}) == ({"k": "", "d/b": "new"}, {"d/b": ("deleted", "right")})
    assert outcome(base, {**base, "d/b": "new"}, gone) == ({"k": "", "d/b": "new"}, {"d/b": ("deleted", "left")})
    assert outcome(base, gone, {**base, "d/e/new": "4"}) == (
        {"k": "", "d/e/new": "4"},
        {"d/e": ("deleted", "right")},
    )
    fewer = {path: data for path, data in base.items() if path != "d/b"}
    assert outcome(base, gone, fewer) == (gone, {})
    touched = {**base, "d/": Entry("dir", 0o755, mtime=5)}
    assert outcome(base, gone, touched) == (gone, {})
    closed = {**base, "d/": Entry("dir", 0o700)}
    made = fork(base, gone, closed)
    step = made.merged()
    assert made.past.shown(step.version) == gone and step.conflicts == {b"d": Conflict("deleted", "right", "left")}
    found = directory.find(made.past.batch, made.past.tree(step.version).root, b"d")
    assert found == Entry("dir", 0o700)


def test_a_directory_that_moved_takes_along_what_the_other_side_did_in_it() -> None:
    base = {"d/a": TEXT, "d/b": "2", "d/e/c": "3"}
    moved = {path.replace("d/", "new/dir/", 1): data for path, data in base.items()}
    changed = {"d/a": LEFT, "d/e/c": "3", "d/e/x": "added"}
    wanted = {"new/dir/a": LEFT, "new/dir/e/c": "3", "new/dir/e/x": "added"}
    assert outcome(base, moved, changed) == (wanted, {})
    assert outcome(base, changed, moved) == (wanted, {})


def test_moves_inside_moves() -> None:
    base = {"d/a": TEXT, "d/b": "2"}
    assert outcome(base, {"e/a": TEXT, "e/b": "2"}, {"d/a2": TEXT, "d/b": "2"}) == ({"e/a2": TEXT, "e/b": "2"}, {})
    # That the other side changed what it took out of the directory cannot be known: it is new there.
    found = outcome(base, {"e/a": TEXT, "e/b": "2"}, {"a": LEFT, "d/b": "2"})
    assert found == ({"e/b": "2", "a": LEFT}, {})


def test_content_that_is_not_unique_has_not_moved() -> None:
    """Of two equal files that went nobody knows which one came back."""
    base = {"a": TEXT, "b": TEXT}
    assert outcome(base, {"c": TEXT}, {"a": LEFT, "b": TEXT}) == (
        {"a": LEFT, "c": TEXT},
        {"a": ("deleted", "right")},
    )


def test_metadata_of_the_root() -> None:
    made = fork({"a": "1"}, {"a": "1"}, {"a": "1"})
    past = made.past
    whole = past.tree(made.base)
    left = past.commit(whole._replace(root=whole.root._replace(mode=0o700)), made.base)
    right = past.commit(whole._replace(root=whole.root._replace(mode=0o711, mtime=5)), made.base)
    step = Fork(past, made.base, left, right).merged()
    assert step.conflicts == {b"": Conflict("metadata", "right", "left", None, "mode")}
    assert past.tree(step.version).root._replace(data=None, total=(0, 0, 0)) == DIR._replace(mode=0o711, mtime=5)


# Metadata


def merged_entry(base: Entry, left: Entry, right: Entry) -> tuple[Entry, str]:
    made = fork({"f": base}, {"f": left}, {"f": right})
    step = made.merged()
    found = directory.find(made.past.batch, made.past.tree(step.version).root, b"f")
    assert found is not None
    return found, step.conflicts[b"f"].detail if step.conflicts else ""


@pytest.mark.parametrize("kind", ["file", "dir", "fifo", "symlink", "char"])
def test_metadata_field_by_field(kind: str) -> None:
    more = {"symlink": {"data": b"x", "size": 1}, "char": {"rdev": (1, 3)}}.get(kind, {})
    old = Entry(kind, 0o644, 1, 2, 10)._replace(**more)
    assert merged_entry(old, old._replace(mode=0o600), old._replace(uid=7)) == (old._replace(mode=0o600, uid=7), "")
    assert merged_entry(old, old._replace(mtime=5), old._replace(gid=7)) == (old._replace(mtime=5, gid=7), "")
    assert merged_entry(old, old._replace(mtime=5), old._replace(mtime=3)) == (old._replace(mtime=5), "")
    found = merged_entry(old, old._replace(mode=0o600, gid=5), old._replace(mode=0o640, uid=6))
    assert found == (old._replace(mode=0o640, uid=6, gid=5), "mode")
    suid = old._replace(mode=0o6755)
    assert merged_entry(suid, suid._replace(uid=8), suid._replace(uid=9)) == (suid._replace(uid=9, mode=0o755), "owner")


def test_attributes_one_by_one() -> None:
    def entry(**pairs: str) -> Entry:
        packed = tuple(sorted((b"user." + name.encode(), value.encode()) for name, value in pairs.items()))
        return Entry("file", 0o644, xattrs=packed)

    assert merged_entry(entry(a="1"), entry(a="1", b="2"), entry(a="1", c="3")) == (entry(a="1", b="2", c="3"), "")
    assert merged_entry(entry(a="1", b="2"), entry(b="2"), entry(a="1", b="3")) == (entry(b="3"), "")
    assert merged_entry(entry(a="1"), entry(a="2"), entry(a="3")) == (entry(a="3"), "attribute user.a")
    assert merged_entry(entry(a="1"), entry(), entry(a="3")) == (entry(a="3"), "attribute user.a")
    assert merged_entry(entry(a="1"), entry(a="2"), entry()) == (entry(a="2"), "attribute user.a")
    assert merged_entry(entry(a="1"), entry(a="2"), entry(a="2")) == (entry(a="2"), "")


def test_large_sets_of_attributes() -> None:
    past = History(new_batch())

    def entry(**sizes: int) -> Entry:
        pairs = [(b"user." + name.encode(), bytes(size)) for name, size in sizes.items()]
        return Entry("file", 0o644, xattrs=entries.pack_xattrs(past.batch, pairs))

    base = past.commit({"f": entry(a=900)})
    left, right = past.commit({"f": entry(a=900, b=800)}, base), past.commit({"f": entry(a=901)}, base)
    step = Fork(past, base, left, right).merged()
    found = directory.find(past.batch, past.tree(step.version).root, b"f")
    assert found == entry(a=901, b=800) and not step.conflicts


# Hard links


def groups(made: Fork, step: Step) -> list[tuple[str, ...]]:
    """The groups of the merged tree; every number of links in it must be right."""
    whole = made.past.tree(step.version)
    found = list(links.groups_below(made.past.batch, whole.links, b""))
    size = {path: len(group) for group in found for path in group}
    for path, entry in directory.walk(made.past.batch, whole.root):
        assert entry.nlink == size.pop(path, 1), path
    assert not size
    for group in found:
        assert len({directory.find(made.past.batch, whole.root, path) for path in group}) == 1
    return [tuple(path.decode() for path in group) for group in found]


AB = {"a": TEXT, "b": TEXT, "k": ""}
LINKED = [("a", "b")]


def test_a_new_name_for_a_file_that_the_other_side_changes() -> None:
    made = fork(AB, {**AB, "a": LEFT, "b": LEFT}, {**AB, "c": TEXT}, base=LINKED, left=LINKED, right=[("a", "b", "c")])
    step = made.merged()
    assert groups(made, step) == [("a", "b", "c")] and not step.conflicts
    assert made.past.shown(step.version) == {"a": LEFT, "b": LEFT, "c": LEFT, "k": ""}


def test_linked_by_one_side_and_by_both() -> None:
    made = fork(AB, AB, AB, left=LINKED)
    assert groups(made, made.merged()) == LINKED
    more = {**AB, "c": TEXT, "d": TEXT}
    made = fork(more, more, more, base=LINKED, left=[("a", "b", "c")], right=[("a", "b", "d")])
    assert groups(made, made.merged()) == [("a", "b", "c", "d")]


def test_a_link_that_one_side_removes_or_takes_apart() -> None:
    made = fork(AB, {"b": TEXT, "k": ""}, {**AB, "k": "new"}, base=LINKED, right=LINKED)
    assert groups(made, made.merged()) == []
    made = fork(AB, AB, {**AB, "a": RIGHT, "b": RIGHT}, base=LINKED, right=LINKED)
    step = made.merged()
    assert groups(made, step) == [] and made.past.shown(step.version) == {"a": RIGHT, "b": RIGHT, "k": ""}
    made = fork(AB, {**AB, "a": LEFT}, AB, base=LINKED, right=LINKED)
    step = made.merged()
    assert groups(made, step) == [] and made.past.shown(step.version) == {**AB, "a": LEFT}


def test_a_linked_file_that_both_change() -> None:
    made = fork(
        AB, {**AB, "a": LEFT, "b": LEFT}, {**AB, "a": RIGHT, "b": RIGHT}, base=LINKED, left=LINKED, right=LINKED
    )
    step = made.merged()
    assert groups(made, step) == LINKED and made.past.shown(step.version) == {"a": BOTH, "b": BOTH, "k": ""}
    other = TEXT.replace("2", "other")
    made = fork(
        AB, {**AB, "a": LEFT, "b": LEFT}, {**AB, "a": other, "b": other}, base=LINKED, left=LINKED, right=LINKED
    )
    step = made.merged()
    assert groups(made, step) == [("a", "b"), ("a~left", "b~left")] and len(step.conflicts) == 2


def test_linked_by_one_side_and_changed_by_the_other() -> None:
    made = fork({"a": "1", "b": "2"}, {"a": "1", "b": "1"}, {"a": "1", "b": "2", "c": "3"}, left=LINKED)
    assert groups(made, made.merged()) == LINKED
    made = fork({"a": "1", "b": "1"}, {"a": "1", "b": "1"}, {"a": "1", "b": "2"}, left=LINKED)
    step = made.merged()
    assert groups(made, step) == [] and {one.kind for one in step.conflicts.values()} == {"links"}
    assert made.past.shown(step.version) == {"a": "1", "b": "2"}


def test_links_in_a_directory_that_moves() -> None:
    base = {"d/a": TEXT, "b": TEXT}
    made = fork(base, {"e/a": TEXT, "b": TEXT}, {"d/a": RIGHT, "b": RIGHT}, base=[("b", "d/a")], left=[("b", "e/a")], right=[("b", "d/a")])  # fmt: skip  # noqa: E501
    step = made.merged()
    assert groups(made, step) == [("b", "e/a")]
    assert made.past.shown(step.version) == {"e/a": RIGHT, "b": RIGHT}


# What is not read


class Reads(Batch):
    """Remembers which blocks are read."""

    def __init__(self, under: Cache) -> None:
        super().__init__(under)
        self.read: set[Cid] = set()

    def node(self, cid: Cid) -> Node:
        self.read.add(cid)
        return super().node(cid)

    def get(self, cid: Cid) -> bytes:
        self.read.add(cid)
        return super().get(cid)


def test_what_is_equal_on_two_sides_is_not_read() -> None:
    """In a tree of 60,000 files, 40,000 of them new on both sides, in all some 900 nodes."""
    batch = Reads(Cache(MemoryStore()))
    past = History(batch)
    many: dict[bytes, Entry | None] = {b"%05d" % number: Entry("file", 0o644) for number in range(20_000)}
    large = directory.with_entries(batch, DIR, many)
    twice = {b"same": large._replace(mode=0o700), b"too": large._replace(mode=0o711)}
    root = directory.with_entries(batch, DIR, {b"large": large, b"gone": Entry("file", 0o600, mtime=5)})
    first = past.commit(Tree(root))
    sides = []
    for name in (b"00007", b"19000"):
        changed = directory.with_entries(batch, large, {name: Entry("file", 0o600), b"new" + name: file(batch, name)})
        # A name that went makes it look for renames.
        whole = directory.with_entries(batch, root, {b"large": changed, b"gone": None, **twice})
        sides.append(past.commit(Tree(whole), first))
    before = frozenset(batch.blocks)
    batch.read.clear()
    step = plan.step(batch, CHUNKER, Other("x", sides[0]), Other("y", sides[1]))
    assert not step.conflicts and past.tree(step.version).root.total[0] == 60_000 + 2 + 3
    assert len(batch.read & before) < 50


def test_others_in_a_row() -> None:
    past = History(new_batch())
    base = past.commit({"k": ""})
    heads = [past.commit({"k": "", name: name}, base) for name in "abc"]
    ours = heads[0]
    for name, head in zip("bc", heads[1:]):
        ours = plan.step(past.batch, CHUNKER, Other("a", ours), Other(name, head)).version
    assert past.shown(ours) == {"k": "", "a": "a", "b": "b", "c": "c"}
    assert [cid for cid, _ in history.line(past.batch, ours)][-2:] == [heads[0], base]


def test_a_base_that_is_given() -> None:
    past = History(new_batch())
    base = past.commit({"f": TEXT})
    left, right = past.commit({"f": LEFT}, base), past.commit({"f": RIGHT})
    assert plan.step(past.batch, CHUNKER, Other("x", left), Other("y", right)).conflicts
    step = plan.step(past.batch, CHUNKER, Other("x", left), Other("y", right), base=base)
    assert not step.conflicts and past.shown(step.version) == {"f": BOTH} and step.bases == (base,)
    by_tree = plan.step(past.batch, CHUNKER, Other("x", left), Other("y", right), base=past.version(base).tree)
    assert past.version(by_tree.version).tree == past.version(step.version).tree


def test_a_tree_that_both_histories_had_is_the_base() -> None:
    """The same tree imported twice, under two names."""
    past = History(new_batch())
    one, two = past.commit({"f": TEXT, "k": ""}), past.commit({"f": TEXT, "k": ""})
    assert one != two
    left, right = past.commit({"f": LEFT, "k": ""}, one), past.commit({"f": RIGHT}, two)
    step = plan.step(past.batch, CHUNKER, Other("x", left), Other("y", right))
    assert past.shown(step.version) == {"f": BOTH} and not step.conflicts and set(step.bases) == {one, two}


def test_a_name_that_came_back_stays() -> None:
    past = History(new_batch())
    first = past.commit({"f": "1", "k": ""})
    base = past.commit({"k": ""}, first)
    left, right = past.commit({"f": "1", "k": ""}, base), past.commit({"k": "new"}, base)
    step = plan.step(past.batch, CHUNKER, Other("x", left), Other("y", right))
    assert past.shown(step.version) == {"f": "1", "k": "new"} and not step.conflicts
    assert step.version != left and past.version(step.version).tombstones is None


def test_criss_cross() -> None:
    """Each side settled the first conflict in its own way: that is a conflict again, and no line is lost."""
    past = History(new_batch())
    base = past.commit({"f": TEXT, "k": "k", "l": "l"})
    left, right = past.commit({"f": LEFT, "k": "k", "l": "l"}, base), past.commit({"f": TEXT.replace("2", "RIGHT"), "k": "k", "l": "l"}, base)  # fmt: skip  # noqa: E501
    one = past.commit({"f": LEFT, "k": "one", "l": "l"}, left, right)
    two = past.commit({"f": TEXT.replace("2", "RIGHT") + "8\n", "k": "k", "l": "two"}, right, left)
    step = plan.step(past.batch, CHUNKER, Other("x", one), Other("y", two))
    assert set(step.bases) == {left, right}
    assert past.shown(step.version) == {
        "f": TEXT.replace("2", "RIGHT") + "8\n", "f~x": LEFT, "k": "one", "l": "two",
    }  # fmt: skip


def test_histories_that_merged_each_other_too_often() -> None:
    past = History(new_batch())
    base = past.commit({"k": ""})
    left, right = past.commit({"k": "", "a": "a"}, base), past.commit({"k": "", "b": "b"}, base)
    for number in range(limits.merge_rounds_max + 3):
        new = past.commit({"k": "", "a": f"a{number}"}, left, right), past.commit({"k": "", "b": f"b{number}"}, right, left)  # fmt: skip  # noqa: E501
        left, right = new
    with pytest.raises(TooLarge, match="--base"):
        plan.step(past.batch, CHUNKER, Other("x", left), Other("y", right))
    assert plan.step(past.batch, CHUNKER, Other("x", left), Other("y", right), base=base).outcome == "merged"


# Hostile trees


def test_deep_directories() -> None:
    past = History(new_batch())

    def deep(name: bytes, depth: int) -> Tree:
        made = directory.with_entries(past.batch, DIR, {name: Entry("file", 0o644)})
        for _ in range(depth):
            made = directory.with_entries(past.batch, DIR, {b"d": made})
        return Tree(made)

    base = past.commit(deep(b"base", 300))
    step = plan.step(
        past.batch, CHUNKER,
        Other("x", past.commit(deep(b"x", 300), base)), Other("y", past.commit(deep(b"y", 300), base)),
    )  # fmt: skip
    found = [path.rpartition(b"/")[2] for path, e in directory.walk(past.batch, past.tree(step.version).root) if not e.is_dir]  # fmt: skip  # noqa: E501
    assert found == [b"x", b"y"] and not step.conflicts
    with mock.patch.object(limits, "depth_max", 100), pytest.raises(TooLarge):
        plan.step(past.batch, CHUNKER, Other("x", past.commit(deep(b"x", 300), base)), Other("y", step.version), base=base)  # fmt: skip  # noqa: E501


def test_text_that_would_take_too_long_or_is_too_large_is_kept_twice() -> None:
    same = "\n" * 3000
    for bound, value in (("text_pairs_max", 10_000), ("text_bytes_max", 2000)):
        with mock.patch.object(limits, bound, value):
            found = outcome({"f": same}, {"f": "left\n" + same}, {"f": same + "right\n"})
        assert found.files == {"f": same + "right\n", "f~left": "left\n" + same}
