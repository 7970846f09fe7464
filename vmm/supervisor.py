"""A supervisor: the process that looks after one machine, from its boot until its tree is given back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from vmm import defaults, limits, machine, reconcile
from vmm.errors import CommandFailed, MachineDied, VmError
from vmm.logs import LogWriter
from vmm.machine import Machine, Process
from vmm.plan import Plan
from vmm.spec import Command
from vmm.state import State
from vmm.tenancy import Returned, Root

FAILED, TIMED_OUT = 125, 124


class Life:
    """One machine from its boot to its end. What ends it asks with `leave`; the first wish counts, a kill always."""

    def __init__(self, plan: Plan, state: State, root: Root) -> None:
        self.plan = plan
        self.row = plan.row
        self.up = trio.Event()  # the machine answers, `machine` is set
        self.begun = trio.Event()  # the command runs, `main` is set; or none was asked for
        self.over = trio.Event()  # the tree is given back and the row says so
        self.grown = trio.Event()  # there is more in the log; a new event every time
        self.machine: Machine | None = None
        self.main: Process | None = None
        self.sink: trio.MemorySendChannel[tuple[int, bytes]] | None = None  # takes the command's output, too
        self.exit_code: int | None = None
        self.error: str | None = None
        self.notes: list[str] = []
        self.hints: list[str] = []  # what is good to know, but the same every time
        self.timings = dict(plan.timings)
        self._state = state
        self._root = root
        self._log = LogWriter(plan.directory)
        self._leave = trio.Event()
        self._ended = trio.Event()  # the command has
        self._grace: float = limits.stop_seconds
        self._scope = trio.CancelScope()

    def leave(self, grace_seconds: float | None) -> None:
        """End the machine: ask first and wait that long, or (None) kill it now. One that still boots is killed."""
        if grace_seconds is None or self.machine is None:
            self._scope.cancel()
        elif not self._leave.is_set():
            self._grace = grace_seconds
        self._leave.set()

    def fail(self, error: str) -> None:
        """Note what went wrong, the first thing at least, and kill the machine."""
        if self.error is None:
            self.error, self.exit_code = error, FAILED
        self.leave(None)

    async def run(self) -> None:
        """Live; at the end the row is complete, whatever happened."""
        try:
            await self._boot()
        except* VmError as errors:
            self.fail(_first(errors))
        except* Exception as errors:
            import traceback

            traceback.print_exception(errors)
            self.fail(f"the supervisor failed: {_first(errors)}; see {self.plan.directory / 'supervisor.log'}")
        finally:
            with trio.CancelScope(shield=True):
                await self._end()

    async def _boot(self) -> None:
        plan = self.plan
        directory = plan.directory / "machine"
        directory.mkdir(mode=0o700, exist_ok=True)
        with self._scope:
            async with machine.booted(plan.spec, directory, plan.cache, self._note_phase) as booted:
                self.machine = booted
                self.hints += booted.notes
                self._update(pids=booted.pids, engine=booted.engine, status="running", started=time.time())
                self.up.set()
                try:
                    await self._until_left(booted)
                finally:
                    self._update(status="stopping")
                with self._phase("shutdown"):
                    if not await booted.power_off(limits.leftover_seconds):
                        self.notes.append(booted.died or "the machine was not shut down cleanly")
        if self._scope.cancelled_caught and self.exit_code is None:
            self.exit_code = 128 + signal.SIGKILL

    async def _until_left(self, booted: Machine) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_machine, booted)
            nursery.start_soon(self._watch_root)
            if self.plan.command is not None:
                nursery.start_soon(self._command, booted, self.plan.command)
            else:
                self.begun.set()
            await self._leave.wait()
            if self.main is not None and not self._ended.is_set():
                # It was asked to end: its last words and its exit code are worth waiting for.
                with trio.move_on_after(self._grace):
                    await self.main.signal(defaults.stop_signal(self.row.image.get("stop_signal", "")))
                    await self._ended.wait()
            nursery.cancel_scope.cancel()

    # The command

    async def _command(self, booted: Machine, command: Command) -> None:
        try:
            self.main = await booted.start(command)
            self.begun.set()
            with self._phase("command"):
                code = await self._run(self.main)
            self.exit_code = code if self.exit_code is None else self.exit_code
        except CommandFailed as error:
            self.error, self.exit_code = str(error), error.exit_code
        except VmError as error:
            await self._reason(booted)
            self.fail(str(error))
        finally:
            self._ended.set()
            self.leave(limits.leftover_seconds)

    async def _run(self, process: Process) -> int:
        """Return the exit code once all output has been passed on."""
        async with trio.open_nursery() as nursery:
            if self.plan.timeout_seconds is not None:
                nursery.start_soon(self._limit, process, self.plan.timeout_seconds)
            async for stream, data in process.output():
                await self._pass_on(stream, data)
            code = await process.wait()
            nursery.cancel_scope.cancel()
        return code

    async def _pass_on(self, stream: int, data: bytes) -> None:
        self._log.write(stream, data)
        self.grown.set()
        self.grown = trio.Event()
        if self.sink is not None:
            try:
                await self.sink.send((stream, data))
            except trio.BrokenResourceError:
                self.sink = None  # the client is gone, or takes no more

    async def _limit(self, process: Process, seconds: float) -> None:
        await trio.sleep(seconds)
        self.exit_code = TIMED_OUT
        self.notes.append(f"the time limit of {seconds:g} s was over")
        await process.signal(signal.SIGTERM)
        await trio.sleep(limits.stop_seconds)
        await process.signal(signal.SIGKILL)
        await trio.sleep(limits.kill_seconds)
        self.leave(None)

    # What may go wrong meanwhile

    async def _watch_machine(self, booted: Machine) -> None:
        await booted.ended.wait()
        await self._reason(booted)
        self.fail(booted.died or "the machine is gone")

    async def _watch_root(self) -> None:
        if await self._keeper_gone():
            self.fail("the process that had the tree mounted is gone; the tree is the one of its last commit")

    async def _keeper_gone(self) -> bool:
        """Wait until the process that has the tree mounted is gone; never, if there is none."""
        keeper = self._root.keeper()
        if keeper is None:
            await trio.sleep_forever()
        try:
            descriptor = os.pidfd_open(keeper.number)
        except OSError:
            return True
        try:
            if keeper.is_alive():
                await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        return True

    async def _reason(self, booted: Machine) -> None:
        """A machine whose tree is taken away dies of that: then say so, and not only what it died of."""
        keeper = self._root.keeper()
        if keeper is not None and not keeper.is_alive():
            self.fail("the process that had the tree mounted is gone; the tree is the one of its last commit")

    # The end

    async def _end(self) -> None:
        returned = Returned(None)
        with self._phase("commit"):
            try:
                returned = await trio.to_thread.run_sync(self._root.give_back)
            except VmError as error:
                self.notes.append(str(error))
                self.error, self.exit_code = self.error or str(error), FAILED
        if returned.note:
            self.notes.append(returned.note)
        self._log.close()
        self._update(
            status="failed" if self.exit_code == FAILED and self.error else "exited",
            ended=time.time(),
            exit_code=0 if self.exit_code is None else self.exit_code,
            error=self.error,
            result=returned.result,
            kept=returned.kept,
            timings=self.timings,
        )
        self.row = self._state.get(self.row.id) or self.row
        if self.row.remove and self.row.status != "failed":  # what failed is worth a look
            reconcile.remove(self.plan.directory.parent, self._state, self.row)
        self.over.set()

    def _update(self, **changes: object) -> None:
        try:
            self._state.update(self.row.id, **changes)
        except VmError as error:
            self.notes.append(str(error))  # a full disk, say: the machine is worth more than the list

    def _note_phase(self, name: str, seconds: float) -> None:
        self.timings[name] = self.timings.get(name, 0.0) + seconds

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._note_phase(name, time.monotonic() - start)


def _first(errors: BaseExceptionGroup[BaseException]) -> str:
    """Return the text of the error that tells most: a machine's own words rather than what followed from them."""
    leaves = list(_leaves(errors))
    chosen = next((error for error in leaves if isinstance(error, MachineDied)), leaves[0])
    return str(chosen) or repr(chosen)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
