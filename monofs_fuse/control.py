"""The control socket of a mount: a line of JSON asks, a line of JSON answers; for its owner only."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


class Connection:
    """A mount at the other end of its socket. Not for several threads."""

    def __init__(self, path: str, timeout: float | None = None) -> None:
        """Raises MountError."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            with reachable(path) as short:
                self._socket.connect(short)
        except OSError as error:
            self._socket.close()
            raise self._silent(error) from None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: Doc) -> Doc:
        """Send `request` and return the reply. Raises MountError if nobody answers or the reply is an error."""
        try:
            with suppress(BrokenPipeError):  # it may have said why before it hung up
                self._socket.sendall(json.dumps(request).encode() + b"\n")
            reply = self._line()
        except OSError as error:
            raise self._silent(error) from None
        if not reply:
            raise MountError("the mount's process ended without an answer; see its log in the store's run directory")
        doc: Doc = json.loads(reply)
        if "error" in doc:
            raise MountError(doc["error"])
        return doc

    def _line(self) -> bytes:
        data = b""
        while not data.endswith(b"\n") and len(data) < limits.reply_bytes_max:
            more = self._socket.recv(65536)
            if not more:
                return b""
            data += more
        return data

    def _silent(self, error: OSError) -> MountError:
        return MountError(f"the mount's process does not answer on {self._path}: {error}")


def ask(path: str, request: Doc, timeout: float | None = None) -> Doc:
    """Make one request. Raises MountError if nobody answers or the reply is an error."""
    with Connection(path, timeout) as connection:
        return connection.ask(request)
