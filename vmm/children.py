"""The processes of a machine: started so that they die with us, watched, and always ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import trio

from . import limits
from .console import BoundedFile, tail


class Child:
    """One process and those it forked to do its work. What it says on stdout and stderr goes to a bounded log.

    Started from the caller's thread, and killed when that ends: it must be one that stays, like that which runs trio.
    """

    def __init__(self, name: str, argv: Sequence[str], log: Path, pass_fds: Sequence[int] = ()) -> None:
        self.name, self.log = name, log
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            self._popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=write_end, stderr=write_end, pass_fds=pass_fds, cwd="/"
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self._said = trio.lowlevel.FdStream(read_end)
        self._members = [_Member(self._popen.pid)]
        self.exit_code: int | None = None
        self._has_logged = trio.Event()

    @property
    def pids(self) -> list[tuple[int, int]]:
        """(pid, start time in ticks) of each of its processes that are known."""
        return [(member.pid, member.started) for member in self._members]

    def find_members(self) -> None:
        """Learn of the processes that it has forked: virtiofsd's works in a pid namespace of its own."""
        known = {member.pid for member in self._members}
        with suppress(OSError):
            with open(f"/proc/{self._popen.pid}/task/{self._popen.pid}/children") as file:
                found = [int(word) for word in file.read().split()]
            for pid in found:
                if pid not in known:
                    self._members.append(_Member(pid))

    async def keep_log(self) -> None:
        """Until all its processes have closed it. To be started before `end` is called."""
        log = BoundedFile(self.log, limits.log_bytes_max)
        try:
            async for data in self._said:
                log.write(bytes(data))
        finally:
            log.close()
            self._has_logged.set()

    def last_words(self) -> str:
        return tail(self.log)

    async def wait(self) -> int:
        """Return the exit code of the first process, -n for a signal."""
        await self._members[0].wait()
        self.exit_code = self._popen.wait()
        return self.exit_code

    async def end(self) -> None:
        """TERM, then KILL; return once none of its processes is left."""
        self.find_members()
        with trio.CancelScope(shield=True):
            self._signal(signal.SIGTERM)
            with trio.move_on_after(limits.end_seconds):
                await self._wait_for_all()
            self._signal(signal.SIGKILL)
            await self._wait_for_all()
            with trio.move_on_after(limits.end_seconds):
                await self._has_logged.wait()  # its last words are the ones that matter

    async def wait_for_all(self, seconds: float) -> None:
        """Wait for all its processes to end by themselves, but no longer than this."""
        with trio.move_on_after(seconds):
            await self._wait_for_all()

    async def _wait_for_all(self) -> None:
        for member in self._members:
            await member.wait()
        if self.exit_code is None:
            self.exit_code = self._popen.wait()

    def _signal(self, number: int) -> None:
        for member in self._members:
            member.signal(number)


class _Member:
    """A process known by a descriptor, which never means another process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd: int | None = os.pidfd_open(pid)
        self.started = start_ticks(pid)

    def signal(self, number: int) -> None:
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> None:
        if self._pidfd is None:
            return
        fd = os.dup(self._pidfd)  # several may wait
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)

    def __del__(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)


def start_ticks(pid: int) -> int:
    """When a process began, in clock ticks since boot: with its pid it names a process for good. 0: there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
