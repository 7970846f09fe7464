"""What a client and a supervisor say to each other, as bytes. No sockets here.

A frame is one byte for its kind, four for the length of what follows. Both ends are processes of one user on one
machine; lengths are checked all the same.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from vmm import limits

Doc = dict[str, Any]

DOC: Final = ord("d")  # a JSON object
IN: Final = 0  # bytes for stdin; none: that was all
OUT: Final = 1
ERR: Final = 2

_HEAD: Final = struct.Struct(">BI")
_KINDS: Final = (DOC, IN, OUT, ERR)


class BadWire(Exception):
    """What came is no frame: the other end is broken. Close the connection."""


class Frame(NamedTuple):
    kind: int
    data: bytes

    def doc(self) -> Doc:
        try:
            found = json.loads(self.data)
        except ValueError:
            raise BadWire("not JSON") from None
        if not isinstance(found, dict):
            raise BadWire("not a JSON object")
        return found


def frame(kind: int, data: bytes) -> bytes:
    assert len(data) <= limits.wire_frame_bytes_max
    return _HEAD.pack(kind, len(data)) + data


def doc(**values: Any) -> bytes:
    return frame(DOC, json.dumps(values).encode())


class Decoder:
    """Feed it bytes as they come; it gives back whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are whole by now. Raises BadWire."""
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _HEAD.size:
                kind, length = _HEAD.unpack_from(self._buffer, at)
                if kind not in _KINDS or length > limits.wire_frame_bytes_max:
                    raise BadWire(f"a frame of kind {kind} and {length} bytes")
                end = at + _HEAD.size + length
                if len(self._buffer) < end:
                    break
                found = Frame(kind, bytes(self._buffer[at + _HEAD.size : end]))
                at = end
                yield found
        finally:
            del self._buffer[:at]
