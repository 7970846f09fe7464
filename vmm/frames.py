"""The frames of PROTOCOL.md: bytes to values and back, every field checked."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from . import limits
from .errors import MachineDied
from .spec import Command

VERSION: Final = 1
HEADER: Final = struct.Struct("<III")


class Kind(IntEnum):
    """As PROTOCOL.md numbers them; those from 64 on come from the guest."""

    SETUP = 1
    START = 2
    STDIN = 3
    SIGNAL = 4
    RESIZE = 5
    GRANT = 6
    POWER_OFF = 7
    HALT = 8
    HELLO = 64
    READY = 65
    FAILED = 66
    DOWN = 67
    STARTED = 68
    REFUSED = 69
    TAKEN = 70
    STDIN_CLOSED = 71
    STDOUT = 72
    STDERR = 73
    EXIT = 74


OF_MACHINE: Final = frozenset({Kind.HELLO, Kind.READY, Kind.FAILED, Kind.DOWN})
_FROM_GUEST: Final = frozenset(kind for kind in Kind if kind >= Kind.HELLO)


@dataclass(frozen=True)
class Frame:
    """One frame from the guest."""

    command: int
    kind: Kind
    payload: bytes


def broken(why: str) -> MachineDied:
    """What to raise when the guest says what it must not."""
    return MachineDied(f"the machine's agent broke the protocol ({why}); the machine was ended")


class Decoder:
    """Frames from the guest, as their bytes come in. Holds at most one frame that is not whole."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are whole now. Raises MachineDied on what is no frame."""
        self._pending += data
        found, at = [], 0
        while len(self._pending) - at >= HEADER.size:
            size, command, number = HEADER.unpack_from(self._pending, at)
            kind = _check(size, command, number)
            end = at + HEADER.size + size
            if len(self._pending) < end:
                break
            found.append(Frame(command, kind, bytes(self._pending[at + HEADER.size : end])))
            at = end
        del self._pending[:at]
        return found

    @property
    def is_whole(self) -> bool:
        """Nothing is left over."""
        return not self._pending


def _check(size: int, command: int, number: int) -> Kind:
    if size > limits.frame_bytes_max:
        raise broken(f"a frame of {size} bytes")
    if number not in _FROM_GUEST:
        raise broken(f"a frame of unknown kind {number}")
    kind = Kind(number)
    if (kind in OF_MACHINE) != (command == 0):
        raise broken(f"{kind.name} for command {command}")
    return kind


def encode(command: int, kind: Kind, payload: bytes = b"") -> bytes:
    """One frame to the guest."""
    assert len(payload) <= limits.frame_bytes_max
    return HEADER.pack(len(payload), command, kind) + payload


# What the host says


def setup(*, read_only: bool, net: bool, now_ns: int, hostname: str, volumes: list[tuple[str, str, bool]]) -> bytes:
    """Volumes are (tag, path, read-only)."""
    head = struct.pack("<IQI", read_only | net << 1, now_ns, len(volumes))
    strings = [hostname]
    for tag, path, is_read_only in volumes:
        strings += [tag, path, "ro" if is_read_only else "rw"]
    return encode(0, Kind.SETUP, head + _strings([text.encode(errors="surrogateescape") for text in strings]))


def start(number: int, command: Command) -> bytes:
    head = struct.pack(
        "<IHHIII",
        command.terminal,
        command.rows,
        command.columns,
        limits.window_bytes,
        len(command.argv),
        len(command.env),
    )
    return encode(number, Kind.START, head + _strings(command.strings()))


def _strings(texts: list[bytes]) -> bytes:
    return b"".join(text + b"\0" for text in texts)


def power_off(grace_ms: int) -> bytes:
    return encode(0, Kind.POWER_OFF, struct.pack("<I", grace_ms))


def signal(command: int, number: int) -> bytes:
    return encode(command, Kind.SIGNAL, struct.pack("<I", number))


def resize(command: int, rows: int, columns: int) -> bytes:
    return encode(command, Kind.RESIZE, struct.pack("<HH", rows, columns))


def grant(command: int, stream: int, count: int) -> bytes:
    return encode(command, Kind.GRANT, struct.pack("<II", stream, count))


# What the guest says


def unpack(frame: Frame, form: str) -> tuple[int, ...]:
    """The numbers that are all of the payload."""
    if len(frame.payload) != struct.calcsize("<" + form):
        raise broken(f"{frame.kind.name} of {len(frame.payload)} bytes")
    numbers: tuple[int, ...] = struct.unpack("<" + form, frame.payload)
    return numbers


def unpack_line(frame: Frame) -> tuple[int, str]:
    """A number, then a line of text for the user: bounded, and without what would move a terminal's cursor."""
    if not 4 <= len(frame.payload) <= limits.message_bytes_max:
        raise broken(f"{frame.kind.name} of {len(frame.payload)} bytes")
    (number,) = struct.unpack_from("<I", frame.payload)
    return number, printable(frame.payload[4:])


def printable(data: bytes) -> str:
    """Bytes of a guest as text that is safe to show: one line, no control characters."""
    text = data.decode(errors="backslashreplace")
    return "".join(one if one.isprintable() else " " for one in text).strip()
