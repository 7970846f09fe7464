"""Frames: bytes to values, and what is refused."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import pytest

import vmm
from vmm import frames, limits
from vmm.errors import MachineDied
from vmm.frames import HEADER, Decoder, Frame, Kind
from vmm.spec import Command

AGENT = Path(vmm.__file__).parent / "agent"


def raw(command: int, kind: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(len(payload), command, kind) + payload


def test_frames_come_out_however_the_bytes_come_in(rng: random.Random) -> None:
    sent = [Frame(rng.randrange(1, 9), Kind.STDOUT, rng.randbytes(rng.choice([0, 1, 100, 70_000]))) for _ in range(40)]
    stream = b"".join(raw(*(one.command, one.kind, one.payload)) for one in sent)
    decoder, got, at = Decoder(), [], 0
    while at < len(stream):
        size = rng.choice([1, 11, 12, 13, 5000, 300_000])
        got += decoder.feed(stream[at : at + size])
        at += size
    assert got == sent and decoder.is_whole


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (HEADER.pack(limits.frame_bytes_max + 1, 1, Kind.STDOUT), "262145 bytes"),
        (HEADER.pack(0xFFFFFFFF, 1, Kind.STDOUT), "4294967295 bytes"),
        (raw(1, 99), "unknown kind 99"),
        (raw(1, Kind.STDIN), "unknown kind 3"),
        (raw(0, Kind.STDOUT), "STDOUT for command 0"),
        (raw(1, Kind.HELLO), "HELLO for command 1"),
    ],
)
def test_what_is_no_frame(data: bytes, why: str) -> None:
    with pytest.raises(MachineDied, match=why):
        Decoder().feed(data)


def test_a_bad_header_is_refused_before_its_payload_comes() -> None:
    """Nothing is kept for it."""
    decoder = Decoder()
    assert decoder.feed(raw(1, Kind.STDOUT, b"x")[:-1]) == []
    with pytest.raises(MachineDied):
        decoder.feed(b"x" + HEADER.pack(1 << 31, 1, Kind.STDOUT))


def test_a_command_as_bytes() -> None:
    made = frames.start(
        7, Command(("a", "b c"), env=(("K", "v"),), workdir="/w", user="u:g", terminal=True, rows=1, columns=2)
    )
    size, command, kind = HEADER.unpack_from(made)
    assert (size, command, kind) == (len(made) - HEADER.size, 7, Kind.START)
    head = struct.unpack_from("<IHHIII", made, HEADER.size)
    assert head == (1, 1, 2, limits.window_bytes, 2, 1)
    assert made[HEADER.size + 20 :] == b"a\0b c\0K=v\0/w\0u:g\0"


def test_the_largest_command_fits_in_a_frame() -> None:
    frames.start(1, Command(("x",) * (limits.command_strings_max // 2) + ("y" * (limits.command_bytes_max - 9000),)))


def test_lines_of_a_guest_are_safe_to_show() -> None:
    frame = Frame(1, Kind.REFUSED, struct.pack("<I", 127) + b"a\x1b[2Jb\nc\xff\x00d ")
    assert frames.unpack_line(frame) == (127, "a [2Jb c\\xff d")
    for payload in (b"", b"123", bytes(limits.message_bytes_max + 1)):
        with pytest.raises(MachineDied):
            frames.unpack_line(Frame(1, Kind.REFUSED, payload))


def test_both_ends_have_the_same_numbers() -> None:
    """The agent is written in C; PROTOCOL.md is the third copy."""
    header = (AGENT / "agent.h").read_text()
    theirs = {name: int(number) for name, number in re.findall(r"^\s+([A-Z_]+) = ([0-9]+),", header, re.MULTILINE)}
    for kind in Kind:
        assert theirs.pop(kind.name) == kind
    assert theirs.pop("PROTOCOL_VERSION") == frames.VERSION
    assert theirs.pop("HEADER") == HEADER.size
    assert theirs.pop("FRAME_MAX") == limits.frame_bytes_max
    assert theirs.pop("STDIN_WINDOW") == limits.stdin_window_bytes
    assert theirs.pop("COMMANDS_MAX") == limits.commands_max
    assert theirs.pop("STRINGS_MAX") == limits.command_strings_max
    assert theirs.pop("MESSAGE_MAX") == limits.message_bytes_max
    assert theirs.keys() == {"HALT_MS", "KILL_MS"}
    told = (AGENT.parent / "PROTOCOL.md").read_text()
    assert {name: int(number) for number, name in re.findall(r"\b(\d+) ([A-Z][A-Z_]+)\b", told)} == {
        kind.name: int(kind) for kind in Kind
    }
