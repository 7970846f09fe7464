"""Import: everything on disk comes in, whatever happens to it meanwhile, and nothing else does."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import check, codec, directory, limits, links
from store import file as files
from store.batch import Batch
from store.blocks import Change, collect
from store.cache import Cache
from store.chunker import whole
from store.entry import Entry
from store.errors import NoSpace, NotFound, StoreError, WrongKind
from store.importer import Imported, import_directory
from store.ledger import RECORD_CID
from store.memory_store import MemoryStore
from store.repository import Repository
from tests.store.models import examples, runs, tiny
from tests.suites import trees

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


class Hook:
    """A Progress that calls `at_file` before a file is opened, and `at_bytes` after some of one was read."""

    def __init__(
        self, at_file: Callable[[bytes], object] | None = None, at_bytes: Callable[[int], object] | None = None
    ) -> None:
        self._at_file, self._at_bytes = at_file, at_bytes
        self.files = self.bytes = 0
        self.expected = (0, 0)

    def totals(self, files: int, size: int) -> None:
        self.expected = files, size

    def file(self, path: bytes, size: int) -> None:
        self.files += 1
        if self._at_file is not None:
            self._at_file(path)

    def advance(self, size: int) -> None:
        self.bytes += size
        if self._at_bytes is not None:
            self._at_bytes(size)


def new_batch() -> Batch:
    return Batch(Cache(MemoryStore()))


def imported(path: Path, **options: Any) -> tuple[Batch, Imported]:
    batch = new_batch()
    return batch, import_directory(batch, path, **options)


def entry(batch: Batch, got: Imported, path: str) -> Entry:
    return directory.resolve(batch, got.tree.root, os.fsencode(path))


def content(batch: Batch, found: Entry) -> bytes:
    return files.File.of(found).read_at(batch, 0, found.size)


def reasons(got: Imported) -> dict[bytes, str]:
    return dict(got.skipped)


# What comes in


def test_import_twice_is_the_same_and_stores_nothing_new(
    ground: Path, repository: Repository, rng: random.Random
) -> None:
    trees.build(ground / "tree", rng)
    before = trees.facts(ground / "tree")
    batch, stage = repository.batch("first")
    first = import_directory(batch, ground / "tree")
    repository.pin(first.cid, batch, stage)
    blocks = repository.store.usage().blocks
    batch, stage = repository.batch("second")
    second = import_directory(batch, ground / "tree")
    repository.pin(second.cid, batch, stage)
    assert second == first
    assert first.skipped == ()
    assert stage.new_blocks == 0
    assert repository.store.usage().blocks == blocks
    assert repository.store.usage().waiting == 0  # nothing was stored that the tree does not need
    trees.assert_same(before, trees.facts(ground / "tree"))


def test_every_entry_says_what_the_disk_says(ground: Path, rng: random.Random) -> None:
    trees.build(ground / "tree", rng)
    batch, got = imported(ground / "tree")
    found = dict(directory.walk(batch, got.tree.root)) | {b"": got.tree.root}
    expected = trees.facts(ground / "tree")
    assert found.keys() == expected.keys()
    for path, facts in expected.items():
        there = found[path]
        assert (there.st_mode, there.uid, there.gid, there.mtime) == (facts.mode, facts.uid, facts.gid, facts.mtime)
        if not there.is_dir:
            assert (there.size, os.makedev(*there.rdev)) == (facts.size, facts.rdev)
            assert there.nlink == facts.nlink, path
        if stat.S_ISLNK(facts.mode):
            assert there.data == facts.target
    same: dict[bytes, list[bytes]] = {}
    for path, facts in sorted(expected.items()):
        if facts.nlink > 1:
            same.setdefault(facts.same, []).append(path)
    assert sorted(links.groups_below(batch, got.tree.links, b"")) == sorted(map(tuple, same.values()))


def test_totals_and_progress_agree(ground: Path, rng: random.Random) -> None:
    trees.build(ground / "tree", rng)
    watch = Hook()
    _, got = imported(ground / "tree", progress=watch)
    symlinks = sum(len(f.target) for f in trees.facts(ground / "tree").values())
    assert watch.expected[0] == got.files
    assert watch.bytes >= watch.expected[1] >= got.bytes - symlinks
    _, size, _ = got.tree.root.total
    assert size == got.bytes


def test_a_tree_does_not_depend_on_how_it_is_built(ground: Path) -> None:
    """Fed name by name while it is read, or from a dict: the same directory."""
    for number in range(3000):
        (ground / f"{number:x}").touch()
    batch, got = imported(ground)
    entries = dict(directory.entries(batch, got.tree.root))
    assert len(entries) == 3000
    empty = got.tree.root._replace(data=None, total=(0, 0, 0))
    assert directory.with_entries(batch, empty, entries) == got.tree.root


@given(st.lists(runs(100, 16), max_size=8).map(b"".join), st.integers(1, 200))
@examples(500)
def test_a_file_read_at_once_is_cut_as_if_read_in_steps(data: bytes, step: int) -> None:
    with tiny() as chunker:
        steps = ((len(part), part) for part in (data[at : at + step] for at in range(0, len(data), step)))
        assert list(whole(chunker, data)) == list(files.cut(chunker, steps))


def test_the_time_of_access_stays(ground: Path) -> None:
    (ground / "file").write_bytes(b"content")
    os.utime(ground / "file", ns=(1, 2))
    imported(ground)
    assert (ground / "file").stat().st_atime_ns == 1


@as_root
def test_times_beyond_64_bits_of_nanoseconds_are_cut_to_them(ground: Path) -> None:
    with trees.tmpfs(ground / "far", "1m") as far:
        (far / "future").touch()
        os.utime(far / "future", ns=(0, 1 << 64))
        assert (far / "future").stat().st_mtime_ns == 1 << 64
        batch, got = imported(far)
    assert entry(batch, got, "future").mtime == (1 << 63) - 1


def test_links_that_lead_out_are_not_counted(ground: Path) -> None:
    (ground / "tree").mkdir()
    (ground / "tree/lone").write_bytes(b"1")
    os.link(ground / "tree/lone", ground / "outside")
    (ground / "tree/pair").write_bytes(b"2")
    os.link(ground / "tree/pair", ground / "tree/pair too")
    os.link(ground / "tree/pair", ground / "outside too")
    batch, got = imported(ground / "tree")
    assert entry(batch, got, "lone").nlink == 1
    assert entry(batch, got, "pair").nlink == entry(batch, got, "pair too").nlink == 2
    assert links.group(batch, got.tree.links, b"pair") == (b"pair", b"pair too")


def test_linked_files_are_read_once(ground: Path, rng: random.Random) -> None:
    (ground / "a").write_bytes(rng.randbytes(1000))
    os.link(ground / "a", ground / "b")
    opened: list[bytes] = []
    batch, got = imported(ground, progress=Hook(opened.append))
    assert opened == [b"a"]
    assert content(batch, entry(batch, got, "b")) == (ground / "a").read_bytes()


def test_a_link_that_appears_after_the_scan_is_a_link(ground: Path) -> None:
    """The scan counted two paths, there are three: the entries are put right, and the tree is as if read in peace."""
    (ground / "b").write_bytes(b"1")
    os.link(ground / "b", ground / "c")
    for name in ("d", "e"):
        (ground / name).mkdir()

    def link_more(path: bytes) -> None:
        if not (ground / "d/more").exists():
            os.link(ground / "b", ground / "d/more")

    batch, got = imported(ground, progress=Hook(link_more))
    assert links.group(batch, got.tree.links, b"c") == (b"b", b"c", b"d/more")
    assert [entry(batch, got, path).nlink for path in ("b", "c", "d/more")] == [3, 3, 3]
    assert imported(ground)[1].cid == got.cid


def test_a_link_that_vanishes_after_the_scan_is_none(ground: Path) -> None:
    (ground / "b").write_bytes(b"1")
    os.link(ground / "b", ground / "c")
    batch, got = imported(ground, progress=Hook(lambda path: (ground / "c").unlink(missing_ok=True)))
    assert entry(batch, got, "b").nlink == 1
    assert got.tree.links is None
    assert reasons(got).keys() == {b"c"}


# What does not


def test_the_store_is_left_out_and_named(ground: Path) -> None:
    repository = Repository.init(ground / "tree/store")
    (ground / "tree/file").touch()
    own = os.stat(repository.path)
    batch, got = imported(ground / "tree", exclude=((own.st_dev, own.st_ino),))
    assert [name for name, _ in directory.entries(batch, got.tree.root)] == [b"file"]
    assert got.excluded == (b"store",)
    assert got.skipped == ()
    with pytest.raises(StoreError, match="into itself"):
        imported(ground / "tree/store", exclude=((own.st_dev, own.st_ino),))
    repository.close()


@as_root
def test_other_filesystems_come_along_unless_told_otherwise(ground: Path) -> None:
    (ground / "tree").mkdir()
    with trees.tmpfs(ground / "tree/other", "1m") as other:
        (other / "file").write_bytes(b"1")
        batch, got = imported(ground / "tree")
        assert content(batch, entry(batch, got, "other/file")) == b"1"
        batch, got = imported(ground / "tree", one_file_system=True)
        assert entry(batch, got, "other").total == (0, 0, 0)
        assert got.skipped == ()


@as_root
def test_an_ordinary_user_is_told_what_he_cannot_read(ground: Path) -> None:
    tree = ground / "tree"
    for name in ("open", "closed", "listed"):
        (tree / name).mkdir(parents=True)
        (tree / name / "inside").write_bytes(b"content")
    (tree / "secret").write_bytes(b"content")
    (tree / "secret").chmod(0)
    (tree / "closed").chmod(0)
    (tree / "listed").chmod(0o744)  # its names can be read, but nothing else
    (tree / "open").chmod(0o555)

    def work() -> tuple[dict[bytes, str], list[bytes]]:
        batch, got = imported(tree)
        return reasons(got), [path for path, _ in directory.walk(batch, got.tree.root)]

    skipped, paths = trees.as_nobody(work)
    assert paths == [b"listed", b"open", b"open/inside"]
    assert skipped == dict.fromkeys((b"closed", b"listed/inside", b"secret"), "Permission denied")
    assert imported(tree)[1].skipped == ()  # root can


@pytest.mark.parametrize("name", ["nothing", "file", "file/below"])
def test_what_is_no_directory_is_refused(ground: Path, name: str) -> None:
    (ground / "file").touch()
    with pytest.raises(WrongKind if name.startswith("file") else NotFound, match=name):
        imported(ground / name)


# Any depth


@pytest.mark.parametrize("held", [1, 2, 5])
def test_few_descriptors_are_enough(
    ground: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    trees.build(ground / "tree", rng)
    expected = imported(ground / "tree")[1].cid
    monkeypatch.setattr(limits, "open_directories_max", held)
    assert imported(ground / "tree")[1].cid == expected


def test_no_descriptor_stays_open(ground: Path, rng: random.Random) -> None:
    trees.build(ground / "tree", rng)
    before = os.listdir("/proc/self/fd")
    imported(ground / "tree")
    with pytest.raises(KeyError):
        imported(ground / "tree", progress=Hook({}.__getitem__))
    assert os.listdir("/proc/self/fd") == before


def test_what_is_too_deep_is_named(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ground / "a/b/c/d").mkdir(parents=True)
    monkeypatch.setattr(limits, "depth_max", 3)
    batch, got = imported(ground)
    assert reasons(got) == {b"a/b/c/d": "directories may be 3 deep at most"}
    assert entry(batch, got, "a/b/c").total == (0, 0, 0)


def test_a_directory_that_is_moved_away_from_under_us_ends_the_import(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ground / "tree/a/b/c").mkdir(parents=True)
    (ground / "tree/a/b/c/file").touch()
    (ground / "elsewhere").mkdir()
    monkeypatch.setattr(limits, "open_directories_max", 1)
    with pytest.raises(StoreError, match="moved"):
        imported(ground / "tree", progress=Hook(lambda _: (ground / "tree/a/b/c").rename(ground / "elsewhere/c")))


@pytest.mark.slow
def test_a_directory_of_100_000_entries(ground: Path) -> None:
    for number in range(100_000):
        os.close(os.open(ground / f"{number}", os.O_CREAT))
    batch, got = imported(ground)
    assert got.files == 100_000
    assert sum(1 for _ in directory.entries(batch, got.tree.root)) == 100_000


# Files that change while they are read


def test_a_file_is_stored_as_it_was_read(ground: Path, rng: random.Random) -> None:
    size = 5 * limits.read_bytes
    data = rng.randbytes(size)
    for name in ("grows", "shrinks", "shrinks to nothing", "small"):
        (ground / name).write_bytes(data if name != "small" else b"small")
    (ground / "vanishes").touch()

    def at_file(path: bytes) -> None:
        if path == b"grows":
            with (ground / "grows").open("ab") as file:
                file.write(b"more")
        elif path == b"small":
            (ground / "small").write_bytes(b"s")
        elif path == b"vanishes":
            (ground / "vanishes").unlink()

    current = [b""]

    def at_bytes(_: int) -> None:
        if current[0] == b"grows":
            with (ground / "grows").open("ab") as file:
                file.write(b"and more")
        elif current[0] == b"shrinks":
            os.truncate(ground / "shrinks", 2 * limits.read_bytes + 5)
        elif current[0] == b"shrinks to nothing":
            os.truncate(ground / "shrinks to nothing", 0)

    def remember(path: bytes) -> None:
        current[0] = path
        at_file(path)

    batch, got = imported(ground, progress=Hook(remember, at_bytes))
    found = {name: content(batch, there) for name, there in directory.entries(batch, got.tree.root)}
    assert found == {
        b"grows": data + b"more",
        b"shrinks": data[: 2 * limits.read_bytes + 5],
        b"shrinks to nothing": data[: limits.read_bytes],
        b"small": b"s",
    }
    assert reasons(got) == {b"vanishes": "No such file or directory"}


def test_a_sparse_file_that_shrinks_is_stored_as_it_was_read(ground: Path) -> None:
    trees.sparse(ground / "file", 40 << 20, {0: b"begin", 30 << 20: b"middle"})
    batch, got = imported(ground, progress=Hook(at_bytes=lambda _: os.truncate(ground / "file", 10 << 20)))
    found = entry(batch, got, "file")
    assert found.size == 10 << 20
    assert content(batch, found) == b"begin".ljust(10 << 20, b"\0")


def become_symlink(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def become_fifo(path: Path) -> None:
    os.mkfifo(path)


def become_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("become", [become_symlink, become_fifo, become_directory])
def test_a_file_that_turns_into_something_else_is_left_out(ground: Path, become: Callable[[Path], None]) -> None:
    for name in ("before", "file", "then"):
        (ground / name).write_bytes(b"content")

    def turn(path: bytes) -> None:
        if path == b"file":
            (ground / "file").unlink()
            become(ground / "file")

    batch, got = imported(ground, progress=Hook(turn))
    assert [name for name, _ in directory.entries(batch, got.tree.root)] == [b"before", b"then"]
    assert reasons(got).keys() == {b"file"}


def test_a_file_that_is_replaced_by_another_is_that_other(ground: Path) -> None:
    """As editors save: both are whole files, so one of them is stored, its metadata with it."""
    (ground / "file").write_bytes(b"old")
    (ground / "new").write_bytes(b"the new one")
    (ground / "new").chmod(0o600)

    def replace(path: bytes) -> None:
        if path == b"file":
            (ground / "new").rename(ground / "file")

    batch, got = imported(ground, progress=Hook(replace))
    found = entry(batch, got, "file")
    assert (content(batch, found), found.mode) == (b"the new one", 0o600)


def swapped(monkeypatch: pytest.MonkeyPatch, name: bytes, swap: Callable[[], object]) -> None:
    """Arrange that `swap` happens right after somebody looked at `name`, before he opens it."""
    real = os.stat

    def look(path: Any, **options: Any) -> os.stat_result:
        facts = real(path, **options)
        if path == name:
            monkeypatch.setattr(os, "stat", real)
            swap()
        return facts

    monkeypatch.setattr(os, "stat", look)


def test_a_directory_swapped_for_a_link_is_not_followed(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ground / "tree/dir").mkdir(parents=True)
    (ground / "outside").mkdir()
    (ground / "outside/secret").touch()

    def swap() -> None:
        (ground / "tree/dir").rmdir()
        (ground / "tree/dir").symlink_to(ground / "outside")

    swapped(monkeypatch, b"dir", swap)
    batch, got = imported(ground / "tree")
    assert list(directory.walk(batch, got.tree.root)) == []
    assert reasons(got).keys() == {b"dir"}


def test_a_directory_moved_while_we_are_inside_leads_nowhere_else(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link now has the directory's name. What is read is what was entered."""
    (ground / "tree/dir").mkdir(parents=True)
    (ground / "tree/dir/secret").write_bytes(b"harmless")
    (ground / "outside").mkdir()
    (ground / "outside/secret").write_bytes(b"secret")

    def swap() -> None:
        (ground / "tree/dir").rename(ground / "away")
        (ground / "tree/dir").symlink_to(ground / "outside")

    swapped(monkeypatch, b"secret", swap)
    batch, got = imported(ground / "tree")
    assert content(batch, entry(batch, got, "dir/secret")) == b"harmless"


# When it fails


def fill(tree: Path, rng: random.Random, count: int = 40) -> None:
    tree.mkdir()
    for number in range(count):
        (tree / f"{number}").write_bytes(rng.randbytes(100_000))


def begun(repository: Repository, rng: random.Random, ground: Path) -> tuple[list[tuple[str, Any]], int]:
    """Give the store a named tree that must survive; returns the names and the number of blocks."""
    fill(ground / "kept", rng, 3)
    batch, stage = repository.batch("kept")
    got = import_directory(batch, ground / "kept")
    repository.publish("kept", got.cid, batch, stage)
    return list(repository.names()), repository.store.usage().blocks


def assert_clean(repository: Repository, names: list[tuple[str, Any]], blocks: int) -> None:
    """The store is what it was before an import that came to nothing."""
    list(collect(repository.store, limits.gc_blocks_per_step))
    assert repository.store.usage().blocks == blocks
    assert list(repository.names()) == names
    assert repository.pins() == []
    assert check.examine(repository.store).is_clean


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_any_failing_write_leaves_nothing(
    ground: Path, repository: Repository, rng: random.Random, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    names, blocks = begun(repository, rng, ground)
    fill(ground / "tree", rng)
    monkeypatch.setattr(limits, "batch_bytes_max", 1 << 20)
    real, calls = repository.store.apply, 0

    def failing(change: Change) -> int:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise NoSpace("no space left")
        return real(change)

    batch, stage = repository.batch("import")
    with monkeypatch.context() as patch:
        patch.setattr(repository.store, "apply", failing)
        with pytest.raises(NoSpace):
            got = import_directory(batch, ground / "tree")
            repository.publish("new", got.cid, batch, stage)
            raise AssertionError(f"there were only {calls} writes")
    stage.release()
    assert_clean(repository, names, blocks)


def test_collecting_garbage_meanwhile_takes_nothing_of_it(
    ground: Path, repository: Repository, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what nothing else refers to is held by name; the rest must live through that, however batches fall."""
    for number in range(20):
        fill(ground / f"{number}", rng, 10)
        (ground / f"{number}/deep/er").mkdir(parents=True)
        shutil.copy(ground / f"{number}/0", ground / f"{number}/deep/er/same content")
    shutil.copytree(ground / "0", ground / "zz same directory")
    monkeypatch.setattr(limits, "batch_bytes_max", 1 << 20)
    batch, stage = repository.batch("import")
    watch = Hook(lambda _: list(collect(repository.store, limits.gc_blocks_per_step)))
    got = import_directory(batch, ground, progress=watch)
    held = sum(len(codec.links_of_record(RECORD_CID, change.old or b"")) for change in stage.drop())
    assert held < stage.new_blocks / 2
    repository.pin(got.cid, batch, stage)
    list(collect(repository.store, limits.gc_blocks_per_step))
    assert check.examine(repository.store).is_clean
    for path, there in directory.walk(repository.cache, got.tree.root):
        if there.kind == "file":
            data = files.File.of(there).read_at(repository.cache, 0, there.size)
            assert data == (ground / os.fsdecode(path)).read_bytes()


@as_root
def test_a_full_disk_leaves_the_store_as_it_was(ground: Path, rng: random.Random) -> None:
    fill(ground / "tree", rng, 600)
    with trees.tmpfs(ground / "disk", "32m") as disk:
        repository = Repository.init(disk / "store")
        names, blocks = begun(repository, rng, ground)
        repository.close()

        def work() -> str:
            own = Repository.open(disk / "store")
            batch, _ = own.batch("import")
            try:
                import_directory(batch, ground / "tree")
            except NoSpace as error:
                return str(error)
            return "it fitted"

        assert "no space" in trees.in_child(work)
        repository = Repository.open(disk / "store")  # drops what the dead process held
        assert_clean(repository, names, blocks)
        repository.close()


@pytest.mark.parametrize("files_read", [1, 15, 39])
def test_kill_9_leaves_nothing(
    ground: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, files_read: int
) -> None:
    repository = Repository.init(ground / "store")
    names, blocks = begun(repository, rng, ground)
    repository.close()
    fill(ground / "tree", rng)
    monkeypatch.setattr(limits, "batch_bytes_max", 1 << 20)

    def work() -> None:
        own = Repository.open(ground / "store")
        watch = Hook(lambda _: os.kill(os.getpid(), signal.SIGKILL) if watch.files > files_read else None)
        import_directory(own.batch("import")[0], ground / "tree", progress=watch)

    assert trees.in_child(work) is None  # it died
    repository = Repository.open(ground / "store", create=False)
    if files_read > 12:
        assert repository.store.usage().blocks > blocks  # some of it had been stored
    assert_clean(repository, names, blocks)
    repository.close()


def test_a_target_that_no_tree_can_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    monkeypatch.setattr(os, "readlink", lambda *_, **__: b"t" * (limits.target_bytes_max + 1))
    imported = import_directory(new_batch(), tmp_path)
    assert [skip.path for skip in imported.skipped] == [b"link"] and "4095" in imported.skipped[0].reason
    assert imported.files == 1
