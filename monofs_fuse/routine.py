"""A routine: the checkpoints that a mount makes by itself, and the old versions that it lets go of afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from monofs_fuse import limits
from monofs_fuse.control import Doc
from monofs_fuse.habit import Habit, shown
from monofs_fuse.saver import Saver
from store.errors import MonofsError

log = logging.getLogger(__name__)
MESSAGE: Final = "automatic checkpoint"


class Routine:
    """Time passes by trio's clock. What goes wrong is told by `status`, tried again, and ends nothing."""

    def __init__(self, habit: Habit, saver: Saver, flush: Callable[[], Awaitable[None]]) -> None:
        self._habit = habit
        self._saver = saver
        self._flush = flush
        self._next = 0.0  # by trio's clock
        self._last: float | None = None  # when it made one
        self._is_to_prune = False
        self.problem: str | None = None
        self.rounds = 0

    def status(self) -> Doc:
        habit = self._habit
        return {
            "every": shown(habit.seconds),
            "every_seconds": habit.seconds,
            "keep": None if habit.keep is None else str(habit.keep),
            "last": self._last,
            "next": time.time() + max(0.0, self._next - trio.current_time()),
            "problem": self.problem,
        }

    async def run(self) -> None:
        self._next = trio.current_time() + self._habit.seconds
        while True:
            await trio.sleep_until(self._next)
            await self._round()
            seconds = float(self._habit.seconds)
            if self.problem is not None:
                seconds = min(seconds, limits.auto_retry_seconds)
            self._next = trio.current_time() + seconds
            self.rounds += 1

    async def _round(self) -> None:
        try:
            await self._flush()
            if await self._saver.checkpoint_news(MESSAGE):
                self._last = time.time()
                self._is_to_prune = self._habit.keep is not None
            if self._is_to_prune and self._habit.keep is not None:
                await self._saver.prune(self._habit.keep)
                self._is_to_prune = False
            self.problem = None
        except (MonofsError, OSError) as error:
            self._told(str(error))
        except Exception as error:  # nobody thought of it: the mount goes on
            log.exception("automatic checkpoint")
            self.problem = repr(error)

    def _told(self, problem: str) -> None:
        if problem != self.problem:
            log.error("automatic checkpoint: %s", problem)
        self.problem = problem
