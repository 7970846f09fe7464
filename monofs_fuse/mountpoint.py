"""A mount point: what the kernel has there, who uses it, and how it is let go."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from monofs_fuse import limits
from monofs_fuse.errors import MountError

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH: Final = 2


class Mounted(NamedTuple):
    """A line of mountinfo(5)."""

    device: str  # major:minor
    kind: str
    source: str


def mounted(path: str) -> Mounted | None:
    """Return what is mounted on exactly `path`, the topmost if several are."""
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split()
        if _unescaped(fields[4]) == os.fsencode(path):
            kind, source = after.split()[:2]
            found = Mounted(fields[2].decode(), kind.decode(), os.fsdecode(_unescaped(source)))
    return found


def check_free(path: str) -> str:
    """Return the real path of a free directory; one that a dead daemon left behind is cleared. Raises MountError."""
    real = os.path.realpath(path)
    try:
        names = os.listdir(real)
    except FileNotFoundError:
        raise MountError(f"no directory {path}: make it first (mkdir {path})") from None
    except NotADirectoryError:
        raise MountError(f"{path} is not a directory") from None
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED) and _is_ours(mounted(real)):
            detach(real, lazy=True)
            return check_free(real)
        raise MountError(f"cannot use {path}: {error.strerror}") from None
    if (there := mounted(real)) is not None:
        raise MountError(f"{path} is a mount point already ({there.kind}): 'monofs umount {path}' first")
    if names:
        raise MountError(f"{path} is not empty: mount on an empty directory, or what is in it would be hidden")
    return real


def check_fuse(allow_other: bool) -> None:
    """Raise MountError, saying what to install or change, if no FUSE filesystem can be mounted."""
    if not os.path.exists("/dev/fuse"):
        raise MountError(
            "no /dev/fuse here: load the kernel's module (modprobe fuse) or pass the device to the container"
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise MountError("/dev/fuse cannot be opened by this user")
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise MountError("no fusermount3 here: install the package fuse3 (apt install fuse3)")
    if allow_other and not _user_allow_other():
        raise MountError("--allow-other needs a line 'user_allow_other' in /etc/fuse.conf")


def detach(path: str, *, lazy: bool) -> None:
    """Unmount. Raises OSError with EBUSY if it is in use and not `lazy`, MountError for anything else."""
    if os.geteuid() == 0:
        if _LIBC.umount2(os.fsencode(path), _MNT_DETACH if lazy else 0) != 0:
            number = ctypes.get_errno()
            if number == errno.EBUSY:
                raise OSError(number, os.strerror(number), path)
            raise MountError(f"cannot unmount {path}: {os.strerror(number)}")
        return
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        if "busy" in done.stderr.lower():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        raise MountError(f"cannot unmount {path}: {done.stderr.strip()}")


def flush(path: str) -> None:
    """Have the kernel write back what it holds for the filesystem. Never call it on the mount's own thread."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(fd)


def holders(path: str) -> list[str]:
    """Return who keeps the mount busy, as 'command (pid)', as far as this user may see."""
    found = []
    inside = os.path.join(path, "")
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        if any(link == path or link.startswith(inside) for link in _open_paths(entry.path)):
            found.append(f"{_command(entry.path)} ({entry.name})")
    return found


def read_ahead(path: str) -> None:
    """Let the kernel read further ahead (root only): sequential reads arrive in pieces of this size."""
    there = mounted(path)
    if there is not None and os.geteuid() == 0:
        try:
            Path(f"/sys/class/bdi/{there.device}/read_ahead_kb").write_text(str(limits.read_ahead_kb))
        except OSError:
            return  # a container without /sys: slower, not wrong


def _open_paths(process: str) -> list[str]:
    links = [f"{process}/cwd", f"{process}/root", f"{process}/exe"]
    try:
        links += [f"{process}/fd/{fd}" for fd in os.listdir(f"{process}/fd")]
        maps = Path(f"{process}/maps").read_text(errors="surrogateescape").splitlines()
        paths = [line.split(maxsplit=5)[5] for line in maps if line.count("/")]
    except (OSError, IndexError):
        paths = []
    for link in links:
        try:
            paths.append(os.readlink(link))
        except OSError:
            continue
    return paths


def _command(process: str) -> str:
    try:
        return Path(f"{process}/comm").read_text().strip()
    except OSError:
        return "?"


def _is_ours(there: Mounted | None) -> bool:
    return there is not None and there.kind == "fuse.monofs"


def _user_allow_other() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _unescaped(field: bytes) -> bytes:
    """mountinfo writes space, tab, newline and backslash as octal."""
    parts = field.split(b"\\")
    return parts[0] + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in parts[1:])
