"""The keeper: looks after all machines of a project until nothing of it is to run any more.

It starts them, each with a supervisor of its own that goes on when the keeper is killed; the next keeper finds
them and goes on. What it decides is in `converging`, `policy` and `health`; here it is carried out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import trio

from vmm.errors import VmError
from vmm.project import converging, health, limits, policy
from vmm.project.converging import NOTHING, Seen, Start
from vmm.project.health import Pulse
from vmm.project.policy import Ended, Past
from vmm.project.wanted import Wanted
from vmm.project.wishes import Run, Wish
from vmm.spec import Command


class Handle(Protocol):
    """One machine that runs: see `vmm.project.handle`."""

    async def begun(self) -> bool: ...
    async def ended(self) -> Ended | None: ...
    async def stop(self, seconds: float) -> None: ...
    async def check(self, command: Command) -> bool: ...
    def destroy(self) -> None: ...


class Host(Protocol):
    """Where machines run."""

    def new_id(self) -> str: ...

    async def start(self, wanted: Wanted, id: str) -> Handle:
        """Raises VmError."""

    async def found(self, id: str) -> Handle | None:
        """Return a machine that was started before, None if it has ended."""

    async def settled(self, id: str) -> Ended | None:
        """Clear up after a machine that has ended, if nobody has, and return how it did; None: it was never there."""

    def is_there(self) -> bool:
        """False once the ground is gone on which all stands."""

    async def abandon(self) -> None:
        """End all that runs on a ground that is gone."""


class Book(Protocol):
    """What is wished and what came of it: see `vmm.project.wishes`."""

    def all(self) -> Mapping[str, Wish]: ...
    def runs(self) -> Mapping[str, Run]: ...
    def put_run(self, machine: str, run: Run) -> None: ...


class Keeper:
    """`run` returns when there is nothing left to do. A client that has changed wishes calls `look`."""

    def __init__(self, book: Book, host: Host, *, wall: Callable[[], float] = time.time) -> None:
        self.ready = trio.Event()  # it is known what runs
        self.news = trio.Event()  # something is otherwise than before; a new event every time
        self.is_lost = False
        self.trouble: str | None = None  # what could not be written down
        self._book, self._host, self._wall = book, host, wall
        self._wishes: Mapping[str, Wish] = {}
        self._runs: dict[str, Run] = {}
        self._seen: dict[str, Seen] = {}
        self._handles: dict[str, Handle] = {}
        self._nurseries: dict[str, trio.Nursery] = {}
        self._awake = trio.Event()

    def look(self) -> None:
        """Wishes have changed."""
        self._read()
        self._wake()

    def is_done(self) -> bool:
        self._read()
        return converging.is_done(self._wishes, self._seen)

    def report(self) -> dict[str, Any]:
        """Return how all machines are, by name, for JSON."""
        return reported(self._wishes, self._runs, self._seen)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await self._find(nursery)
            self.ready.set()
            nursery.start_soon(self._guard, nursery.cancel_scope)
            while not self.is_done():
                for action in converging.actions(self._wishes, self._seen, trio.current_time()):
                    if isinstance(action, Start):
                        self._start(nursery, action.machine)
                    else:
                        self._stop(action.machine, action.seconds)
                due = converging.wakes_at(self._wishes, self._seen)
                with trio.move_on_at(float("inf") if due is None else due):
                    await self._awake.wait()
                self._awake = trio.Event()
            nursery.cancel_scope.cancel()

    # What is known

    def _read(self) -> None:
        try:
            self._wishes = self._book.all()
        except VmError as error:
            self.trouble = str(error)

    def _see(self, name: str, **changes: Any) -> None:
        """Note how a machine is now, for us and for those who ask."""
        one = self._seen[name] = replace(self._seen.get(name, NOTHING), **changes)
        past = replace(one.past, next_start=self._on_the_wall(one.past.next_start))
        self._put(name, replace(self._runs[name], phase=one.phase, health=one.health, past=past, ended=one.ended))
        self._wake()

    def _put(self, name: str, run: Run) -> None:
        self._runs[name] = run
        try:
            self._book.put_run(name, run)
            self.trouble = None
        except VmError as error:
            self.trouble = str(error)  # a full disk, say: machines are worth more than the book

    def _wake(self) -> None:
        self._awake.set()
        self.news.set()
        self.news = trio.Event()

    def _on_the_wall(self, moment: float | None) -> float | None:
        return None if moment is None else self._wall() + moment - trio.current_time()

    def _here(self, moment: float | None) -> float | None:
        """Return when that is on our clock; whatever became of the one on the wall, it is soon."""
        if moment is None:
            return None
        return trio.current_time() + min(max(0.0, moment - self._wall()), limits.pause_seconds_max)

    # Finding what runs

    async def _find(self, nursery: trio.Nursery) -> None:
        self._read()
        for name, run in self._book.runs().items():
            self._runs[name] = run
            past = replace(run.past, next_start=self._here(run.past.next_start))
            seen = self._seen[name] = Seen("down", run.key, past=past, ended=run.ended, ports=_ports(run.wanted))
            if run.phase == "down":
                continue
            handle = await self._host.found(run.vm)
            if handle is not None:
                self._seen[name] = replace(seen, phase="starting", health=run.health)
                nursery.start_soon(self._live, name, run, handle)
                continue
            ended = await self._host.settled(run.vm)
            if ended is None:  # the one before us was killed just then
                self._see(name, key=None)
                continue
            wish = self._wishes.get(name)
            is_asked = wish is None or not wish.up or wish.key != run.key
            self._see(name, **self._after(name, run, ended, is_asked=is_asked))

    # Starting

    def _start(self, nursery: trio.Nursery, name: str) -> None:
        wish, one = self._wishes[name], self._seen.get(name, NOTHING)
        past = one.past if one.key == wish.key else Past()
        run = Run(self._host.new_id(), wish.key, wish.wanted, "starting", past=replace(past, next_start=None))
        self._seen[name] = Seen("starting", wish.key, past=past, ports=_ports(wish.wanted))
        self._put(name, run)  # before it is started: whoever comes after us knows what to look for
        self._wake()
        nursery.start_soon(self._live, name, run, None)

    async def _live(self, name: str, run: Run, handle: Handle | None) -> None:
        """Be there for one machine from its start, or from when it was found, to its end."""
        try:
            if self.trouble is not None and handle is None:
                raise VmError(self.trouble)
            handle = handle or await self._host.start(run.wanted, run.vm)
            ended = await self._watched(name, run, handle)
        except VmError as error:
            ended = Ended(125, 0.0, str(error)[: limits.error_bytes_max])
        finally:
            self._handles.pop(name, None)
            self._nurseries.pop(name, None)
        is_asked = self._seen[name].asked is not None
        self._see(name, **self._after(name, run, ended, is_asked=is_asked))

    def _after(self, name: str, run: Run, ended: Ended, *, is_asked: bool) -> dict[str, Any]:
        """Return how a machine is once it has ended."""
        if is_asked:
            past = Past(next_start=None)
        else:
            rule = self._wishes[name].wanted.restart if name in self._wishes else run.wanted.restart
            past = policy.after(self._seen[name].past, rule, ended, trio.current_time())
        return {"phase": "down", "health": None, "asked": None, "ended": ended, "past": past}

    async def _watched(self, name: str, run: Run, handle: Handle) -> Ended:
        async with trio.open_nursery() as nursery:
            self._handles[name], self._nurseries[name] = handle, nursery
            asked = self._seen[name].asked
            if asked is not None:  # while it was being started
                nursery.start_soon(self._end, handle, asked)
            nursery.start_soon(self._attend, name, run, handle)
            ended = await handle.ended()
            nursery.cancel_scope.cancel()
        return ended or await self._host.settled(run.vm) or Ended(125, 0.0, "it was forgotten while it ran")

    async def _attend(self, name: str, run: Run, handle: Handle) -> None:
        """See it begin, then check its health for as long as it runs."""
        with trio.move_on_after(limits.begin_seconds) as limit:
            try:
                if not await handle.begun():
                    return
            except VmError:
                return  # its end tells
        if limit.cancelled_caught:
            handle.destroy()  # it is up, and its command still did not begin: there is nothing to ask it
            return
        is_asked = self._seen[name].asked is not None
        self._see(name, phase="stopping" if is_asked else "running")
        await self._check_health(name, run, handle)

    async def _check_health(self, name: str, run: Run, handle: Handle) -> None:
        pulse: Pulse | None = None
        while True:
            rule = self._wishes[name].wanted.health if name in self._wishes else None
            if rule is None:
                if self._seen[name].health is not None:
                    self._see(name, health=None)
                pulse = None
                await self.news.wait()
                continue
            if pulse is None:
                pulse = health.begun(rule, trio.current_time())
                pulse = replace(pulse, verdict=self._seen[name].health or "starting")
            if self._seen[name].health != pulse.verdict:
                self._see(name, health=pulse.verdict)
            await trio.sleep_until(pulse.due)
            passed = False
            with trio.move_on_after(rule.timeout_seconds):
                passed = await handle.check(run.wanted.other(rule.command))
            pulse = health.after(pulse, rule, passed, trio.current_time())

    # Stopping

    def _stop(self, name: str, seconds: float) -> None:
        self._see(name, asked=seconds, phase="stopping")
        if name in self._handles:
            self._nurseries[name].start_soon(self._end, self._handles[name], seconds)

    async def _end(self, handle: Handle, seconds: float) -> None:
        """Ask it to end until it does; one that does not is killed, tree and all that it had not saved."""
        with trio.move_on_after(seconds + limits.overdue_seconds):
            while True:
                try:
                    await handle.stop(seconds)
                except VmError:
                    await trio.sleep(limits.persist_seconds)
                    continue
                return
        handle.destroy()

    async def _guard(self, scope: trio.CancelScope) -> None:
        while self._host.is_there():  # noqa: ASYNC110, nobody tells of it
            await trio.sleep(limits.look_seconds)
        self.is_lost = True
        self._wake()
        with trio.CancelScope(shield=True):
            await self._host.abandon()
        scope.cancel()


def _ports(wanted: Wanted) -> frozenset[int]:
    return frozenset(one.host_port for one in wanted.publish)


def seen_of(run: Run) -> Seen:
    """Return how a machine was by the book; its times are not ours."""
    return Seen(run.phase, run.key, run.health, run.past, run.ended)


def reported(wishes: Mapping[str, Wish], runs: Mapping[str, Run], seen: Mapping[str, Seen]) -> dict[str, Any]:
    """Return how all machines are, by name, for JSON."""
    found = {}
    for name, wish in wishes.items():
        one = seen.get(name, NOTHING)
        is_waiting = wish.up and not one.alive and not converging.is_over(wish, one)
        waits = converging.waits_for(wish, wishes, seen) if is_waiting else []
        blocked = converging.blocked_by(name, wishes, seen) if is_waiting else None
        found[name] = described(wish, runs.get(name), waits, blocked)
    return found


def described(wish: Wish, run: Run | None, waits: list[str], blocked: str | None) -> dict[str, Any]:
    """Return how one machine is, for JSON. `is_current`: its run is for this wish. `waits_for` what it does."""
    found: dict[str, Any] = {
        "wished": "up" if wish.up else "down",
        "phase": "down",
        "is_current": False,
        "waits_for": waits,
        "blocked_by": blocked,
        **dict.fromkeys(("vm", "health", "next_start", "exit_code", "error")),
        "restarts": 0,
    }
    if run is None:
        return found
    return {
        **found,
        "phase": run.phase,
        "is_current": run.key == wish.key,
        "vm": run.vm,
        "health": run.health,
        "restarts": run.past.restarts,
        "next_start": run.past.next_start if run.phase == "down" else None,
        "exit_code": None if run.ended is None or run.phase != "down" else run.ended.code,
        "error": None if run.ended is None or run.phase != "down" else run.ended.error,
    }
