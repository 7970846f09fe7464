"""A launcher: a process that starts machines for one that must not fork, since it has threads and open databases.

It is forked before there are any. Whoever wants a machine sends it one end of a socket; the machine's description comes
over that, and the connection to the machine's supervisor goes back. It ends with the process that made it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable

import trio

from vmm import wire
from vmm.errors import VmError

Start = Callable[[wire.Doc], socket.socket]

_TAKEN, _FAILED = b"+", b"-"
_SECONDS = 300.0  # until a machine that was started says its first word, or it is left to whoever finds it


class Launcher:
    """The end of it in the process that wants machines."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._sending = trio.Lock()

    async def start(self, request: wire.Doc) -> socket.socket:
        """Start a machine; returns the connection to its supervisor. Raises VmError."""
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    socket.send_fds(self._control, [_TAKEN], [theirs.fileno()])
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours.dup()))
                async with stream:
                    await stream.send_all(wire.doc(**request))
                    await trio.lowlevel.wait_readable(ours)
                    word, found, _, _ = socket.recv_fds(ours, 64 * 1024, 1)
            except (OSError, trio.BrokenResourceError):
                raise VmError("the process that starts machines is gone") from None
        if word == _TAKEN and found:
            return socket.socket(fileno=found[0])
        raise VmError(word[1:].decode(errors="replace") or "the machine's supervisor could not be started; see the log")


def spawn(start: Start) -> Launcher:
    """Fork the launcher. Call it before there are threads or open databases."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        code = 1
        try:
            ours.close()
            _serve(theirs, start)
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    return Launcher(ours)


def _serve(control: socket.socket, start: Start) -> None:
    """Start each machine in a process of its own, so that none waits for another."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its owner, and not before
    while True:
        word, found, _, _ = socket.recv_fds(control, 1, 1)
        if not word:
            return
        for descriptor in found:
            if os.fork() == 0:
                code = 1
                try:
                    control.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                        signal.signal(number, signal.SIG_DFL)
                    _launch(socket.socket(fileno=descriptor), start)
                    code = 0
                finally:
                    os._exit(code)
            os.close(descriptor)


def _launch(client: socket.socket, start: Start) -> None:
    try:
        connection = start(_request(client))
    except (VmError, OSError) as error:
        client.sendall(_FAILED + str(error).encode(errors="replace")[:4096])
        return
    # What this process has open, a lock that it inherited, is held until the machine is in the list.
    select.select([connection], [], [], _SECONDS)
    socket.send_fds(client, [_TAKEN], [connection.fileno()])


def _request(client: socket.socket) -> wire.Doc:
    decoder = wire.Decoder()
    while data := client.recv(64 * 1024):
        for frame in decoder.feed(data):
            return frame.doc()
    raise VmError("the request for a machine was cut short")
