"""The programs of the host that a machine needs, and what to install where one is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal

from .errors import NoEngine, NotRoot, NoVirtiofsd, VmError

Flavour = Literal["c", "rust"]

# Not on PATH: Debian 12 has QEMU's own in C, later ones and others the one in Rust.
_VIRTIOFSD_PLACES = (
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/libexec/qemu/virtiofsd",
)


@dataclass(frozen=True)
class Virtiofsd:
    """A virtiofsd, and whose command line it has."""

    path: str
    flavour: Flavour


def find_qemu() -> str:
    """Return QEMU's path. Raises NoEngine."""
    found = shutil.which("qemu-system-x86_64")
    if not found:
        raise NoEngine(
            "QEMU is not installed: run 'apt-get install qemu-system-x86' (qemu-system-x86_64 is not on PATH)"
        )
    return found


def find_virtiofsd() -> Virtiofsd:
    """Raises NoVirtiofsd."""
    on_path = shutil.which("virtiofsd")
    for path in [*([on_path] if on_path else []), *_VIRTIOFSD_PLACES]:
        if os.access(path, os.X_OK):
            return Virtiofsd(path, _flavour(path))
    raise NoVirtiofsd(
        "virtiofsd is not installed: run 'apt-get install qemu-system-common' (Debian 12), or 'virtiofsd'"
    )


def _flavour(path: str) -> Flavour:
    """QEMU's own one tells the version of FUSE's protocol too."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoVirtiofsd(f"{path} does not run: {error}") from None
    return "c" if b"FUSE kernel interface" in said.stdout + said.stderr else "rust"


def check_root() -> None:
    """Raises NotRoot: virtiofsd acts as every user of the guest."""
    if os.geteuid() != 0:
        raise NotRoot("a machine needs root, because virtiofsd serves files for every user of the guest: use sudo")


def check_helpers() -> None:
    """Raises VmError if util-linux is not what it is on Debian."""
    for name in ("setpriv", "unshare", "mount"):
        if not shutil.which(name):
            raise VmError(f"{name} is missing: run 'apt-get install util-linux'")
