"""Finding a kernel, and the image inside it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard

from vmm import kernel
from vmm.errors import NoKernel


def plain(rng: random.Random) -> bytes:
    """Bytes with repetition near and far, as programs have."""
    words = [rng.randbytes(rng.randrange(1, 40)) for _ in range(200)]
    return b"".join(rng.choice(words) * rng.choice([1, 1, 1, 30]) for _ in range(20_000)) + b"\0" * 100_000


def lz4(data: bytes) -> bytes:
    return subprocess.run(["lz4", "-l", "-9", "-c"], input=data, capture_output=True, check=True).stdout


PACKERS = {
    "gzip": lambda data: gzip.compress(data),
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4,
}


@pytest.mark.parametrize("name", PACKERS)
def test_every_way_a_kernel_is_packed(name: str, rng: random.Random) -> None:
    data = plain(rng)
    packed = PACKERS[name](data)
    assert kernel.unpack(packed + struct.pack("<I", len(data))) == data  # as kernels append it


def test_what_is_packed_in_no_known_way() -> None:
    assert kernel.unpack(b"") is None
    assert kernel.unpack(b"\x89LZO\0\r\n\x1a\n" + bytes(100)) is None


def test_damage_is_not_fatal(rng: random.Random) -> None:
    for pack in PACKERS.values():
        packed = pack(plain(rng)[:200_000])
        for _ in range(10):
            damaged = bytearray(packed)
            for _ in range(rng.randrange(1, 20)):
                damaged[rng.randrange(6, len(damaged))] = rng.randrange(256)
            kernel.unpack(bytes(damaged[: rng.randrange(6, len(damaged))]))


def test_the_kernel_of_this_host(tmp_path: Path) -> None:
    found = kernel.find(tmp_path, None)
    assert found.image.parent == tmp_path and found.image.name.startswith("vmlinux-")
    assert kernel.has_pvh_note(found.image.read_bytes())
    assert found.modules is not None and found.modules.name == found.release
    # given by name, as bzImage and as vmlinux, it is the same
    bz_image = Path("/boot") / f"vmlinuz-{found.release}"
    assert kernel.find(tmp_path, bz_image) == found
    assert kernel.find(tmp_path, found.image) == found
    assert oct(found.image.stat().st_mode & 0o777) == "0o644"


def test_no_kernel_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_candidates", lambda root: iter(()))
    with pytest.raises(NoKernel, match="apt-get install linux-image-cloud-amd64"):
        kernel.find(tmp_path, None)


def test_a_kernel_whose_modules_cannot_mount_a_root_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    modules = tmp_path / "lib/modules/6.1.0-cloud"
    modules.mkdir(parents=True)
    (tmp_path / "boot/vmlinuz-6.1.0-cloud").write_bytes(b"x")
    assert not kernel._can_boot(modules)
    (modules / "modules.dep").write_text("kernel/fs/ext4/ext4.ko:\n")
    (modules / "modules.builtin").write_text("")
    assert not kernel._can_boot(modules)
    (modules / "modules.builtin").write_text("kernel/fs/fuse/virtiofs.ko\n")
    assert kernel._can_boot(modules)


def test_cloud_kernels_come_first_and_then_the_newest(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    for name in ("6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64"):
        (tmp_path / "boot" / f"vmlinuz-{name}").touch()
    assert [path.name.removeprefix("vmlinuz-6.1.0-") for path in kernel._candidates(tmp_path)] == [
        *("10-cloud-amd64", "9-cloud-amd64", "10-amd64", "9-amd64")
    ]


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x7fELF" + bytes(100), bytes(0x202) + b"HdrS" + bytes(200), b"MZ" * 1000]
)
def test_what_is_no_kernel(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vmlinuz").write_bytes(content)
    with pytest.raises(NoKernel) as caught:
        kernel.find(tmp_path, tmp_path / "vmlinuz")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_kernel_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NoKernel, match="No such file"):
        kernel.find(tmp_path, tmp_path / "nothing")
    with pytest.raises(NoKernel):
        kernel.find(tmp_path, tmp_path)


def test_damaged_kernels_are_refused_or_used_as_they_are(tmp_path: Path, rng: random.Random) -> None:
    """The header is the only part that we interpret; its numbers lead anywhere."""
    real = next(kernel._candidates(Path("/")))
    for _ in range(20):
        copy = bytearray(real.read_bytes()[:200_000])
        for _ in range(8):
            copy[rng.randrange(0x1F0, 0x270)] = rng.randrange(256)
        (tmp_path / "vmlinuz").write_bytes(copy)
        with suppress(NoKernel):
            kernel.find(tmp_path / "cache", tmp_path / "vmlinuz")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
