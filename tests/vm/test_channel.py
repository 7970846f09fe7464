"""The channel against guests that lie: one clear end, never a hang, never more memory than the windows."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import memory_stream_pair

from vmm import limits
from vmm.channel import Channel, Process
from vmm.errors import MachineDied, VmError
from vmm.frames import HEADER, Kind
from vmm.spec import Command, MachineSpec

HELLO = struct.pack("<IQ", 1, 10**9)


def raw(command: int, kind: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(len(payload), command, kind) + payload


class Guest:
    """The other end, which says whatever a test wants."""

    def __init__(self) -> None:
        ours, self.stream = memory_stream_pair()
        self.channel = Channel(ours)
        self.end: MachineDied | None = None
        self.process: Process | None = None

    async def converse(self) -> None:
        """As a machine does: the first violation ends it, and everybody who waits is told."""
        try:
            await self.channel.run()
        except* MachineDied as group:
            self.end = next(error for error in group.exceptions if isinstance(error, MachineDied))
        self.channel.fail(self.end or MachineDied("the guest hung up"))

    async def swallow(self) -> None:
        async for _ in self.stream:
            pass

    async def say(self, *said: bytes) -> None:
        for one in said:
            await self.stream.send_all(one)

    async def hang_up(self) -> None:
        await self.stream.send_stream.aclose()

    async def running(self) -> Process:
        """A command that has started."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._start)
            while not self.channel._processes:
                await trio.lowlevel.checkpoint()
            await self.say(raw(1, Kind.STARTED))
        assert self.process is not None
        return self.process

    async def _start(self) -> None:
        self.process = await self.channel.start(Command(("cat",)))


@asynccontextmanager
async def guest() -> AsyncIterator[Guest]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            made = Guest()
            nursery.start_soon(made.converse)
            nursery.start_soon(made.swallow)
            yield made
            nursery.cancel_scope.cancel()


async def ended(made: Guest) -> str:
    """Hang up and return how it ended; every violation ends before that."""
    while made.channel._failure is None:
        await made.channel._changed.wait()
    return str(made.channel._failure)


OUT = raw(1, Kind.STDOUT, b"x")
ENDS = raw(1, Kind.STDOUT) + raw(1, Kind.STDERR)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"\xff" * 12, "a frame of 4294967295 bytes"),
        (raw(2, Kind.STDOUT, b"x"), "STDOUT of a command that does not run"),
        (raw(1, Kind.STARTED), "STARTED at the wrong time"),
        (raw(1, Kind.REFUSED, b"\0" * 8), "REFUSED at the wrong time"),
        (raw(1, Kind.EXIT, bytes(4)), "EXIT at the wrong time"),
        (ENDS + raw(1, Kind.EXIT, b"\0"), "EXIT of 1 bytes"),
        (ENDS + raw(1, Kind.EXIT, b"\xff" * 4), "EXIT with 4294967295"),
        (ENDS + raw(1, Kind.EXIT, bytes(4)) * 2, "EXIT of a command that does not run"),
        (raw(1, Kind.STDOUT) + OUT, "more than the window"),
        (raw(1, Kind.STDERR) * 2, "more than the window"),
        (raw(1, Kind.STDOUT, bytes(limits.frame_bytes_max)) * 5, "more than the window"),
        (raw(1, Kind.TAKEN, struct.pack("<I", 1)), "TAKEN of 1 bytes that were not sent"),
        (raw(1, Kind.TAKEN, bytes(4)), "TAKEN of 0 bytes"),
        (raw(1, Kind.STDIN_CLOSED, b"x"), "STDIN_CLOSED of 1 bytes"),
        (raw(0, Kind.READY, bytes(8)), "READY at the wrong time"),
        (raw(0, Kind.FAILED, b"x"), "FAILED at the wrong time"),
        (raw(0, Kind.DOWN, bytes(4)), "DOWN at the wrong time"),
        (raw(0, Kind.HELLO, HELLO) * 2, "HELLO at the wrong time"),
        (raw(0, Kind.HELLO, bytes(5000)), "HELLO of 5000 bytes"),
    ],
)
async def test_every_lie_ends_it(said: bytes, why: str) -> None:
    async with guest() as made:
        process = await made.running()
        await made.say(said)
        line = await ended(made)
        assert why in line and "broke the protocol" in line and "\n" not in line
        with pytest.raises(MachineDied):
            async for _ in process.output():
                pass
            await process.wait()
            await made.channel.hello()
            raise made.channel._failure or AssertionError
        with pytest.raises(MachineDied):
            await made.channel.start(Command(("true",)))


async def test_output_before_it_has_started() -> None:
    async with guest() as made, trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(MachineDied, match="STDOUT of a command that has not started"):
                await made.channel.start(Command(("true",)))

        nursery.start_soon(start)
        while not made.channel._processes:
            await trio.lowlevel.checkpoint()
        await made.say(OUT)


async def test_another_version() -> None:
    async with guest() as made:
        await made.say(raw(0, Kind.HELLO, struct.pack("<IQ", 2, 0)))
        with pytest.raises(MachineDied, match="version 2"):
            await made.channel.hello()


async def test_a_guest_that_cannot_mount_says_so_in_one_safe_line() -> None:
    async with guest() as made:
        await made.say(raw(0, Kind.HELLO, HELLO))
        assert await made.channel.hello() == 1.0
        async with trio.open_nursery() as nursery:

            async def set_up() -> None:
                with pytest.raises(MachineDied, match=r"could not start: no root {3}\[2J here"):
                    await made.channel.set_up(MachineSpec(Path("/srv")), [])

            nursery.start_soon(set_up)
            while Kind.SETUP not in made.channel._asked:
                await trio.lowlevel.checkpoint()
            await made.say(raw(0, Kind.FAILED, b"no root \n\x1b[2J here"))


async def test_what_came_before_the_end_can_still_be_read() -> None:
    async with guest() as made:
        process = await made.running()
        await made.say(OUT, OUT, ENDS, raw(1, Kind.EXIT, struct.pack("<I", 5)))
        assert await process.wait() == 5
        assert [part async for part in process.output()] == [(1, b"xx")]
        assert await process.wait() == 5


async def test_one_byte_at_a_time_takes_no_more_memory() -> None:
    async with guest() as made:
        process = await made.running()
        for _ in range(30):
            await made.say((OUT + raw(1, Kind.STDERR, b"y")) * 1000)
        while len(process._received[2]) < 30_000:
            await process._changed.wait()
        assert {key: len(value) for key, value in process._received.items()} == {1: 30_000, 2: 30_000}


async def test_nonsense_of_every_kind(rng: random.Random) -> None:
    """Random frames, a little more often right than chance would have it."""
    kinds = [int(kind) for kind in Kind if kind >= Kind.HELLO]
    for _ in range(150):
        async with guest() as made:
            process = await made.running()
            said = []
            for _ in range(rng.randrange(1, 60)):
                kind = rng.choice(kinds) if rng.random() < 0.9 else rng.randrange(256)
                payload = rng.randbytes(rng.choice([0, 0, 4, 4, 8, 12, 100, 5000]))
                said.append(raw(rng.choice([0, 1, 1, 1, 1, 2]), kind, payload))
            stream = bytearray(b"".join(said))
            if rng.random() < 0.3:
                stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
            await made.say(bytes(stream))
            await made.hang_up()
            line = await ended(made)
            assert "\n" not in line
            held = sum(len(part) for part in process._received.values())
            assert held <= 2 * limits.window_bytes
            try:
                await process.wait()
            except VmError as error:
                assert "\n" not in str(error)


async def test_random_bytes(rng: random.Random) -> None:
    for _ in range(50):
        async with guest() as made:
            await made.say(rng.randbytes(rng.randrange(1, 5000)))
            await made.hang_up()
            await ended(made)
