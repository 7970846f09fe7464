"""vm cp: into a tree and out of it, whatever the guest has put in the way."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fuse.cli_command import plant
from vmm import limits
from vmm.confined import make_directories, open_in
from vmm.copying import into, out_of


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree whose links all try to get out, beside a secret."""
    plant(tmp_path, {"secret/file": b"secret", "tree/etc/passwd": b"the tree's", "tree/dir/f": b"f"})
    root = tmp_path / "tree"
    outside = f"{tmp_path}/secret"
    (root / "absolute").symlink_to(outside)
    (root / "relative").symlink_to("../secret")
    (root / "dir/up").symlink_to("../../../secret/file")
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "around").symlink_to("around")
    (root / "proc").symlink_to(f"/proc/self/fd/{os.open(outside, os.O_RDONLY)}")
    return root


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_nothing_leads_out(root: int, tree: Path) -> None:
    for path in (
        "absolute/file",
        "relative/file",
        "dir/up",
        "../secret/file",
        "/../secret/file",
        "proc/file",
        "around",
    ):
        with pytest.raises(OSError):
            os.close(open_in(root, path, os.O_RDONLY))
    descriptor = open_in(root, "passwd", os.O_RDONLY)
    assert os.read(descriptor, 100) == b"the tree's", "a link to an absolute path is meant inside"
    os.close(descriptor)


def test_directories_are_made_inside(root: int, tree: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for path in ("/", "dir", "absolute/new", "relative/new", "dir/up/new", "around/new", "dir/f/new", "proc/x/new"):
        make_directories(root, path)
    assert sorted(tmp_path.rglob("*")) == before, "what is there, and what is in the way, stays as it is"
    (tree / "link").symlink_to("/dir")
    make_directories(root, "/srv/a b/c")
    make_directories(root, "link/new")
    assert (tree / "srv/a b/c").stat().st_mode & 0o777 == 0o755 & ~umask()
    assert (tree / "dir/new").is_dir()


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


@pytest.mark.parametrize("path", ["absolute/file", "relative", "dir/up", "../secret", "proc", "around", "nothing"])
def test_nothing_is_copied_out_from_elsewhere(root: int, tmp_path: Path, path: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    try:
        skipped = out_of(root, path, str(target))
    except OSError:
        skipped = [(path, "")]
    copied = [found for found in target.rglob("*") if found.is_file() and not found.is_symlink()]
    assert copied == [] and skipped, "neither is it silent"


@pytest.mark.parametrize("path", ["absolute", "relative/new", "dir/up", "../secret/file", "proc/file"])
def test_nothing_is_copied_in_to_elsewhere(root: int, tmp_path: Path, path: str) -> None:
    plant(tmp_path, {"mine": b"mine"})
    with suppress(OSError):
        into(root, str(tmp_path / "mine"), path)
    assert os.listdir(tmp_path / "secret") == ["file"]
    assert (tmp_path / "secret/file").read_bytes() == b"secret"


def test_links_in_what_is_copied_stay_links(root: int, tree: Path, tmp_path: Path) -> None:
    assert out_of(root, "/", str(tmp_path / "all")) == []
    assert os.readlink(tmp_path / "all/absolute") == f"{tmp_path}/secret"
    assert os.readlink(tmp_path / "all/dir/up") == "../../../secret/file"


def test_a_target_that_is_a_link_by_now_is_replaced(root: int, tree: Path, tmp_path: Path) -> None:
    plant(tmp_path, {"in/up": b"mine", "in/f": b"mine"})
    assert into(root, str(tmp_path / "in/up"), "dir") == []
    assert (tree / "dir/up").read_bytes() == b"mine" and not (tree / "dir/up").is_symlink()
    assert (tmp_path / "secret/file").read_bytes() == b"secret"


def test_fifos_and_devices_are_named_and_do_not_hold_it_up(root: int, tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tree / "dir/fifo")
    skipped = out_of(root, "dir", str(tmp_path / "out"))
    assert [(os.path.basename(path), why) for path, why in skipped] == [
        ("fifo", "neither a file, a directory nor a symbolic link")
    ]
    assert (tmp_path / "out/f").read_bytes() == b"f"
    plant(tmp_path, {"mine": b"mine"})
    assert len(into(root, str(tmp_path / "mine"), "dir/fifo")) == 1


def test_a_very_deep_tree(root: int, tree: Path, tmp_path: Path) -> None:
    at = os.open(tree, os.O_RDONLY)
    for _ in range(limits.copy_depth_max + 50):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    ((_, why),) = out_of(root, "d", str(tmp_path / "deep"))
    assert "deep" in why


def test_modes_times_and_content(root: int, tree: Path, tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(3_000_000)
    plant(tmp_path, {"big": data})
    os.chmod(tmp_path / "big", 0o6750)
    os.utime(tmp_path / "big", ns=(1, 1_234_567_891_234_567_891))
    assert into(root, str(tmp_path / "big"), "/dir/") == []
    found = (tree / "dir/big").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o6750, 1_234_567_891_234_567_891)
    assert out_of(root, "dir/big", str(tmp_path / "back")) == []
    found = (tmp_path / "back").stat()
    assert stat.S_IMODE(found.st_mode) == 0o750
    assert (tmp_path / "back").read_bytes() == data
    assert len(out_of(root, "dir/big", str(tree / "dir"))) == 1, "onto itself"
    assert (tree / "dir/big").read_bytes() == data
