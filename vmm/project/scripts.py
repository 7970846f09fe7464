"""A script's words: what `monofs run` runs, with the arguments that somebody adds."""

from __future__ import annotations

import re
from typing import Final

SHELL: Final = ("/bin/sh", "-c")
_USES_ARGUMENTS: Final = re.compile(r"\$[@*#1-9]|\$\{[@*#1-9]")


def of_line(line: str) -> tuple[str, ...]:
    """Return what has a shell run one line of text."""
    return *SHELL, line


def with_arguments(words: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words with more arguments. A line finds them in "$@"; one that does not look gets them at its end."""
    if words[:-1] != SHELL or not more:
        return (*words, *more)
    line = words[-1] if _USES_ARGUMENTS.search(words[-1]) else f'{words[-1]} "$@"'
    return (*SHELL, line, "sh", *more)
