"""Text: files that are compared and merged line by line. Everything else is taken whole."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

from store import limits
from store.batch import Nodes
from store.file import File

Lines = list[bytes]


def lines(source: Nodes, file: File) -> Lines | None:
    """Return the lines of a file, each with its newline; None if it is no text, or too large to be treated as one."""
    if file.size > limits.text_bytes_max:
        return None
    data = file.read_at(source, 0, file.size)
    return None if b"\0" in data else split(data)


def split(data: bytes) -> Lines:
    return io.BytesIO(data).readlines()


def is_costly(old: Sequence[bytes], new: Sequence[bytes]) -> bool:
    """True if comparing them would take too long: the same line over and over on both sides."""
    olds, news = Counter(old), Counter(new)
    return sum(count * news[line] for line, count in olds.items()) > limits.text_pairs_max


def merged(base: Lines, first: Lines, second: Lines, *, union: bool = False) -> bytes | None:
    """Return the text with the changes of both; None if they touch.

    With `union` what touches is there twice, the first's before the second's. Without it the order does not matter.
    """
    if is_costly(base, first) or is_costly(base, second):
        return None
    if not union:
        first, second = sorted((first, second))
    import merge3

    out: Lines = []
    for group in merge3.Merge3(base, first, second).merge_groups():
        if group[0] != "conflict":
            out += group[1]
        elif union:
            out += _ended(group[2]) + list(group[3])
        else:
            return None
    return b"".join(out)


def _ended(part: Sequence[bytes]) -> Lines:
    """Return lines after which others can follow."""
    if part and not part[-1].endswith(b"\n"):
        return [*part[:-1], part[-1] + b"\n"]
    return list(part)
