"""What a guest boots into before it has a root: the agent and the modules, as a newc archive."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from . import limits
from .errors import NoCompiler, NoKernel
from .kernel import Kernel, keep
from .spec import EngineChoice, Net

_SOURCES: Final = Path(__file__).parent / "agent"
_FLAGS: Final = ("-std=gnu11", "-Os", "-Wall", "-Wextra", "-static", "-s")
_COMPILERS: Final = ("musl-gcc", "gcc", "cc")


@dataclass(frozen=True)
class Node:
    """One entry of an archive."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(nodes: Iterable[Node]) -> bytes:
    """Return the nodes as newc, which is what the kernel unpacks. The same nodes give the same bytes."""
    parts = []
    end = Node("TRAILER!!!", 0)
    for number, node in enumerate([*nodes, end], 1):
        name = os.fsencode(node.name) + b"\0"
        fields = (
            *(number, node.mode, 0, 0, 2 if stat.S_ISDIR(node.mode) else 1, 0, len(node.data)),
            *(0, 0, *node.device, len(name), 0),
        )
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        parts += [_padded(header + name), _padded(node.data)]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def build(cache: Path, kernel: Kernel, engine: EngineChoice, net: Net) -> Path:
    """Return the path of an initramfs for this kernel and these devices. Raises NoKernel, NoCompiler."""
    nodes = [
        Node("dev", stat.S_IFDIR | 0o755),
        Node("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        Node("modules", stat.S_IFDIR | 0o755),
        Node("init", stat.S_IFREG | 0o755, agent(cache).read_bytes()),
    ]
    for number, (name, data) in enumerate(modules(kernel, wanted(engine, net))):
        nodes.append(Node(f"modules/{number:02d}-{name}", stat.S_IFREG | 0o644, data))
    data = archive(nodes)
    path = cache / f"initramfs-{hashlib.sha256(data).hexdigest()[:32]}"
    if not path.exists():
        keep(path, data)
    return path


def wanted(engine: EngineChoice, net: Net) -> list[str]:
    """The drivers of the devices that `argv` gives such a machine."""
    names = ["virtio_mmio" if engine == "kvm" else "virtio_pci", "virtiofs", "virtio_console"]
    return [*names, "virtio_net"] if net == "user" else names


def modules(kernel: Kernel, names: list[str]) -> list[tuple[str, bytes]]:
    """Return (file name, bytes) of the modules and all that they need, in an order in which they load.

    What is built in is left out. A kernel without modules is believed to have everything built in.
    """
    if kernel.modules is None:
        return []
    try:
        needs = _read_dependencies(kernel.modules / "modules.dep")
        built_in = {_name(line) for line in (kernel.modules / "modules.builtin").read_text().split()}
        order: dict[str, None] = {}
        for name in names:
            if name in built_in:
                continue
            if name not in needs:
                raise NoKernel(f"the kernel {kernel.release} has no {name}; name another with --kernel")
            path, deeper = needs[name]
            # modules.dep lists what a module needs with the deepest last.
            order.update(dict.fromkeys([*reversed(deeper), path]))
        return [(_name(path) + ".ko", _read_module(kernel.modules / path)) for path in order]
    except (OSError, ValueError) as error:
        raise NoKernel(f"the modules of kernel {kernel.release} cannot be read: {error}") from None


def _read_dependencies(path: Path) -> dict[str, tuple[str, list[str]]]:
    found = {}
    for line in path.read_text().splitlines():
        file, _, needs = line.partition(":")
        found[_name(file)] = (file, needs.split())
    return found


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".")[0].replace("-", "_")


def _read_module(path: Path) -> bytes:
    """A module as the kernel loads it, whatever the distribution packed it with."""
    data = path.read_bytes()
    most = limits.initramfs_bytes_max
    match path.suffix:
        case ".xz":
            return lzma.LZMADecompressor().decompress(data, most)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            return zstandard.ZstdDecompressor().stream_reader(data).read(most)
    return data


def agent(cache: Path) -> Path:
    """Return the compiled agent: compiled when its source or the flags have changed. Raises NoCompiler."""
    sources = sorted(_SOURCES.glob("*.[ch]"))
    compiler = next((name for name in _COMPILERS if shutil.which(name)), None)
    told = hashlib.sha256(repr((compiler, _FLAGS)).encode())
    for source in sources:
        told.update(source.name.encode() + b"\0" + source.read_bytes())
    built = cache / f"agent-{told.hexdigest()[:32]}"
    if built.exists():
        return built
    if compiler is None:
        raise NoCompiler(
            "the guest agent has to be compiled once, and there is no compiler: run 'apt-get install musl-tools'"
        )
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = built.with_name(f"{built.name}.{os.getpid()}")
    command = [compiler, *_FLAGS, "-o", str(new), *(str(source) for source in sources if source.suffix == ".c")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        first = (result.stderr.strip() or "no message").splitlines()[0]
        raise NoCompiler(f"{compiler} could not compile the guest agent: {first}; run 'apt-get install musl-tools'")
    new.replace(built)
    return built
