"""The control socket of a mount: one JSON request, one JSON reply, for its owner only."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from monofs_fuse import limits
from monofs_fuse.errors import MountError

Doc = dict[str, Any]


@contextmanager
def reachable(path: str) -> Iterator[str]:
    """Yield a path to the socket that is short enough for sun_path (108 bytes), however deep it lies."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


def listener(path: str) -> socket.socket:
    """Return a listening socket that only this user can connect to."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with reachable(path) as short:
        old_mask = os.umask(0o177)
        try:
            server.bind(short)
        finally:
            os.umask(old_mask)
    server.listen(8)
    return server


def ask(path: str, request: Doc, timeout: float | None = None) -> Doc:
    """Send `request` and return the reply. Raises MountError if nobody answers or the reply is an error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        try:
            with reachable(path) as short:
                client.connect(short)
            client.sendall(json.dumps(request).encode() + b"\n")
            reply = _line(client)
        except OSError as error:
            raise MountError(f"the mount's process does not answer on {path}: {error}") from None
    if not reply:
        raise MountError("the mount's process went away without an answer; see its log in the store's run directory")
    doc: Doc = json.loads(reply)
    if "error" in doc:
        raise MountError(doc["error"])
    return doc


def _line(client: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < limits.reply_bytes_max:
        more = client.recv(65536)
        if not more:
            return b""
        data += more
    return data
