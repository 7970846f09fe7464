"""What a project's supervisor answers. It leaves when there is nothing to look after, and never with a wish unheard."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import trio

from vmm import limits as vm_limits
from vmm import wire
from vmm.errors import WrongState
from vmm.project import limits
from vmm.project.keeper import Keeper
from vmm.talk import Gone, Talk


async def serve(keeper: Keeper, listening: socket.socket, path: Path) -> None:
    """Answer while the keeper runs; then tell those who watch that it is over."""
    service = _Service(keeper)
    async with trio.open_nursery() as nursery:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        accepting = trio.CancelScope()
        nursery.start_soon(service.accept, listener, accepting)
        nursery.start_soon(service.complain)
        while True:
            await keeper.run()
            if keeper.is_lost or keeper.is_done():
                # No await from the last look at the wishes to here: who comes later finds nobody, and starts another.
                service.leave()
                accepting.cancel()
                with suppress(OSError):
                    os.unlink(path)
                break
        with trio.move_on_after(vm_limits.last_words_seconds):
            await service.silence()
        nursery.cancel_scope.cancel()


class _Service:
    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._talking = 0
        self._fewer = trio.Event()
        self._leaving = trio.Event()

    def leave(self) -> None:
        self._leaving.set()

    async def accept(self, listener: trio.SocketListener, scope: trio.CancelScope) -> None:
        with scope:
            await trio.serve_listeners(self.answer, [listener])

    async def silence(self) -> None:
        while self._talking:
            await self._fewer.wait()

    async def complain(self) -> None:
        """Say in the log what could not be written down."""
        last = None
        while True:
            news = self._keeper.news
            if self._keeper.trouble not in (None, last):
                print(self._keeper.trouble, file=sys.stderr, flush=True)
            last = self._keeper.trouble
            await news.wait()

    async def answer(self, stream: trio.SocketStream) -> None:
        """Talk with one client; whatever is wrong with it harms nobody else."""
        talk = Talk(stream)
        self._talking += 1
        try:
            await self._converse(talk)
        except* (Gone, wire.BadWire):
            pass
        except* WrongState as errors:
            with suppress(Gone):
                await talk.tell(error=str(errors.exceptions[0]))
        finally:
            self._talking -= 1
            self._fewer.set()
            self._fewer = trio.Event()
            with trio.CancelScope(shield=True):
                await talk.aclose()

    async def _converse(self, talk: Talk) -> None:
        if self._talking > limits.clients_max:
            raise WrongState("too many clients talk to the project's supervisor already")
        async for frame in talk.frames():
            op = frame.doc().get("op")
            if self._leaving.is_set():
                return  # it was not heard
            if op == "hello":
                await talk.tell(hello=True)
                continue
            await self._keeper.ready.wait()
            if self._leaving.is_set():
                return
            if op == "look":
                self._keeper.look()
                await talk.tell(looked=True)
            elif op == "report":
                await talk.tell(machines=self._keeper.report())
            elif op == "watch":
                await self._watch(talk)
                return
            else:
                raise WrongState(f"unknown request {op!r}: another version of monofs asks")

    async def _watch(self, talk: Talk) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_gone, talk, nursery.cancel_scope)
            while not self._leaving.is_set():
                news = self._keeper.news
                await talk.tell(machines=self._keeper.report(), lost=self._keeper.is_lost)
                await self._next(news)
            await talk.tell(machines=self._keeper.report(), lost=self._keeper.is_lost, over=True)
            nursery.cancel_scope.cancel()

    async def _next(self, news: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            for event in (news, self._leaving):
                nursery.start_soon(_then_cancel, event, nursery.cancel_scope)

    async def _until_gone(self, talk: Talk, scope: trio.CancelScope) -> None:
        async for _ in talk.frames():
            pass
        scope.cancel()


async def _then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
