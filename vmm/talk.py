"""A supervisor's end of one connection: frames both ways, and what a client sends for a command's stdin."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

import trio

from vmm import limits, wire
from vmm.errors import VmError
from vmm.machine import Process


class Gone(Exception):
    """The client is not there any more."""


class Talk:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._decoder = wire.Decoder()
        self._frames: deque[wire.Frame] = deque()  # no more than one piece of what was received holds

    async def frames(self) -> AsyncIterator[wire.Frame]:
        """Yield what the client sends, until it goes. The next reader goes on where this one stops. Raises BadWire."""
        while True:
            while self._frames:
                yield self._frames.popleft()
            try:
                data = await self._stream.receive_some(limits.wire_data_bytes_max)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            self._frames.extend(self._decoder.feed(data))

    async def tell(self, **values: object) -> None:
        """Raises Gone."""
        await self._send(wire.doc(**values))

    async def output(self, stream: int, data: bytes) -> None:
        """Send what a command wrote; waits while the client takes no more. Raises Gone."""
        for at in range(0, len(data), limits.wire_data_bytes_max):
            await self._send(wire.frame(stream, data[at : at + limits.wire_data_bytes_max]))

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise Gone from None


class Stdin:
    """Bytes on their way from a client to a command. The client sends no more than it has credit for."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._waiting = bytearray()
        self._owed = 0  # taken from the client, with no credit given back yet
        self._ended = False
        self._more = trio.Event()

    def put(self, data: bytes) -> None:
        """Take what the client sent; nothing means that it was all. Raises BadWire for more than it may send."""
        self._owed += len(data)
        if self._owed > limits.wire_stdin_bytes_max:
            raise wire.BadWire("more than there was credit for")
        self._ended = self._ended or not data
        self._waiting += data
        self._more.set()

    async def feed(self, process: Process) -> None:
        """Pass it on until it ends or the command takes no more."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            data = bytes(self._waiting)
            self._waiting.clear()
            try:
                for at in range(0, len(data), limits.wire_data_bytes_max):
                    await process.write_stdin(data[at : at + limits.wire_data_bytes_max])
                if self._ended and not self._waiting:
                    await process.close_stdin()
            except BrokenPipeError:
                await self._say(stdin="closed")
                return
            except VmError:
                return  # the machine is gone, which others tell
            self._owed -= len(data)
            await self._say(credit=len(data))

    async def _say(self, **values: object) -> None:
        with suppress(Gone):
            await self._talk.tell(**values)
