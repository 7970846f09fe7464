"""The keeper on a clock of its own, with machines that are a few events: policy, health, stops, kills, adoption."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.project_run.made import changed, machine, of
from vmm.errors import StateError, SupervisorGone, VmError
from vmm.project import limits
from vmm.project.keeper import Keeper
from vmm.project.manifest import Dependency, Health, Restart
from vmm.project.policy import Ended
from vmm.project.wanted import Wanted
from vmm.project.wishes import Run, Wish
from vmm.spec import Command

CHECK = Health(("true",), interval_seconds=5, timeout_seconds=2, retries=3)
ALWAYS = Restart("always")


class FakeBook:
    def __init__(self) -> None:
        self.wishes: dict[str, Wish] = {}
        self.noted: dict[str, Run] = {}
        self.is_full = False

    def all(self) -> dict[str, Wish]:
        return dict(self.wishes)

    def runs(self) -> dict[str, Run]:
        return dict(self.noted)

    def put_run(self, machine: str, run: Run) -> None:
        if self.is_full:
            raise StateError("the project's state cannot be used: disk full")
        self.noted[machine] = run

    def up(self, *found: Wanted) -> None:
        for one in found:
            old = self.wishes.get(one.machine)
            self.wishes[one.machine] = Wish(one, True, 1 + (old.generation if old else 0), one.stop_seconds)

    def down(self, *names: str, patience: float = 10.0) -> None:
        for name in names or tuple(self.wishes):
            self.wishes[name] = replace(self.wishes[name], up=False, patience=patience)


class FakeMachine:
    """Begins, ends and answers as it is told."""

    def __init__(self, host: FakeHost, wanted: Wanted, id: str) -> None:
        self.host, self.wanted, self.id = host, wanted, id
        self.began, self.over = trio.Event(), trio.Event()
        self.how: Ended | None = None
        self.stops: list[float] = []
        self.obeys = True
        self.answers = True
        self.check_seconds, self.passes = 0.0, True
        self.checks = 0
        self.started_at = trio.current_time()
        if host.begin_at_once:
            self.began.set()

    def end(self, code: int = 0, error: str | None = None) -> None:
        self.how = Ended(code, trio.current_time() - self.started_at, error)
        self.over.set()

    async def begun(self) -> bool:
        async with trio.open_nursery() as nursery:
            for event in (self.began, self.over):
                nursery.start_soon(_then_cancel, event, nursery.cancel_scope)
        return self.began.is_set()

    async def ended(self) -> Ended | None:
        await self.over.wait()
        return self.how

    async def stop(self, seconds: float) -> None:
        if not self.answers:
            raise SupervisorGone("no answer")
        self.stops.append(seconds)
        if self.obeys or seconds == 0:
            self.end(143)
        await self.over.wait()

    async def check(self, command: Command) -> bool:
        self.checks += 1
        await trio.sleep(self.check_seconds)
        return self.passes

    def destroy(self) -> None:
        self.over.set()


class FakeHost:
    def __init__(self) -> None:
        self.machines: list[FakeMachine] = []
        self.begin_at_once = True
        self.fails: str | None = None
        self.last = 0
        self.ground = True
        self.abandoned = False
        self.start_gate: trio.Event | None = None

    def new_id(self) -> str:
        self.last += 1
        return f"id{self.last}"

    async def start(self, wanted: Wanted, id: str) -> FakeMachine:
        if self.start_gate is not None:
            await self.start_gate.wait()
        await trio.lowlevel.checkpoint()
        if self.fails is not None:
            raise VmError(self.fails)
        self.machines.append(FakeMachine(self, wanted, id))
        return self.machines[-1]

    async def found(self, id: str) -> FakeMachine | None:
        return next((one for one in self.machines if one.id == id and not one.over.is_set()), None)

    async def settled(self, id: str) -> Ended | None:
        found = next((one for one in self.machines if one.id == id), None)
        return None if found is None else found.how or Ended(125, 0.0, "its supervisor was killed")

    def is_there(self) -> bool:
        return self.ground

    async def abandon(self) -> None:
        self.abandoned = True

    def alive(self) -> list[str]:
        return [one.wanted.machine for one in self.machines if not one.over.is_set()]

    def of(self, name: str) -> FakeMachine:
        return [one for one in self.machines if one.wanted.machine == name][-1]


async def _then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class World:
    def __init__(self) -> None:
        self.book, self.host = FakeBook(), FakeHost()
        self.keeper = Keeper(self.book, self.host, wall=trio.current_time)
        self.over = trio.Event()

    async def settle(self) -> None:
        self.keeper.look()
        await wait_all_tasks_blocked()

    def phase(self, name: str) -> str:
        return str(self.keeper.report()[name]["phase"])

    async def run(self) -> None:
        await self.keeper.run()
        self.over.set()


@asynccontextmanager
async def running(world: World | None = None, *wanted: Wanted) -> AsyncIterator[World]:
    world = world or World()
    world.book.up(*wanted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        await wait_all_tasks_blocked()
        yield world
        nursery.cancel_scope.cancel()


async def seconds(clock: MockClock, world: World, count: float) -> None:
    """Let time pass, in small steps so that everything happens when it is due."""
    end = trio.current_time() + count
    while trio.current_time() < end:
        clock.jump(min(0.25, end - trio.current_time()))
        await wait_all_tasks_blocked()


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    return mock_clock


async def test_in_order_up_and_down(clock: MockClock) -> None:
    async with running(None, of(machine("web", "db")), of(machine("db"))) as world:
        assert world.host.alive() == ["db", "web"]
        world.book.down()
        world.host.of("web").obeys = False
        await world.settle()
        assert (world.host.of("web").stops, world.host.of("db").stops) == ([10.0], [])
        assert (world.phase("web"), world.phase("db")) == ("stopping", "running")
        world.host.of("web").end(0)
        await world.over.wait()
        assert world.host.of("db").stops == [10.0]
        assert world.host.alive() == []
        assert {run.phase for run in world.book.noted.values()} == {"down"}


async def test_it_waits_until_a_need_is_healthy(clock: MockClock) -> None:
    needing = of(machine("web", Dependency("db", "healthy")))
    world = World()
    world.host.begin_at_once = False
    async with running(world, needing, of(machine("db", health=CHECK))):
        assert world.host.alive() == ["db"]
        world.host.of("db").passes = False
        world.host.of("db").began.set()
        await seconds(clock, world, 30)
        assert world.keeper.report()["db"]["health"] == "unhealthy"
        assert world.keeper.report()["web"]["waits_for"] == ["db"]
        assert world.host.alive() == ["db"]
        world.host.of("db").passes = True
        await seconds(clock, world, 6)
        assert world.host.alive() == ["db", "web"]


async def test_a_machine_that_ends_at_once_is_started_again_with_pauses(clock: MockClock) -> None:
    async with running(None, of(machine("web", restart=ALWAYS))) as world:
        begun = []
        for _ in range(200):
            if world.host.alive():
                begun.append(trio.current_time())
                world.host.of("web").end(0)
                await wait_all_tasks_blocked()
            await seconds(clock, world, 0.5)
        pauses = [after - before for before, after in itertools.pairwise(begun)]
        assert pauses[:5] == [0.5, 1.0, 2.0, 4.0, 8.0]
        assert len(world.host.machines) < 10, "no busy loop"
        assert world.keeper.report()["web"]["restarts"] in (len(begun) - 1, len(begun)), "the next may be due"


async def test_a_failure_is_not_restarted_without_a_policy_and_the_keeper_ends(clock: MockClock) -> None:
    async with running(None, of(machine("web"))) as world:
        world.host.of("web").end(3)
        await world.over.wait()
        found = world.keeper.report()["web"]
        assert (found["phase"], found["exit_code"], found["wished"]) == ("down", 3, "up")


async def test_a_start_that_fails_is_tried_again_by_policy_only(clock: MockClock) -> None:
    world = World()
    world.host.fails = "port 80 is taken"
    async with running(world, of(machine("web", restart=ALWAYS)), of(machine("job"))):
        await seconds(clock, world, 3)
        assert world.keeper.report()["web"]["error"] == "port 80 is taken"
        assert world.keeper.report()["web"]["restarts"] == 3
        assert world.keeper.report()["job"]["restarts"] == 0
        world.host.fails = None
        await seconds(clock, world, 10)
        assert world.host.alive() == ["web"]


async def test_what_is_asked_to_stop_is_not_restarted(clock: MockClock) -> None:
    async with running(None, of(machine("web", restart=ALWAYS))) as world:
        world.book.down()
        world.keeper.look()
        await world.over.wait()
        assert len(world.host.machines) == 1


async def test_changed_and_once_more(clock: MockClock) -> None:
    first = of(machine("web"))
    async with running(None, first) as world:
        world.book.up(changed(first))
        await world.settle()
        assert [one.over.is_set() for one in world.host.machines] == [True, False]
        assert world.keeper.report()["web"]["is_current"]
        world.book.up(changed(first))  # another generation
        await world.settle()
        assert len(world.host.machines) == 3


async def test_wished_down_while_it_starts(clock: MockClock) -> None:
    world = World()
    world.host.start_gate = trio.Event()
    async with running(world, of(machine("web"))):
        world.book.down()
        await world.settle()
        assert world.phase("web") == "stopping"
        world.host.start_gate.set()
        await world.over.wait()
        assert world.host.of("web").stops == [10.0]


async def test_less_patience_than_before(clock: MockClock) -> None:
    async with running(None, of(machine("web"))) as world:
        world.host.of("web").obeys = False
        world.book.down()
        await world.settle()
        world.book.down(patience=0.0)
        world.keeper.look()
        await world.over.wait()
        assert world.host.of("web").stops == [10.0, 0.0]


async def test_a_supervisor_that_does_not_answer_is_killed_in_the_end(clock: MockClock) -> None:
    async with running(None, of(machine("web"))) as world:
        world.host.of("web").answers = False
        world.book.down()
        await world.settle()
        await seconds(clock, world, limits.overdue_seconds)
        assert not world.over.is_set()
        await seconds(clock, world, 15)
        assert world.over.is_set()
        assert world.keeper.report()["web"]["error"] == "its supervisor was killed"


async def test_a_guest_that_never_answers_health_checks(clock: MockClock) -> None:
    world = World()
    async with running(world, of(machine("web", health=CHECK))):
        world.host.of("web").check_seconds = 1e9
        await seconds(clock, world, 40)
        assert world.keeper.report()["web"]["health"] == "unhealthy"
        assert 3 <= world.host.of("web").checks <= 8, "one at a time, each for no longer than it may take"
        world.book.down()
        world.keeper.look()
        await world.over.wait()


async def test_a_guest_whose_command_never_begins(clock: MockClock) -> None:
    world = World()
    world.host.begin_at_once = False
    async with running(world, of(machine("web"))):
        await seconds(clock, world, limits.begin_seconds + 1)
        assert world.over.is_set()
        assert world.keeper.report()["web"]["exit_code"] == 125


async def test_health_that_is_declared_while_it_runs(clock: MockClock) -> None:
    async with running(None, of(machine("web"))) as world:
        assert world.keeper.report()["web"]["health"] is None
        wish = world.book.wishes["web"]
        world.book.wishes["web"] = replace(wish, wanted=of(machine("web", health=CHECK)))
        await world.settle()
        await seconds(clock, world, 1)
        assert world.keeper.report()["web"]["health"] == "healthy"
        world.book.wishes["web"] = wish
        await world.settle()
        await seconds(clock, world, 6)
        assert world.keeper.report()["web"]["health"] is None
        assert len(world.host.machines) == 1


# After a kill


async def _killed(world: World) -> World:
    """Return a world with the same book and machines and no keeper."""
    found = World()
    found.book, found.host = world.book, world.host
    found.keeper = Keeper(found.book, found.host, wall=trio.current_time)
    return found


async def test_the_next_keeper_goes_on_where_this_one_was_killed(clock: MockClock) -> None:
    db = of(machine("db", health=CHECK, restart=ALWAYS))
    async with running(None, of(machine("web", "db")), db) as world:
        await seconds(clock, world, 1)
    assert world.host.alive() == ["db", "web"]
    async with running(await _killed(world)) as after:
        await seconds(clock, after, 1)
        assert len(after.host.machines) == 2, "found, not started once more"
        assert after.keeper.report()["db"]["health"] == "healthy"
        after.host.of("db").end(1)
        await seconds(clock, after, 1)
        assert after.host.alive() == ["web", "db"]
        after.book.down()
        after.keeper.look()
        await after.over.wait()


async def test_what_ended_meanwhile_is_restarted_by_policy(clock: MockClock) -> None:
    async with running(None, of(machine("web", restart=ALWAYS)), of(machine("job")), of(machine("db"))) as world:
        pass
    world.host.of("web").end(1)
    world.host.of("job").end(0)
    async with running(await _killed(world)) as after:
        await seconds(clock, after, 1)
        assert sorted(after.host.alive()) == ["db", "web"]
        assert after.keeper.report()["job"]["exit_code"] == 0


async def test_a_pause_goes_on(clock: MockClock) -> None:
    world = World()
    world.host.fails = "no"
    async with running(world, of(machine("web", restart=ALWAYS))):
        await seconds(clock, world, 3)
    restarts = world.book.noted["web"].past.restarts
    world.host.fails = None
    async with running(await _killed(world)) as after:
        assert after.host.alive() == []
        await seconds(clock, after, 4)
        assert after.host.alive() == ["web"]
        assert after.book.noted["web"].past.restarts == restarts


async def test_a_start_that_did_not_come_about_is_done_again(clock: MockClock) -> None:
    world = World()
    world.host.start_gate = trio.Event()
    async with running(world, of(machine("web"))):
        assert world.book.noted["web"].phase == "starting"
    world.host.start_gate = None
    async with running(await _killed(world)) as after:
        assert after.host.alive() == ["web"]


async def test_wished_down_while_nobody_looked(clock: MockClock) -> None:
    async with running(None, of(machine("web", restart=ALWAYS))) as world:
        pass
    world.book.down()
    async with running(await _killed(world)) as after:
        await after.over.wait()
        assert after.host.alive() == []


# Bad ground


async def test_a_full_disk_keeps_nothing_from_going_on(clock: MockClock) -> None:
    world = World()
    async with running(world, of(machine("web", restart=ALWAYS))):
        world.book.is_full = True
        world.host.of("web").end(1)
        await seconds(clock, world, 2)
        assert "disk full" in world.keeper.report()["web"]["error"], "nothing is started that is not written down"
        world.book.is_full = False
        await seconds(clock, world, 8)
        assert world.host.alive() == ["web"]


async def test_ground_that_is_gone(clock: MockClock) -> None:
    async with running(None, of(machine("web"))) as world:
        world.host.ground = False
        await seconds(clock, world, limits.look_seconds + 1)
        assert world.over.is_set() and world.keeper.is_lost and world.host.abandoned
