"""A project's supervisor: the process in the background that keeps its machines as they are wished.

There is one at most, and none while nothing is to run. Whoever finds that one is missing starts it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmm import daemon, sockets, wire
from vmm.errors import SupervisorGone, VmError
from vmm.project import converging, limits
from vmm.project.folder import Folder
from vmm.project.state import State
from vmm.project.wishes import Wishes

if TYPE_CHECKING:
    from vmm.project.keeper import Keeper

Machines = dict[str, dict[str, Any]]


# From outside. No database is open and no thread runs in a process that calls these: they may fork.


def look(folder: Folder) -> None:
    """Let the supervisor know that wishes have changed, and start it if there is none. Raises VmError."""
    _answer(folder, "look")


def report(folder: Folder) -> Machines:
    """Return how all machines of the project are, by name: see `keeper.described`. Raises VmError.

    If its supervisor was killed there is another one afterwards.
    """
    found: Machines = _answer(folder, "report")["machines"]
    return found


def watch(folder: Folder) -> Iterator[wire.Doc]:
    """Yield reports, now and whenever something changes, until the supervisor ends. Raises VmError.

    Each has `machines`; the last one has `over`, and `lost` if .mc was taken away.
    """
    connection = watching(folder)
    if connection is None:
        yield {"machines": report(folder), "over": True}
        return
    with closing(connection), suppress(ConnectionError):
        yield from _hear(connection)


def watching(folder: Folder) -> socket.socket | None:
    """Return a connection over which these reports come; None if there is nothing to look after. Raises VmError."""
    connection = _connected(folder)
    if connection is not None:
        connection.sendall(wire.doc(op="watch"))
        connection.settimeout(None)
    return connection


def _written(folder: Folder) -> Machines | None:
    """Return what is written down if that is all there is to know; None if there should be a supervisor."""
    from vmm.project.keeper import reported, seen_of

    with State(folder.mc) as state:
        book = Wishes(state)
        wishes, runs = book.all(), book.runs()
    seen = {name: seen_of(run) for name, run in runs.items()}
    return reported(wishes, runs, seen) if converging.is_done(wishes, seen) else None


def _answer(folder: Folder, op: str) -> wire.Doc:
    for _ in range(limits.tries_max):
        connection = _connected(folder)
        if connection is None:
            found = _written(folder)
            if found is not None:
                return {"machines": found}
            continue
        with closing(connection), suppress(ConnectionError):
            connection.sendall(wire.doc(op=op))
            for doc in _hear(connection):
                return doc
    raise SupervisorGone(f"the project's supervisor ends again and again; see {_log(folder)}")


def _connected(folder: Folder) -> socket.socket | None:
    """Return a connection to the supervisor, which is started if there is none but should be. Raises VmError."""
    end = time.monotonic() + limits.revive_seconds
    while True:
        try:
            connection = sockets.connect(folder.mc / "socket", patient=False)
            connection.settimeout(limits.answer_seconds)
            connection.sendall(wire.doc(op="hello"))
            next(_hear(connection))
            return connection
        except (OSError, SupervisorGone, StopIteration) as error:
            if isinstance(error, TimeoutError):
                raise SupervisorGone("the project's supervisor does not answer; kill it, and try again") from None
        if _written(folder) is not None:
            return None
        if not _spawned(folder):  # another one is just beginning, or ending
            time.sleep(limits.retry_seconds)
        if time.monotonic() > end:
            raise SupervisorGone(f"the project's supervisor does not begin; see {_log(folder)}")


def _hear(connection: socket.socket) -> Iterator[wire.Doc]:
    decoder = wire.Decoder()
    while data := connection.recv(limits.report_bytes_max):
        for frame in decoder.feed(data):
            doc = frame.doc()
            if "error" in doc:
                raise VmError(doc["error"])
            yield doc


def _spawned(folder: Folder) -> bool:
    """Start a supervisor; returns whether it is the one. Raises VmError."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        folder.logs.mkdir(mode=0o700, exist_ok=True)
        connection = daemon.spawn(_log(folder), partial(_supervise, folder))
    except OSError as error:
        raise VmError(f"the project's supervisor cannot be started: {error.strerror}") from None
    with connection:
        connection.settimeout(limits.answer_seconds)
        try:
            for doc in _hear(connection):
                return "ready" in doc
        except TimeoutError:
            pass
    raise SupervisorGone(f"the project's supervisor ended at once; see {_log(folder)}")


def _log(folder: Folder) -> Path:
    return folder.logs / "supervisor.log"


# In the daemon


def _supervise(folder: Folder, owner: socket.socket) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the machines go on, whatever ends us
        signal.signal(number, signal.SIG_DFL)
    with closing(owner):
        try:
            with _alone(folder) as is_alone:
                if is_alone:
                    _run(folder, owner)
                else:
                    owner.sendall(wire.doc(busy=True))
        except VmError as error:
            owner.sendall(wire.doc(error=str(error)))


@contextmanager
def _alone(folder: Folder) -> Iterator[bool]:
    """Whether this is the only one. Machines that are being started hold the lock, too, until they are in the list."""
    descriptor = os.open(folder.mc / "supervising", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _run(folder: Folder, owner: socket.socket) -> None:
    import trio  # before the launcher is forked, whose machines need it too

    from monofs_fuse.project import launcher
    from vmm import service  # noqa: F401, likewise

    starter = launcher.spawn(partial(_start, folder.store))
    from monofs_fuse.project.host import LocalHost
    from vmm.project.keeper import Keeper

    listener = sockets.listener(folder.mc / "socket")
    with State(folder.mc) as state, closing(LocalHost(folder, starter)) as host:
        trio.run(_serve, folder, Keeper(Wishes(state), host), listener, owner)


def _start(store: Path, request: wire.Doc) -> socket.socket:
    from monofs_fuse.project import running
    from vmm.project.wanted import Wanted

    return running.start(store, Wanted.of_doc(request["wanted"]), request["id"])


async def _serve(folder: Folder, keeper: Keeper, listening: socket.socket, owner: socket.socket) -> None:
    from monofs_fuse.project.conversations import serve

    owner.sendall(wire.doc(ready=True))
    owner.close()
    await serve(keeper, listening, folder.mc / "socket")
