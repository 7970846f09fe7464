"""KVM where it truly works, else emulation; and the verdict, which holds until the host boots again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from . import kvm, limits
from .errors import NoEngine
from .spec import EngineChoice

Engine = Literal["kvm", "tcg"]

_FILE: Final = "engine.json"


@dataclass(frozen=True)
class Verdict:
    """Whether KVM runs guests on this host as it is now, and if not, why."""

    boot: str
    why_not: str | None


def choose(asked: EngineChoice, cache: Path) -> tuple[Engine, str | None]:
    """Return the engine, and a line for the user if that is slow. Raises NoEngine if KVM was asked for in vain."""
    if asked == "tcg":
        return "tcg", None
    why_not = verdict(cache).why_not
    if why_not is None:
        return "kvm", None
    if asked == "kvm":
        raise NoEngine(f"{why_not}; without --engine kvm the machine is emulated")
    return "tcg", f"{why_not}; the machine is emulated, which is slower"


def verdict(cache: Path) -> Verdict:
    """Return what is known, or find out (some 50 ms) and remember it."""
    boot = this_boot()
    known = _read(cache)
    if known is None or known.boot != boot:
        known = Verdict(boot, _probe())
        remember(cache, known)
    return known


def this_boot() -> str:
    """What a verdict is good for: one run of one kernel, with this device or without."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    return f"{boot} {platform.release()} {'device' if os.access(kvm.DEVICE, os.R_OK | os.W_OK) else 'no device'}"


def remember(cache: Path, found: Verdict) -> None:
    """Keep a verdict. Not being able to costs only time."""
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = cache / f"{_FILE}.{os.getpid()}"
        new.write_text(json.dumps(asdict(found)))
        new.replace(cache / _FILE)


def _read(cache: Path) -> Verdict | None:
    try:
        with open(cache / _FILE, "rb") as file:
            found = json.loads(file.read(limits.probe_bytes_max))
        boot, why_not = found["boot"], found["why_not"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_whole = isinstance(boot, str) and (why_not is None or isinstance(why_not, str))
    return Verdict(boot, why_not) if is_whole else None


def _probe() -> str | None:
    """In a process of its own: on some hosts what KVM is asked never returns."""
    if platform.machine() != "x86_64":
        return f"this host is {platform.machine()}, the guest x86_64"
    if not os.access(kvm.DEVICE, os.R_OK | os.W_OK):
        return kvm.probe()
    try:
        program = [sys.executable, "-I", kvm.__file__]
        said = subprocess.run(program, capture_output=True, timeout=limits.probe_seconds, check=True).stdout
        why_not = json.loads(said)["why_not"]
    except subprocess.TimeoutExpired:
        return "KVM does not answer here"
    except (subprocess.CalledProcessError, ValueError, KeyError, OSError) as error:
        return f"KVM could not be tried ({type(error).__name__})"
    return None if why_not is None else str(why_not)
