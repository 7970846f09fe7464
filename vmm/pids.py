"""A process, told apart from a later one that has the same pid."""

from __future__ import annotations

import functools
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Pid(NamedTuple):
    number: int
    start: int  # clock ticks since boot

    @classmethod
    def current(cls) -> Pid:
        return cls.of(os.getpid())

    @classmethod
    def of(cls, number: int) -> Pid:
        """Return the process that has this pid now; one that is gone gets a start time that no process has."""
        start = _start(number)
        return cls(number, -1 if start is None else start)

    def is_alive(self) -> bool:
        """True until it has ended; a zombie has. Only of use in the boot in which it was started."""
        return self.start >= 0 and _start(self.number) == self.start

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, never to another process: the descriptor is of the one that was looked at."""
        try:
            descriptor = os.pidfd_open(self.number)
        except OSError:
            return
        try:
            if self.is_alive():
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; False if it has not in time. It need not be our child."""
        import select

        try:
            descriptor = os.pidfd_open(self.number)
        except OSError:
            return True
        try:
            if not self.is_alive():
                return True
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            return bool(poller.poll(seconds * 1000))
        finally:
            os.close(descriptor)


@functools.cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start(number: int) -> int | None:
    """Return when a process started; None if it is gone or only waits to be reaped."""
    try:
        data = Path(f"/proc/{number}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = data[data.rindex(")") + 2 :].split()  # the command's name may hold spaces and parentheses
    return None if fields[0] in "ZX" else int(fields[19])
