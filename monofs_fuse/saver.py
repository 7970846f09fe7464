"""The saver: decides when to commit, and lets those wait who asked for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from monofs_fuse import commit, limits
from monofs_fuse.gate import Gate
from monofs_fuse.head import Head
from monofs_fuse.inodes import Inode
from monofs_fuse.worktree import Worktree
from store.cid import Cid
from store.errors import MonofsError, StoreError
from store.retention import Policy

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Waiter:
    """Somebody who waits for a commit that begins after now."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: MonofsError | None = None


class Saver:
    def __init__(self, tree: Worktree, head: Head | None) -> None:
        self._tree = tree
        self._head = head  # None: the mount is read-only
        self._wanted = trio.Event()
        self._waiters: list[_Waiter] = []
        self._writing = trio.Lock()
        self._committing_bytes = 0
        self._failed: dict[Inode, StoreError] = {}  # files whose content the last commit could not write
        self.error: MonofsError | None = None  # why the last commit failed
        self.last_commit = time.time()
        self._next_gc = 0.0
        self.gate = Gate()
        self.before_waiting: Callable[[], None] = lambda: None

    @property
    def tree(self) -> Cid | None:
        """The tree last committed."""
        return None if self._head is None else self._head.tree

    @property
    def unsaved_bytes(self) -> int:
        return self._tree.unsaved_bytes + self._committing_bytes

    @property
    def is_full(self) -> bool:
        """True if nobody may add to the edits before something was saved."""
        return (
            self._tree.unsaved_bytes + self._committing_bytes > limits.unsaved_bytes_hard
            or self._tree.dirty_names > limits.dirty_names_hard
        )

    @property
    def is_wanted(self) -> bool:
        """True if a commit is about to begin."""
        return self._wanted.is_set()

    def poke(self) -> None:
        """Begin a commit now if there is much to save."""
        tree = self._tree
        if tree.unsaved_bytes > limits.unsaved_bytes_soft:
            is_scattered = tree.unsaved_bytes < tree.unsaved_writes * limits.scattered_write_bytes
            if not is_scattered or tree.unsaved_bytes > limits.unsaved_bytes_scattered:
                self._wanted.set()
        if tree.dirty_names > limits.dirty_names_soft:
            self._wanted.set()

    def is_ready(self, *, more: bool) -> bool:
        """True if an edit may be made now; with `more`, one that has to be kept in memory."""
        return not (self.gate.is_shut or (more and self.is_full))

    async def ready(self, *, more: bool) -> None:
        """Wait until `is_ready`. Raises NoSpace and so on if there is no room and it cannot be made."""
        while not self.is_ready(more=more):
            if self.gate.is_shut:
                await self.gate.open()
            else:
                await self._next_commit()

    async def save(self, inode: Inode | None = None) -> None:
        """Return once everything done before this call is on disk. Raises StoreError if it is not.

        With an `inode` an error in the content of other files does not count.
        """
        if self._tree.is_dirty or self._writing.locked() or self.error is not None:
            await self._next_commit()
        if inode is not None and inode in self._failed:
            raise self._failed[inode]
        if inode is None and self._failed:
            raise next(iter(self._failed.values()))

    async def checkpoint(self, message: str) -> Cid:
        """Save, and make a Version of the tree. Returns the tree's CID."""
        async with self.gate.alone():
            await self.save()
            assert self._head is not None
            return await self.on_writer(partial(self._head.checkpoint, message))

    async def checkpoint_news(self, message: str) -> bool:
        """Do so if the tree is not that of the last version. Returns True if there is a new one."""
        async with self.gate.alone():
            await self.save()
            assert self._head is not None
            if not self._head.is_ahead:
                return False
            await self.on_writer(partial(self._head.checkpoint, message))
            return True

    async def prune(self, policy: Policy) -> None:
        """Let go of old versions of the name."""
        assert self._head is not None
        async with self.gate.alone():
            await self.on_writer(partial(self._head.prune, policy))

    async def run(self) -> None:
        """Commit when somebody waits, when there is much to save, and every `commit_seconds`."""
        while True:
            with trio.move_on_after(limits.commit_seconds):
                await self._wanted.wait()
            await self._round()

    async def _round(self) -> None:
        self._wanted = trio.Event()
        waiters, self._waiters = self._waiters, []
        try:
            await self._commit()
            self.error = None
        except MonofsError as error:
            if str(error) != str(self.error):
                log.error("cannot save: %s", error)
            self.error = error
        except Exception as error:  # nobody thought of it: the edits are unsaved again, and the mount goes on
            log.exception("cannot save")
            self.error = StoreError(f"cannot save: {error!r}")
        for waiter in waiters:
            waiter.error = self.error
            waiter.done.set()
        if self.error is None and self._head is not None and not self._waiters:
            await self._collect()

    async def _commit(self) -> None:
        if self._head is None or not self._tree.is_dirty:
            return
        frozen = commit.freeze(self._tree)
        self._committing_bytes = sum(file.draft.bytes for file in frozen.files.values())
        try:
            written = await self.on_writer(partial(self._head.save, frozen))
        except BaseException:
            commit.undo(self._tree, frozen)
            raise
        finally:
            self._committing_bytes = 0
        commit.settle(self._tree, frozen, written)
        for inode, error in written.failed.items():
            if inode not in self._failed:
                log.error("cannot save inode %d: %s", inode.ino, error)
        self._failed = written.failed
        self.last_commit = time.time()

    async def _collect(self) -> None:
        assert self._head is not None
        if trio.current_time() < self._next_gc:
            return
        self._next_gc = trio.current_time() + limits.gc_seconds
        try:
            for _ in range(limits.gc_steps_per_commit):
                freed = await self.on_writer(self._head.collect)
                if self._waiters or not freed.waiting:
                    return
        except MonofsError as error:
            log.warning("gc: %s", error)
        except Exception:  # nobody thought of it: garbage can wait, the mount goes on
            log.exception("gc")

    async def _next_commit(self) -> None:
        waiter = _Waiter()
        self._waiters.append(waiter)
        self._wanted.set()
        self.before_waiting()
        await waiter.done.wait()
        if waiter.error is not None:
            raise waiter.error

    async def on_writer(self, work: Callable[[], _T]) -> _T:
        """Run `work` on a thread, one at a time; it is never given up half done."""
        async with self._writing:
            return await trio.to_thread.run_sync(work, abandon_on_cancel=False)
