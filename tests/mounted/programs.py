"""Programs run as people run them, a tree with all there is, and how trees are compared."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import textwrap
from pathlib import Path

CAPABILITY = "cap_net_bind_service=ep"


def run(*argv: str | Path, cwd: Path | None = None, **extra: str) -> str:
    """Run a program; it must succeed. Returns what it printed."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC", "HOME": "/nonexistent", **extra}
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, check=False)
    said = done.stdout.decode(errors="surrogateescape")
    assert done.returncode == 0, f"{argv} ended with {done.returncode}: {said} {done.stderr.decode(errors='replace')}"
    return said


def shell(script: str, cwd: Path) -> str:
    return run("bash", "-euc", textwrap.dedent(script), cwd=cwd)


def build(path: Path) -> None:
    """A few hundred files of every kind, with everything that an entry can hold."""
    rng = random.Random(7)
    for d in ("bin", "deep/er/and/deeper", "empty", "many", "shared"):
        os.makedirs(path / d)
    for n in range(200):
        (path / "many" / f"file-{n}").write_bytes(rng.randbytes(rng.choice([0, 1, 100, 128, 129, 5000])))
    (path / "large").write_bytes(rng.randbytes(2_000_000))
    (path / "text").write_text("".join(f"line {n} of a text with a needle\n" for n in range(5000)))
    with open(path / "sparse", "wb") as out:
        out.seek(50_000_000)
        out.write(b"end")
    os.link(path / "large", path / "deep/er/linked")
    os.link(path / "large", path / "shared/linked")
    os.link(path / "many/file-3", path / "many/file-3-linked")
    for target, name in (("text", "link"), ("nowhere", "dangling"), ("../..", "deep/up"), ("t" * 2000, "long-target")):
        os.symlink(target, path / name)
    os.mkfifo(path / "fifo", 0o600)
    os.mknod(path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(path / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    (path / "bin/tool").write_text("#!/bin/sh\necho works\n")
    for name, mode in (("bin/tool", 0o4755), ("shared", 0o3777), ("text", 0o400), ("empty", 0o700)):
        os.chmod(path / name, mode)
    os.chown(path / "text", 1234, 5678)
    os.lchown(path / "link", 4321, 1)
    for name in (b"\xff\xfe not utf-8 \x80", b"n" * 255, b"new\nline", b"-rf", b" ", "ünï".encode()):
        (path / "deep" / os.fsdecode(name)).write_bytes(name)
    for key, value in (("user.plain", b"value"), ("user.large", rng.randbytes(900)), ("trusted.t", b"\0\1")):
        os.setxattr(path / "text", key, value)
    os.setxattr(path / "shared", "user.dir", b"")
    run("setcap", CAPABILITY, path / "bin/tool")
    for number, (at, names, files) in enumerate(os.walk(path, topdown=False)):
        for name in sorted(names + files):
            ns = rng.randrange(10**18) + number
            os.utime(os.path.join(at, name), ns=(ns, ns), follow_symlinks=False)
    os.utime(path, ns=(5, 5))


def listing(path: Path) -> list[str]:
    said = run("find", ".", "-printf", r"%P\t%y\t%m\t%U\t%G\t%s\t%T@\t%l\t%n\0", cwd=path)
    return sorted(line for line in said.split("\0") if line and not line.startswith("\t"))


GIT = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "init.defaultBranch", "GIT_CONFIG_VALUE_0": "main",
    "GIT_CONFIG_KEY_1": "safe.directory", "GIT_CONFIG_VALUE_1": "*",
}  # fmt: skip


def git(at: Path, *argv: str | Path) -> str:
    return run("git", "-C", at, *argv, **GIT)


def sqlite(database: Path, script: str) -> str:
    return run("sqlite3", "-batch", "-bail", database, textwrap.dedent(script))
