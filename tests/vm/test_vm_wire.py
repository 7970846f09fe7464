"""Frames between a client and a supervisor."""

from __future__ import annotations

import random

import pytest

from vmm import limits, wire
from vmm.wire import BadWire, Decoder, Frame


def test_frames_come_back_however_they_are_cut(rng: random.Random) -> None:
    frames = [Frame(rng.choice((wire.IN, wire.OUT, wire.ERR)), rng.randbytes(rng.randrange(300))) for _ in range(200)]
    stream = b"".join(wire.frame(*frame) for frame in frames)
    decoder, found = Decoder(), []
    while stream:
        count = rng.randrange(1, 400)
        found += list(decoder.feed(stream[:count]))
        stream = stream[count:]
    assert found == frames


def test_documents() -> None:
    (frame,) = Decoder().feed(wire.doc(op="exec", words=["\udcff", "ü"]))
    assert frame.kind == wire.DOC
    assert frame.doc() == {"op": "exec", "words": ["\udcff", "ü"]}
    for bad in (b"", b"{", b"[]", b"\xff"):
        with pytest.raises(BadWire):
            Frame(wire.DOC, bad).doc()


def test_what_is_no_frame() -> None:
    too_long = (limits.wire_frame_bytes_max + 1).to_bytes(4, "big")
    for bad in (b"\x09\0\0\0\0", b"\x01" + too_long, b"GET / HTTP/1.1\r\n"):
        with pytest.raises(BadWire):
            list(Decoder().feed(bad))


def test_good_frames_before_a_bad_one_are_given_back() -> None:
    found = []
    with pytest.raises(BadWire):
        for frame in Decoder().feed(wire.frame(wire.OUT, b"good") + b"\xff" * 5):
            found.append(frame)
    assert found == [Frame(wire.OUT, b"good")]
