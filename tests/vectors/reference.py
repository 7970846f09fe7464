"""The format once more, from the text of FORMAT.md alone: plain Python, `dag_cbor` and `multiformats`, nothing of monofs.

Slow and simple. What it makes is what `vectors.json` holds, and `python -m tests.vectors.reference` writes that file.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import blake3
import dag_cbor
from multiformats import CID, multihash

KIB = 1024
VECTORS = Path(__file__).with_name("vectors.json")

# Chunks

GEAR = [int(number, 16) for number in Path(__file__).with_name("gear.txt").read_text().split()]


def fastcdc(data: bytes, minimum: int = 16 * KIB, average: int = 64 * KIB, maximum: int = 256 * KIB) -> Iterator[int]:
    """Yield the lengths of the chunks."""
    bits = average.bit_length() - 1
    center = average - min(average, minimum + (minimum + 1) // 2)
    at = 0
    while at < len(data):
        end = min(maximum, len(data) - at)
        length, pattern = end, 0
        for i in range(minimum, end):
            pattern = (pattern >> 1) + GEAR[data[at + i]]
            if pattern % (1 << (bits + 1 if i < center else bits - 1)) == 0:
                length = i + 1
                break
        yield length
        at += length
