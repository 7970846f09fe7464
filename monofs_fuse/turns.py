"""Turns: which of pyfuse3's workers reads the next request.

By themselves the workers pass a lock to one another at every request and arm epoll each time, which costs about as
much as the request. Here one worker keeps the turn for as long as its handlers answer at once; a handler that must
wait hands it over first (`Turns.over`). Between requests the descriptor is polled a few times; then the worker waits
in the kernel for it and for whatever trio waits for; only when nothing happens for a while it parks as trio's tasks do.
"""

from __future__ import annotations

import inspect
import os
import select
from typing import Final

import pyfuse3
import trio
from trio.lowlevel import Task

WORKERS: Final = 32  # so many handlers can wait at once
_POLLS: Final = 8  # before waiting; about a microsecond each
_WAIT_MS: Final = 2  # before parking: by so much a task that became ready without an event may be late
_WAIT_COUNTS: Final = 8  # as many requests, so that others get their chance in time
_FAIR_EVERY: Final = 64  # requests after which other tasks get their chance
_WATCH_SECONDS: Final = 1.0
_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Turns:
    """Takes the place of pyfuse3's own waiting between requests. Make it after `pyfuse3.init`."""

    def __init__(self) -> None:
        self._fd = _session_fd()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._trio_fd: int | None = None
        self._both = select.poll()
        self._idle = trio.lowlevel.ParkingLot()
        self._holder: Task | None = None
        self._gone = False
        self._served = 0
        assert hasattr(pyfuse3, "_wait_fuse_readable"), "setup.cfg pins a pyfuse3 that has this"
        pyfuse3._wait_fuse_readable = self._wait

    async def serve(self) -> None:
        """Answer requests until the filesystem is unmounted or `stop` is called."""
        self._trio_fd = _only_fd("anon_inode:[eventpoll]")
        for fd in (self._fd, self._trio_fd):
            if fd is not None:
                self._both.register(fd, select.POLLIN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await pyfuse3.main(max_tasks=WORKERS)
            nursery.cancel_scope.cancel()

    def over(self) -> None:
        """The running handler is about to wait: another worker is to read meanwhile. Other tasks may call it too."""
        if trio.lowlevel.current_task() is self._holder:
            self._holder = None
            self._idle.unpark()

    def stop(self) -> None:
        self._end()
        pyfuse3.terminate()

    async def _wait(self) -> bool:
        """Return True when there is a request and it is this worker's turn to read it, False if there will be none."""
        task = trio.lowlevel.current_task()
        while self._holder is not task and self._holder is not None and not self._gone:
            await self._idle.park()
        if self._gone:
            return False
        self._holder = task
        while not self._gone:
            self._served += 1
            if self._served >= _FAIR_EVERY:
                self._served = 0
                await trio.lowlevel.checkpoint()
            for _ in range(_POLLS):
                if events := self._poll.poll(0):
                    return self._is_alive(events)
            ready = self._wait_for_both()
            if self._fd in ready:
                self._served += _WAIT_COUNTS
                return self._is_alive(list(ready.items()))
            if not ready:
                return await self._park()
            self._served = _FAIR_EVERY  # it is trio that has something to do
        return False

    def _wait_for_both(self) -> dict[int, int]:
        """Wait a little for a request or an event of trio's. Returns what is ready.

        To park in trio costs more than most requests, and a client that does something between its requests would have
        us park each time.
        """
        return {} if self._trio_fd is None else dict(self._both.poll(_WAIT_MS))

    async def _park(self) -> bool:
        try:
            await trio.lowlevel.wait_readable(self._fd)
        except trio.ClosedResourceError:
            return self._end()
        return self._is_alive(self._poll.poll(0))

    def _is_alive(self, events: list[tuple[int, int]]) -> bool:
        return self._end() if any(flags & _GONE for _, flags in events) else True

    def _end(self) -> bool:
        self._gone = True
        self._idle.unpark_all()
        return False

    async def _watch(self) -> None:
        """A worker that ends with the turn (the session broke under its read) must not leave the others parked."""
        while True:
            await trio.sleep(_WATCH_SECONDS)
            if self._holder is not None and inspect.getcoroutinestate(self._holder.coro) == inspect.CORO_CLOSED:
                self._end()


def _session_fd() -> int:
    """Return the descriptor of the FUSE session, which pyfuse3 keeps to itself."""
    fd = _only_fd("/dev/fuse")
    if fd is None:
        raise RuntimeError("no FUSE session in this process, or more than one")
    return fd


def _only_fd(what: str) -> int | None:
    """Return this process's descriptor of `what`; None if there is none, or more than one."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == what:
                found.append(int(name))
        except OSError:
            continue
    return found[0] if len(found) == 1 else None
