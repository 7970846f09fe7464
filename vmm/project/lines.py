"""The lines of a TOML file: at which of them each key stands. The parser says what is there, and not where."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Final

_SPACE: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_OPENING: Final = re.compile(r"\[\[?[ \t]*")
_DOT: Final = re.compile(r"[ \t]*\.[ \t]*")
_TOKEN: Final = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|#[^\n]*|[^"'#\[\]{}\n]+|.''', re.DOTALL
)


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """Return the line of each table and key in `text`, which is good TOML; not of those within a value."""
    return _Lines(text).read()


def headers_of(text: str) -> list[tuple[int, tuple[str, ...]]]:
    """Return the line and the path of each table's header in `text`, which is good TOML."""
    reader = _Lines(text)
    reader.read()
    return reader.headers


def line_of(known: Mapping[tuple[str, ...], int], path: tuple[str | int, ...]) -> int:
    """Return the line of a key, or of the nearest one above that is known."""
    names = [step for step in path if isinstance(step, str)]
    return next((known[key] for end in range(len(names), 0, -1) if (key := tuple(names[:end])) in known), 1)


class _Lines:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line, self._counted = 1, 0
        self._found: dict[tuple[str, ...], int] = {}
        self.headers: list[tuple[int, tuple[str, ...]]] = []

    def read(self) -> dict[tuple[str, ...], int]:
        table: tuple[str, ...] = ()
        while self._skip(_SPACE) < len(self._text):
            line = self._line_here()
            if self._text[self._at] == "[":
                self._skip(_OPENING)
                table = self._keys()
                self.headers.append((line, table))
                self._note((), table, line)
            elif keys := self._keys():
                self._note(table, keys, line)
            else:
                break  # no TOML after all
            self._rest()
        return self._found

    def _note(self, table: tuple[str, ...], keys: tuple[str, ...], line: int) -> None:
        for end in range(1, len(keys) + 1):
            self._found.setdefault((*table, *keys[:end]), line)

    def _keys(self) -> tuple[str, ...]:
        keys = []
        while found := _KEY.match(self._text, self._at):
            self._at = found.end()
            keys.append(_plain(found[0]))
            if not (dot := _DOT.match(self._text, self._at)):
                break
            self._at = dot.end()
        return tuple(keys)

    def _rest(self) -> None:
        """Go behind the end of the line, of a value as far as that goes."""
        depth = 0
        while token := _TOKEN.match(self._text, self._at):
            self._at = token.end()
            depth += (token[0] in ("[", "{")) - (token[0] in ("]", "}"))
            if token[0] == "\n" and depth <= 0:
                return

    def _skip(self, what: re.Pattern[str]) -> int:
        found = what.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line


def _plain(key: str) -> str:
    return str(tomllib.loads(f"k = {key}")["k"]) if key[0] in "\"'" else key
