"""The way down into a directory tree on disk: descriptors, never paths, and few of them at any depth."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Final

from store import limits
from store.errors import StoreError, TooLarge

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = tuple[int, int]  # (st_dev, st_ino)

_IN_PEACE: Final = "try again when nobody changes the tree"


class Descent:
    """Directories from a root down to the one we are in. Takes over `root`, a descriptor.

    Only the innermost `open_directories_max` are held open. One further up is opened again through `..` on the way
    back, and must be the one we came through.
    """

    def __init__(self, root: int) -> None:
        self._open = [root]  # innermost last
        self._identities = [_identity(root)]  # of every directory on the way

    def __enter__(self) -> Descent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            os.close(self._open.pop())

    @property
    def fd(self) -> int:
        """The directory we are in."""
        return self._open[-1]

    @property
    def identity(self) -> Identity:
        return self._identities[-1]

    @property
    def depth(self) -> int:
        return len(self._identities) - 1

    def enter(self, name: bytes) -> int:
        """Go into the directory `name` and return its descriptor. Raises OSError (a link is not followed), TooLarge."""
        if self.depth >= limits.depth_max:
            raise TooLarge(f"directories may be {limits.depth_max} deep at most")
        fd = os.open(name, DIRECTORY, dir_fd=self.fd)
        self._open.append(fd)
        self._identities.append(_identity(fd))
        if len(self._open) > limits.open_directories_max:
            os.close(self._open.pop(0))
        return fd

    def leave(self) -> int:
        """Go back up. Returns the descriptor of the directory we were in, which the caller now has to close.

        Raises StoreError if somebody moved it meanwhile.
        """
        if len(self._open) == 1 and self.depth:
            self._open.insert(0, self._above())
        self._identities.pop()
        return self._open.pop()

    def _above(self) -> int:
        try:
            fd = os.open("..", DIRECTORY, dir_fd=self.fd)
        except OSError as error:
            raise StoreError(f"there is no way back out of a directory: {error.strerror}; {_IN_PEACE}") from None
        if _identity(fd) != self._identities[-2]:
            os.close(fd)
            raise StoreError(f"a directory was moved while we were inside; {_IN_PEACE}")
        return fd


def _identity(fd: int) -> Identity:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
