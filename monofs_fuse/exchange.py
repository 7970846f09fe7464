"""An exchange: what is mounted moves to another version of its name while it is in use.

Somebody outside (see `live`) says `hold`: everything is saved, and edits wait. He makes a new version of what is there,
by a merge for example, and says `move`: the name points at that in one transaction, and the tree under the mount is
swapped. Whatever becomes of him, edits go on when his connection ends.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from monofs_fuse import control, limits, swap
from monofs_fuse.errors import MountError
from monofs_fuse.head import Head
from monofs_fuse.ops import Operations
from monofs_fuse.saver import Saver
from monofs_fuse.swap import Stale
from monofs_fuse.worktree import Worktree
from store import cid as cids
from store import version
from store.errors import BadCid
from store.names import Name

log = logging.getLogger(__name__)


class Exchange:
    def __init__(self, tree: Worktree, saver: Saver, head: Head, operations: Operations, mountpoint: str) -> None:
        self._tree = tree
        self._saver = saver
        self._head = head
        self._operations = operations
        self._mountpoint = mountpoint
        self._waiting: trio.CancelScope | None = None  # for the one who holds the mount
        self._is_over = False

    async def save(self) -> None:
        """Commit all that was written to the mount so far. Raises StoreError."""
        await self._operations.flush_kernel(self._mountpoint)
        await self._saver.save()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """While this lasts all is saved, and edits wait. Raises StoreError, MountError."""
        await self._operations.flush_kernel(self._mountpoint)
        async with self._saver.gate.shut():
            self._check_is_on()
            await self._saver.save()
            yield

    def waiting(self) -> trio.CancelScope:
        """Return a scope in which to wait for the one who holds the mount; he has so much time and no more."""
        self._waiting = trio.move_on_after(limits.hold_seconds_max)
        return self._waiting

    def end(self) -> None:
        """The mount is going: nothing moves any more."""
        self._is_over = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def move(self, request: control.Doc) -> Stale | None:
        """Carry out a `move`, within `held`. Raises MountError, StoreError; then nothing has changed.

        Returns what the kernel must be told after that: not while edits wait, since it may hold a lock for one of them
        that it takes for this, too.
        """
        self._check_is_on()
        old, new = _name(request.get("old")), _name(request.get("new"))
        cache = self._tree.blocks
        target = new.head or version.load_version(cache, new.version).tree
        difference = None
        if target != self._head.tree:
            before, after = self._head.load(), version.load_tree(cache, target)
            between = partial(swap.between, cache, before, after, swap.busy(self._tree))
            difference = await trio.to_thread.run_sync(between)
        await self._saver.on_writer(partial(self._head.move, old, new))
        return None if difference is None else self._swapped(difference)

    def _swapped(self, difference: swap.Difference) -> Stale:
        try:
            return swap.swap(self._tree, difference)
        except BaseException:
            # The store has the new tree, and all that was written is saved. What is in memory now would spoil it.
            log.critical("the tree could not be swapped: the mount ends here", exc_info=True)
            logging.shutdown()
            os._exit(70)

    def _check_is_on(self) -> None:
        if self._is_over:
            raise MountError(f"{self._mountpoint} is being unmounted")


def _name(doc: object) -> Name:
    try:
        if isinstance(doc, dict):
            head = doc["head"]
            return Name(cids.parse(doc["version"]), None if head is None else cids.parse(head), bool(doc["made_up"]))
    except (KeyError, TypeError, AttributeError, BadCid):
        pass
    raise MountError("a request to move must say from what to what")
