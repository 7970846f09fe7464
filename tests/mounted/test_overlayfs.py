"""overlayfs of the kernel with a mount below it, and with a mount as the layer that takes the changes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounted.conftest import Mount, needs_root
from tests.mounted.programs import CAPABILITY, listing, run, shell
from tests.mounted.test_law import imported

pytestmark = [pytest.mark.mounted, pytest.mark.slow, needs_root]


@contextmanager
def overlay(lower: Path, upper: Path, scratch: Path, merged: Path) -> Iterator[Path]:
    for path in (upper, scratch, merged):
        path.mkdir(exist_ok=True)
    layers = f"lowerdir={lower},upperdir={upper},workdir={scratch}"
    run("mount", "-t", "overlay", "overlay", "-o", layers, merged)
    try:
        yield merged
    finally:
        run("umount", merged)


def change(both: Path) -> None:
    """What makes overlayfs copy up, hide names and directories, and move what is hidden. All that is new is as old.

    Hard links are let be: overlayfs breaks them, and shows it in ways that depend on which layers share a filesystem.
    """
    (both / "text").write_text("changed above")
    (both / "many/file-1").unlink()
    (both / "new").write_text("new")
    os.setxattr(both / "text", "user.above", b"1")
    os.chmod(both / "bin/tool", 0o711)
    os.chown(both / "sparse", 77, 88)
    os.link(both / "new", both / "new-linked")
    shell(
        """
        rm -r shared; mkdir shared; touch shared/only
        mv empty renamed
        mv many/file-7 deep/er/
        mv many/file-5 larger
        ln -sfn elsewhere link
        mkfifo shared/fifo
        printf more >> many/file-9
        rm -r deep/er/and
        find . -newermt 2002-01-01 -exec touch -h -d @1000000000.123456789 {} +
        """,
        both,
    )


def test_a_mount_as_the_lower_layer(work: Path, source: Path, home: Path) -> None:
    run("cp", "-a", f"{source}/.", work)
    with overlay(work, home / "upper", home / "scratch", home / "both") as both:
        assert {name.split("\t")[0] for name in listing(both)} == {name.split("\t")[0] for name in listing(source)}
        assert (both / "large").read_bytes() == (source / "large").read_bytes()
        change(both)
        assert not (both / "many/file-1").exists() and (both / "text").read_text() == "changed above"
    assert imported(work) == imported(source)


def test_a_mount_as_the_upper_layer(machine: Mount, work: Path, source: Path, home: Path) -> None:
    """The merged tree is what it is with a plain directory as the upper layer, and still is after a remount."""
    os.chmod(source / "bin/tool", 0o755)  # SEMANTICS.md: set-id bits do not outlive a copy up
    run("setcap", CAPABILITY, source / "bin/tool")
    with overlay(source, home / "upper", home / "scratch", home / "expected") as expected:
        change(expected)
        with overlay(source, work / "upper", work / "scratch", home / "both") as both:
            change(both)
            assert listing(both) == listing(expected)
            assert imported(both) == imported(expected)
        whiteout = (work / "upper/many/file-1").lstat()
        assert stat.S_ISCHR(whiteout.st_mode) and whiteout.st_rdev == 0
        assert os.getxattr(work / "upper/shared", "trusted.overlay.opaque") == b"y"
        machine.remount()
        with overlay(source, work / "upper", work / "scratch", home / "both") as both:
            assert imported(both) == imported(expected)
            (both / "after").write_text("a second time")
            assert sorted(os.listdir(both)) == sorted([*os.listdir(expected), "after"])
