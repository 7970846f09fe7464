"""The README's walk through fork, work and merge does what it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.fuse.cli_command import ROOT, SECONDS_MAX, Monofs

pytestmark = [pytest.mark.mounted]

SECTION = re.search(r"^## Fork, work, merge\n(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
assert SECTION is not None
STEPS = [
    (command, "".join(line + "\n" for line in said))
    for block in re.findall(r"```console\n(.*?)```", SECTION[1], re.DOTALL)
    for command, *said in (part.split("\n")[:-1] for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part)
]


def test_fork_work_merge(tmp_path: Path) -> None:
    monofs = Monofs(tmp_path)
    try:
        for command, said in STEPS:
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, env=monofs.env, timeout=SECONDS_MAX,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            assert done.stdout == said, command
            assert done.returncode == ("conflict:" in said), command
    finally:
        for name in ("agent-1", "agent-2"):
            monofs.run("umount", "--force", str(tmp_path / name))
