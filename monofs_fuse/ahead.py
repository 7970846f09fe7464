"""Reading ahead of the kernel: small files are put into its cache while they are opened."""

from __future__ import annotations

import logging
import os
from typing import Final

import pyfuse3

from monofs_fuse import limits
from monofs_fuse.inodes import Inode
from monofs_fuse.worktree import Worktree
from store.errors import MonofsError

log = logging.getLogger(__name__)
_PROBE_EVERY: Final = 16  # files


class Ahead:
    """Spares the kernel a request for every small file, in programs that read what they open.

    Whether they do is found out from one file in so many, which is left to the kernel to ask for.
    """

    def __init__(self, tree: Worktree) -> None:
        self._tree = tree
        self._files = 0
        self._probe = 0  # the inode number of a file that was opened, and was neither read nor closed yet
        self._is_worth_it = False

    def opening(self, inode: Inode, flags: int) -> None:
        """To be called before the kernel hears that `inode` is open.

        Only the first time that the kernel opens what it knows: later it may have pages that are newer than what we
        know of, or locked while it waits for us to fill them.
        """
        if inode.is_cached:
            return
        inode.is_cached = True
        is_small = 0 < inode.size <= limits.ahead_bytes_max
        if not is_small or inode.draft is not None or flags & os.O_ACCMODE != os.O_RDONLY:
            return
        self._files += 1
        if self._files % _PROBE_EVERY == 1:
            self._probe = inode.ino
        elif self._is_worth_it:
            self._push(inode)

    def read(self, ino: int) -> None:
        if ino == self._probe:
            self._probe, self._is_worth_it = 0, True

    def closed(self, ino: int) -> None:
        if ino == self._probe:
            self._probe, self._is_worth_it = 0, False

    def _push(self, inode: Inode) -> None:
        try:
            pyfuse3.notify_store(inode.ino, 0, self._tree.read(inode, 0, inode.size))
        except (MonofsError, OSError) as error:  # it is not lost: the kernel will ask, and hear of the error then
            log.debug("not read ahead: %s", error)
