"""Opening paths inside a directory that somebody else writes: no symbolic link and no `..` there leads out of it."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from vmm.errors import Outside

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_SYS_OPENAT2: Final = 437  # the same on every architecture
_RESOLVE_NO_XDEV: Final = 0x01
_RESOLVE_IN_ROOT: Final = 0x10


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as if the directory `root` was /; links to absolute paths stay inside, too.

    Raises OSError, and Outside where this kernel cannot promise that.
    """
    how = _How(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_XDEV)
    name = os.fsencode(path)
    if b"\0" in name:
        raise OSError(errno.EINVAL, "a path with a NUL byte", path)
    while True:
        descriptor = _LIBC.syscall(_SYS_OPENAT2, root, name or b".", ctypes.byref(how), ctypes.sizeof(how))
        if descriptor >= 0:
            return int(descriptor)
        number = ctypes.get_errno()
        if number in (errno.EAGAIN, errno.EINTR):  # somebody renamed directories on the way: look again
            continue
        if number == errno.ENOSYS:
            raise Outside("this kernel cannot keep a path inside a tree (openat2 is in Linux 5.6 and later)")
        raise OSError(number, os.strerror(number), path)


def make_directories(root: int, path: str) -> None:
    """Make a directory and those above it, where they are missing. Nothing is done where something else is in the way.

    Raises OSError, and Outside as `open_in` does.
    """
    names = [name for name in path.split("/") if name]
    for count in range(1, len(names) + 1):
        here = "/".join(names[:count])
        try:
            os.close(open_in(root, here, os.O_PATH | os.O_DIRECTORY))
        except FileNotFoundError:
            above = open_in(root, "/".join(names[: count - 1]), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.mkdir(names[count - 1], 0o755, dir_fd=above)
            except FileExistsError:  # a link that leads nowhere
                return
            finally:
                os.close(above)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                return
            raise
