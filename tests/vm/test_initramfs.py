"""The initramfs: that the kernel could unpack it, and that it is small and the same each time."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from vmm import initramfs, kernel, limits
from vmm.errors import NoCompiler, NoKernel
from vmm.initramfs import Node

DEBIAN = ["virtio_pci", "virtiofs", "virtio_console"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def found(cache: Path) -> kernel.Kernel:
    return kernel.find(cache, None)


def test_an_archive_is_what_others_read(tmp_path: Path) -> None:
    nodes = [
        Node("dir", stat.S_IFDIR | 0o755),
        Node("dir/file", stat.S_IFREG | 0o640, b"hello"),
        Node("dir/empty", stat.S_IFREG | 0o600),
        Node("dir/odd name", stat.S_IFREG | 0o644, bytes(range(256)) * 5),
    ]
    made = initramfs.archive(nodes)
    subprocess.run(["bsdtar", "-xf", "-"], input=made, cwd=tmp_path, check=True)
    for node in nodes:
        path = tmp_path / node.name
        assert path.stat().st_mode == node.mode
        assert path.is_dir() or path.read_bytes() == node.data
    assert initramfs.archive(nodes) == made


def test_devices_are_in_it_too() -> None:
    made = initramfs.archive([Node("console", stat.S_IFCHR | 0o600, device=(5, 1))])
    listed = subprocess.run(["bsdtar", "-tvf", "-"], input=made, capture_output=True, check=True).stdout.decode()
    assert listed.startswith("crw-------") and " 5,1 " in listed


def test_modules_come_after_what_they_need(found: kernel.Kernel) -> None:
    names = [name for name, _ in initramfs.modules(found, [*DEBIAN, "virtio_net", "virtio_mmio"])]
    assert len(set(names)) == len(names)
    for later, sooner in [
        *(("virtio.ko", "virtio_ring.ko"), ("virtio_pci.ko", "virtio_pci_modern_dev.ko"), ("virtiofs.ko", "fuse.ko")),
        *(("virtio_net.ko", "net_failover.ko"), ("net_failover.ko", "failover.ko"), ("virtio_mmio.ko", "virtio.ko")),
    ]:
        assert names.index(later) > names.index(sooner)


def test_what_is_built_in_is_not_looked_for(found: kernel.Kernel, tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "kernel/a.ko.xz: kernel/b.ko.gz kernel/c-d.ko.zst\nkernel/b.ko.gz: kernel/c-d.ko.zst\n"
    )
    (tmp_path / "modules.builtin").write_text("kernel/virtio-pci.ko\n")
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/a.ko.xz").write_bytes(lzma.compress(b"A"))
    (tmp_path / "kernel/b.ko.gz").write_bytes(gzip.compress(b"B"))
    (tmp_path / "kernel/c-d.ko.zst").write_bytes(zstandard.compress(b"C"))
    other = replace(found, modules=tmp_path)
    assert initramfs.modules(other, ["virtio_pci", "a"]) == [("c_d.ko", b"C"), ("b.ko", b"B"), ("a.ko", b"A")]
    with pytest.raises(NoKernel, match="has no virtiofs"):
        initramfs.modules(other, ["virtiofs"])
    assert initramfs.modules(replace(found, modules=None), DEBIAN) == []
    (tmp_path / "kernel/a.ko.xz").unlink()
    with pytest.raises(NoKernel, match="cannot be read"):
        initramfs.modules(other, ["a"])


def test_it_is_small_and_kept(found: kernel.Kernel, cache: Path) -> None:
    first = initramfs.build(cache, found, "tcg", "user")
    assert first.stat().st_size < 2 * limits.MIB
    stamp = first.stat().st_mtime_ns
    assert initramfs.build(cache, found, "tcg", "user") == first and first.stat().st_mtime_ns == stamp
    assert initramfs.build(cache, found, "tcg", "none").stat().st_size < first.stat().st_size
    assert initramfs.build(cache, found, "kvm", "none") != initramfs.build(cache, found, "tcg", "none")
    listed = subprocess.run(["bsdtar", "-tf", str(first)], capture_output=True, check=True, text=True).stdout.split()
    assert {"init", "dev/console"} <= set(listed)


def test_the_agent_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = initramfs.agent(cache)
    stamp = built.stat().st_mtime_ns
    assert initramfs.agent(cache) == built and built.stat().st_mtime_ns == stamp
    assert built.stat().st_size < 200 * limits.KIB
    said = (
        subprocess.run(["file", str(built)], capture_output=True, text=True).stdout
        if shutil.which("file")
        else "static"
    )
    assert "static" in said


def test_any_static_compiler_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "_COMPILERS", ("gcc",))
    assert os.access(initramfs.agent(tmp_path), os.X_OK)


def test_no_compiler_and_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "_COMPILERS", ("monofs-no-such-compiler",))
    with pytest.raises(NoCompiler, match="apt-get install musl-tools"):
        initramfs.agent(tmp_path)
    monkeypatch.setattr(initramfs, "_COMPILERS", ("gcc",))
    monkeypatch.setattr(initramfs, "_FLAGS", ("-no-such-flag",))
    with pytest.raises(NoCompiler, match="no-such-flag") as caught:
        initramfs.agent(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("agent-*"))
