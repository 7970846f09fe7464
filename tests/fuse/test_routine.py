"""Checkpoints that come by themselves, on trio's clock: when, what they say, what goes afterwards, what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from monofs_fuse import habit, limits
from monofs_fuse.habit import BadHabit, Habit
from monofs_fuse.head import Head
from monofs_fuse.routine import MESSAGE, Routine
from monofs_fuse.saver import Saver
from monofs_fuse.worktree import Worktree
from store import history, retention, version
from store.blocks import Change
from store.entry import Entry
from store.errors import BadPolicy, NoSpace
from store.memory_store import MemoryStore
from store.repository import Repository
from store.version import Version

MINUTE = 60


class SmallStore(MemoryStore):
    """Has room for so many changes; None: for any number. A change waits at a gate if there is one."""

    room: int | None = None
    gate: threading.Event | None = None

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()

    def apply(self, change: Change) -> int:
        if self.gate is not None:
            self.entered.set()
            self.gate.wait()
        if self.room is not None:
            if not self.room:
                raise NoSpace("the disk is full (so says the test)")
            self.room -= 1
        return super().apply(change)


class Desk:
    """A mount without FUSE that makes a checkpoint every ten minutes."""

    def __init__(self, keep: str | None = None) -> None:
        self.store = SmallStore()
        self.repository = Repository(Path(__file__).parent, self.store)
        batch, stage = self.repository.batch("test")
        self.repository.publish("t", version.put_tree(batch, version.Tree(Entry("dir", 0o755))), batch, stage)
        self.head = Head(self.repository, "t")
        self.tree = Worktree(self.repository.cache, self.head.load())
        self.saver = Saver(self.tree, self.head)
        self.flushed = 0
        self.fails: Exception | None = None
        policy = None if keep is None else retention.parse(keep)
        self.routine = Routine(Habit(10 * MINUTE, policy), self.saver, self._flush)
        self._edits = 0

    async def _flush(self) -> None:
        self.flushed += 1
        if self.fails is not None:
            raise self.fails

    def edit(self) -> None:
        self._edits += 1
        self.tree.create(self.tree.root, b"file %d" % self._edits, Entry("file", 0o644))

    @property
    def history(self) -> list[Version]:
        """The versions of the name, the newest first."""
        name = self.repository.name("t")
        assert name is not None
        return [one for _, one in history.ancestors(self.repository.cache, name.version)]

    async def passes(self, seconds: float) -> None:
        """So much time passes; returns when the round that falls into it is over, which must be one."""
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        rounds = self.routine.rounds
        clock.jump(seconds)
        while self.routine.rounds == rounds:  # work is done on threads, which take time of another kind
            await trio.lowlevel.checkpoint()
        assert self.routine.rounds == rounds + 1


def played(desk: Desk, play: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.saver.run)
            nursery.start_soon(desk.routine.run)
            await trio.testing.wait_all_tasks_blocked()
            await play()
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock())


def test_a_version_comes_when_something_changed() -> None:
    desk = Desk()

    async def play() -> None:
        desk.edit()
        await desk.passes(10 * MINUTE)
        assert [one.message for one in desk.history] == [MESSAGE, ""]
        assert version.load_tree(desk.repository.cache, desk.history[0].tree).root.total[0] == 1
        await desk.passes(10 * MINUTE)
        assert len(desk.history) == 2, "nothing changed"
        desk.edit()
        await desk.saver.save()
        await desk.passes(10 * MINUTE)
        assert len(desk.history) == 3, "what was committed and is in no version is news"
        desk.edit()
        await desk.saver.checkpoint("by hand")
        await desk.passes(10 * MINUTE)
        assert [one.message for one in desk.history[:2]] == ["by hand", MESSAGE]
        assert desk.flushed == 4, "what the kernel holds belongs to it"

    played(desk, play)


def test_nothing_comes_early() -> None:
    desk = Desk()

    async def play() -> None:
        desk.edit()
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(10 * MINUTE - 1)
        await trio.testing.wait_all_tasks_blocked()
        assert (desk.flushed, len(desk.history)) == (0, 1)
        await desk.passes(1)
        assert (desk.flushed, len(desk.history)) == (1, 2)

    played(desk, play)


def test_old_versions_go_afterwards() -> None:
    desk = Desk("last=3")

    async def play() -> None:
        for count in (2, 3, 3, 3):
            desk.edit()
            await desk.passes(10 * MINUTE)
            assert len(desk.history) == count
        trees = [one.tree for one in desk.history]
        desk.edit()
        await desk.saver.save()
        await desk.saver.checkpoint("by hand")
        assert len(desk.history) == 4, "only after its own"
        await desk.passes(10 * MINUTE)
        assert [one.tree for one in desk.history][1:] == trees, "nothing changed, so nothing goes"
        desk.edit()
        await desk.passes(10 * MINUTE)
        assert [one.message for one in desk.history] == [MESSAGE, "by hand", MESSAGE]

    played(desk, play)


@pytest.mark.parametrize("room", range(3))
def test_a_full_disk_is_told_and_tried_again(room: int) -> None:
    desk = Desk("last=1")

    async def play() -> None:
        desk.edit()
        desk.store.room = room
        await desk.passes(10 * MINUTE)
        assert "full" in (desk.routine.problem or "")
        assert len(desk.history) == (2 if room == 2 else 1), "it could be saved, made a version, and then not pruned"
        await desk.passes(limits.auto_retry_seconds)
        assert "full" in (desk.routine.problem or "")
        desk.store.room = None
        await desk.passes(limits.auto_retry_seconds)
        assert desk.routine.problem is None
        assert [one.message for one in desk.history] == [MESSAGE]
        assert not desk.head.is_ahead and not desk.tree.is_dirty

    played(desk, play)


@pytest.mark.parametrize("error", [OSError("the mount point is gone"), RuntimeError("nobody thought of it")])
def test_whatever_goes_wrong_ends_nothing(error: Exception) -> None:
    desk = Desk()

    async def play() -> None:
        desk.edit()
        desk.fails = error
        await desk.passes(10 * MINUTE)
        assert str(error) in (desk.routine.problem or "")
        assert desk.routine.status()["problem"] == desk.routine.problem
        await desk.passes(limits.auto_retry_seconds)
        assert len(desk.history) == 1
        desk.fails = None
        await desk.passes(limits.auto_retry_seconds)
        assert desk.routine.problem is None and len(desk.history) == 2

    played(desk, play)


def test_what_it_says() -> None:
    import time

    desk = Desk("daily=7,hourly=24")

    async def play() -> None:
        status = desk.routine.status()
        assert (status["every"], status["every_seconds"], status["keep"]) == ("10m", 600, "hourly=24,daily=7")
        assert status["last"] is None and status["problem"] is None
        assert 590 < status["next"] - time.time() < 610
        desk.edit()
        await desk.passes(10 * MINUTE)
        status = desk.routine.status()
        assert abs(status["last"] - time.time()) < 60
        assert 590 < status["next"] - time.time() < 610

    played(desk, play)


def test_it_waits_for_whoever_moves_the_name() -> None:
    desk = Desk()

    async def play() -> None:
        desk.edit()
        async with desk.saver.gate.shut():
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, trio.testing.MockClock)
            clock.jump(10 * MINUTE)
            await trio.testing.wait_all_tasks_blocked()
            assert desk.flushed == 1 and len(desk.history) == 1
        while not desk.routine.rounds:
            await trio.lowlevel.checkpoint()
        assert len(desk.history) == 2

    played(desk, play)


def test_the_end_of_a_mount_waits_for_the_one_that_is_being_made() -> None:
    """What umount, SIGTERM and a last commit do while an automatic checkpoint is being written."""
    desk = Desk("last=2")

    async def play() -> None:
        desk.edit()
        desk.store.gate = threading.Event()
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(10 * MINUTE)
        await trio.to_thread.run_sync(desk.store.entered.wait)
        desk.edit()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.saver.save)
            nursery.start_soon(desk.saver.checkpoint, "the last one")
            await trio.testing.wait_all_tasks_blocked()
            assert len(desk.history) == 1
            desk.store.gate.set()

    played(desk, play)
    found = desk.history
    assert found[0].message == "the last one" and len(found) in (2, 3)
    assert version.load_tree(desk.repository.cache, found[0].tree).root.total[0] == 2
    assert desk.head.record == desk.repository.name("t")


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("366d", 31_622_400)]
)
def test_intervals(text: str, seconds: int) -> None:
    assert habit.seconds_of(text) == seconds
    assert habit.seconds_of(habit.shown(seconds)) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "m", "0s", "0m", "-5m", "1.5h", "10 m", "10M", "10min", "367d", "9999999999s", "²s", "5m\n"]
)
def test_intervals_that_are_none(text: str) -> None:
    with pytest.raises(BadHabit):
        habit.seconds_of(text)


def test_a_bad_policy_is_no_habit() -> None:
    with pytest.raises(BadPolicy):
        habit.parse("10m", "sometimes=3")
    assert habit.parse("10m", None) == Habit(600, None)
