"""Serving one mount, from its first request to its last commit."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pyfuse3
import trio

from monofs_fuse import control, limits, mountpoint, swap, trimming
from monofs_fuse.errors import MountError
from monofs_fuse.exchange import Exchange
from monofs_fuse.head import Head
from monofs_fuse.ops import SOCKET, Operations
from monofs_fuse.past import Past, Sources
from monofs_fuse.routine import Routine
from monofs_fuse.saver import Saver
from monofs_fuse.session import Session
from monofs_fuse.turns import Turns
from monofs_fuse.worktree import Worktree
from store import version
from store.cid import Cid
from store.errors import MonofsError

log = logging.getLogger(__name__)


def run(session: Session, ready: Callable[[], None]) -> str:
    """Mount, call `ready` once the mount answers, serve until it is unmounted; returns the CID of the last tree."""
    server = _Server(session, ready)
    try:
        pyfuse3.init(server.operations, session.mountpoint, _options(session))
    except RuntimeError as error:
        raise MountError(f"cannot mount on {session.mountpoint}: {error}") from None
    server.take_turns()
    _collect_seldom()
    try:
        trio.run(server.run)
    finally:
        pyfuse3.close(unmount=True)
    return str(server.cid)


def _collect_seldom() -> None:
    """Looking for cycles costs as much as all else when a tree is read: there are many inodes, none of them garbage.

    What is here now is never looked at again; the rest after so many more objects than before.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*limits.collect_objects)


def _options(session: Session) -> set[str]:
    options = {"default_permissions", "subtype=monofs", f"fsname={session.name or 'monofs'}"}
    if session.allow_other:
        options.add("allow_other")
    if session.read_only:
        options.add("ro")
    return options


class _Gone(Exception):
    """The other end of the control socket was closed."""


class _Server:
    def __init__(self, session: Session, ready: Callable[[], None]) -> None:
        repository = session.repository
        self._session = session
        self._ready = ready
        self._head = None if session.name is None else Head(repository, session.name)
        committed = version.load_tree(repository.cache, session.tree if self._head is None else self._head.tree)
        self._tree = Worktree(repository.cache, committed)
        self._saver = Saver(self._tree, self._head)
        about = {
            SOCKET: os.fsencode(session.socket),
            b"user.monofs.name": (session.name or "").encode(),
            b"user.monofs.store": os.fsencode(repository.path),
        }
        self._past = Past(
            repository.cache,
            Sources(self._line, lambda: self._saver.tree or session.tree, self._status),
            os.geteuid(),
            is_shown=not session.confined,
        )
        self.operations = Operations(self._tree, self._saver, self._past, os.fspath(repository.path), about)
        self._exchange = self._routine = None
        if self._head is not None:
            self._exchange = Exchange(self._tree, self._saver, self._head, self.operations, session.mountpoint)
            if session.habit is not None:
                flush = partial(self.operations.flush_kernel, session.mountpoint)
                self._routine = Routine(session.habit, self._saver, flush)
        self.cid = session.tree
        self._ended = trio.Event()
        self._answering = 0
        self._answered = trio.Event()

    def take_turns(self) -> None:
        self._turns = Turns()
        self._saver.before_waiting = self._saver.gate.before_waiting = self._turns.over

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._listen)
            nursery.start_soon(self._signals)
            nursery.start_soon(self._saver.run)
            nursery.start_soon(self._announce)
            if self._routine is not None:
                nursery.start_soon(self._routine.run)
            await self._requests()
            self.cid = await self._finish()
            self._ended.set()
            await self._last_answers()
            nursery.cancel_scope.cancel()

    async def _requests(self) -> None:
        """Serve until unmounted. Whatever ends it, the edits are still in memory and the last commit follows."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trimming.run, self._tree.table, self._past)
                await self._turns.serve()
                nursery.cancel_scope.cancel()  # no kernel is left that could forget anything
        except Exception:
            log.exception("the FUSE session broke; saving what there is")

    async def _announce(self) -> None:
        await trio.to_thread.run_sync(os.stat, self._session.mountpoint)
        await trio.to_thread.run_sync(mountpoint.read_ahead, self._session.mountpoint)
        self._ready()

    async def _finish(self) -> Any:
        """The last commit. The edits are only in memory now, so it is tried until there is room."""
        if self._head is None or self._exchange is None:
            return self.cid
        self._exchange.end()
        self.operations.rescue_all()
        while True:
            try:
                cid = await self._saver.checkpoint("")
                self._head.drop_if_needless()
                return cid
            except MonofsError as error:
                log.error("unmounted, but the last edits are not saved yet: %s; trying again", error)
                await trio.sleep(limits.save_retry_seconds)

    def _line(self) -> Cid | None:
        """Return the version that the mounted name is at."""
        return None if self._head is None else self._head.version

    # Leaving

    async def _leave(self, *, lazy: bool) -> None:
        """Save, then unmount. Raises StoreError if saving fails (all stays mounted), MountError if it is in use."""
        path = self._session.mountpoint
        await self.operations.flush_kernel(path)
        await self._saver.save()
        try:
            await trio.to_thread.run_sync(partial(mountpoint.detach, path, lazy=lazy))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            users = await trio.to_thread.run_sync(mountpoint.holders, path)
            by = f" by {', '.join(users[:8])}" if users else ""
            raise MountError(f"{path} is in use{by}; close it, or use --lazy or --force") from None

    async def _signals(self) -> None:
        """SIGTERM and Ctrl-C save and unmount; a second one does not wait for a disk that stays full."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            async for number in received:
                log.info("%s: saving and unmounting", signal.Signals(number).name)
                try:
                    await self._leave(lazy=True)
                except (MonofsError, OSError) as error:
                    log.error("%s; still mounted. Make room and try again", error)
                    continue
                with trio.move_on_after(limits.leave_seconds):
                    await self._ended.wait()
                self._turns.stop()

    # The control socket

    async def _listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(control.listener(self._session.socket)))
        try:
            await trio.serve_listeners(self._answer, [listener], task_status=task_status)  # type: ignore[arg-type]
        finally:
            os.unlink(self._session.socket)

    async def _answer(self, stream: trio.SocketStream) -> None:
        self._answering += 1
        try:
            request = await _request(stream)
            try:
                reply = await (self._hold(stream) if request.get("op") == "hold" else self._do(request))
            except (MonofsError, OSError) as error:
                reply = {"error": str(error)}
            await _reply(stream, reply)
        except _Gone:
            pass  # whoever held the mount has changed his mind, or died
        except (trio.BrokenResourceError, ValueError) as error:
            log.info("control: %s", error)
        finally:
            self._answering -= 1
            self._answered.set()
            await stream.aclose()

    async def _do(self, request: control.Doc) -> control.Doc:
        match request.get("op"):
            case "status":
                return self._status()
            case "save":
                return await self._save()
            case "checkpoint":
                return await self._checkpoint(str(request.get("message", "")))
            case "umount":
                return await self._umount(bool(request.get("lazy")), bool(request.get("force")))
        raise MountError(f"unknown request {request.get('op')!r}")

    async def _hold(self, stream: trio.SocketStream) -> control.Doc:
        """Hold the mount until the other end says what to move to, or that it will not."""
        exchange = self._movable()
        async with exchange.held():
            await _reply(stream, {"held": True})
            with exchange.waiting() as patience:
                request = await _request(stream)
            if patience.cancelled_caught:
                raise MountError(f"the mount was held for over {limits.hold_seconds_max:.0f} s, and goes on as it was")
            if request.get("op") != "move":
                raise MountError(f"unknown request {request.get('op')!r} to a mount that is held")
            stale = await exchange.move(request)
        if stale is not None:
            await trio.to_thread.run_sync(swap.tell_kernel, stale)
        return {"moved": True}

    async def _save(self) -> control.Doc:
        await self._movable().save()
        return {"head": str(self._saver.tree)}

    def _movable(self) -> Exchange:
        if self._exchange is None:
            raise MountError(f"{self._session.mountpoint} is read-only")
        return self._exchange

    def _status(self) -> control.Doc:
        saver = self._saver
        return {
            "mountpoint": self._session.mountpoint,
            "pid": os.getpid(),
            "name": self._session.name,
            "head": str(saver.tree or self._session.tree),
            "unsaved_bytes": saver.unsaved_bytes,
            "last_commit": saver.last_commit,
            "read_only": self._session.read_only,
            "store": os.fspath(self._session.repository.path),
            "problem": None if saver.error is None else str(saver.error),
            "auto_checkpoint": None if self._routine is None else self._routine.status(),
            "inodes": len(self._tree.table),
        }

    async def _checkpoint(self, message: str) -> control.Doc:
        if self._head is None:
            return {"cid": str(self._session.tree)}
        await self.operations.flush_kernel(self._session.mountpoint)
        return {"cid": str(await self._saver.checkpoint(message))}

    async def _umount(self, lazy: bool, force: bool) -> control.Doc:
        await self._leave(lazy=lazy or force)
        if force:
            self._turns.stop()
        elif lazy:
            with trio.move_on_after(limits.leave_seconds):
                await self._ended.wait()
            if not self._ended.is_set():
                return {"cid": str(self._saver.tree or self.cid), "ended": False}
        await self._ended.wait()
        return {"cid": str(self.cid), "ended": True, "pid": os.getpid()}

    async def _last_answers(self) -> None:
        with trio.move_on_after(limits.leave_seconds):
            while self._answering:
                await self._answered.wait()
                self._answered = trio.Event()


async def _reply(stream: trio.SocketStream, reply: control.Doc) -> None:
    await stream.send_all(json.dumps(reply).encode() + b"\n")


async def _request(stream: trio.SocketStream) -> control.Doc:
    data = b""
    while not data.endswith(b"\n"):
        more = await stream.receive_some(limits.request_bytes_max)
        data += more
        if not more and not data:
            raise _Gone
        if not more or len(data) > limits.request_bytes_max:
            raise ValueError("a request must be one line of JSON")
    doc = json.loads(data)
    if not isinstance(doc, dict):
        raise ValueError("a request must be a JSON object")
    return doc
