"""What is printed: the answer on stdout, as bytes, JSON or text; notes on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, Final

_PLAIN: Final = re.compile(r"[\w@%+=:,./^-]+")  # what no shell gives a meaning
_NEEDS_SINGLE: Final = re.compile(r'["$`\\!]')


def line(text: str | bytes) -> None:
    """Print one line of the answer; bytes, and the surrogates that stand for some, go out as they are."""
    write((text if isinstance(text, bytes) else os.fsencode(text)) + b"\n")


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)


def note(text: str) -> None:
    """Tell a person something that is not the answer."""
    print(f"monofs: {text}", file=sys.stderr)


def skips(skipped: Iterable[tuple[bytes, str]]) -> None:
    """Name what was left out, and why."""
    from store.directory import printable

    for path, reason in skipped:
        note(f"skipped '{printable(path)}': {reason}")


def document(doc: Any) -> None:
    """Print one JSON document. Bytes that are no UTF-8 appear as \\udc80 to \\udcff (Python's surrogateescape)."""
    line(json.dumps(doc, indent=2))


def array(docs: Iterable[Any]) -> None:
    """Print a JSON array, an item a line, as the items come."""
    separator = b"["
    for doc in docs:
        write(separator + b"\n " + json.dumps(doc).encode())
        separator = b","
    line(b"\n]" if separator == b"," else b"[]")


def text(data: bytes) -> str:
    """Return bytes as JSON has them."""
    return data.decode("utf-8", "surrogateescape")


def on_terminal() -> bool:
    return sys.stdout.isatty()


def shown(name: bytes) -> bytes:
    """Return a name for stdout: as it is for a program, quoted as a shell would read it for a person."""
    return os.fsencode(quoted(name)) if on_terminal() else name


def quoted(name: bytes) -> str:
    """Return a name as `ls` shows it on a terminal: control characters and bytes that are no UTF-8 are escaped."""
    text_ = text(name)
    if _PLAIN.fullmatch(text_):
        return text_
    if not text_.isprintable():
        return "$'" + "".join(map(_escaped, text_)) + "'"
    if "'" in text_ and not _NEEDS_SINGLE.search(text_):
        return f'"{text_}"'
    return "'" + text_.replace("'", "'\\''") + "'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return "\\" + char
    if char.isprintable():
        return char
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return named.get(char) or "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))


def human(size: int) -> str:
    """Return a size as `du -h` has it: 0, 1023, 1.5K, 17M."""
    if size < 1024:
        return str(size)
    amount = float(size)
    for unit in "KMGTPE":
        amount /= 1024
        if amount < 9.95:
            return f"{amount:.1f}{unit}"
        if amount < 1023.5 or unit == "E":
            return f"{amount:.0f}{unit}"
    raise AssertionError


def table(rows: list[list[str]]) -> None:
    """Print rows of cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        line("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
