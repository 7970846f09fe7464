"""The gate: where edits wait while the name that is mounted moves to another tree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio


class Gate:
    """Open unless somebody holds it. Whoever moves the name does so `alone`; `shut` keeps edits out as well."""

    def __init__(self) -> None:
        self._mover = trio.Lock()
        self._opened: trio.Event | None = None  # while it is shut: when it will be open again
        self.before_waiting: Callable[[], None] = lambda: None

    @property
    def is_shut(self) -> bool:
        return self._opened is not None

    async def open(self) -> None:
        """Return when edits may be made. The next one must be made without waiting again."""
        while self._opened is not None:
            self.before_waiting()
            await self._opened.wait()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._mover:
            yield

    @asynccontextmanager
    async def shut(self) -> AsyncIterator[None]:
        async with self._mover:
            self._opened = opened = trio.Event()
            try:
                yield
            finally:
                self._opened = None
                opened.set()
