"""Rows about machines: how soon a command runs in one, what files cost in it, and what a fork costs. As root."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tools.benchmarks import peers
from tools.benchmarks.bench import Bench, CommandFailed, Row, Sample
from tools.benchmarks.inputs import MB

_PHASES = ("fork", "mount", "plan", "virtiofsd", "firmware", "kernel", "agent", "command", "shutdown", "commit")

# Run in the guest; a line of JSON for each: what, how many a second.
_FILES = r"""
import json, os, sys, time
where, files = sys.argv[1], int(sys.argv[2])
def rate(what, unit, count, work):
    start = time.perf_counter()
    work()
    print(json.dumps([what, count / (time.perf_counter() - start), unit]), flush=True)
os.makedirs(where, exist_ok=True)
paths = [f"{where}/file{number}" for number in range(files)]
def create():
    for path in paths:
        with open(path, "wb") as file:
            file.write(bytes(1024))
def read():
    for path in paths:
        with open(path, "rb") as file:
            file.read()
def stat():
    for path in paths:
        os.stat(path)
def walk():
    for _ in os.walk(f"{where}/.."):
        pass
def large():
    with open(f"{where}/large", "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
rate("create files of 1 KiB", "per s", files, create)
with open(f"{where}/large", "wb") as file:
    for _ in range(64):
        file.write(os.urandom(1 << 20))
os.sync()
open("/proc/sys/vm/drop_caches", "w").write("3")
rate("stat, first", "per s", files, stat)
rate("stat, again", "per s", files, stat)
rate("open, read 1 KiB, close", "per s", files, read)
rate("read a large file", "MB/s", 64 * 1.048576, large)
open("/proc/sys/vm/drop_caches", "w").write("3")
rate("find", "names/s", files, walk)
"""


def debian(bench: Bench) -> str:
    """Return the name of a tree with a Debian in it. Raises CommandFailed."""
    if os.geteuid() != 0 or not bench.has("mmdebstrap", "mmdebstrap") or not bench.has("qemu-system-x86_64", "qemu"):
        raise CommandFailed("machines need root and what tools/setup --vm installs")
    store, root = bench.work / "monofs", bench.work / "debian"
    if not root.exists():
        bench.say("making a Debian")
        words = ["unshare", "--mount", "mmdebstrap", "--variant=essential", "--include=python3"]
        bench.command(*words, "--dpkgopt=force-unsafe-io", "bookworm", root)
        bench.command("monofs", "--store", store, "import", root, "--name", "debian")
    return "debian"


def _run(bench: Bench, *words: str | Path) -> dict[str, object]:
    """Run a machine; returns what --json says."""
    store = bench.work / "monofs"
    found: dict[str, object] = json.loads(bench.command("monofs", "--store", store, "vm", "run", "--json", *words))
    return found


def boot(bench: Bench) -> Iterator[Sample]:
    tree = debian(bench)
    cache = bench.work / "monofs/vm/cache"
    for when in ("cold", "warm"):
        if when == "cold":  # nothing unpacked, compiled or packed before
            shutil.rmtree(cache, ignore_errors=True)
        doc = _run(bench, "--discard", "--rm", tree, "--", "echo", "hello")
        yield Sample(f"to the first byte, {when}", "monofs vm run", float(str(doc["first_byte"])), "s")
        yield Sample(f"to the prompt, {when}", "monofs vm run", float(str(doc["total"])), "s")
        timings = doc["timings"]
        assert isinstance(timings, dict)
        for phase in _PHASES if when == "warm" else ():
            yield Sample(f"of it: {phase}", "monofs vm run", float(timings.get(phase, 0.0)), "s")


def files(bench: Bench) -> Iterator[Sample]:
    """In one machine, on its root and on a plain directory of the host beside it."""
    tree = debian(bench)
    plain = bench.empty("plain")
    count = "200" if bench.quick else "2000"
    volume = f"{plain}:/mnt/plain"
    words = ["--store", os.fspath(bench.work / "monofs"), "vm", "run", "--discard", "--rm", "--volume", volume, tree]
    script = 'for where in /srv/bench /mnt/plain/bench; do python3 -c "$0" $where/x $1; done'
    lines = bench.command("monofs", *words, "--", "sh", "-c", script, _FILES, count).splitlines()
    for index, line in enumerate(lines):
        what, value, unit = json.loads(line)
        yield Sample(what, "monofs" if index < len(lines) // 2 else "plain directory", value, unit)


def forks(bench: Bench) -> Iterator[Sample]:
    """One machine after another, each on a fork of its own that it keeps."""
    tree = debian(bench)
    store, count = bench.work / "monofs", 3 if bench.quick else 20
    for what, script in (
        ("that change nothing", "true"),
        ("that write 1 MB", "head -c 1000000 /dev/urandom > /srv/new"),
    ):
        disk, begin = peers.disk_bytes(store), os.times().elapsed
        blocks = _stored(bench)
        for number in range(count):
            _run(bench, "--rm", "--keep", f"f{len(script)}-{number}", tree, "--", "sh", "-c", script)
        yield Sample(f"machines {what}", "each", (os.times().elapsed - begin) / count, "s")
        yield Sample(f"machines {what}", "each", (_stored(bench) - blocks) / count / MB, "MB stored")
        yield Sample(f"machines {what}", "all, its file", (peers.disk_bytes(store) - disk) / MB, "MB")


def _stored(bench: Bench) -> float:
    said = bench.command("monofs", "--store", bench.work / "monofs", "store-info", "--json")
    return float(json.loads(said)["stored_bytes"])


ROWS = (
    Row("boot", "from `vm run` to a command's first byte, and to the prompt", boot),
    Row("guest", "files in a guest: on its root, and on a plain directory", files),
    Row("forks", "machines on forks of one tree, one after another", forks, repeat_max=1),
)
