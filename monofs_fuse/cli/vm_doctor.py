"""What can run here: vm doctor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monofs_fuse import config, mountpoint
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import explained, machines_directory
from store.errors import MonofsError
from vmm.errors import VmError

if TYPE_CHECKING:
    from vmm.engine import Verdict

Finding = dict[str, Any]


def doctor_options(parser: Parser) -> None:
    parser.json()


def doctor(args: Args) -> int:
    """Say what 'monofs vm run' finds on this machine: what is missing, why, and what to install.

    A line for each part: ok, or NO and what to do. Without KVM machines are emulated (tcg), which is slower; that is no
    failure. The exit code is 0 if machines can run here, else 1. JSON is {"ready": ..., "engine": ..., "parts":
    [{"part", "ok", "needed", "found", "advice"}]}.

    Examples:
      monofs vm doctor
      monofs vm doctor --json | jq -e .ready
    """
    return explained(partial(_doctor, args))


def _doctor(args: Args) -> int:
    with _cache(config.store_path(args.store)) as cache:
        parts = list(_parts(cache))
    ready = all(part["ok"] or not part["needed"] for part in parts)
    if args.json:
        kvm = next(part for part in parts if part["part"] == "kvm")
        output.document({"ready": ready, "engine": "kvm" if kvm["ok"] else "tcg", "parts": parts})
    else:
        for part in parts:
            word = "ok" if part["ok"] else "NO" if part["needed"] else "no"
            output.line(f"{word:<3} {part['part']:<10} {part['found'] or part['advice']}")
        output.line("machines can run here" if ready else "machines cannot run here yet; see the lines with NO")
    return 0 if ready else 1


@contextmanager
def _cache(store: Path) -> Iterator[Path]:
    """What machines of this store keep between boots; without a store nothing is made but for now."""
    import tempfile

    cache = machines_directory(store) / "cache"
    if cache.is_dir():
        yield cache
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def _parts(cache: Path) -> Iterator[Finding]:
    from vmm import engine, initramfs, kernel, programs

    yield _part("root", _that(programs.check_root, "yes"))
    yield _part("fuse", _that(partial(mountpoint.check_fuse, False), "/dev/fuse"))
    yield _part("qemu", programs.find_qemu)
    yield _part("virtiofsd", lambda: programs.find_virtiofsd().path)
    yield _part("helpers", _that(programs.check_helpers, "setpriv, unshare and mount, of util-linux"))
    yield _part("kernel", lambda: kernel.find(cache, None).release)
    yield _part("agent", lambda: f"{initramfs.agent(cache).stat().st_size:,} bytes")
    yield _kvm(engine.verdict(cache))


def _that(check: Callable[[], None], found: str) -> Callable[[], str]:
    def find() -> str:
        check()
        return found

    return find


def _part(name: str, find: Callable[[], str], *, needed: bool = True) -> Finding:
    found = advice = None
    try:
        found = find()
    except (VmError, MonofsError) as error:
        advice = str(error)
    return {"part": name, "ok": found is not None, "needed": needed, "found": found, "advice": advice}


def _kvm(verdict: Verdict) -> Finding:
    works = verdict.why_not is None
    advice = None if works else f"{verdict.why_not}; machines are emulated (tcg)"
    return {"part": "kvm", "ok": works, "needed": False, "found": "/dev/kvm" if works else None, "advice": advice}
