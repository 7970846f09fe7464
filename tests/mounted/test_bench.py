"""`tools/bench` does what it says, on inputs too small to say anything about speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.mounted.conftest import needs_root
from tools.benchmarks import plot

pytestmark = [pytest.mark.mounted, pytest.mark.slow, needs_root]

ROOT = Path(__file__).parents[2]


def bench(*words: str | Path, code: int = 0) -> str:
    argv = [sys.executable, "-m", "tools.benchmarks", *words]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{words}: {done.stdout} {done.stderr}"
    return done.stdout if code == 0 else done.stderr


def measured(tmp_path: Path, *words: str) -> tuple[dict[str, Any], dict[tuple[str, str], dict[str, Any]]]:
    doc = json.loads(bench("--quick", "--json", "--work", tmp_path, "--save", tmp_path / "saved", *words))
    assert doc["failures"] == [] and doc["unfinished"] == {}
    assert [path.name for path in tmp_path.iterdir()] == ["saved"], "it cleans up"
    return doc, {(one["row"], one["what"]): one["tools"] for one in doc["results"]}


def test_a_mount_is_measured_beside_others(tmp_path: Path) -> None:
    doc, found = measured(tmp_path, "find", "create", "--tools=plain,floor,monofs")
    for what in (("find", "find, cold"), ("create", "rename")):
        assert found[what].keys() == {"plain", "floor", "monofs"}
        assert all(tool["median"] > 0 for tool in found[what].values())
    assert {one["reached"] for one in doc["results"]} == {None}, "an aim is for the real inputs"
    table = [line for line in bench("--show", tmp_path / "saved", "--markdown").splitlines() if line[:1] == "|"]
    assert len(table) == 2 + len(doc["results"]) and len({line.count("|") for line in table}) == 1
    doc["results"][0]["reached"] = False
    (tmp_path / "saved").write_text(json.dumps(doc))
    assert "[find] find, cold; aim: ≤ 0.25, missed" in bench("--show", tmp_path / "saved")


def test_size_is_measured(tmp_path: Path) -> None:
    sizes = ("--files=60", "--sizes=5,60", "--gib=0.005", "--aged-gib=0.002")
    _, found = measured(tmp_path, "scale", *sizes)
    assert found["many", "ls of 60 names with their attributes, first"]["monofs"]["median"] > 0
    assert found["tree", "commit of one changed byte"].keys() == {"5 files", "60 files"}
    assert found["aged", "its database"].keys() == {"fresh", "round 1", "round 2", "round 3"}
    assert found["wide", "a directory of 600 names: nodes"]["monofs"]["median"] >= 3
    memory = found["large", "memory of the daemon after the random writes, anonymous, the most till then"]["monofs"]
    assert 5 < memory["median"] < 2000


def test_versions_are_measured_and_drawn(tmp_path: Path) -> None:
    doc, found = measured(tmp_path, "versions", "--sizes=1000,4000")
    assert all(tools.keys() == {"1,000 files", "4,000 files"} for tools in found.values())
    assert found["versions", "log of 100 versions, blocks read"]["4,000 files"]["median"] == 100
    drawn = bench("--show", tmp_path / "saved", "--plot", "--svg", tmp_path / "plot.svg")
    lines = plot.series(doc)
    assert len(lines) >= 13 and all(line.title in drawn for line in lines)
    image = ElementTree.fromstring((tmp_path / "plot.svg").read_text())
    assert len(image.findall("{*}polyline")) == len(lines) and len(image.findall("{*}circle")) == 2 * len(lines)


def test_images_are_measured(tmp_path: Path) -> None:
    _, found = measured(tmp_path, "images")
    peer = "skopeo copy + umoci unpack"
    assert found["pull", "an image"].keys() == {"monofs", peer}
    stored = found["shared", "10 images that share a base, stored"]
    assert 0 < stored["monofs"]["median"] < stored["sum of their layers, gzip"]["median"]


def test_a_row_that_is_not_there(tmp_path: Path) -> None:
    assert "no row 'nothing'" in bench("nothing", "--work", tmp_path, code=1)
    assert os.listdir(tmp_path) == []
