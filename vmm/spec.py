"""What a machine is to be, and what is to run in it: frozen values that cannot be wrong."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, Literal, Self, cast, get_args

from . import limits
from .errors import BadSpec

Net = Literal["none", "user"]
EngineChoice = Literal["auto", "kvm", "tcg"]

_HOSTNAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_MEMORY: Final = re.compile(r"([0-9]{1,15})\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_VARIABLE: Final = re.compile(r"[^=\0]+")
_UNITS: Final = {"": 1, "K": limits.KIB, "M": limits.MIB, "G": limits.GIB, "T": 1024 * limits.GIB}
# Mounted by the agent itself; a volume there would hide what programs rely on.
_TAKEN: Final = ("/", "/dev", "/proc", "/sys")


@dataclass(frozen=True)
class Volume:
    """A folder of the host, seen at a path of the guest. The guest cannot get out of the folder."""

    host: Path
    guest: str
    read_only: bool = False

    def __post_init__(self) -> None:
        _check_host_path(self.host, "a volume's folder")
        _check_guest_path(self.guest, "a volume's place in the guest")
        if self.guest in _TAKEN or self.guest.startswith(("/dev/", "/proc/", "/sys/")):
            raise BadSpec(f"a volume cannot be mounted on {self.guest}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "HOST:GUEST" or "HOST:GUEST:ro"; a relative HOST is meant from here."""
        parts = text.split(":")
        options = parts.pop() if len(parts) == 3 else "rw"
        if len(parts) != 2 or not all(parts) or options not in ("ro", "rw"):
            raise BadSpec(f"{text!r} is not HOST:GUEST or HOST:GUEST:ro")
        return cls(Path(os.path.abspath(parts[0])), os.path.normpath(parts[1]), options == "ro")


@dataclass(frozen=True)
class Publish:
    """A TCP port of the host that leads to one of the guest."""

    host_port: int
    guest_port: int
    host_address: str = "127.0.0.1"

    def __post_init__(self) -> None:
        for port in (self.host_port, self.guest_port):
            if not 1 <= port <= 65535:
                raise BadSpec(f"{port} is not a TCP port")
        try:
            IPv4Address(self.host_address)
        except ValueError:
            raise BadSpec(f"{self.host_address!r} is not an IPv4 address") from None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "HOSTPORT:PORT" or "ADDRESS:HOSTPORT:PORT"."""
        *address, host, guest = ["", *text.split(":")] if ":" in text else ["", "", ""]
        if len(address) > 2 or not all(port.isascii() and port.isdigit() and len(port) <= 5 for port in (host, guest)):
            raise BadSpec(f"{text!r} is not HOSTPORT:PORT, like 8080:80")
        return cls(int(host), int(guest), *[part for part in address if part])


@dataclass(frozen=True)
class MachineSpec:
    """One machine. `root` is a directory of the host, which becomes the guest's root filesystem."""

    root: Path
    root_read_only: bool = False
    memory_bytes: int = 512 * limits.MIB
    cpus: int = 1
    volumes: tuple[Volume, ...] = ()
    net: Net = "none"
    publish: tuple[Publish, ...] = ()
    kernel: Path | None = None
    engine: EngineChoice = "auto"
    hostname: str = "monofs"

    def __post_init__(self) -> None:
        _check_host_path(self.root, "the root")
        if os.path.normpath(self.root) == "/":
            raise BadSpec("the host's own / cannot be a machine's root")
        if self.kernel is not None:
            _check_host_path(self.kernel, "the kernel")
        self._check_size()
        self._check_net()
        self._check_volumes()
        if self.engine not in get_args(EngineChoice):
            raise BadSpec(f"{self.engine!r} is not an engine; there are {', '.join(get_args(EngineChoice))}")
        if len(self.hostname) > limits.hostname_bytes_max or not _HOSTNAME.fullmatch(self.hostname):
            raise BadSpec(f"{self.hostname!r} is not a host name: letters, digits and hyphens, at most 63")

    def _check_size(self) -> None:
        if not limits.memory_bytes_min <= self.memory_bytes <= limits.memory_bytes_max:
            least, most = limits.memory_bytes_min // limits.MIB, limits.memory_bytes_max // limits.GIB
            raise BadSpec(f"a machine's memory is {least}M to {most}G, not {format_memory(self.memory_bytes)}")
        if self.memory_bytes % limits.MIB:
            raise BadSpec(f"a machine's memory is a whole number of MiB, not {self.memory_bytes} bytes")
        if not 1 <= self.cpus <= limits.cpus_max:
            raise BadSpec(f"a machine has 1 to {limits.cpus_max} CPUs, not {self.cpus}")

    def _check_net(self) -> None:
        if self.net not in get_args(Net):
            raise BadSpec(f"{self.net!r} is not a kind of network; there are {', '.join(get_args(Net))}")
        if self.publish and self.net == "none":
            raise BadSpec("a port can be published only with --net user")
        if len(self.publish) > limits.publish_max:
            raise BadSpec(f"at most {limits.publish_max} ports can be published")
        taken = [(one.host_address, one.host_port) for one in self.publish]
        if len(set(taken)) < len(taken):
            raise BadSpec("the same port of the host is published twice")

    def _check_volumes(self) -> None:
        if len(self.volumes) > limits.volumes_max:
            raise BadSpec(f"at most {limits.volumes_max} volumes")
        places = [volume.guest for volume in self.volumes]
        if len(set(places)) < len(places):
            raise BadSpec("two volumes on the same path of the guest")


@dataclass(frozen=True)
class Command:
    """What to run in a machine. `user` is "U[:G]", numbers or names of the tree's own /etc/passwd and /etc/group.

    Where `env` has no PATH, HOME or (on a terminal) TERM, the agent gives the usual ones.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = "/"
    user: str | None = None
    terminal: bool = False
    rows: int = 24
    columns: int = 80

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise BadSpec("no command to run")
        for name, _ in self.env:
            if not _VARIABLE.fullmatch(name):
                raise BadSpec(f"{name[:200]!r} is not the name of an environment variable")
        _check_guest_path(self.workdir, "the working directory")
        if self.user is not None and not re.fullmatch(r"[^:\0]+(:[^:\0]+)?", self.user):
            raise BadSpec(f"{self.user[:200]!r} is not USER or USER:GROUP")
        check_window(self.rows, self.columns)
        strings = self.strings()
        if any(b"\0" in string for string in strings):
            raise BadSpec("an argument or a variable with a NUL byte in it cannot be passed to a program")
        if len(strings) > limits.command_strings_max or sum(map(len, strings)) > limits.command_bytes_max:
            raise BadSpec(
                f"arguments and environment are over the limit of {limits.command_bytes_max // limits.KIB} KiB"
            )

    def strings(self) -> list[bytes]:
        """Return what a program is started with, as the protocol sends it: arguments, variables, directory, user."""
        texts = [*self.argv, *(f"{name}={value}" for name, value in self.env), self.workdir, self.user or ""]
        return [os.fsencode(text) for text in texts]


def parse_memory(text: str) -> int:
    """Read "512M", "2G", "1.0" is not one; a bare number is bytes."""
    found = _MEMORY.fullmatch(text.strip())
    if not found:
        raise BadSpec(f"{text!r} is not an amount of memory, like 512M or 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


def format_memory(count: int) -> str:
    """Write an amount as `parse_memory` reads it, in the largest unit that divides it."""
    for unit, size in reversed(_UNITS.items()):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def parse_env(text: str) -> tuple[str, str]:
    """Read "K=V"; a bare "K" takes the caller's own value, and is an error if there is none."""
    name, equals, value = text.partition("=")
    if not equals:
        if name not in os.environ:
            raise BadSpec(f"{text!r} is neither NAME=VALUE nor set here")
        value = os.environ[name]
    if not name:
        raise BadSpec(f"{text!r} has no name before the '='")
    return name, value


def check_window(rows: int, columns: int) -> None:
    """Refuse a terminal of an impossible size."""
    if not (1 <= rows <= limits.rows_max and 1 <= columns <= limits.rows_max):
        raise BadSpec(f"a terminal cannot have {rows} rows and {columns} columns")


def parse_net(text: str) -> Net:
    """Read a kind of network."""
    if text not in get_args(Net):
        raise BadSpec(f"{text!r} is not a kind of network; there are {', '.join(get_args(Net))}")
    return cast(Net, text)


def _check_host_path(path: Path, what: str) -> None:
    encoded = os.fsencode(path)
    if not path.is_absolute() or b"\0" in encoded or len(encoded) > limits.path_bytes_max:
        raise BadSpec(f"{what} must be an absolute path, not {str(path)!r}")


def _check_guest_path(path: str, what: str) -> None:
    encoded = os.fsencode(path)
    usable = path.startswith("/") and not path.startswith("//") and b"\0" not in encoded
    if not usable or ".." in path.split("/") or len(encoded) > limits.path_bytes_max:
        raise BadSpec(f"{what} must be an absolute path without '..', not {path[:200]!r}")
