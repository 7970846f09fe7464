"""Putting what an entry says about a file onto a file on disk: owner, attributes, mode and time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final, NamedTuple

from store import entry as entries
from store.batch import Nodes
from store.directory import printable
from store.entry import Entry
from store.errors import Corrupt, NotFound

Report = Callable[[str], None]

_UNCHANGED: Final = (1 << 32) - 1  # chown takes this for "leave it as it is"


class Where(NamedTuple):
    """An open file, or a path; at its end a link is followed or not."""

    file: int | bytes
    follow: bool = True


class Restorer:
    """What cannot be restored is reported and left as it is.

    `owner`: True sets owners, False leaves them to the system, None sets them for root, and for anybody else the
    group of his own files. A file that does not get its owner or group loses the set-id bit that goes with it.
    """

    def __init__(self, source: Nodes, owner: bool | None) -> None:
        self._source = source
        self._user = os.geteuid()
        self._all = self._user == 0 if owner is None else owner
        self._groups = frozenset() if owner is False else frozenset((os.getegid(), *os.getgroups()))

    def restore(self, where: Where, entry: Entry, report: Report) -> None:
        """Do all of it, in the one order in which no step undoes another."""
        mode = entry.mode & ~self._restore_owner(where, entry, report)
        if entry.xattrs:
            self._restore_xattrs(where, entry, report)
        if entry.kind != "symlink":
            _tried(report, "its mode", lambda: os.chmod(where.file, mode))
        times = (entry.mtime, entry.mtime)
        _tried(report, "its time", lambda: os.utime(where.file, ns=times, follow_symlinks=where.follow))

    def _restore_owner(self, where: Where, entry: Entry, report: Report) -> int:
        """Returns the mode bits that the file must not have, since its owner or group is another."""
        own = entry.uid == self._user
        if self._all and _UNCHANGED in (entry.uid, entry.gid):
            report("its owner could not be restored: there can be no such user or group")
            return stat.S_ISUID | stat.S_ISGID
        if self._all:
            uid, gid = entry.uid, entry.gid
        elif own and entry.gid in self._groups:
            uid, gid = -1, entry.gid
        else:
            return (0 if own else stat.S_ISUID) | stat.S_ISGID
        done = _tried(report, "its owner", lambda: os.chown(where.file, uid, gid, follow_symlinks=where.follow))
        return 0 if done else stat.S_ISUID | stat.S_ISGID

    def _restore_xattrs(self, where: Where, entry: Entry, report: Report) -> None:
        try:
            xattrs = entries.unpack_xattrs(self._source, entry)
        except (Corrupt, NotFound) as error:
            report(f"its attributes are lost: {error}")
            return
        # Access lists last: they may take away the right to set anything else.
        for name, value in sorted(xattrs, key=lambda pair: pair[0].startswith(b"system.")):
            _tried(
                report,
                f"its attribute {printable(name)}",
                lambda name=name, value=value: os.setxattr(  # type: ignore[misc]
                    where.file, name, value, follow_symlinks=where.follow
                ),
            )


def _tried(report: Report, what: str, step: Callable[[], None]) -> bool:
    try:
        step()
    except OSError as error:
        report(f"{what} could not be restored: {error.strerror}")
        return False
    return True
