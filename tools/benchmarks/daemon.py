"""The process behind a monofs mount, and the memory it takes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tools.benchmarks.bench import Bench, Sample
from tools.benchmarks.inputs import MB

_LOOK_SECONDS = 0.1


class Memory(NamedTuple):
    """In bytes. `resident` holds what `anonymous` says and the database's pages, which the kernel may take back."""

    resident: int
    anonymous: int


def memory(pid: int) -> Memory:
    """Raises OSError or KeyError once the process has ended."""
    found = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident, anonymous = (int(found[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon"))
    return Memory(resident, anonymous)


class Watch:
    """The most anonymous memory of a process, as seen every 0.1 s from now on until it ends or `stop` is called."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        with suppress(OSError, KeyError):
            while not self._stopped.wait(_LOOK_SECONDS):
                self.peak = max(self.peak, memory(self.pid).anonymous)


class Daemon:
    """A mount on `path`, usable `seconds` after the command was given."""

    def __init__(self, bench: Bench, store: Path, path: Path, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        status = json.loads(bench.command("monofs", "--store", store, "status", "--json", path))
        self.watch = Watch(status[0]["pid"])

    def memory(self) -> Memory:
        return memory(self.watch.pid)

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has taken, all its threads together."""
        return time.clock_gettime(~self.watch.pid << 3 | 2)  # clock_getcpuclockid(3), which Python does not have

    def samples(self, after: str) -> Iterator[Sample]:
        """Yield what it takes now, and the most it took since this was last asked."""
        now = self.memory()
        peak, self.watch.peak = max(self.watch.peak, now.anonymous), 0
        yield Sample(f"memory of the daemon {after}, anonymous", "monofs", now.anonymous / MB, "MB")
        yield Sample(f"memory of the daemon {after}, anonymous, the most till then", "monofs", peak / MB, "MB")
        yield Sample(f"memory of the daemon {after}, with the database's pages", "monofs", now.resident / MB, "MB")


@contextmanager
def mounted(bench: Bench, store: Path, target: str) -> Iterator[Daemon]:
    """Mount a tree of `store`, writable; saved and unmounted at the end."""
    path = bench.empty("mnt")
    begin = time.perf_counter()
    bench.command("monofs", "--store", store, "mount", target, path)
    os.stat(path)
    seconds = time.perf_counter() - begin
    daemon = Daemon(bench, store, path, seconds)
    try:
        yield daemon
    finally:
        daemon.watch.stop()
        bench.command("monofs", "--store", store, "umount", path)
