"""Trimming: the kernel is asked to forget the oldest inodes, so that the tables stay bounded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import pyfuse3
import trio

from monofs_fuse import limits

Place = tuple[int, bytes]  # number of a directory, and a name in it


class Inodes(Protocol):
    """Some of the inodes that the kernel knows."""

    def surplus(self, count_max: int, most: int) -> Sequence[Place]: ...


async def run(*tables: Inodes) -> None:
    """Trim again and again.

    Some names at a time, the next when the kernel has dealt with them: a reader of a very large directory makes
    inodes faster than a queue of such requests would be done.
    """
    while True:
        await trio.sleep(limits.trim_seconds)
        for table in tables:
            for _ in range(limits.trim_rounds_max):
                some = table.surplus(limits.inodes_max, limits.trim_names)
                if not some:
                    break
                await trio.to_thread.run_sync(_forget, some)


def _forget(places: Sequence[Place]) -> None:
    """Not on the thread that answers the kernel: it may wait for an answer first."""
    for directory, name in places:
        with suppress(OSError):  # the kernel knows nothing of it, or is being unmounted
            pyfuse3.invalidate_entry(directory, name)
