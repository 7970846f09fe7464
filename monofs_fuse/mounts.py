"""Starting, asking and ending mounts, from outside: what the command line does with them."""

from __future__ import annotations

import errno
import os
import select
import sys
from pathlib import Path
from typing import Any

from monofs_fuse import control, limits, mountpoint
from monofs_fuse.errors import MountError
from store.errors import MonofsError

Status = dict[str, Any]


def start(
    store: Path,
    target: str,
    directory: str,
    *,
    name: str | None = None,
    read_only: bool = False,
    foreground: bool = False,
    allow_other: bool = False,
    auto_checkpoint: str | None = None,
    keep: str | None = None,
    confined: bool = False,
) -> None:
    """Mount `target` on `directory`; returns when the mount answers, or, in the foreground, when it has ended.

    `keep` is for what is there after an automatic checkpoint; both are for mounts that can be written. A `confined`
    mount shows its tree and no other one of the store: for whoever is not to be trusted with those.
    Raises MountError and other MonofsErrors; then nothing is mounted.
    """
    wanted = None if auto_checkpoint is None else _habit(auto_checkpoint, keep)
    mountpoint.check_fuse(allow_other)
    real = mountpoint.check_free(directory)
    from monofs_fuse.session import Wish

    wish = Wish(store.absolute(), target, real, name, read_only, allow_other, wanted, confined)
    if foreground:
        _foreground(wish)
    else:
        _background(wish)


def _habit(interval: str, keep: str | None) -> Any:
    from monofs_fuse import habit

    return habit.parse(interval, keep)


def checkpoint(directory: str, message: str = "") -> str:
    """Save everything and make a Version. Returns the tree's CID. Raises MountError."""
    return str(control.ask(_socket(directory), {"op": "checkpoint", "message": message})["cid"])


def umount(directory: str, *, lazy: bool = False, force: bool = False) -> str | None:
    """Save everything and unmount. Returns the tree's CID; None if the mount's process was dead. Raises MountError."""
    real = os.path.realpath(directory)
    try:
        socket = _socket(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):  # it was dead, or died while we asked
            raise MountError(f"cannot reach the mount on {directory}: {error.strerror}") from None
        mountpoint.detach(real, lazy=True)
        return None
    reply = control.ask(socket, {"op": "umount", "lazy": lazy, "force": force})
    if reply["ended"]:
        _wait_for_exit(reply["pid"])  # so that the name can be mounted again at once
    return str(reply["cid"])


def status(store: Path, directory: str | None = None) -> list[Status]:
    """Return what is mounted from `store`, or what is mounted on `directory` from whatever store."""
    if directory is not None:
        return [_ask_status(_socket(directory))]
    from store.repository import Repository

    if not store.exists():
        return []
    repository = Repository.open(store, create=False)
    try:
        leases = repository.leases()
    finally:
        repository.close()
    found = []
    for lease in leases:
        try:
            found.append(_ask_status(lease.socket))
        except MountError as error:
            found.append(
                {
                    "mountpoint": lease.mountpoint,
                    "pid": lease.owner.pid,
                    "name": lease.name,
                    "head": str(lease.tree),
                    "unsaved_bytes": None,
                    "last_commit": None,
                    "read_only": lease.read_only,
                    "store": os.fspath(store),
                    "problem": str(error),
                }
            )
    return found


def _wait_for_exit(pid: int) -> None:
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return  # gone already, or in another pid namespace
    try:
        select.select([process], [], [], limits.exit_seconds)
    finally:
        os.close(process)


def _ask_status(socket: str) -> Status:
    return control.ask(socket, {"op": "status"}, timeout=10)


def _socket(directory: str) -> str:
    """Return the control socket of the mount on `directory`. Raises MountError, or OSError (ENOTCONN: it is dead)."""
    real = os.path.realpath(directory)
    there = mountpoint.mounted(real)
    if there is None or there.kind != "fuse.monofs":
        raise MountError(f"no monofs is mounted on {directory}; 'monofs status' shows what is")
    try:
        return os.fsdecode(os.getxattr(real, "system.monofs.socket"))
    except PermissionError:
        raise MountError(f"the mount on {directory} belongs to another user") from None


def _foreground(wish: Any) -> None:
    _serve(wish, lambda: print(f"mounted on {wish.mountpoint}; Ctrl-C unmounts", file=sys.stderr, flush=True))


def _background(wish: Any) -> None:
    """Fork a daemon and wait for its word. No store is open and no thread runs here yet, so a fork is safe."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            status = _daemon(wish, writer)
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        word = pipe.read()
    os.waitpid(child, 0)
    if word != b"ok":
        raise MountError(word.decode(errors="replace") or "the mount's process ended without a word; see its log")


def _daemon(wish: Any, writer: int) -> int:
    """In the child: detach from the terminal, serve, and tell the parent how it began."""
    os.setsid()
    if os.fork():
        return 0
    # What the caller has open must not stay open for as long as the mount lives: a lock, the other end of a pipe.
    os.closerange(3, writer)
    os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
    log = _redirect(wish.store)

    def say(word: str) -> None:
        nonlocal writer
        if writer >= 0:
            os.write(writer, word.encode()[:4096])
            os.close(writer)
            writer = -1

    try:
        _serve(wish, lambda: say("ok"))
    except MonofsError as error:
        print(error, file=sys.stderr, flush=True)
        say(str(error))
        return 1
    except BaseException as error:
        import traceback

        traceback.print_exc()
        say(f"the mount failed: {error!r}; see {log}")
        return 1
    if log != os.devnull and os.path.getsize(log) == 0:
        os.unlink(log)
    return 0


def _redirect(store: Path) -> str:
    """Give the daemon a log and no terminal. Returns the log's path."""
    run = store / "run"
    if (store / "monofs-store.json").exists():
        run.mkdir(mode=0o700, exist_ok=True)
    log = os.fspath(run / f"{os.getpid()}.log") if run.is_dir() else os.devnull
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    return log


def _serve(wish: Any, ready: Any) -> str:
    import logging

    from monofs_fuse import serve, session

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    sys.setswitchinterval(0.0005)  # the committing thread must not make requests wait for 5 ms
    with session.opened(wish) as opened:
        return serve.run(opened, ready)
