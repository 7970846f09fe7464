"""Trees that a guest can boot from, and ways to run commands there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import trio

from vmm.channel import Process
from vmm.machine import Machine
from vmm.spec import Command

# What is to be there in a tree of busybox alone; it has many more.
_APPLETS = (
    *("sh", "cat", "ls", "id", "sleep", "sync", "sort", "head", "yes", "dd", "wc", "mount", "hostname", "date", "env"),
    *("rm", "mkdir", "sed", "grep", "seq", "md5sum", "wget", "nc", "ip", "stty", "tty", "touch", "ps", "df", "true"),
)


def busybox_tree(root: Path) -> Path:
    """A tree with nothing but busybox: no /proc, no /etc, no init."""
    (root / "bin").mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for name in _APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    return root


async def collect(process: Process, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    """Feed it, and return its exit code and what it said."""
    said = {1: bytearray(), 2: bytearray()}

    async def feed() -> None:
        try:
            await process.write_stdin(stdin)
        except BrokenPipeError:
            return
        await process.close_stdin()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed)
        async for stream, data in process.output():
            said[stream] += data
    return await process.wait(), bytes(said[1]), bytes(said[2])


async def run(machine: Machine, *argv: str, stdin: bytes = b"", **options: Any) -> tuple[int, bytes, bytes]:
    """Run a command to its end."""
    return await collect(await machine.start(Command(argv, **options)), stdin)


def is_there(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listing(root: Path) -> list[tuple[str, int, int]]:
    """Every path with its mode and mtime: what a tree must still be after a boot."""
    paths = [root, *sorted(root.rglob("*"))]
    return [(str(path.relative_to(root)), (found := os.lstat(path)).st_mode, found.st_mtime_ns) for path in paths]
