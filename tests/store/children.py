"""Other processes for a test, which start from nothing and talk through a pipe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

_spawn = multiprocessing.get_context("spawn")


class Child(NamedTuple):
    process: SpawnProcess
    pipe: Connection

    def kill(self) -> None:
        """End it by SIGKILL, and return when it has ended."""
        self.process.kill()
        self.process.join()

    def finish(self) -> None:
        """Wait until it has done its work. Fails if that went wrong."""
        self.process.join()
        assert self.process.exitcode == 0, f"the child ended with {self.process.exitcode}"


@contextmanager
def child(work: Callable[..., None], *args: Any) -> Iterator[Child]:
    """Run `work(pipe, *args)` in a process of its own; it ends with the block at the latest."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=work, args=(theirs, *args))
    process.start()
    theirs.close()  # so that a read fails when the child is dead
    try:
        yield Child(process, ours)
    finally:
        process.kill()
        process.join()
        ours.close()
