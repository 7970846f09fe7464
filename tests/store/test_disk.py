"""What the disk says about a file: its bytes, holes and attributes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import disk, limits
from tests.store.models import examples
from tests.suites import trees

PAGE = 4096


def read(path: Path) -> tuple[bytes, int]:
    """Return the bytes as `pieces` tells them, and how many of them it says are in holes."""
    fd = os.open(path, os.O_RDONLY)
    try:
        pieces = list(disk.pieces(fd, os.fstat(fd)))
    finally:
        os.close(fd)
    assert all(data is None or len(data) == length for length, data in pieces)
    return (
        b"".join(bytes(length) if data is None else data for length, data in pieces),
        sum(length for length, data in pieces if data is None),
    )


@given(
    st.integers(0, 64 * PAGE),
    st.dictionaries(st.integers(0, 64 * PAGE), st.binary(min_size=1, max_size=3 * PAGE), max_size=8),
    st.sampled_from([1, PAGE - 1, PAGE, limits.read_bytes]),
)
@examples(200)
def test_pieces_are_the_file(size: int, data: dict[int, bytes], step: int) -> None:
    with trees.ground() as ground, pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "read_bytes", max(step, PAGE // 2))
        trees.sparse(ground / "file", size, data)
        assert read(ground / "file")[0] == (ground / "file").read_bytes()


def test_holes_are_found(ground: Path) -> None:
    trees.sparse(ground / "file", 1 << 30, {1 << 20: b"x", 1 << 29: b"y"})
    fd = os.open(ground / "file", os.O_RDONLY)
    pieces = list(disk.pieces(fd, os.fstat(fd)))
    os.close(fd)
    assert sum(length for length, _ in pieces) == 1 << 30
    assert sum(length for length, data in pieces if data is not None) < 1 << 20


def test_a_filesystem_that_knows_no_holes_is_read_throughout(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.sparse(ground / "file", 1 << 20, {70_000: b"x"})
    real = os.lseek

    def lseek(fd: int, offset: int, whence: int) -> int:
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, "no such thing")
        return real(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", lseek)
    assert read(ground / "file") == ((ground / "file").read_bytes(), 0)


def test_reads_may_be_short(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ground / "file").write_bytes(bytes(range(200)))
    real = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: real(fd, min(size, 7)))
    fd = os.open(ground / "file", os.O_RDONLY)
    assert disk.read(fd, 200) == bytes(range(200))
    assert disk.read(fd, 200) == b""
    os.close(fd)
    assert read(ground / "file")[0] == bytes(range(200))


def patched_xattrs(monkeypatch: pytest.MonkeyPatch, values: dict[str, bytes | int]) -> None:
    """Let files have these attributes; a number is the error that reading it gives."""

    def get(file: Any, name: bytes, **_: Any) -> bytes:
        value = values[os.fsdecode(name)]
        if isinstance(value, int):
            raise OSError(value, os.strerror(value))
        return value

    monkeypatch.setattr(os, "listxattr", lambda *_, **__: list(values))
    monkeypatch.setattr(os, "getxattr", get)


def test_labels_of_this_machine_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"security.selinux": b"label", "security.evm": b"key", "security.capability": b"caps", "user.a": b"1"}
    patched_xattrs(monkeypatch, dict(values))
    assert disk.xattrs(0) == ((b"security.capability", b"caps"), (b"user.a", b"1"))


def test_attributes_that_vanish_or_are_not_for_us_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    patched_xattrs(monkeypatch, {"user.gone": errno.ENODATA, "security.secret": errno.EACCES, "user.a": b"1"})
    assert disk.xattrs(0) == ((b"user.a", b"1"),)
    patched_xattrs(monkeypatch, {"user.broken": errno.EIO})
    with pytest.raises(OSError):
        disk.xattrs(0)


def test_a_filesystem_without_attributes_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def listxattr(*_: Any, **__: Any) -> list[str]:
        raise OSError(errno.ENOTSUP, "not here")

    monkeypatch.setattr(os, "listxattr", listxattr)
    assert disk.xattrs(0) == ()
