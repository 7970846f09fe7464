"""What a supervisor answers: a conversation with each client, over the machine's socket."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from socket import socket as Socket
from typing import Any

import trio

from vmm import limits, wire
from vmm.errors import BadSpec, MachineDied, VmError, WrongState
from vmm.logs import LogReader
from vmm.plan import Plan
from vmm.spec import Command
from vmm.state import State, document
from vmm.supervisor import FAILED, Life
from vmm.talk import Gone, Stdin, Talk
from vmm.tenancy import Root

SOCKET = "socket"  # the name of `listening` in the machine's directory


async def serve(plan: Plan, state: State, root: Root, listening: Socket, owner: Socket, *, detached: bool) -> None:
    """Live one machine's life and talk with its clients; `owner` is connected to the one that started it."""
    life = Life(plan, state, root)
    service = _Service(life)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_signals, life)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        nursery.start_soon(trio.serve_listeners, service.answer, [listener])
        first = trio.SocketStream(trio.socket.from_stdlib_socket(owner))
        nursery.start_soon(service.converse, Talk(first), partial(service.attend, detached=detached))
        await life.run()
        (plan.directory / SOCKET).unlink(missing_ok=True)  # nobody new; those who are here get their answer
        with trio.move_on_after(limits.last_words_seconds):
            await service.silence()
        nursery.cancel_scope.cancel()


async def _signals(life: Life) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        async for _ in received:
            life.leave(limits.stop_seconds)


class _Service:
    def __init__(self, life: Life) -> None:
        self._life = life
        self._talking = 0
        self._fewer = trio.Event()
        self._requests: dict[str, Callable[[Talk, wire.Doc], Awaitable[None]]] = {
            "begun": self._begun,
            "exec": self._exec,
            "stop": self._stop,
            "kill": self._kill,
            "wait": self._wait,
            "follow": self._follow,
        }

    async def silence(self) -> None:
        """Wait until every conversation is over."""
        await trio.lowlevel.checkpoint()  # one that has just begun is counted
        while self._talking:
            await self._fewer.wait()

    async def answer(self, stream: trio.SocketStream) -> None:
        await self.converse(Talk(stream), self._request)

    async def converse(self, talk: Talk, how: Callable[[Talk], Awaitable[None]]) -> None:
        """Talk with one client; whatever is wrong with it harms nobody else."""
        self._talking += 1
        try:
            if self._talking > limits.clients_max:
                raise WrongState("too many clients talk to this machine already")
            await how(talk)
        except* VmError as errors:
            await _refuse(talk, errors)
        except* (Gone, wire.BadWire):
            pass
        finally:
            self._talking -= 1
            self._fewer.set()
            self._fewer = trio.Event()
            with trio.CancelScope(shield=True):
                await talk.aclose()

    # The one who started it

    async def attend(self, talk: Talk, *, detached: bool) -> None:
        life = self._life
        await talk.tell(id=life.row.id, name=life.row.name)
        if detached:
            await self._begun(talk, {})
            return
        send, receive = trio.open_memory_channel[tuple[int, bytes]](0)
        stdin = Stdin(talk)
        life.sink = send
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed_owner, talk, stdin)
                nursery.start_soon(self._feed_main, stdin)
                async with trio.open_nursery() as output:
                    output.start_soon(_forward, talk, receive)
                    await _any(life.begun, life.over)
                    if life.main is not None:
                        await talk.tell(begun=True)
                    await life.over.wait()
                    send.close()
                await self._say_ended(talk)
                nursery.cancel_scope.cancel()
        finally:
            receive.close()
            life.leave(limits.stop_seconds)  # for nobody but its owner it would run on

    async def _begun(self, talk: Talk, request: wire.Doc) -> None:
        await _any(self._life.begun, self._life.over)
        if self._life.begun.is_set():
            await talk.tell(begun=True)
        else:
            await self._say_ended(talk)

    async def _heed_owner(self, talk: Talk, stdin: Stdin) -> None:
        life = self._life
        async for frame in talk.frames():
            if frame.kind == wire.IN:
                stdin.put(frame.data)
                continue
            wish = frame.doc()
            if wish.get("kill") or life.main is None:
                life.leave(None)
            else:
                await _heed(life.main, wish)
        raise Gone

    async def _feed_main(self, stdin: Stdin) -> None:
        await self._life.begun.wait()
        if self._life.main is not None:
            await stdin.feed(self._life.main)

    # The others

    async def _request(self, talk: Talk) -> None:
        async for frame in talk.frames():
            request = frame.doc()
            how = self._requests.get(str(request.get("op")))
            if how is None:
                raise WrongState(f"unknown request {request.get('op')!r}: another version of monofs asks")
            await how(talk, request)
            return

    async def _exec(self, talk: Talk, request: wire.Doc) -> None:
        life = self._life
        await _any(life.up, life.over)
        if life.machine is None or life.row.ended is not None or life.over.is_set():
            raise WrongState(f"machine {life.row.id} has ended")
        command, booted = command_of(request["command"]), life.machine
        stdin, process, early = Stdin(talk), None, list[wire.Doc]()

        async def heed() -> None:
            async for frame in talk.frames():
                if frame.kind == wire.IN:
                    stdin.put(frame.data)
                elif process is not None:
                    await _heed(process, frame.doc())
                elif len(early) < limits.clients_max:
                    early.append(frame.doc())
            raise Gone

        code = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(heed)  # a guest may never answer, and the client not wait for that
                process = await booted.start(command)
                await talk.tell(begun=True)
                for wish in early:
                    await _heed(process, wish)
                nursery.start_soon(stdin.feed, process)
                async for stream, data in process.output():
                    await talk.output(stream, data)
                code = await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            if code is None and process is not None:  # nobody is left to read what it says
                with trio.move_on_after(limits.kill_seconds, shield=True), suppress(VmError):
                    await process.abandon()
        await talk.tell(exit=code)

    async def _stop(self, talk: Talk, request: wire.Doc) -> None:
        self._life.leave(float(request["seconds"]))
        await self._wait(talk, request)

    async def _kill(self, talk: Talk, request: wire.Doc) -> None:
        self._life.leave(None)
        await self._wait(talk, request)

    async def _wait(self, talk: Talk, request: wire.Doc) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_gone, talk)
            await self._life.over.wait()
            await self._say_ended(talk)
            nursery.cancel_scope.cancel()

    async def _follow(self, talk: Talk, request: wire.Doc) -> None:
        life = self._life
        reader = LogReader(life.plan.directory)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, talk)
                is_first = True
                while True:
                    grown, over = life.grown, life.over.is_set()
                    for stream, data in reader.read():
                        await talk.output(stream, data)
                    if is_first:
                        await talk.tell(caught_up=True)
                    is_first = False
                    if over:
                        break
                    await _any(grown, life.over)
                await self._say_ended(talk)
                nursery.cancel_scope.cancel()
        finally:
            reader.close()

    async def _say_ended(self, talk: Talk) -> None:
        await talk.tell(ended=document(self._life.row), notes=self._life.notes, hints=self._life.hints)


async def _forward(talk: Talk, receive: trio.MemoryReceiveChannel[tuple[int, bytes]]) -> None:
    async for stream, data in receive:
        await talk.output(stream, data)


async def _heed(process: Any, wish: wire.Doc) -> None:
    """Do what a client wants of a running command."""
    with suppress(VmError):  # it has just ended
        if "signal" in wish:
            await process.signal(int(wish["signal"]))
        if "resize" in wish:
            rows, columns = wish["resize"]
            await process.resize(int(rows), int(columns))


async def _until_gone(talk: Talk) -> None:
    async for _ in talk.frames():
        pass
    raise Gone


async def _any(*events: trio.Event) -> None:
    """Wait for the first of them."""
    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(_then_cancel, event, nursery.cancel_scope)


async def _then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _refuse(talk: Talk, errors: BaseExceptionGroup[VmError]) -> None:
    found: list[VmError] = []

    def collect(error: BaseException) -> bool:
        if isinstance(error, VmError):
            found.append(error)
        return False

    errors.subgroup(collect)
    error = next((one for one in found if not isinstance(one, MachineDied)), found[0])
    with suppress(Gone):
        await talk.tell(error=str(error), code=getattr(error, "exit_code", FAILED))


def command_of(doc: wire.Doc) -> Command:
    """Read a command as `command_doc` writes it. Raises BadSpec."""
    try:
        return Command(**{**doc, "argv": tuple(doc["argv"]), "env": tuple((k, v) for k, v in doc["env"])})
    except (TypeError, KeyError, ValueError):
        raise BadSpec("a command that another version of monofs wrote") from None
