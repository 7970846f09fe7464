"""An owner: the process that holds a lease or staged blocks, told apart from a later one with the same pid."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NamedTuple

from store import codec


class Owner(NamedTuple):
    pid: int
    start: int  # clock ticks since boot
    boot: str

    @classmethod
    def current(cls) -> Owner:
        pid = os.getpid()
        return cls(pid, _start(pid) or 0, _boot())

    @classmethod
    def of(cls, doc: codec.Doc) -> Owner:
        return cls(doc["pid"], doc["start"], doc["boot"])

    @classmethod
    def parse(cls, text: str) -> Owner:
        """The reverse of str(). Raises ValueError."""
        boot, pid, start = text.rsplit("-", 2)
        return cls(int(pid), int(start), boot)

    def __str__(self) -> str:
        return f"{self.boot}-{self.pid}-{self.start}"

    def doc(self) -> codec.Doc:
        return {"pid": self.pid, "start": self.start, "boot": self.boot}

    def is_alive(self) -> bool:
        return self.boot == _boot() and _start(self.pid) == self.start


@functools.cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start(pid: int) -> int | None:
    """Return when the process started; None if it is gone or only waits to be reaped."""
    try:
        data = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = data[data.rindex(")") + 2 :].split()  # the command's name may hold spaces and parentheses
    return None if fields[0] in "ZX" else int(fields[19])
