"""Values as TOML writes them, each on one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def value(found: Any) -> str:
    """Return a text, a number, a list or a table of these as TOML has it."""
    if isinstance(found, str):
        return _quoted(found)
    if isinstance(found, Mapping):
        return "{ " + ", ".join(f"{key(name)} = {value(inner)}" for name, inner in found.items()) + " }"
    if isinstance(found, (list, tuple)):
        return "[" + ", ".join(map(value, found)) + "]"
    assert type(found) is int, "nothing else is ever written"
    return str(found)


def key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _quoted(name)


def _quoted(text: str) -> str:
    body = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else _escaped(ord(c)) for c in body) + '"'


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"
