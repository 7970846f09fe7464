"""Fail the nth call, n = 1, 2, 3...: the error is reported, nothing is lost, and all is saved when it is over."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import lmdb
import pytest
import trio

from monofs_fuse import commit, limits
from monofs_fuse.saver import Saver
from store import check, staging, version
from store.cache import Cache
from store.chunker import Chunker
from store.cid import Cid
from store.errors import Corrupt, NoSpace, StoreError
from store.exporter import export_directory
from store.importer import import_directory
from store.ledger import RECORD_CID
from store.repository import Repository
from tests.crash.test_commit_steps import BEFORE
from tests.fuse.model import built, snapshot
from tests.store.models import tiny
from tests.suites.blocks import State, drain
from tests.suites.faults import (
    DIRECTORY,
    FILE,
    NAME,
    Desk,
    Edit,
    Steps,
    Watched,
    assert_no_garbage,
    calmly,
    do,
    make_store,
    noise,
    random_edit,
    watched_lmdb,
)
from tests.suites.machine import Machine

# What the commit that fails is to save, and what is edited while it is being written.
EDITS: list[Edit] = [
    ("write_at", b"a/one", 350, noise(4, 40)),
    ("create", b"a/large", FILE),
    ("write_at", b"a/large", 100, noise(5, 1200)),
    ("open", b"gone too"),
    ("unlink", b"gone too"),
    ("write_open", 0, 20, noise(6, 60)),
    ("write_open", 1, 20, noise(6, 60)),
    ("rename", b"a/b", b"moved", 0),
    ("mode_at", b"moved/two", 0o600),
    ("link", b"a/one", b"moved/one too"),
]
DURING: list[Edit] = [
    ("write_at", b"a/large", 700, noise(7, 90)),
    ("cut_at", b"a/one", 500),
    ("write_at", b"a/one", 600, noise(8, 10)),
    ("write_open", 0, 0, noise(9, 30)),
    ("unlink", b"linked"),
    ("rename", b"moved", b"a/moved again", 0),
    ("create", b"a/moved again/new", FILE),
    ("write_at", b"a/moved again/new", 0, noise(10, 200)),
    ("create", b"empty", DIRECTORY),
    ("unlink", b"a/large"),
    ("create", b"a/large", FILE),
    ("write_at", b"a/large", 3, noise(11, 50)),
]
WRITES, READS = ("apply",), ("get", "has", "root", "roots", "count")


@pytest.fixture
def chunker() -> Iterator[Chunker]:
    with tiny(batch_bytes_max=2000, inline_bytes_max=4) as chunker:
        yield chunker


@pytest.fixture
def template(quick: Path, chunker: Chunker) -> Path:
    """A store with a tree in it, to be copied."""
    path = quick / "template"
    make_store(path)
    desk = Desk(path, chunker)
    for edit in BEFORE:
        do(desk, edit)
    desk.commit()
    desk.close_store()
    return path


def desk_on(template: Path, number: int, chunker: Chunker) -> Desk:
    """Return a desk over a copy of `template`, with a commit frozen and edits made since."""
    path = template.with_name(f"{number}")
    shutil.copytree(template, path)
    desk = Desk(path, chunker)
    do(desk, ("open", b"gone"))
    do(desk, ("unlink", b"gone"))
    desk.commit()
    for edit in EDITS:
        do(desk, edit)
    desk.freeze()
    for edit in DURING:
        do(desk, edit)
    return desk


def did_save(desk: Desk, steps: Steps, error: type[StoreError]) -> bool:
    """Try the frozen commit; False if it fails as it must: with `error`, all edits kept and nothing saved."""
    before = desk.head.tree
    try:
        desk.save()
    except error:
        desk.drop_flight()
        assert desk.head.tree == before
        assert desk.tree.is_dirty
        desk.check_counts()
        return False
    steps.over = True
    desk.settle()
    return True


def finish(desk: Desk, *, keep: bool = False) -> Cid:
    """The fault is gone: everything is readable, is saved, and nothing is left behind. Returns the tree."""
    drain(desk.store.store)  # as another process may have done since
    desk.look()
    desk.check_open()
    desk.commit()
    tree = desk.head.tree
    desk.check_open()
    while desk.opened:
        desk.close(0)
    desk.create(b"last", FILE)  # a commit lets go of what only open files had
    desk.commit()
    desk.look()
    assert not desk.repository.store.roots(staging.PREFIX)
    assert check.examine(desk.repository.store).is_clean
    assert_no_garbage(desk.repository)
    desk.close_store()
    if not keep:
        shutil.rmtree(desk.repository.path)
    return tree


def failing(error: Callable[[], Exception]) -> Callable[[], None]:
    def act() -> None:
        raise error()

    return act


IO_ERROR = failing(lambda: StoreError("the disk is broken (says the test)"))
FULL_DISK = failing(lambda: NoSpace("the disk is full (says the test)"))


# Commits


@pytest.mark.slow
@pytest.mark.parametrize("ever", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("calls", [WRITES, READS], ids=["writes", "reads"])
@pytest.mark.parametrize(("fault", "error"), [(IO_ERROR, StoreError), (FULL_DISK, NoSpace)], ids=["io", "full"])
def test_a_call_of_the_store_fails(
    template: Path,
    chunker: Chunker,
    fault: Callable[[], None],
    error: type[StoreError],
    calls: tuple[str, ...],
    ever: bool,
) -> None:
    trees, failures = set(), 0
    for nth in itertools.count(1, 1 if calls is WRITES else 7):
        desk = desk_on(template, nth, chunker)
        desk.store.calls = calls
        desk.store.before = steps = Steps(fault, nth, ever=ever)
        saved = did_save(desk, steps, error)
        assert saved or steps.reached, f"call {nth}"
        failures += not saved
        if calls is WRITES:
            desk.look()  # also while the fault lasts
        steps.over = True
        trees.add(finish(desk))
        if not steps.reached:
            break
    assert failures > 5
    assert len(trees) == 1, "the same edits gave another tree after a fault"


def changes_inside(template: Path, chunker: Chunker) -> list[int]:
    """Return some steps inside the transactions of a commit: each commit, and some changes."""
    desk = desk_on(template, 0, chunker)
    steps = Steps()
    with watched_lmdb(desk.store, steps):
        desk.save()
    desk.close_store()
    commits = {number for number, name in enumerate(steps.names, 1) if name == "commit"}
    return sorted(commits | set(range(1, len(steps.names), 29)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raised", "error", "ever"),
    [(lmdb.Error, StoreError, False), (lmdb.DiskError, NoSpace, True)],
    ids=["io", "full"],
)
def test_a_call_of_lmdb_fails(
    template: Path, chunker: Chunker, raised: type[lmdb.Error], error: type[StoreError], ever: bool
) -> None:
    trees, failures = set(), 0
    for nth in changes_inside(template, chunker):
        desk = desk_on(template, nth, chunker)
        steps = Steps(failing(lambda: raised("says the test")), nth, ever=ever)
        with watched_lmdb(desk.store, steps):
            failures += not did_save(desk, steps, error)
        assert steps.reached
        trees.add(finish(desk))
    assert failures > 5
    assert len(trees) == 1


@pytest.mark.slow
@pytest.mark.parametrize("raised", [lmdb.MapFullError, lmdb.MapResizedError])
def test_the_map_is_full_at_any_call(template: Path, chunker: Chunker, raised: type[lmdb.Error]) -> None:
    """Nobody hears of it: the map grows, and the transaction is done once more."""
    trees = set()
    for nth in changes_inside(template, chunker):
        desk = desk_on(template, nth, chunker)
        steps = Steps(failing(lambda: raised("says the test")), nth)
        with watched_lmdb(desk.store, steps):
            assert did_save(desk, steps, StoreError)
        assert steps.reached
        trees.add(finish(desk))
    assert len(trees) == 1


@pytest.mark.slow
def test_a_block_cannot_be_read(template: Path, chunker: Chunker) -> None:
    """What needs the block is not saved, everything else is, and it is saved once the block can be read again."""
    trees, single, whole = set(), 0, 0
    for nth in itertools.count(1, 3):
        desk = desk_on(template, nth, chunker)
        desk.store.calls = ("get",)
        desk.store.before = steps = Steps(failing(lambda: Corrupt(RECORD_CID)), nth)
        assert desk.flight is not None
        try:
            written = desk.head.save(desk.flight.frozen)
        except Corrupt:
            desk.drop_flight()
            whole += 1
        else:
            commit.settle(desk.tree, desk.flight.frozen, written)
            desk.flight = None
            single += bool(written.failed)
        assert desk.tree.is_dirty
        desk.store.before = calmly
        trees.add(finish(desk))
        if not steps.reached:
            break
    assert single > 3, "the content of files"
    assert whole > 3, "directories and links"
    assert len(trees) == 1


# The saver


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "error"), [(IO_ERROR, StoreError), (FULL_DISK, NoSpace)], ids=["io", "full"])
async def test_whoever_waits_for_a_commit_hears_of_the_error(
    template: Path, chunker: Chunker, fault: Callable[[], None], error: type[StoreError]
) -> None:
    for nth in itertools.count(1):
        desk = desk_on(template, nth, chunker)
        desk.drop_flight()
        saver = Saver(desk.tree, desk.head)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(saver.run)
            desk.store.calls = ("apply", "gc")
            desk.store.before = steps = Steps(fault, nth, ever=True)
            heard = [await outcome(saver.save) for _ in range(2)]
            heard.append(await outcome(partial(saver.checkpoint, "a message")))
            assert steps.reached == isinstance(heard[-1], error), f"call {nth}"
            assert (saver.error is None) == (heard[0] is None) == (heard[1] is None)
            desk.look()
            desk.store.before = calmly
            await saver.save()
            assert saver.error is None and saver.unsaved_bytes == 0
            assert await saver.checkpoint("a message") == built(snapshot(desk.root), chunker, random.Random(nth))
            nursery.cancel_scope.cancel()
        record = desk.repository.name(NAME)
        assert record is not None and record.head is None, "the checkpoint made a version"
        finish(desk)
        if not steps.reached:
            break
    assert nth > 5


async def outcome(work: Callable[[], Awaitable[object]]) -> StoreError | None:
    try:
        await work()
    except StoreError as error:
        return error
    return None


@pytest.mark.parametrize("error", [StoreError("the disk is broken"), RuntimeError("nobody thought of it")])
async def test_collecting_garbage_fails(template: Path, chunker: Chunker, error: Exception) -> None:
    """Nobody who saves hears of it, and it does not end the mount."""
    desk = desk_on(template, 1, chunker)
    desk.drop_flight()
    saver = Saver(desk.tree, desk.head)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(saver.run)
        desk.store.calls = ("gc",)
        desk.store.before = steps = Steps(failing(lambda: error), 1)
        await saver.save()
        do(desk, ("create", b"after it", FILE))
        await saver.save()
        assert saver.error is None
        assert steps.reached
        nursery.cancel_scope.cancel()
    finish(desk)


async def test_who_saves_waits_for_one_step_of_gc_at_most(
    template: Path, chunker: Chunker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "gc_blocks_per_step", 1)
    desk = desk_on(template, 1, chunker)
    desk.drop_flight()
    saver = Saver(desk.tree, desk.head)
    saved = trio.Event()

    steps: list[str] = []

    def begin_saving(step: str) -> None:  # called on the writer's thread
        steps.append(step)
        if steps.count("before gc") == 1 and step == "before gc":
            trio.from_thread.run_sync(nursery.start_soon, save)

    async def save() -> None:
        do(desk, ("create", b"meanwhile", FILE))
        await saver.save()
        saved.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(saver.run)
        desk.store.before = begin_saving
        await saver.save()
        with trio.fail_after(60):
            await saved.wait()
        nursery.cancel_scope.cancel()
    assert steps[steps.index("before gc") + 1] == "before apply"
    finish(desk)


# Import and export


def small_tree(path: Path) -> Path:
    (path / "below" / "deep").mkdir(parents=True)
    for number, size in enumerate((0, 3, 70, 300, 900)):
        (path / f"file-{number}").write_bytes(noise(number, size))
        (path / "below" / f"file-{number}").write_bytes(noise(number, size) + bytes(200) + b"end")
    os.link(path / "file-3", path / "below" / "deep" / "linked")
    os.symlink("nowhere", path / "symlink")
    return path


def import_into(repository: Repository, directory: Path, chunker: Chunker) -> Cid:
    """Import as the command line does: all of it or nothing."""
    batch, stage = repository.batch("import")
    try:
        done = import_directory(batch, directory, chunker=chunker)
        repository.publish("imported", done.cid, batch, stage)
        return done.cid
    finally:
        repository.store.before = calmly
        stage.release()


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "error"), [(IO_ERROR, StoreError), (FULL_DISK, NoSpace)], ids=["io", "full"])
def test_an_import_fails_at_any_call(
    quick: Path, template: Path, chunker: Chunker, fault: Callable[[], None], error: type[StoreError]
) -> None:
    directory = small_tree(quick / "directory")
    cids = set()
    for nth in itertools.count(1):
        shutil.copytree(template, quick / str(nth))
        opened = Repository.open(quick / str(nth), create=False)
        repository = Repository(opened.path, Watched(opened.store))
        drain(opened.store)
        before = State.of(opened.store)
        repository.store.before = steps = Steps(fault, nth)
        try:
            cids.add(import_into(repository, directory, chunker))
            failed = False
        except error:
            failed = True
        assert steps.reached or not failed
        if failed:
            drain(opened.store)
            assert State.of(opened.store) == before
            cids.add(import_into(repository, directory, chunker))
        assert check.examine(opened.store).is_clean
        assert not opened.store.roots(staging.PREFIX)
        repository.close()
        shutil.rmtree(opened.path)
        if not steps.reached:
            break
    assert nth > 5
    assert len(cids) == 1


@pytest.mark.slow
@pytest.mark.parametrize("raised", [StoreError("the disk is broken (says the test)"), Corrupt(RECORD_CID)])
def test_an_export_fails_at_any_read(quick: Path, template: Path, chunker: Chunker, raised: StoreError) -> None:
    directory = small_tree(quick / "directory")
    repository = Repository(template, Watched(Repository.open(template, create=False).store))
    cid = import_into(repository, directory, chunker)
    repository.store.calls = ("get",)
    repository.cache = Cache(repository.store, chunk_bytes=0, node_count=0)
    tree = version.load_tree(repository.cache, cid)
    for nth in itertools.count(1, 2):
        repository.store.before = steps = Steps(failing(lambda: raised), nth)
        destination = quick / f"out-{nth}"
        try:
            done = export_directory(repository.cache, tree, destination)
            assert bool(done.skipped) == steps.reached, f"read {nth}: whatever is missing must be named"
        except StoreError as error:
            assert error is raised and steps.reached
        assert_part_of(destination, directory)
        if not steps.reached:
            break
    batch, _ = repository.batch("again")
    assert import_directory(batch, destination, chunker=chunker).cid == cid
    assert nth > 20
    repository.close()


def assert_part_of(part: Path, whole: Path) -> None:
    """Every file that is there is all there."""
    for path in part.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert path.read_bytes() == (whole / path.relative_to(part)).read_bytes(), path


# The disk itself: system calls that fail


def work_on_a_bad_disk(path: Path) -> None:
    """Runs under strace, which fails some of the system calls that write. Prints how many commits failed."""
    with tiny(batch_bytes_max=2000, inline_bytes_max=4) as chunker:
        desk = Desk(path, chunker)
        rng, failures = random.Random(path.name), 0
        for _ in range(20):
            for _ in range(6):
                do(desk, random_edit(rng, desk, 400))
            desk.freeze()
            for _ in range(2):
                do(desk, random_edit(rng, desk, 400))
            failures += not did_settle(desk)
            desk.look()
        while not did_settle(desk):
            failures += 1
        finish(desk, keep=True)
        print(failures)


def did_settle(desk: Desk) -> bool:
    """Commit, or give it up."""
    desk.freeze()
    assert desk.flight is not None
    try:
        written = desk.head.save(desk.flight.frozen)
    except StoreError:
        desk.drop_flight()
        return False
    commit.settle(desk.tree, desk.flight.frozen, written)
    desk.flight = None
    return True


@pytest.mark.slow
@pytest.mark.parametrize("when", ["3..33+3", "4..40+5", "5..14"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_system_call_fails(quick: Path, error: str, when: str) -> None:
    path = quick / "store"
    make_store(path)
    calls = "pwrite64,pwritev,writev,fdatasync"
    work = f"from pathlib import Path; from tests.crash import {__name__.rpartition('.')[2]} as tests\n"
    work += f"tests.work_on_a_bad_disk(Path({os.fspath(path)!r}))"
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", quick / "trace", f"--trace={calls}"]
    command = [*strace, f"--inject={calls}:error={error}:when={when}", sys.executable, "-c", work]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (quick / "trace").read_text().count("INJECTED") > 5
    if error == "EIO":  # a full disk is tried twice, the second time with what the last transaction freed
        assert int(done.stdout) > 3
    repository = Repository.open(path, create=False)
    with tiny(batch_bytes_max=2000, inline_bytes_max=4):  # as whoever wrote it: nodes end where these say
        assert check.examine(repository.store).is_clean
    assert_no_garbage(repository)
    repository.close()


# A real mount, whose store fails when the test says so

FAULTY_MOUNT = """
import sys
from pathlib import Path
from unittest import mock
from monofs_fuse import mounts
from store import errors, limits, lmdb_store

fault = Path(sys.argv[3])

class FaultyStore(lmdb_store.LmdbStore):
    def apply(self, change):
        if fault.exists():
            error, calls = fault.read_text().split()
            fault.with_suffix(".next").write_text(f"{error} {int(calls) - 1}")
            fault.with_suffix(".next").rename(fault)
            if int(calls) <= 1:
                raise getattr(errors, error)("says the test")
        return super().apply(change)

lmdb_store.LmdbStore = FaultyStore
limits.batch_bytes_max = 200_000
mounts.start(Path(sys.argv[1]), "t", sys.argv[2], foreground=True)
"""


class FaultyMachine(Machine):
    """Its mount's store refuses every change from the nth on, between `break_at` and `mend`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fault = root / "fault"

    def start_faulty(self) -> Path:
        command = [sys.executable, "-c", FAULTY_MOUNT, self.store, self.dir, self.fault]
        self.server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.server.stderr is not None
        assert "mounted on" in self.server.stderr.readline()
        return self.dir

    def break_at(self, nth: int, error: str) -> None:
        partial = self.fault.with_suffix(".new")
        partial.write_text(f"{error} {nth}")
        partial.rename(self.fault)

    def mend(self) -> bool:
        """Returns True if anything was refused."""
        left = int(self.fault.read_text().split()[1])
        self.fault.unlink()
        return left <= 0


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultyMachine]:
    machine = FaultyMachine(tmp_path)
    yield machine
    machine.end()
    machine.server.kill()
    print(machine.server.communicate()[1])


@pytest.mark.mounted
@pytest.mark.slow
@pytest.mark.parametrize(("error", "number"), [("StoreError", errno.EIO), ("NoSpace", errno.ENOSPC)])
def test_a_mount_goes_on_when_its_store_fails(faulty: FaultyMachine, error: str, number: int) -> None:
    mnt = faulty.start_faulty()
    written: dict[str, bytes] = {}
    refused = 0
    for nth in itertools.count(1):
        faulty.break_at(nth, error)
        name, data = f"file {nth}", noise(nth, 700_000)
        fd = os.open(mnt / name, os.O_CREAT | os.O_RDWR)
        os.pwrite(fd, data, 0)
        written[name] = data
        was_refused = fails_with(number, partial(os.fsync, fd))
        if was_refused:
            assert "says the test" in str(faulty.status()["problem"])
            os.pwrite(fd, b"edited while it could not be saved", 1000)
            written[name] = data[:1000] + b"edited while it could not be saved" + data[1034:]
            assert fails_with(number, partial(os.fdatasync, fd))
        for other in written:
            assert (mnt / other).read_bytes() == written[other]
        if not faulty.mend():
            break
        refused += was_refused
        os.fsync(fd)
        assert faulty.status()["problem"] is None
        os.close(fd)
    assert refused > 3
    faulty.kill()
    mnt = faulty.start()
    assert {path.name: path.read_bytes() for path in mnt.iterdir()} == written
    faulty.umount()
    repository = Repository.open(faulty.store, create=False)
    assert check.examine(repository.store).is_clean
    assert not repository.store.roots(staging.PREFIX)
    repository.close()


def fails_with(number: int, work: Callable[[], object]) -> bool:
    try:
        work()
    except OSError as error:
        assert error.errno == number, error
        return True
    return False


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Machine]:
    """A store on a disk of 24 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "monofs-test", disk], check=True)
    machine = Machine(tmp_path, disk / "store")
    yield machine
    machine.end()
    print(machine.log())
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.mounted
@pytest.mark.slow
def test_a_full_disk_is_left_by_deleting(small: Machine) -> None:
    """Nobody adds room: what did not fit is deleted, and work goes on."""
    mnt = small.start()
    (mnt / "old").write_bytes(noise(1, 2_000_000))
    small.checkpoint()
    for number in range(3):
        path = mnt / f"too large {number}"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        assert fails_with(errno.ENOSPC, partial(write_all, fd, noise(number, 40 << 20)))
        os.close(fd)
        path.unlink()
        (mnt / f"small {number}").write_bytes(noise(number, 50_000))
        small.checkpoint()
        assert small.status()["problem"] is None
    (mnt / "large").write_bytes(noise(9, 8 << 20))  # what was stored of the others is not held any more
    small.checkpoint()
    small.kill()
    mnt = small.start()
    assert (mnt / "old").read_bytes() == noise(1, 2_000_000)
    assert (mnt / "large").read_bytes() == noise(9, 8 << 20)
    assert [(mnt / f"small {number}").read_bytes() for number in range(3)] == [noise(n, 50_000) for n in range(3)]
    small.umount()


def write_all(fd: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])
    os.fsync(fd)
