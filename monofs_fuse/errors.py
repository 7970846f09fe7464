"""Errors of the mount, and the one table from every error to the errno that a program sees."""

from __future__ import annotations

import errno
from typing import Final

from store import errors as store_errors
from store.acl import BadAcl
from store.errors import MonofsError


class Errno(MonofsError):
    """An operation that POSIX says must fail, with this errno."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.number = number


class MountError(MonofsError):
    """A mount that cannot be made, reached or ended; the text says what to do."""


_TABLE: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (BadAcl, errno.EINVAL),
    (store_errors.NoSpace, errno.ENOSPC),
    (store_errors.TooLarge, errno.EFBIG),
    (store_errors.StoreError, errno.EIO),
    (MemoryError, errno.ENOMEM),
)


def number_of(error: BaseException) -> int:
    """Return the errno for `error`; EIO for whatever nobody thought of."""
    if isinstance(error, Errno):
        return error.number
    for kind, number in _TABLE:
        if isinstance(error, kind):
            return number
    return errno.EIO
