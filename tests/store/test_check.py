"""check names what is wrong, repair puts the counts right, and storing the same content again heals the rest."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from store import check, codec, directory, limits, version
from store import file as files
from store.blocks import Change, RootChange, Store
from store.check import Place, Repaired
from store.cid import Cid
from store.errors import Corrupt, NotFound
from store.importer import import_directory
from store.memory_store import MemoryStore
from store.names import Name
from store.progress import SILENT
from store.repository import Repository
from store.tables import Tables
from tests.store.children import child
from tests.suites.blocks import State, drain, hold, node, put, raw, spoil

FILES = {b"a.txt": 3_000, b"deep/er/big.bin": 700_000, b"deep/er/other.bin": 50_000, b"deep/z": 5_000}
BIG = b"deep/er/big.bin"


@pytest.fixture
def source(tmp_path: Path, rng: random.Random) -> Path:
    """A directory with a few files of random bytes."""
    top = tmp_path / "source"
    for name, size in FILES.items():
        path = top / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))
    return top


@pytest.fixture
def memory(tmp_path: Path) -> Repository:
    return Repository(tmp_path, MemoryStore())


def publish(target: Repository, source: Path, name: str, old: Name | None = None) -> Cid:
    """Import `source` as `name`; returns the tree's CID."""
    batch, stage = target.batch("test")
    cid = import_directory(batch, source).cid
    target.publish(name, cid, batch, stage, old=old)
    return cid


def content(target: Repository, tree: Cid, path: bytes) -> files.File:
    root = version.load_tree(target.cache, tree).root
    return files.File.of(directory.resolve(target.cache, root, path))


def chunk(target: Repository, tree: Cid, path: bytes, index: int = 1) -> Cid:
    file = content(target, tree, path)
    found = [item[1] for _, item in file.items(target.cache, 0, file.size)]
    assert len(found) > 2
    return found[index]


def flip(store: Store, cid: Cid, bit: int = 100) -> None:
    data = bytearray(store.peek(cid))
    data[bit // 8] ^= 1 << bit % 8
    spoil(store, cid, bytes(data))


def kinds(report: check.Report) -> list[tuple[str, Cid | None]]:
    assert not any("\n" in str(problem) for problem in report.problems)
    return [(problem.kind, problem.cid) for problem in report.problems]


# Nothing wrong


def test_a_whole_store_is_clean(repository: Repository, source: Path) -> None:
    assert check.examine(repository.store) == check.Report(0, 0, ())
    publish(repository, source, "one")
    report = check.examine(repository.store)
    usage = repository.store.usage()
    assert report.is_clean and (report.blocks, report.bytes) == (usage.blocks, usage.plain)
    assert check.repair(repository, report) == Repaired(0, 0, ())


def test_garbage_is_no_problem(repository: Repository, source: Path) -> None:
    publish(repository, source, "one")
    repository.forget_name("one")
    assert repository.store.gc(2).waiting
    assert check.examine(repository.store).is_clean


def test_progress_is_told_of_every_block(repository: Repository, source: Path) -> None:
    publish(repository, source, "one")
    totals: list[tuple[int, int]] = []
    blocks: list[int] = []
    done: list[int] = []

    class Watch:
        def totals(self, files: int, size: int) -> None:
            totals.append((files, size))

        def file(self, path: bytes, size: int) -> None:
            blocks.append(size)

        def advance(self, size: int) -> None:
            done.append(size)

    report = check.examine(repository.store, Watch())
    assert totals == [(report.blocks, report.bytes)]
    assert sorted(blocks) == sorted(len(repository.store.peek(cid)) for cid in repository.store.cids())
    assert done == blocks


def write_when_told(pipe: Connection, path: Path) -> None:
    other = Repository.open(path)
    pipe.send("ready")
    pipe.recv()
    hold(other.store, b"other", node(raw(b"1")), raw(b"2"), blocks=(raw(b"1"), node(raw(b"1")), raw(b"2")))
    other.forget_name("one")
    drain(other.store)
    pipe.send("done")


def test_what_another_process_does_meanwhile_is_no_problem(repository: Repository, source: Path) -> None:
    publish(repository, source, "one")
    with child(write_when_told, repository.path) as other:
        other.pipe.recv()

        class Watch:
            totals, advance = SILENT.totals, SILENT.advance
            told = False

            def file(self, path: bytes, size: int) -> None:
                if not self.told:
                    self.told = True
                    other.pipe.send("go")
                    other.pipe.recv()

        blocks = repository.store.usage().blocks
        report = check.examine(repository.store, Watch())
        assert report.is_clean and report.blocks == blocks
    report = check.examine(repository.store)
    assert report.is_clean and report.blocks == 3


# Bad blocks


def test_a_flipped_bit_is_named_with_all_its_places(repository: Repository, source: Path) -> None:
    tree = publish(repository, source, "work/linux")
    batch, stage = repository.batch("test")
    repository.pin(tree, batch, stage)
    bad = chunk(repository, tree, BIG)
    flip(repository.store, bad)
    report = check.examine(repository.store)
    assert not report.is_clean and report.corrupt == {bad}
    [problem] = report.problems
    assert problem.places == (Place(str(tree), BIG), Place("work/linux", BIG))
    assert str(problem) == (
        f"block {bad} is corrupt: its bytes do not match its CID; in {tree}/deep/er/big.bin, work/linux/deep/er/big.bin"
    )


def test_all_other_files_stay_readable(repository: Repository, source: Path) -> None:
    tree = publish(repository, source, "one")
    flip(repository.store, chunk(repository, tree, BIG))
    repository = Repository(repository.path, repository.store)  # with nothing in its cache
    for name, size in FILES.items():
        file = content(repository, tree, name)
        if name == BIG:
            with pytest.raises(Corrupt):
                file.read_at(repository.cache, 0, size)
        else:
            assert file.read_at(repository.cache, 0, size) == (source / os.fsdecode(name)).read_bytes()


def _content_node(target: Repository, tree: Cid) -> Cid | bytes | None:
    return content(target, tree, BIG).content


def _directory(path: bytes) -> Callable[[Repository, Cid], Cid | None]:
    return lambda r, tree: directory.resolve(r.cache, version.load_tree(r.cache, tree).root, path).tree


BLOCKS = {
    "chunk": (lambda r, tree: chunk(r, tree, BIG), BIG),
    "bare chunk": (lambda r, tree: content(r, tree, b"deep/z").content, b"deep/z"),
    "content node": (_content_node, BIG),
    "directory": (_directory(b"deep/er"), b"deep/er"),
    "root directory": (_directory(b""), b""),
    "tree": (lambda r, tree: tree, b""),
}


@pytest.mark.parametrize("where", BLOCKS)
@pytest.mark.parametrize("damage", ["corrupt", "missing"])
@pytest.mark.parametrize("collected", [True, False])
def test_storing_the_same_content_heals_a_repaired_store(
    repository: Repository, source: Path, where: str, damage: str, collected: bool
) -> None:
    tree = publish(repository, source, "one")
    publish(repository, source, "two")
    whole = State.of(repository.store)
    find, path = BLOCKS[where]
    bad = find(repository, tree)
    assert isinstance(bad, Cid)
    if damage == "corrupt":
        flip(repository.store, bad)
    else:
        repository.store.repair(lambda tables: tables.lose(bad))

    report = check.examine(repository.store)
    assert kinds(report) == [(damage, bad)] + ([("count", None)] if bad.is_node else [])
    assert report.problems[0].places == (Place("one", path), Place("two", path))

    repaired = check.repair(repository, report)
    assert repaired.lost == (damage == "corrupt") and repaired.rescued == ()
    assert bool(repaired.counts) == bad.is_node
    State.of(repository.store).check()
    report = check.examine(repository.store)
    assert kinds(report) == [("missing", bad)]
    assert report.problems[0].places == (Place("one", path), Place("two", path))
    assert check.repair(repository, report) == Repaired(0, 0, ())

    if collected:
        drain(repository.store)
        State.of(repository.store).check()
    repository = Repository(repository.path, repository.store)
    assert publish(repository, source, "three") == tree
    assert check.examine(repository.store).is_clean
    drain(repository.store)
    state = State.of(repository.store)
    state.check()
    assert state.reachable() == state.blocks.keys()
    assert whole.blocks.items() <= state.blocks.items()


def test_only_the_newest_version_with_a_bad_block_is_told(repository: Repository, source: Path) -> None:
    first = publish(repository, source, "one")
    one = repository.name("one")
    gone = chunk(repository, first, BIG)
    stays = content(repository, first, b"deep/z").content
    assert one is not None and isinstance(stays, Cid)
    (source / os.fsdecode(BIG)).unlink()
    publish(repository, source, "one", one)
    flip(repository.store, gone)
    flip(repository.store, stays)
    places = {problem.cid: problem.places for problem in check.examine(repository.store).problems}
    assert places == {gone: (Place(f"one (version {one.version})", BIG),), stays: (Place("one", b"deep/z"),)}


def test_a_head_that_is_newer_than_its_version_is_told(repository: Repository, source: Path) -> None:
    publish(repository, source, "one")
    old = repository.name("one")
    assert old is not None
    (source / "new").write_bytes(b"new" * 1000)
    batch, stage = repository.batch("test")
    head = import_directory(batch, source).cid
    repository.set_name("one", old, Name(old.version, head), batch, stage)
    bad = content(repository, head, b"new").content
    assert isinstance(bad, Cid)
    flip(repository.store, bad)
    [problem] = check.examine(repository.store).problems
    assert problem.places == (Place("one", b"new"),)


def test_what_holds_a_bad_block_without_a_name_is_told_last(repository: Repository, source: Path) -> None:
    tree = publish(repository, source, "zoo")
    repository.lease(None, tree, "/mnt/some where", "/run/socket")
    bad = chunk(repository, tree, BIG)
    hold(repository.store, b"stage/x/y", bad)
    flip(repository.store, bad)
    [problem] = check.examine(repository.store).problems
    assert list(map(str, problem.places)) == [
        "zoo/deep/er/big.bin",
        "the mount on /mnt/some where/deep/er/big.bin",
        "what is held by stage/x/y",
    ]


def test_of_many_places_a_few_are_told(repository: Repository, source: Path) -> None:
    (source / "many").mkdir()
    for number in range(50):
        (source / "many" / f"file {number:02}\n").write_bytes(b"the same" * 100)
    tree = publish(repository, source, "one")
    bad = content(repository, tree, b"many/file 07\n").content
    assert isinstance(bad, Cid)
    flip(repository.store, bad)
    [problem] = check.examine(repository.store).problems
    line = str(problem)
    assert line.count("one/many/file ") == limits.check_places_max
    assert line.endswith("one/many/file 07\\n and more")


def test_a_block_is_only_taken_out_while_it_is_bad(memory: Repository) -> None:
    block = raw(b"precious")
    hold(memory.store, b"r", block, blocks=(block,))
    spoil(memory.store, block.cid, b"bad")
    report = check.examine(memory.store)
    spoil(memory.store, block.cid, block.data)
    assert check.repair(memory, report) == Repaired(0, 0, ())
    assert memory.store.get(block.cid) == block.data


def test_repair_finds_nodes_that_went_bad_since(memory: Repository) -> None:
    leaf = raw(b"leaf")
    top = node(leaf)
    hold(memory.store, b"r", top, blocks=(leaf, top))
    report = check.examine(memory.store)
    flip(memory.store, top.cid, 30)
    assert check.repair(memory, report).lost == 1
    State.of(memory.store).check()
    assert kinds(check.examine(memory.store)) == [("missing", top.cid)]


def test_bad_garbage_goes_for_good(memory: Repository) -> None:
    block, top = raw(b"bytes"), node(label="node")
    put(memory.store, block, top)
    spoil(memory.store, block.cid, b"bad")
    flip(memory.store, top.cid, 20)
    report = check.examine(memory.store)
    assert sorted(kinds(report)) == sorted([("corrupt", block.cid), ("corrupt", top.cid)])
    assert check.repair(memory, report).lost == 2
    assert State.of(memory.store) == State({}, {}, frozenset(), {})


# Wrong counts

LEAF, TOP, GARBAGE = raw(b"leaf"), node(raw(b"leaf"), label="top"), raw(b"garbage")


COUNTS: dict[str, tuple[Callable[[Tables], object], str]] = {
    "too low": (lambda t: t.set_count(LEAF.cid, 1), f"block {LEAF.cid} has count 1, but 2 refer to it"),
    "too high": (lambda t: t.set_count(TOP.cid, 7), f"block {TOP.cid} has count 7, but 1 refer to it"),
    "none": (lambda t: t.drop_count(LEAF.cid), f"block {LEAF.cid} has no count, but 2 refer to it"),
    "of nothing": (
        lambda t: t.set_count(raw(b"?").cid, 1),
        f"block {raw(b'?').cid} has count 1, but is not here and nothing refers to it",
    ),
    "not queued": (
        lambda t: t.unqueue(GARBAGE.cid),
        f"block {GARBAGE.cid} is needed by nothing, but does not wait to be deleted",
    ),
    "queued": (lambda t: t.queue(LEAF.cid), f"block {LEAF.cid} waits to be deleted, but 2 refer to it"),
    "queued nothing": (
        lambda t: t.queue(raw(b"?").cid),
        f"block {raw(b'?').cid} waits to be deleted, but is not here",
    ),
}


@pytest.mark.parametrize("damage", COUNTS)
def test_a_wrong_count_is_told_and_repaired(memory: Repository, damage: str) -> None:
    hold(memory.store, b"r", TOP, LEAF, blocks=(LEAF, TOP))
    put(memory.store, GARBAGE)
    before = State.of(memory.store)
    work, line = COUNTS[damage]
    memory.store.repair(work)
    report = check.examine(memory.store)
    assert [str(problem) for problem in report.problems] == [line]
    repaired = check.repair(memory, report)
    assert repaired == Repaired(0 if "queued" in damage else 1, 0, ())
    assert State.of(memory.store) == before


def test_many_wrong_counts_are_summed_up(memory: Repository) -> None:
    blocks = tuple(raw(b"%d" % number) for number in range(limits.check_counts_max + 7))
    hold(memory.store, b"r", *blocks, blocks=blocks)
    memory.store.repair(lambda tables: [tables.set_count(cid, 2) for cid, _ in blocks])
    report = check.examine(memory.store)
    assert len(report.problems) == limits.check_counts_max + 1
    assert str(report.problems[-1]) == "7 more counts are wrong"
    assert check.repair(memory, report).counts == len(blocks)
    assert check.examine(memory.store).is_clean


# Damaged roots


@pytest.mark.parametrize("damage", ["bytes", "format", "another CID"])
def test_what_a_damaged_name_held_is_pinned(repository: Repository, source: Path, damage: str) -> None:
    tree = publish(repository, source, "one")
    name = repository.name("one")
    assert name is not None
    record = {
        "bytes": b"\xff",
        "format": codec.encode({"Version": name.version}),
        "another CID": codec.encode({"version": node(label="wrong").cid}),
    }[damage]
    repository.store.repair(lambda tables: tables.set_root(b"name/one", record))

    report = check.examine(repository.store)
    if damage != "another CID":
        assert str(report.problems[0]).startswith("the record of name/one is damaged: ")
    else:
        assert str(report.problems[0]) == f"block {node(label='wrong').cid} is missing; in one"
    assert check.repair(repository, report).rescued == (name.version,)
    drain(repository.store)
    assert repository.pins() == [name.version]
    assert repository.resolve(str(name.version)).tree == tree
    if damage == "another CID":
        repository.forget_name("one")
    assert list(repository.names()) == []
    assert check.examine(repository.store).is_clean

    repository.forget_pin(name.version)
    drain(repository.store)
    assert State.of(repository.store) == State({}, {}, frozenset(), {})


def test_a_damaged_lease_is_taken_out_so_that_its_name_is_free(repository: Repository, source: Path) -> None:
    tree = publish(repository, source, "one")
    repository.store.repair(lambda tables: tables.set_root(b"lease/w/one", codec.encode({"owner": "?"})))
    with pytest.raises(Corrupt, match="monofs check"):
        repository.lease("one", tree, "/mnt", "/socket")
    report = check.examine(repository.store)
    assert [str(p) for p in report.problems] == ["the record of lease/w/one is damaged: a lease breaks the format"]
    assert check.repair(repository, report) == Repaired(0, 0, ())
    repository.lease("one", tree, "/mnt", "/socket")
    assert check.examine(repository.store).is_clean


def test_a_tree_whose_version_is_lost_is_pinned(repository: Repository, source: Path) -> None:
    tree = publish(repository, source, "one")
    name = repository.name("one")
    assert name is not None
    flip(repository.store, name.version)
    report = check.examine(repository.store)
    assert report.problems[0].places == (Place("one", b""),)
    assert check.repair(repository, report) == Repaired(0, 1, (tree,))
    drain(repository.store)
    assert repository.pins() == [tree]
    assert kinds(check.examine(repository.store)) == [("missing", name.version)]
    repository.forget_name("one")
    assert check.examine(repository.store).is_clean
    assert (
        content(repository, tree, BIG).read_at(repository.cache, 0, 1 << 20) == (source / os.fsdecode(BIG)).read_bytes()
    )


def test_a_lost_block_is_not_found_and_no_more(repository: Repository, source: Path) -> None:
    tree = publish(repository, source, "one")
    bad = chunk(repository, tree, BIG)
    flip(repository.store, bad)
    check.repair(repository, check.examine(repository.store))
    with pytest.raises(NotFound):
        repository.store.get(bad)
    repository.store.apply(Change(roots=(RootChange(b"x", None, codec.encode([bad])),)))
    State.of(repository.store).check()
