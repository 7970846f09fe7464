"""The README's walk through a project does what it says: against a real registry, in a real machine."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.cli_command import PROGRAM, ROOT, Monofs
from tests.oci import registries
from tests.oci.layouts import E, Layout, d, f, ln, tar
from tests.vm.guests import busybox_tree

pytestmark = [
    pytest.mark.mounted,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="machines need root"),
]

SECONDS_MAX = 240  # for one command: a machine boots in it, emulated
SECTION = re.search(r"^### A walk\n(.*?)^##", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
assert SECTION is not None
STEPS = [
    (re.sub(r" +# .*", "", command), "".join(line + "\n" for line in said))
    for block in re.findall(r"```console\n(.*?)```", SECTION[1], re.DOTALL)
    for command, *said in (part.split("\n")[:-1] for part in re.split(r"^[$#] ", block, flags=re.MULTILINE) if part)
]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Monofs]:
    """A home directory on a machine that gets what is on Docker Hub from a mirror: busybox, and nothing else."""
    programs = sorted((busybox_tree(tmp_path / "tree") / "bin").iterdir())
    entries = [d(name) for name in ("bin", "dev", "proc", "sys")]
    entries += [_entry(path) for path in programs if path.name != "httpd"] + [ln("bin/httpd", "busybox")]
    layout = Layout(tmp_path / "layout")
    layout.image([tar(entries)], config={"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    (tmp_path / "home").mkdir()
    with registries.registry(tmp_path / "registry") as registry:
        registry.push(layout.path, "library/busybox:1")
        known = tmp_path / "registries.toml"
        mirror = f'[registry."docker.io"]\nmirrors = ["{registry.name}"]\n'
        known.write_text(f'{mirror}[registry."{registry.name}"]\ninsecure = true\n')
        author = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        yield Monofs(tmp_path / "home", {"MONOFS_REGISTRIES": str(known), **author})


def test_a_walk_through_a_project(home: Monofs) -> None:
    here, place = home.directory, home.directory / "place"
    try:
        for command, said in STEPS:
            script = f"{command}\nended=$?; pwd > {place}; exit $ended"  # the next command begins where this one ended
            done = subprocess.run(
                ["bash", "-c", script], cwd=here, env=home.env, timeout=SECONDS_MAX,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            assert re.fullmatch(pattern(said), done.stdout), f"{command}\nREADME: {said!r}\nhere: {done.stdout!r}"
            assert done.returncode == 0, command
            here = Path(place.read_text().strip())
    finally:
        for file in home.directory.glob("*/monofs.toml"):
            subprocess.run([PROGRAM, "down"], cwd=file.parent, env=home.env, capture_output=True, timeout=SECONDS_MAX)


def pattern(said: str) -> str:
    """Return what fits: CIDs and times are other ones here."""
    escaped = re.sub(r"bafy[a-z2-7]{10,}", "bafy[a-z2-7]+", re.escape(said))
    return re.sub(r"20[0-9]{2}(\\-[0-9]{2}){2}\\ [0-9]{2}(:[0-9]{2}){2}", "[-0-9]{10} [:0-9]{8}", escaped)


def _entry(path: Path) -> E:
    name = f"bin/{path.name}"
    return ln(name, path.readlink().name) if path.is_symlink() else f(name, path.read_bytes(), 0o755)
