"""Rows about projects: `up` of three machines, and what a fork and a reset cost, by the size of the tree. As root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tools.benchmarks import rows_vm
from tools.benchmarks.bench import Bench, Row, Sample

_SIZES = (100, 10_000, 100_000)
_THREE = """
[machines.db]
name = "debian"
command = ["sleep", "infinity"]
memory = "256M"
[machines.cache]
name = "debian"
command = ["sleep", "infinity"]
memory = "256M"
[machines.web]
name = "debian"
command = ["sleep", "infinity"]
memory = "256M"
depends_on = ["db", "cache"]
"""


def up(bench: Bench) -> Iterator[Sample]:
    """Three machines of one tree, the third after the other two."""
    rows_vm.debian(bench)
    project = bench.empty("project")
    (project / "monofs.toml").write_text(_THREE)
    try:
        yield Sample(
            "up of three machines, nothing installed, nothing cached",
            "monofs",
            bench.timed("monofs", "up", "-d", cwd=project),
            "s",
        )
        yield Sample("down of three machines", "monofs", bench.timed("monofs", "down", cwd=project), "s")
        yield Sample("up of three machines, warm", "monofs", bench.timed("monofs", "up", "-d", cwd=project), "s")
        yield Sample("up of three machines that are up", "monofs", bench.timed("monofs", "up", "-d", cwd=project), "s")
    finally:
        bench.timed("monofs", "down", cwd=project)
        bench.remove(project)


def trees(bench: Bench) -> Iterator[Sample]:
    """A machine's tree made and made anew, of few files and of many. Nothing boots."""
    for size in _SIZES[:2] if bench.quick else _SIZES:
        source, project = bench.empty("many"), bench.empty("project")
        for number in range(size):
            directory = source / f"d{number // 100}"
            if number % 100 == 0:
                directory.mkdir()
            (directory / f"file{number}").write_bytes(b"%d\n" % number)
        name = f"many{size}"
        bench.command("monofs", "import", source, "--name", name, "--update")
        bench.remove(source)
        (project / "monofs.toml").write_text(f'[project]\nname = "p"\n[machines.web]\nname = "{name}"\n')
        yield Sample(
            f"install of a machine, {size:,} files", "monofs", bench.timed("monofs", "install", cwd=project), "s"
        )
        yield Sample(
            f"fork, {size:,} files", "monofs", bench.timed("monofs", "name", "fork", "p/web", cwd=project), "s"
        )
        _change(bench, project / ".mc/store")
        yield Sample(f"reset, {size:,} files", "monofs", bench.timed("monofs", "reset", "web", cwd=project), "s")
        bench.remove(project)


def _change(bench: Bench, store: Path) -> None:
    """Change one file of the machine's tree, as a machine would."""
    mount = bench.empty("mnt-project")
    bench.command("monofs", "--store", store, "mount", "p/web", mount)
    try:
        (mount / "d0/file0").write_bytes(b"changed\n")
    finally:
        bench.command("monofs", "umount", mount)
    bench.remove(mount)


ROWS = (
    Row("up", "three machines of a project, cold and warm", up),
    Row("reset", "a machine's tree forked and reset, by its size", trees),
)
