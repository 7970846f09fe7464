"""kill -9 while a mounted name moves to another version: at every call of the store, inside LMDB, and in the swap.

Afterwards the name is what it was before or what it was to be, whole; and so it is when a change fails.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from monofs_fuse import swap
from store import check, version
from store.chunker import Chunker
from store.repository import Repository
from tests.fuse.cli_command import plant
from tests.fuse.model import committed
from tests.mounted.test_live import Live, socket_of
from tests.store.models import tiny
from tests.suites.faults import (
    DIRECTORY,
    FILE,
    NAME,
    Act,
    Desk,
    Edit,
    Journal,
    Promise,
    Steps,
    calmly,
    die,
    do,
    forked,
    make_store,
    model_of,
    noise,
    verify,
    waited,
    watched_lmdb,
)
from tests.suites.machine import until

KILLS = 5

BEFORE: list[Edit] = [
    ("create", b"a", DIRECTORY), ("create", b"a/b", DIRECTORY), ("create", b"a/one", FILE),
    ("write_at", b"a/one", 0, noise(1, 700)), ("create", b"a/b/two", FILE), ("write_at", b"a/b/two", 0, noise(2, 150)),
    ("link", b"a/b/two", b"linked"), ("create", b"gone", FILE), ("write_at", b"gone", 0, noise(3, 300)),
]  # fmt: skip
THERE: list[Edit] = [
    ("write_at", b"a/one", 300, noise(4, 900)), ("unlink", b"gone"), ("rename", b"a/b", b"moved", 0),
    ("create", b"new", FILE), ("write_at", b"new", 0, noise(5, 500)),
]  # fmt: skip
AFTER: list[Edit] = [("write_at", b"new", 0, noise(6, 40)), ("rename", b"a/one", b"gone", 0)]


def session(path: Path, chunker: Chunker, act: Act, inside: Act) -> None:
    """A mount whose name moves to what `other` is, from its lease to letting go of it."""
    desk = Desk(path / "store", chunker, act)
    journal = Journal(path / "journal")
    record = desk.repository.name("other")
    assert record is not None
    with watched_lmdb(desk.store, inside):
        lease = desk.repository.lease(NAME, desk.head.tree, "/nowhere", "/nowhere.sock")
        desk.look()
        for edit in (("open", b"gone"), ("open", b"a/one")):
            desk.do(edit)
        cache = desk.repository.cache
        new = version.load_version(cache, record.version).tree
        tree = version.load_tree(cache, new)
        difference = swap.between(cache, desk.head.load(), tree, swap.busy(desk.tree))
        journal.begin(new)
        desk.head.move(desk.head.record, record)
        act("moved")
        swap.swap(desk.tree, difference)
        journal.done(desk.head.tree)
        follow(desk)
        for edit in AFTER:
            do(desk, edit)
        desk.journaled_commit(journal)
        desk.head.checkpoint("afterwards")
        desk.repository.release(lease)
    journal.close()
    desk.close_store()


def follow(desk: Desk) -> None:
    """Let the model be what the name has now. Of the two files that were open both were lost, and are closed."""
    for node in desk.opened:
        desk.tree.closed(desk.tree.inode(node.ino))
    desk.opened = []
    desk.saved = committed(desk.repository.cache, desk.head.load())
    desk.root = model_of(desk.saved)
    desk.root.ino = desk.tree.root.ino


@pytest.fixture
def chunker() -> Iterator[Chunker]:
    with tiny(batch_bytes_max=1500, inline_bytes_max=4) as chunker:
        yield chunker


@pytest.fixture
def template(quick: Path, chunker: Chunker) -> tuple[Path, str]:
    """A store with a name and another that went on from there; and the first one's tree."""
    path = quick / "template"
    make_store(path)
    desk = Desk(path, chunker)
    for edit in BEFORE:
        do(desk, edit)
    desk.commit()
    desk.head.checkpoint()
    tree, record = str(desk.head.tree), desk.head.record
    batch, stage = desk.repository.batch("other")
    desk.repository.set_name("other", None, record, batch, stage)
    desk.close_store()
    other = Desk(path, chunker, name="other")
    for edit in THERE:
        do(other, edit)
    other.commit()
    other.head.checkpoint("moved to")
    other.close_store()
    return path, tree


def killed(path: Path, template: Path, work: Callable[[], object]) -> None:
    path.mkdir()
    shutil.copytree(template, path / "store")
    status = waited(forked(work))
    assert status == -9, f"the session ended with {status}"


def look_after(path: Path, first: str, chunker: Chunker) -> str:
    """What a kill left is what was promised, and the next mount goes on with it. Returns the tree."""
    journal = path / "journal"
    lines = journal.read_text().splitlines() if journal.exists() else []
    tree = verify(path / "store", Promise.of(lines, first))
    desk = Desk(path / "store", chunker)
    desk.create(b"afterwards", FILE)
    desk.commit()
    desk.look()
    desk.close_store()
    return tree


@pytest.mark.slow
@pytest.mark.parametrize("where", ["calls", "changes"])
def test_killed_at_every_step(quick: Path, template: tuple[Path, str], chunker: Chunker, where: str) -> None:
    store, first = template
    (quick / "whole").mkdir()
    shutil.copytree(store, quick / "whole/store")
    counted = Steps()
    session(quick / "whole", chunker, *((counted, calmly) if where == "calls" else (calmly, counted)))
    trees = set()
    ends = {number for number, name in enumerate(counted.names, 1) if name == "commit" or where == "calls"}
    # Changes inside LMDB are in memory until their commit: a few of each transaction will do.
    for step in sorted(ends | set(range(1, len(counted.names) + 1, 5))):
        path = quick / str(step)
        steps = Steps(die, step)
        acts = (steps, calmly) if where == "calls" else (calmly, steps)
        try:
            killed(path, store, lambda path=path, acts=acts: session(path, chunker, *acts))  # type: ignore[misc]
            trees.add(look_after(path, first, chunker))
        except BaseException:
            print(f"killed at step {step} of {len(counted.names)} ({where}): {counted.names[step - 1]}")
            raise
        shutil.rmtree(path)
    assert len(trees) == 3, "before, moved, and edited after that"


@pytest.mark.slow
def test_killed_in_the_swap(quick: Path, template: tuple[Path, str], chunker: Chunker) -> None:
    """What is in memory only must not matter: the name is what it was moved to."""
    store, first = template
    (quick / "whole").mkdir()
    shutil.copytree(store, quick / "whole/store")
    lines = _Lines(0)
    sys.settrace(lines.trace)
    try:
        session(quick / "whole", chunker, calmly, calmly)
    finally:
        sys.settrace(None)
    assert lines.count > 100
    trees = set()
    for number in range(1, lines.count, 29):
        path = quick / str(number)

        def work(path: Path = path, number: int = number) -> None:
            sys.settrace(_Lines(number).trace)
            session(path, chunker, calmly, calmly)

        killed(path, store, work)
        trees.add(look_after(path, first, chunker))
        shutil.rmtree(path)
    assert len(trees) == 2, "what was read before the move, and the swap after it"


class _Lines:
    """Counts the lines of `swap` that are run, and dies before the nth."""

    def __init__(self, nth: int) -> None:
        self.count = 0
        self._nth = nth

    def trace(self, frame: FrameType, event: str, arg: object) -> Callable[..., object] | None:
        if frame.f_code.co_filename != swap.__file__:
            return None
        if event == "line":
            self.count += 1
            if self.count == self._nth:
                die()
        return self.trace


# With real mounts


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path)
    many = {f"{top}/{number}": b"%d" % number for top in "abc" for number in range(100)}
    plant(live.tree, many)
    live.ok("import", "tree", "--name", "src")
    live.ok("name", "work", "src")
    live.mnt.mkdir()
    yield live
    subprocess.run(["umount", "-l", live.mnt], check=False, capture_output=True)
    for log in (live.store / "run").glob("*.log"):
        print(log.read_text())


@pytest.mark.mounted
@pytest.mark.slow
def test_a_daemon_that_is_killed_during_merges(live: Live, rng: random.Random) -> None:
    moved = 0
    for kill in range(KILLS):
        live.ok("mount", "src", "mnt")
        (live.mnt / "synced").write_text(str(kill))
        with (live.mnt / "synced").open() as file:
            os.fsync(file)
        for number in range(60):
            (live.tree / f"a/{number}").write_text(f"{kill} {number}")
        shutil.rmtree(live.tree / "b")
        plant(live.tree, {f"b/{number}": b"%d %d" % (kill, number) for number in range(60)})
        theirs = live.saved()
        before = live.status()
        client = live.start("merge", "src", "work")
        until(partial(has_begun, live, client))
        time.sleep(rng.random() * 0.15)
        os.kill(before["pid"], signal.SIGKILL)
        out, err = client.communicate(timeout=60)
        assert client.returncode in (0, 1) and b"Traceback" not in err, err
        live.ok("mount", "src", "mnt")
        after = live.status()["head"]
        made = client.returncode == 0
        assert after == out.decode().strip() if made else after in (before["head"], after_merge(live, theirs))
        moved += after != before["head"]
        assert (live.mnt / "synced").read_text() == str(kill)
        live.check()
        live.ok("merge", "src", "work")
        assert live.ok("cat", "src/a/7").text == f"{kill} 7", "the next merge brings it all"
    print(f"{moved} of {KILLS} had moved")


def has_begun(live: Live, client: subprocess.Popen[bytes]) -> bool:
    if client.poll() is not None:
        return True
    socket = os.path.basename(socket_of(live.mnt))
    return any(line.endswith(socket) and line.split()[5] == "03" for line in _unix())


def _unix() -> list[str]:
    return Path("/proc/net/unix").read_text().splitlines()


def after_merge(live: Live, theirs: str) -> str:
    """The tree that a merge makes of what is mounted and `work`: that of `work`, and `synced`."""
    return live.ok("merge", "src", "work", "--dry-run", "--json").json["after"]  # type: ignore[no-any-return]


@pytest.mark.mounted
@pytest.mark.slow
@pytest.mark.parametrize("unsaved", [False, True], ids=["saved", "with edits"])
def test_the_disk_is_full(tmp_path: Path, unsaved: bool, rng: random.Random) -> None:
    """Nothing has changed, the mount goes on, and once there is room all of it can be done."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "none", disk], check=True)
    live = Live(tmp_path, {"MONOFS_STORE": str(disk / "store")})
    try:
        begun = {f"text-{number}": page(rng) for number in range(60)}
        plant(live.tree, begun)
        live.ok("import", "tree", "--name", "src")
        live.ok("name", "work", "src")
        live.mnt.mkdir()
        live.ok("mount", "src", "mnt")
        plant(live.mnt, {name: b"ours\n" + text for name, text in begun.items()})
        live.ok("checkpoint", "mnt")
        plant(live.tree, {name: text + b"theirs\n" for name, text in begun.items()} | {"new": b"new"})
        live.saved()
        if unsaved:
            (live.mnt / "mine").write_bytes(b"mine")
        version = live.names()["src"]["version"]
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(1 << 12))
        for _ in range(2):
            assert "space" in live.fails("merge", "src", "work")
            assert sorted(os.listdir(live.mnt)) == sorted([*begun, *(["mine"] if unsaved else [])])
            for name, text in begun.items():
                assert (live.mnt / name).read_bytes() == b"ours\n" + text
            assert live.names()["src"]["version"] == version
        (live.mnt / "more").write_bytes(b"more")
        filler.unlink()
        assert live.ok("merge", "src", "work").err == ""
        assert sorted(os.listdir(live.mnt)) == sorted([*begun, *(["mine"] if unsaved else []), "more", "new"])
        for name, text in begun.items():
            assert (live.mnt / name).read_bytes() == b"ours\n" + text + b"theirs\n"
        live.ok("umount", "mnt")
        repository = Repository.open(disk / "store", create=False)
        found = check.examine(repository.store)
        repository.close()
        assert found.is_clean, found.problems
    finally:
        subprocess.run(["umount", "-l", live.mnt], check=False, capture_output=True)
        subprocess.run(["umount", "-l", disk], check=True)


def page(rng: random.Random) -> bytes:
    """Text that takes room, however it is compressed."""
    return b"".join(rng.randbytes(500).hex().encode() + b"\n" for _ in range(50))
