"""A machine as its project's supervisor has it: what is asked of the machine's own supervisor, over its socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from vmm import limits, sockets, wire
from vmm.client import failure
from vmm.errors import SupervisorGone, VmError
from vmm.pids import Pid
from vmm.project.limits import persist_seconds
from vmm.project.policy import Ended
from vmm.spec import Command
from vmm.state import Row, row_of


class Handle:
    """`begin` is the connection that the machine was started with, None for one that was found running."""

    def __init__(self, directory: Path, supervisor: Pid, begin: socket.socket | None = None) -> None:
        self._directory = directory
        self._supervisor = supervisor
        self._begin = begin

    async def begun(self) -> bool:
        """Wait until its command runs; False if it ended before. Raises VmError."""
        begin, self._begin = self._begin, None
        talk = _hear(begin) if begin is not None else self._asked(op="begun")
        async with aclosing(talk):
            async for doc in talk:
                if "begun" in doc:
                    return True
                if "ended" in doc:
                    return False
        raise SupervisorGone("the machine's supervisor is gone")

    async def ended(self) -> Ended | None:
        """Wait for its end; None if its supervisor is gone and the list of machines has to tell."""
        while True:
            try:
                return await self._until_ended(op="wait")
            except VmError:
                if not self._supervisor.is_alive():
                    return None
            await trio.sleep(persist_seconds)

    async def stop(self, seconds: float) -> None:
        """Ask it to end, or with 0 seconds end it, and wait for that. Raises VmError if it does not answer."""
        if seconds > 0:
            await self._until_ended(op="stop", seconds=seconds)
        else:
            await self._until_ended(op="kill")

    async def check(self, command: Command) -> bool:
        """Run a command in it; returns whether it was successful. Cancelled, the command is killed."""
        talk = self._asked(op="exec", command=asdict(command))
        try:
            async with aclosing(talk):
                async for doc in talk:
                    if "exit" in doc:
                        return bool(doc["exit"] == 0)
        except VmError:
            pass
        return False

    def destroy(self) -> None:
        """Kill the machine's supervisor: what it started dies with it."""
        self._supervisor.kill()

    async def _until_ended(self, **request: Any) -> Ended:
        async with aclosing(self._asked(**request)) as talk:
            async for doc in talk:
                if "ended" in doc:
                    return ended_of(row_of(doc["ended"]))
        raise SupervisorGone("the machine's supervisor is gone")

    async def _asked(self, **request: Any) -> AsyncGenerator[wire.Doc, None]:
        try:
            connection = sockets.connect(self._directory / "socket", patient=False)
        except OSError as error:
            raise SupervisorGone(f"the machine's supervisor does not answer: {error.strerror}") from None
        nothing = wire.frame(wire.IN, b"")  # for a command to read
        async with aclosing(_hear(connection, wire.doc(**request) + nothing)) as talk:
            async for doc in talk:
                yield doc


async def _hear(connection: socket.socket, request: bytes = b"") -> AsyncGenerator[wire.Doc, None]:
    """Say this, and yield what the supervisor says; a command's output is let go. Raises VmError."""
    decoder = wire.Decoder()
    async with trio.SocketStream(trio.socket.from_stdlib_socket(connection)) as stream:
        try:
            if request:
                await stream.send_all(request)
            while data := await stream.receive_some(limits.wire_data_bytes_max):
                for frame in decoder.feed(bytes(data)):
                    if frame.kind != wire.DOC:
                        continue
                    doc = frame.doc()
                    if "error" in doc:
                        raise failure(doc.get("code", 0), doc["error"])
                    yield doc
        except trio.BrokenResourceError:
            return
        except wire.BadWire as error:
            raise SupervisorGone(f"the machine's supervisor says what makes no sense: {error}") from None


def ended_of(row: Row) -> Ended:
    """Return how a machine ended that the list says has."""
    seconds = 0.0 if row.started is None or row.ended is None else max(0.0, row.ended - row.started)
    return Ended(0 if row.exit_code is None else row.exit_code, seconds, row.error)
