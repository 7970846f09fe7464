"""What developers build in a working tree: a Python environment with a package in it, and a C program with make."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from tests.mounted.conftest import Mount, needs_root
from tests.mounted.programs import run

pytestmark = [pytest.mark.mounted, pytest.mark.slow, needs_root]

MODULES = 40


def wheel(directory: Path) -> Path:
    """Make a wheel by hand: a package of many modules with a command, and nothing it depends on."""
    info = "greeter-1.0.dist-info"
    files = {f"greeter/m{number}.py": f"VALUE = {number}\n" for number in range(MODULES)} | {
        "greeter/__init__.py": "",
        "greeter/main.py": textwrap.dedent(
            f"""
            from importlib import import_module, metadata

            def main():
                total = sum(import_module(f"greeter.m{{number}}").VALUE for number in range({MODULES}))
                print(metadata.version("greeter"), total)
            """
        ),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ngreet = greeter.main:main\n",
    }
    path = directory / "greeter-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        record = [f"{name},{_digest(text)},{len(text)}" for name, text in files.items()]
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]))
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def test_venv_and_pip(machine: Mount, work: Path, home: Path) -> None:
    python, greeting = work / "env/bin/python", f"1.0 {sum(range(MODULES))}\n"
    run(sys.executable, "-m", "venv", work / "env")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "install", "--no-index", "--no-cache-dir", wheel(home), PIP_CONFIG_FILE=os.devnull)
    assert run(work / "env/bin/greet") == greeting
    assert run(*pip, "check") == "No broken requirements found.\n"
    machine.remount()
    assert run(work / "env/bin/greet") == greeting
    compiled = sorted((work / "env").rglob("greeter/__pycache__/*.pyc"))
    before = [path.stat().st_mtime_ns for path in compiled]
    run(python, "-m", "compileall", "-q", compiled[0].parents[1])
    assert len(compiled) == MODULES + 2 and [path.stat().st_mtime_ns for path in compiled] == before
    run(*pip, "uninstall", "--yes", "greeter")
    assert not (work / "env/bin/greet").exists() and list((work / "env").rglob("greeter*")) == []


PARTS = ("alpha", "beta", "gamma", "delta")


def project(work: Path) -> None:
    """Make a C project: a static library of several files, a program that uses it, and a header they share."""
    (work / "include").mkdir()
    (work / "include/parts.h").write_text("".join(f"int {part}(void);\n" for part in PARTS))
    for number, part in enumerate(PARTS):
        (work / f"{part}.c").write_text(f'#include "parts.h"\nint {part}(void) {{ return {10**number}; }}\n')
    (work / "main.c").write_text(
        '#include "parts.h"\n#include <stdio.h>\n'
        f'int main(void) {{ printf("%d\\n", {" + ".join(f"{part}()" for part in PARTS)}); return 0; }}\n'
    )
    (work / "Makefile").write_text(
        "CFLAGS = -O1 -Wall -Iinclude -MMD\n"
        f"PARTS = {' '.join(f'out/{part}.o' for part in PARTS)}\n"
        "all: out/prog\n"
        "out/prog: out/main.o out/libparts.a\n\t$(CC) -o $@ $^\n"
        "out/libparts.a: $(PARTS)\n\trm -f $@\n\tar rc $@ $^\n"
        "out/%.o: %.c | out\n\t$(CC) $(CFLAGS) -c -o $@ $<\n"
        "out:\n\tmkdir out\n"
        "-include out/*.d\n"
    )


def test_make_rebuilds_what_changed(machine: Mount, work: Path) -> None:
    def compiled() -> set[str]:
        return {word for word in run("make", "-j3", cwd=work).split() if word.endswith(".c")}

    project(work)
    assert compiled() == {"main.c", *(f"{part}.c" for part in PARTS)}
    assert run(work / "out/prog") == "1111\n"
    assert "Nothing to be done" in run("make", cwd=work)
    run("touch", work / "beta.c")
    assert compiled() == {"beta.c"} and "Nothing to be done" in run("make", cwd=work)
    machine.remount()
    assert "Nothing to be done" in run("make", cwd=work), "times outlive an unmount to the nanosecond"
    source = (work / "gamma.c").read_text()
    (work / "gamma.c").write_text(source.replace("100", "300"))
    assert compiled() == {"gamma.c"} and run(work / "out/prog") == "1311\n"
    run("touch", work / "include/parts.h")
    assert compiled() == {"main.c", *(f"{part}.c" for part in PARTS)}
    assert "Nothing to be done" in run("make", cwd=work)
