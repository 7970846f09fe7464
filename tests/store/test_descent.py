"""Going down and coming back: only through real directories, with few descriptors, and never somewhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from store import limits
from store.descent import Descent
from store.errors import StoreError, TooLarge

NAMES = [b"a", b"b", b"c", b"d", b"e"]


@pytest.fixture
def descent(tmp_path: Path) -> Descent:
    (tmp_path / "a/b/c/d/e").mkdir(parents=True)
    return Descent(os.open(tmp_path, os.O_RDONLY))


def is_at(descent: Descent, path: Path) -> bool:
    found = os.stat(path)
    return os.path.samestat(os.fstat(descent.fd), found) and descent.identity == (found.st_dev, found.st_ino)


@pytest.mark.parametrize("held", [1, 2, 3, 128])
def test_down_and_up_again(tmp_path: Path, descent: Descent, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(limits, "open_directories_max", held)
    before = len(os.listdir("/proc/self/fd"))
    with descent:
        for _ in range(2):
            here = tmp_path
            for depth, name in enumerate(NAMES, 1):
                here = here / os.fsdecode(name)
                assert descent.enter(name) == descent.fd
                assert is_at(descent, here)
                assert descent.depth == depth
                assert len(os.listdir("/proc/self/fd")) <= before + held - 1
            while descent.depth:
                left = descent.leave()
                assert os.path.samestat(os.fstat(left), here.stat())
                os.close(left)
                here = here.parent
                assert is_at(descent, here)
    assert len(os.listdir("/proc/self/fd")) == before - 1


@pytest.mark.parametrize("name", ["link", "file", "missing"])
def test_what_is_no_directory_is_not_entered(tmp_path: Path, descent: Descent, name: str) -> None:
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "file").touch()
    with descent:
        with pytest.raises(OSError):
            descent.enter(os.fsencode(name))
        assert is_at(descent, tmp_path)


def test_there_is_a_deepest_place(tmp_path: Path, descent: Descent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "depth_max", 2)
    with descent:
        descent.enter(b"a")
        descent.enter(b"b")
        with pytest.raises(TooLarge, match="2 deep"):
            descent.enter(b"c")
        assert is_at(descent, tmp_path / "a/b")


def test_back_up_is_where_we_came_from_or_nowhere(
    tmp_path: Path, descent: Descent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "open_directories_max", 1)
    with descent:
        for name in NAMES[:3]:
            descent.enter(name)
        (tmp_path / "a/b/c").rename(tmp_path / "c")
        with pytest.raises(StoreError, match="moved"):
            descent.leave()
