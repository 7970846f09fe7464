"""What a mount is asked, and what it asks of its store: counted in a daemon that is otherwise the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyfuse3

from monofs_fuse import mounts
from monofs_fuse.ops import Operations
from store.lmdb_store import LmdbStore

_ASK: Final = "user.monofs.test.counts"
_REQUESTS: Final = (
    "lookup", "forget", "getattr", "setattr", "readlink", "opendir", "readdir", "releasedir", "create", "mknod",
    "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "open", "read", "write", "flush", "release", "fsync",
    "fsyncdir", "getxattr", "setxattr", "listxattr", "removexattr", "statfs",
)  # fmt: skip


def start(store: Path, target: str, directory: Path) -> None:
    """Mount as `monofs mount` does, from a process of its own."""
    subprocess.run([sys.executable, "-m", __name__, store, target, directory], check=True)


def counts(directory: Path) -> Counter[str]:
    """Return what was counted since the mount: requests by name, LMDB `transactions` that read, `blocks` read."""
    return Counter(json.loads(os.getxattr(directory, _ASK)))


def _start(store: Path, target: str, directory: str) -> None:
    counted: Counter[str] = Counter()
    for name in _REQUESTS:
        setattr(Operations, name, _counting(counted, name, getattr(Operations, name)))
    answer = Operations.getxattr

    async def getxattr(self: Operations, ino: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        return json.dumps(counted).encode() if name == _ASK.encode() else await answer(self, ino, name, ctx)

    Operations.getxattr = getxattr
    LmdbStore._read = _counting(counted, "transactions", LmdbStore._read)
    LmdbStore.peek = _counting(counted, "blocks", LmdbStore.peek)
    mounts.start(store, target, directory)


def _counting(counted: Counter[str], name: str, work: Callable[..., Any]) -> Any:
    def counting(*args: Any) -> Any:
        counted[name] += 1
        return work(*args)

    return counting


if __name__ == "__main__":
    _start(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
