"""Stressors of stress-ng: many processes that do one kind of thing to the mount at once and check what they read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mounted.conftest import Mount, needs_root
from tests.mounted.programs import run
from tests.mounted.test_law import imported

pytestmark = [pytest.mark.mounted, pytest.mark.slow, needs_root]

GROUPS = {
    "names": ("dentry", "dir", "dirdeep", "dirmany", "filename", "getdent", "link", "mknod", "rename", "symlink"),
    "attributes": ("access", "chmod", "chown", "fstat", "utime", "xattr"),
    "content": ("copy-file", "fallocate", "fpunch", "hdd", "iomix", "mmap", "open", "seek", "sendfile", "sync-file"),
    "locks and watches": ("dup", "fcntl", "flock", "inotify", "lease", "locka", "lockf", "lockofd"),
}
SIZES = {  # what they would use by themselves is a gigabyte
    "hdd": ("--hdd-bytes", "16m"),
    "iomix": ("--iomix-bytes", "16m"),
    "fallocate": ("--fallocate-bytes", "16m"),
    "copy-file": ("--copy-file-bytes", "128m"),
    "seek": ("--seek-size", "16m"),
    "mmap": ("--mmap-file", "--mmap-bytes", "4m"),
}
SECONDS = 1
WORKERS = 2


@pytest.mark.parametrize("group", GROUPS)
def test_stressors_find_nothing_wrong(machine: Mount, mount: Path, group: str) -> None:
    for stressor in GROUPS[group]:
        argv = ["--temp-path", mount, f"--{stressor}", str(WORKERS), *SIZES.get(stressor, ())]
        run("stress-ng", "--verify", "--oomable", "--timeout", str(SECONDS), *argv)
    assert imported(mount) == machine.checkpoint() == machine.remount() == imported(mount)
