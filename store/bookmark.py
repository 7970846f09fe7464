"""A bookmark: how far a check that was interrupted has come, in a file beside the store's sockets and logs."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from store import cid as cids
from store.cid import Cid
from store.errors import BadCid, NoSpace

_FORMAT: Final = 1


class Bookmark(NamedTuple):
    """Bytes up to `after`, in the order of CIDs, were read; all were good but those of `bad`. `size` is in bytes."""

    after: Cid
    size: int
    bad: frozenset[Cid]


def path_of(run_directory: Path) -> Path:
    return run_directory / "check.json"


def load(path: Path) -> Bookmark | None:
    """Return the bookmark; None if there is none that can be read: then a check begins at the start."""
    with suppress(OSError, ValueError, KeyError, TypeError, BadCid):
        doc = json.loads(path.read_text())
        if doc["format"] == _FORMAT and type(doc["size"]) is int:
            return Bookmark(cids.parse(doc["after"]), doc["size"], frozenset(map(cids.parse, doc["bad"])))
    return None


def save(path: Path, mark: Bookmark) -> None:
    """Put it in place at once. Raises NoSpace."""
    doc: dict[str, Any] = {
        "format": _FORMAT, "after": str(mark.after), "size": mark.size, "bad": sorted(map(str, mark.bad)),
    }  # fmt: skip
    partial = path.with_suffix(".new")
    try:
        partial.write_text(json.dumps(doc))
        partial.rename(path)
    except OSError as error:
        raise NoSpace(f"cannot write {path}: {error.strerror}") from None


def clear(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
