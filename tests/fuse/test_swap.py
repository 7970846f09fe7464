"""A swap under a worktree in use, beside the model: what it shows, what stays open, and what the kernel is told."""

from __future__ import annotations

import errno
import random
from typing import NamedTuple

import pytest

from monofs_fuse import lost, swap
from monofs_fuse.errors import Errno
from monofs_fuse.inodes import Directory, Inode, path_of, paths_of
from monofs_fuse.swap import Stale
from store import version
from store.cid import Cid
from store.entry import Entry
from store.names import Name
from tests.fuse.model import Known, Node, Pair, Snapshot, walk
from tests.fuse.test_commit import NAMES, beginning, some_step
from tests.store.models import tiny
from tests.suites.faults import model_of

FILE, DIRECTORY = Entry("file", 0o644), Entry("dir", 0o755)
ROUNDS = 80
STEPS = 40


class Fork(Pair):
    """A name of its own that begins as another pair's tree, in the same store."""

    def __init__(self, of: Pair, name: str) -> None:
        self.name, self.now, self.chunker = name, of.now, of.chunker
        self.store, self.repository, self.saved = of.store, of.repository, of.saved
        self.root, self.flight = model_of(of.saved), None
        batch, stage = self.repository.batch("fork")
        self.repository.set_name(name, None, Name(of.head.record.version, of.head.tree), batch, stage)
        self._mount()

    def published(self) -> Name:
        self.commit()
        self.head.checkpoint()
        return self.head.record


def exchange(pair: Pair, record: Name) -> Stale:
    """Let the pair's name be `record`, as an Exchange does."""
    cache = pair.repository.cache
    tree = version.load_tree(cache, record.version)
    difference = swap.between(cache, pair.head.load(), tree, swap.busy(pair.tree))
    pair.head.move(pair.head.record, record)
    return swap.swap(pair.tree, difference)


def follow(pair: Pair, new: Node, saved: Snapshot) -> None:
    """Let the model be the new tree. Whether an inode stayed is read from the worktree, and held to the rules."""
    old = pair.saved
    for inode in pair.tree.table:
        if inode.is_dir or inode.ino not in pair.lookups:
            continue
        assert inode.names or not (node := node_of(pair, inode)) or not stays(node, old, saved), "it must have stayed"
    nodes = dict(walk(new))
    for inode in pair.tree.table:
        if inode.names or inode is pair.tree.root:
            found = nodes[path_of(inode)]
            assert not found.ino or found.ino == inode.ino
            found.ino = inode.ino
    by_ino = {node.ino: node for node in nodes.values() if node.ino}
    for index, node in enumerate(pair.opened):
        inode = pair.tree.inode(node.ino)
        if inode.names:
            kept = by_ino[inode.ino]
            assert (kept.kind, kept.data, kept.target, kept.rdev) == (node.kind, node.data, node.target, node.rdev)
            pair.opened[index] = kept
        elif node.nlink:
            node.nlink = 0
            assert inode.lost is not None or node.kind != "file"
    pair.root, pair.saved = new, saved


def node_of(pair: Pair, inode: Inode) -> Node | None:
    """Return the old model's node of an inode that had a name."""
    return next((node for _, node in walk(pair.root) if node.ino == inode.ino), None)


def stays(node: Node, old: Snapshot, new: Snapshot) -> bool:
    """True if the file is at the same paths in both, with nothing but metadata changed."""

    def content(known: Known) -> object:
        return known.kind, known.data, known.target, known.rdev, known.group

    paths = [path for path, known in old.items() if known.group and node_at(old, path, node)]
    return bool(paths) and all(path in new and content(new[path]) == content(old[path]) for path in paths)


def node_at(tree: Snapshot, path: bytes, node: Node) -> bool:
    return path in _PATHS.get(id(node), ())


_PATHS: dict[int, set[bytes]] = {}


def remember_paths(pair: Pair) -> None:
    _PATHS.clear()
    for path, node in walk(pair.root):
        _PATHS.setdefault(id(node), set()).add(path)


# What the kernel believes


class Kernel(NamedTuple):
    """Names, with the inode that each leads to or None, and what stat shows of inodes."""

    entries: dict[tuple[int, bytes], int | None]
    attributes: dict[int, object]

    @classmethod
    def of(cls, pair: Pair) -> Kernel:
        kernel = cls({}, {})
        known = [inode for inode in pair.tree.table if inode.ino in pair.lookups or inode is pair.tree.root]
        for inode in known:
            kernel.attributes[inode.ino] = shown(inode)
            kernel.entries.update(((parent.ino, name), inode.ino) for parent, name in inode.names)
            if isinstance(inode, Directory) and inode.nlink:
                absent = [name for name in NAMES if looked_up(pair, inode, name) is None]
                kernel.entries.update(dict.fromkeys(((inode.ino, name) for name in absent), None))
        return kernel

    def check(self, pair: Pair, stale: Stale) -> None:
        """What is not true any more was told, and nothing else."""
        for (above, name), ino in self.entries.items():
            directory = pair.tree.table.get(above)
            if not isinstance(directory, Directory) or (not directory.names and directory is not pair.tree.root):
                continue  # nobody gets there
            found = looked_up(pair, directory, name)
            if (None if found is None else found.ino) != ino:
                assert (above, name) in stale.entries, f"{name!r} is believed to be as it was"
            elif (above, name) in stale.entries:
                assert found is not None and found.kind == "file", f"{name!r} did not change"
                assert shown(found)[-1] != self.attributes[found.ino][-1]  # type: ignore[index]
        for ino, was in self.attributes.items():
            inode = pair.tree.table.get(ino)
            if inode is not None and shown(inode) != was:
                assert ino in stale.inodes, f"{path_of(inode)!r} is believed to look as it did"


def looked_up(pair: Pair, directory: Directory, name: bytes) -> Inode | None:
    """Look a name up without the kernel hearing of it."""
    found = pair.tree.lookup(directory, name)
    if found is not None:
        pair.tree.forget(found.ino, 0)
    return found


def shown(inode: Inode) -> tuple[object, ...]:
    return inode.mode, inode.uid, inode.gid, inode.nlink, inode.xattrs, inode.mtime


# The tests


def test_any_tree_under_any_worktree(rng: random.Random) -> None:
    swapped = 0
    for number in range(ROUNDS):
        seed = rng.randrange(1 << 32)
        try:
            swapped += round_of(random.Random(seed))
        except BaseException:
            print(f"round {number}: random.Random({seed})")
            raise
    assert swapped > ROUNDS // 2


def round_of(rng: random.Random) -> bool:
    """Work in two forks, put one's tree under the other, work on there."""
    with tiny() as chunker:
        pair = Pair(chunker)
        for step in beginning(rng):
            pair.do(step)
        worked(rng, pair, rng.randrange(STEPS))
        pair.commit()
        other = Fork(pair, "other")
        worked(rng, other, rng.randrange(STEPS))
        record = other.published()
        for _ in range(rng.randrange(6)):
            pair.look(rng.choice([b"", b"a", b"b", b"a/a"]))
        pair.commit()
        kernel = Kernel.of(pair)
        remember_paths(pair)
        stale = exchange(pair, record)
        follow(pair, model_of(other.saved), other.saved)
        kernel.check(pair, stale)
        pair.check_open()
        pair.look()
        worked(rng, pair, rng.randrange(STEPS))
        pair.check_open()
        pair.look()
        pair.remount()
        pair.look()
        return bool(stale.entries)


def worked(rng: random.Random, pair: Pair, count: int) -> None:
    for _ in range(count):
        step = some_step(rng, pair)
        if step[0] != "undo":  # the forks share a store
            pair.do(step)


@pytest.fixture
def pair() -> Pair:
    """d/f, with a link to it beside; d/g; e, which is empty."""
    made = Pair()
    for step in (
        ("create", b"d", DIRECTORY), ("create", b"d/f", FILE), ("write_at", b"d/f", 0, b"1"), ("link", b"d/f", b"d/l"),
        ("create", b"d/g", FILE), ("write_at", b"d/g", 0, b"gee"), ("create", b"e", DIRECTORY), ("commit",), ("look",),
    ):  # fmt: skip
        made.do(step)  # type: ignore[arg-type]
    return made


def swapped(pair: Pair, *steps: tuple[object, ...]) -> Stale:
    other = Fork(pair, "other")
    for step in steps:
        other.do(step)  # type: ignore[arg-type]
    record = other.published()
    remember_paths(pair)
    stale = exchange(pair, record)
    follow(pair, model_of(other.saved), other.saved)
    return stale


def test_what_moves_stays_the_file_it_is(pair: Pair) -> None:
    inode, directory = pair.walk_to(b"d/g"), pair.walk_to(b"d")
    pair.open(b"d/g")
    swapped(pair, ("rename", b"d", b"e/new"))
    assert path_of(inode) == b"e/new/g" and path_of(directory) == b"e/new"
    pair.write_open(0, 0, b"G")
    pair.commit()
    assert pair.saved[b"e/new/g"].data == b"Gee"


def test_a_file_moves_out_of_a_directory_that_goes(pair: Pair) -> None:
    inode = pair.walk_to(b"d/g")
    pair.open(b"d/g")
    swapped(pair, ("rename", b"d/g", b"e/g"), ("unlink", b"d/f"), ("unlink", b"d/l"), ("rmdir", b"d"))
    assert path_of(inode) == b"e/g" and inode.opens == 1


def test_other_links_make_another_file(pair: Pair) -> None:
    inode = pair.walk_to(b"d/f")
    pair.open(b"d/f")
    swapped(pair, ("link", b"d/f", b"more"))
    assert not inode.names
    assert paths_of(pair.walk_to(b"d/f")) == (b"d/f", b"d/l", b"more")
    pair.check_open()


def test_only_metadata_changed(pair: Pair) -> None:
    inode, directory = pair.walk_to(b"d/g"), pair.walk_to(b"d")
    stale = swapped(pair, ("change_mode", b"d/g", 0o600))
    assert pair.walk_to(b"d/g") is inode and inode.mode == 0o600
    assert stale == Stale([], [inode.ino])
    assert pair.walk_to(b"d") is directory


def test_a_lost_file_that_nobody_has_open_is_looked_up_again(pair: Pair) -> None:
    inode = pair.walk_to(b"d/g")
    swapped(pair, ("write_at", b"d/g", 0, b"new"))
    with pytest.raises(Errno) as raised:
        pair.tree.inode(inode.ino)
    assert raised.value.number == errno.ESTALE
    assert pair.walk_to(b"d/g").ino != inode.ino


# What was written too late


def lost_file(pair: Pair, *steps: tuple[object, ...]) -> Inode:
    """Return d/g, which was open and lost its name to the swap."""
    inode = pair.walk_to(b"d/g")
    pair.open(b"d/g")
    swapped(pair, *steps)
    assert not inode.names and not lost.is_edited(inode)
    return inode


def content(pair: Pair) -> dict[bytes, bytes]:
    """Commit, and return what the files in the tree have."""
    from monofs_fuse import commit
    from tests.fuse.model import committed

    frozen = commit.freeze(pair.tree)
    commit.settle(pair.tree, frozen, pair.head.save(frozen))
    found = committed(pair.repository.cache, pair.head.load())
    return {path: known.data for path, known in found.items() if known.kind == "file"}


def test_late_edits_of_a_replaced_file_are_kept_beside_it(pair: Pair) -> None:
    inode = lost_file(pair, ("write_at", b"d/g", 0, b"new"), ("create", b"d/g~t", FILE))
    pair.tree.write(inode, 3, b" late")
    assert lost.is_edited(inode)
    assert b"gee late" not in content(pair).values(), "it has no name yet"
    assert lost.is_edited(inode), "also when they were saved"
    parent, name = lost.rescue(pair.tree, inode, "t")
    assert (path_of(parent), name) == (b"d", b"g~t.2")
    found = content(pair)
    assert (found[b"d/g"], found[b"d/g~t.2"]) == (b"new", b"gee late")


def test_late_edits_of_a_deleted_file_bring_it_back(pair: Pair) -> None:
    steps = [("unlink", b"d/g"), ("unlink", b"d/f"), ("unlink", b"d/l"), ("rmdir", b"d")]
    inode = lost_file(pair, ("change_mode", b"d", 0o700), *steps)
    pair.tree.truncate(inode, 1)
    lost.rescue(pair.tree, inode, "t")
    assert content(pair) == {b"d/g": b"g"}
    assert pair.tree.lookup(pair.tree.root, b"d").mode == 0o755, "as this side had it"  # type: ignore[union-attr]


def test_a_file_is_where_its_directory_was(pair: Pair) -> None:
    steps = [("unlink", b"d/g"), ("unlink", b"d/f"), ("unlink", b"d/l"), ("rmdir", b"d")]
    inode = lost_file(pair, *steps, ("create", b"d", FILE), ("write_at", b"d", 0, b"in the way"))
    pair.tree.write(inode, 0, b"late")
    lost.rescue(pair.tree, inode, "a/b")
    assert content(pair) == {b"d": b"in the way", b"d~a-b/g": b"late"}


def test_a_move_from_something_else_is_refused(pair: Pair) -> None:
    from store.errors import MissingLink, NotFound, RootMoved, WrongKind

    record, tree = pair.head.record, pair.head.tree
    other = Fork(pair, "other")
    other.create(b"new", FILE)
    new = other.published()
    nowhere = Cid(bytes(new.version[:4]) + bytes(32))
    for old, to, error in (
        (new, new, RootMoved), (record, Name(nowhere), NotFound), (record, Name(tree), WrongKind),
        (record, Name(new.version, nowhere), (MissingLink, NotFound)),
    ):  # fmt: skip
        with pytest.raises(error):  # type: ignore[call-overload]
            pair.head.move(old, to)
        assert (pair.head.record, pair.head.tree) == (record, tree) == (pair.repository.name("t"), tree)
