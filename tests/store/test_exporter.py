"""Export: what was imported comes out again, for root and for anybody, and no tree gets out of its destination."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from store import directory, limits
from store import entry as entries
from store.batch import Batch
from store.cache import Cache
from store.cid import Cid
from store.entry import Entry
from store.errors import NameTaken, NoSpace, NotFound
from store.exporter import Exported, export_directory, export_entry
from store.importer import import_directory
from store.memory_store import MemoryStore
from store.version import Tree
from tests.store.models import imported
from tests.suites import trees

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


def new_batch() -> Batch:
    return Batch(Cache(MemoryStore()))


def cid_of(path: Path) -> Cid:
    return import_directory(new_batch(), path).cid


def reasons(done: Exported) -> dict[bytes, str]:
    return dict(done.skipped)


# Round trips


def test_a_nasty_tree_comes_out_as_it_went_in(ground: Path, rng: random.Random) -> None:
    trees.build(ground / "in", rng)
    source, got = imported(ground / "in")
    done = export_directory(source, got.tree, ground / "out")
    assert done == Exported((), got.files, got.bytes)
    trees.assert_same(trees.facts(ground / "in"), trees.facts(ground / "out"))
    assert cid_of(ground / "out") == got.cid


@pytest.mark.parametrize("held", [1, 2])
def test_few_descriptors_are_enough(
    ground: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    trees.build(ground / "in", rng)
    source, got = imported(ground / "in")
    monkeypatch.setattr(limits, "open_directories_max", held)
    before = os.listdir("/proc/self/fd")
    assert export_directory(source, got.tree, ground / "out").skipped == ()
    assert os.listdir("/proc/self/fd") == before
    monkeypatch.undo()
    assert cid_of(ground / "out") == got.cid


@as_root
@pytest.mark.parametrize("held", [1, 128])
def test_an_ordinary_user_takes_his_own_tree_in_and_out(
    ground: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(limits, "open_directories_max", held)

    def work() -> list[object]:
        trees.build(ground / "in", rng)
        source, got = imported(ground / "in")
        done = export_directory(source, got.tree, ground / "out")
        return [got.skipped, done.skipped, got.cid == cid_of(ground / "out")]

    assert trees.as_nobody(work) == [(), (), True]
    trees.assert_same(trees.facts(ground / "in"), trees.facts(ground / "out"))


@as_root
def test_an_ordinary_user_gets_all_of_a_tree_of_root_but_its_privileges(ground: Path, rng: random.Random) -> None:
    trees.build(ground / "in", rng)
    source, got = imported(ground / "in")
    skipped = trees.as_nobody(lambda: reasons(export_directory(source, got.tree, ground / "out")))
    assert skipped == {
        b"_specials/block": "Operation not permitted",
        b"_specials/char": "Operation not permitted",
        b"_attributes/file": "its attribute trusted.monofs could not be restored: Operation not permitted",
        b"_attributes/symlink": "its attribute trusted.monofs could not be restored: Operation not permitted",
    }
    expected, found = trees.facts(ground / "in"), trees.facts(ground / "out")
    del expected[b"_specials/block"], expected[b"_specials/char"]
    for path, facts in expected.items():
        own = {"uid": trees.NOBODY, "gid": trees.NOBODY, "mode": facts.mode & ~(stat.S_ISUID | stat.S_ISGID)}
        xattrs = tuple(pair for pair in facts.xattrs if not pair[0].startswith(("trusted.", "security.")))
        expected[path] = facts._replace(**own, xattrs=xattrs)
    trees.assert_same(expected, found)


@as_root
def test_owners_are_left_alone_if_asked(ground: Path) -> None:
    (ground / "in").mkdir()
    for name, uid in (("his", 1000), ("mine", 0)):
        (ground / "in" / name).touch()
        os.chown(ground / "in" / name, uid, uid)
        (ground / "in" / name).chmod(0o6755)
    source, got = imported(ground / "in")
    assert export_directory(source, got.tree, ground / "out", owner=False).skipped == ()
    found = trees.facts(ground / "out")
    assert (found[b"his"].uid, found[b"his"].gid) == (0, 0)
    assert found[b"his"].mode & 0o7777 == 0o755  # or a program of his would run as root now
    assert found[b"mine"].mode & 0o7777 == 0o4755


def test_a_default_access_list_around_the_destination_is_not_inherited(ground: Path) -> None:
    (ground / "in/below").mkdir(parents=True)
    (ground / "in/below/file").touch()
    source, got = imported(ground / "in")
    (ground / "around").mkdir()
    os.setxattr(ground / "around", "system.posix_acl_default", trees.ACL)
    (ground / "around/empty").mkdir()
    for name in ("new", "empty"):
        export_directory(source, got.tree, ground / "around" / name)
        trees.assert_same(trees.facts(ground / "in"), trees.facts(ground / "around" / name))


def test_a_tree_may_use_the_name_of_our_side_directory(ground: Path) -> None:
    for name in (".monofs-links", ".monofs-links-1"):
        (ground / "in" / name).mkdir(parents=True)
        (ground / "in" / name / "0").write_bytes(b"1")
        os.link(ground / "in" / name / "0", ground / "in" / name / "1")
    source, got = imported(ground / "in")
    assert export_directory(source, got.tree, ground / "out").skipped == ()
    trees.assert_same(trees.facts(ground / "in"), trees.facts(ground / "out"))


# The destination


def test_the_destination_must_be_new_or_empty(ground: Path) -> None:
    source, got = Cache(MemoryStore()), Tree(Entry("dir", 0o755))
    (ground / "full").mkdir()
    (ground / "full/file").touch()
    (ground / "empty").mkdir()
    (ground / "link").symlink_to("empty")
    with pytest.raises(NameTaken, match="not empty"):
        export_directory(source, got, ground / "full")
    with pytest.raises(NameTaken, match="no directory"):
        export_directory(source, got, ground / "full/file")
    with pytest.raises(NotFound, match="no directory"):
        export_directory(source, got, ground / "missing/out")
    for name in ("empty", "link", "new"):
        assert export_directory(source, got, ground / name).skipped == ()
        assert stat.S_IMODE((ground / name).stat().st_mode) == 0o755


def test_a_single_file_is_exported_as_itself(ground: Path, rng: random.Random) -> None:
    trees.build(ground / "in", rng)
    source, got = imported(ground / "in")
    expected = trees.facts(ground / "in")
    (ground / "out").mkdir()
    for path in (
        b"_contents/random-3000000",
        b"_contents/sparse",
        b"_links/symlink",
        b"_links/fifo",
        b"_modes/file-0000",
    ):
        name = os.fsdecode(path.replace(b"/", b"-"))
        there = directory.resolve(source, got.tree.root, path)
        assert export_entry(source, there, ground / "out" / name).skipped == ()
        found = trees.facts(ground / "out")[os.fsencode(name)]
        assert found == expected[path]._replace(same=found.same, nlink=1)
        with pytest.raises(NameTaken, match="exists"):
            export_entry(source, there, ground / "out" / name)
    with pytest.raises(NotFound):
        export_entry(source, there, ground / "missing/file")


@as_root
def test_a_full_disk_is_said_clearly(ground: Path, rng: random.Random) -> None:
    (ground / "in").mkdir()
    (ground / "in/large").write_bytes(rng.randbytes(3 << 20))
    source, got = imported(ground / "in")
    with trees.tmpfs(ground / "disk", "1m") as disk:
        with pytest.raises(NoSpace, match="not the whole tree"):
            export_directory(source, got.tree, disk / "out")
        with pytest.raises(NoSpace):
            export_entry(source, directory.resolve(source, got.tree.root, b"large"), disk / "large")


# Damage


def test_a_lost_block_costs_one_file(ground: Path, rng: random.Random) -> None:
    """It is named, half of it is not left behind, and the rest is exported."""
    for name in ("a", "damaged", "z"):
        (ground / "in" / name).mkdir(parents=True)
        (ground / "in" / name / "file").write_bytes(rng.randbytes(1_000_000))
    batch = new_batch()
    got = import_directory(batch, ground / "in")
    there = directory.resolve(batch, got.tree.root, b"damaged/file")
    assert isinstance(there.data, Cid)
    last = [item[1] for item in batch.node(there.data).items][-1]
    del batch.blocks[last]
    done = export_directory(batch, got.tree, ground / "out")
    assert list(reasons(done)) == [b"damaged/file"]
    assert str(last) in reasons(done)[b"damaged/file"]
    assert sorted(trees.facts(ground / "out")) == [b"", b"a", b"a/file", b"damaged", b"z", b"z/file"]


def test_a_lost_directory_costs_what_was_in_it(ground: Path) -> None:
    for name in ("a", "damaged", "z"):
        (ground / "in" / name).mkdir(parents=True)
        (ground / "in" / name / f"in {name}").touch()
    batch = new_batch()
    got = import_directory(batch, ground / "in")
    lost = directory.resolve(batch, got.tree.root, b"damaged").data
    assert isinstance(lost, Cid)
    del batch.blocks[lost]
    done = export_directory(batch, got.tree, ground / "out")
    assert list(reasons(done)) == [b"damaged"]
    assert sorted(trees.facts(ground / "out")) == [b"", b"a", b"a/in a", b"damaged", b"z", b"z/in z"]


def test_lost_links_and_attributes_cost_no_content(ground: Path) -> None:
    (ground / "in").mkdir()
    (ground / "in/a").write_bytes(b"1")
    os.link(ground / "in/a", ground / "in/b")
    os.setxattr(ground / "in/a", "user.large", bytes(1000))
    batch = new_batch()
    got = import_directory(batch, ground / "in")
    there = directory.resolve(batch, got.tree.root, b"a")
    assert isinstance(there.xattrs, Cid)
    assert got.tree.links is not None
    del batch.blocks[there.xattrs], batch.blocks[got.tree.links]
    done = export_directory(batch, got.tree, ground / "out")
    assert sorted(path for path, _ in done.skipped) == [b"a", b"a", b"b", b"b"]
    assert (ground / "out/a").read_bytes() == (ground / "out/b").read_bytes() == b"1"


@pytest.mark.parametrize("number", [errno.EMLINK, errno.EPERM])
def test_where_links_are_refused_there_are_copies(ground: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    (ground / "in").mkdir()
    (ground / "in/a").write_bytes(b"content")
    for name in "bcdef":
        os.link(ground / "in/a", ground / "in" / name)
    source, got = imported(ground / "in")
    real = os.link

    def link(*paths: Any, **options: Any) -> None:
        if number == errno.EPERM or os.stat(paths[0], dir_fd=options["src_dir_fd"]).st_nlink == 3:
            raise OSError(number, os.strerror(number))
        real(*paths, **options)

    monkeypatch.setattr(os, "link", link)
    done = export_directory(source, got.tree, ground / "out")
    found = trees.facts(ground / "out")
    assert {path: facts.content for path, facts in found.items()} == {
        path: facts.content for path, facts in trees.facts(ground / "in").items()
    }
    groups: dict[bytes, int] = {}
    for path in (b"a", b"b", b"c", b"d", b"e", b"f"):
        groups[found[path].same] = groups.get(found[path].same, 0) + 1
    assert max(groups.values()) == (1 if number == errno.EPERM else 2)  # and the third link is in the side directory
    assert all("cop" in reason for reason in reasons(done).values())
    assert len(done.skipped) >= len(groups) - 1


# Forged trees


def forged(batch: Batch, items: list[tuple[bytes, Entry]]) -> Tree:
    """Return a tree with a directory node that no importer would write."""
    node = batch.put_doc(["dir", 0, [[name, entries.encode(entry)] for name, entry in items]])
    return Tree(Entry("dir", 0o755, data=node, total=(len(items), 0, 0)))


@pytest.mark.parametrize(
    "name", [b"..", b".", b"", b"../escaped", b"/tmp/escaped", b"a/b", b"a\0b", b"n" * 256, b"a/../../escaped"]
)
@pytest.mark.parametrize("kind", ["file", "dir", "symlink"])
def test_a_forged_name_makes_nothing(ground: Path, name: bytes, kind: str) -> None:
    batch = new_batch()
    made = Entry(kind, 0o644, size=1, data=b"x") if kind != "dir" else Entry("dir", 0o755)
    (ground / "around").mkdir()
    done = export_directory(batch, forged(batch, [(name, made)]), ground / "around/out")
    assert list(reasons(done)) == [b""]
    assert sorted(trees.facts(ground)) == [b"", b"around", b"around/out"]


def test_one_name_cannot_be_a_link_and_then_a_directory(ground: Path) -> None:
    """The oldest trick with archives: a link that leads out, then a file behind it."""
    batch = new_batch()
    inside = forged(batch, [(b"escaped", Entry("file", 0o644, size=1, data=b"x"))]).root
    (ground / "target").mkdir()
    link = os.fsencode(ground / "target")
    tree = forged(batch, [(b"a", Entry("symlink", 0o777, size=len(link), data=link)), (b"a", inside)])
    done = export_directory(batch, tree, ground / "out")
    assert list(reasons(done)) == [b""]
    assert os.listdir(ground / "target") == os.listdir(ground / "out") == []


def test_somebody_who_swaps_a_directory_for_a_link_gains_nothing(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ground / "in/dir").mkdir(parents=True)
    (ground / "in/dir/file").touch()
    source, got = imported(ground / "in")
    (ground / "target").mkdir()
    real = os.mkdir

    def mkdir(path: Any, *rest: Any, **options: Any) -> None:
        real(path, *rest, **options)
        if path == b"dir":
            os.rmdir(ground / "out/dir")
            os.symlink(ground / "target", ground / "out/dir")

    monkeypatch.setattr(os, "mkdir", mkdir)
    done = export_directory(source, got.tree, ground / "out")
    assert list(reasons(done)) == [b"dir"]
    assert os.listdir(ground / "target") == []


def forged_links(batch: Batch, rings: dict[bytes, bytes]) -> Cid:
    return batch.put_doc(["links", 0, [[path, following] for path, following in sorted(rings.items())]])


@pytest.mark.parametrize(
    "rings",
    [
        {b"a": b"dir", b"dir": b"a"},  # a directory cannot be one of them
        {b"a": b"nothing", b"nothing": b"a"},
        {b"a": b"b", b"b": b"b"},  # no ring
        {b"a": b"b", b"b": b"dir/c", b"dir/c": b"b"},  # a ring with a tail
        {b"a": b"b"},
        {b"a": b"a"},
    ],
)
def test_forged_links_make_files_nevertheless(ground: Path, rings: dict[bytes, bytes]) -> None:
    batch = new_batch()
    inside = forged(batch, [(b"c", Entry("file", 0o600, nlink=2, size=1, data=b"c"))]).root
    files = [(name, Entry("file", 0o600, nlink=2, size=1, data=name)) for name in (b"a", b"b")]
    tree = forged(batch, [*files, (b"dir", inside)])._replace(links=forged_links(batch, rings))
    export_directory(batch, tree, ground / "out")
    assert sorted(trees.facts(ground / "out")) == [b"", b"a", b"b", b"dir", b"dir/c"]
    assert (ground / "out/a").read_bytes() == b"a"


def test_a_file_of_absurd_size_is_made_or_named(ground: Path) -> None:
    batch = new_batch()
    size = limits.file_bytes_max
    done = export_directory(batch, forged(batch, [(b"a", Entry("file", 0o600, size=size, holes=size))]), ground / "out")
    found = {path: facts.size for path, facts in trees.facts(ground / "out").items() if path}
    if done.skipped:  # most filesystems
        assert (reasons(done), found) == ({b"a": os.strerror(errno.EFBIG)}, {})
    else:
        assert found == {b"a": size}


def test_owners_that_cannot_be_are_named(ground: Path) -> None:
    batch = new_batch()
    tree = forged(batch, [(b"a", Entry("file", 0o4755, uid=2**32 - 1, gid=2**32 - 1, size=1, data=b"a"))])
    done = export_directory(batch, tree, ground / "out", owner=True)
    assert "its owner could not be restored" in reasons(done)[b"a"]
    assert stat.S_IMODE((ground / "out/a").stat().st_mode) == 0o755


def test_directories_as_deep_as_may_be(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ground / "in/a/b/c/d").mkdir(parents=True)
    source, got = imported(ground / "in")
    monkeypatch.setattr(limits, "depth_max", 3)
    done = export_directory(source, got.tree, ground / "out")
    assert list(reasons(done)) == [b"a/b/c/d"]
    assert sorted(trees.facts(ground / "out")) == [b"", b"a", b"a/b", b"a/b/c"]
