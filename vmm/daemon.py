"""A process that goes on in the background: no terminal, a log of its own, and nothing open that its maker had open."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path


def spawn(log: Path, run: Callable[[socket.socket], None]) -> socket.socket:
    """Run `run` in a daemon; returns this end of the connection that it gets the other end of.

    Call it before there are threads or open databases: it forks.
    """
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            if os.fork() == 0:
                _detach(log, theirs.fileno())
                run(theirs)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    theirs.close()
    os.waitpid(child, 0)
    return ours


def _detach(log: Path, keep: int) -> None:
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    os.umask(0o022)
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for old, number in ((null, 0), (out, 1), (out, 2)):
        os.dup2(old, number)
    for extra in (null, out):
        if extra > 2 and extra != keep:
            os.close(extra)
