"""Unix sockets by a path of any length, for one user only."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def listener(path: Path) -> socket.socket:
    """Return a listening socket that only this user can connect to. One that a dead process left is replaced."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(path) as short:
        old_mask = os.umask(0o177)
        try:
            server.bind(short)
        finally:
            os.umask(old_mask)
    server.listen(16)
    return server


def connect(path: Path, *, patient: bool = True) -> socket.socket:
    """Raises OSError. With many waiting already, it waits too, or raises if it is not `patient`."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.setblocking(patient)
    try:
        with _short(path) as short:
            client.connect(short)
    except OSError:
        client.close()
        raise
    return client


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a path that is short enough for sun_path (108 bytes), however deep the socket lies."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
