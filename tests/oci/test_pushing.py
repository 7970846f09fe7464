"""Images and trees go out: to real registries, and into archives that other tools read."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.cli_command import Monofs, plant
from tests.oci import registries
from tests.oci.layouts import Layout, d, f, hard, ln, tar

BASE = tar([d("."), d("etc", 0o711), f("etc/os", b"Debian\n", uid=5), f("big", bytes(range(256)) * 4000)])
TOP = tar([f("etc/.wh.os"), f("new", b"n"), hard("big2", "big"), ln("l", "new")])


@pytest.fixture
def monofs(tmp_path: Path) -> Monofs:
    (tmp_path / "m").mkdir()
    return Monofs(tmp_path / "m")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = Layout(tmp_path_factory.mktemp("layout") / "image")
    made.image([BASE, TOP], config={"Env": ["A=1"], "Cmd": ["/bin/x"]})
    return made


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path_factory.mktemp("r")) as made:
        made.push(layout.path, "a/b:t")
        yield made


def test_an_image_goes_on_as_it_came(
    monofs: Monofs, registry: registries.Registry, layout: Layout, tmp_path: Path
) -> None:
    ref, wanted = f"{registry.name}/a/b:t", layout.index["manifests"][0]["digest"]
    monofs.ok("pull", ref)
    near = f"{registry.name}/other/c:1"
    monofs.ok("image", "tag", ref, near)
    done = monofs.ok("push", near, "--json").json
    assert (done["digest"], done["sent"], done["layers"]) == (wanted, 0, 2)  # the registry took them from a/b
    with registries.registry(tmp_path / "far") as other:
        far = f"{other.name}/d:1"
        monofs.ok("image", "tag", ref, far)
        assert monofs.ok("push", far).text.strip() == wanted
        monofs.ok("image", "rm", far)
        assert monofs.ok("pull", far).text == monofs.ok("pull", ref).text
    assert "no image" in monofs.fails("push", f"{registry.name}/unknown")


def test_an_image_whose_layers_are_gone_is_made_anew(
    monofs: Monofs, registry: registries.Registry, layout: Layout
) -> None:
    ref = f"{registry.name}/anew:1"
    one = Layout(monofs.directory / "one")
    one.image([BASE, tar([f("only-here", os.urandom(1000))])], config={"Env": ["B=2"]})
    tree = monofs.ok("load", str(one.path), "--as", ref).text
    done = monofs.ok("push", ref, "--json").json
    assert (done["layers"], done["sent"]) == (2, 2)
    monofs.ok("image", "rm", ref)
    assert monofs.ok("pull", ref).text == tree
    assert monofs.ok("image", "inspect", ref).json["env"] == ["B=2"]


def test_a_tree_and_what_changed(monofs: Monofs, registry: registries.Registry, tmp_path: Path) -> None:
    first, second = f"{registry.name}/tree:1", f"{registry.name}/tree:2"
    files = plant(monofs.directory / "tree", {"a": b"1", "d/b": b"2" * 1000, "d/gone": b""})
    one = monofs.ok("import", str(files), "--name", "t").text.strip()
    assert re.fullmatch("sha256:[0-9a-f]{64}\n", monofs.ok("push", first, "t").text)
    (files / "d/gone").unlink()
    (files / "new").write_bytes(b"3")
    two = monofs.ok("import", str(files), "--name", "t", "--update").text.strip()
    assert monofs.ok("pull", first).text.strip() == one
    done = monofs.ok("push", second, "t", "--since", first, "--json").json
    assert (done["layers"], done["sent"]) == (2, 1)
    assert monofs.ok("pull", second).text.strip() == two
    third = f"{registry.name}/tree:3"
    assert monofs.ok("push", third, "t", "--since", one, "-m", "by hand", "--json").json["layers"] == 2
    assert monofs.ok("pull", third).text.strip() == two
    assert "by hand" in monofs.ok("image", "history", third).lines[0]
    monofs.ok("push", f"{registry.name}/sub:1", "t/d")
    assert monofs.ok("cat", "t/d/b").out == b"2" * 1000
    assert monofs.ok("gc").code == monofs.ok("check").code == 0
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", f"docker://{second}", "oci:out:x"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(["umoci", "unpack", "--rootless", "--image", "out:x", "bundle"], cwd=tmp_path, check=True)
    root = tmp_path / "bundle/rootfs"
    assert sorted(os.listdir(root)) == ["a", "d", "new"]
    assert os.listdir(root / "d") == ["b"]


def test_changes_on_a_pulled_image(monofs: Monofs, registry: registries.Registry, layout: Layout) -> None:
    base, mine = f"{registry.name}/a/b:t", f"{registry.name}/mine:1"
    tree = monofs.ok("pull", base).text.strip()
    monofs.ok("export", tree, "work")
    (monofs.directory / "work/added").write_bytes(b"x")
    new = monofs.ok("import", "work", "--name", "w").text.strip()
    assert monofs.ok("push", mine, "w", "--since", base, "--json").json["sent"] == 1
    monofs.ok("image", "rm", base)
    assert monofs.ok("pull", mine).text.strip() == new
    found = monofs.ok("image", "inspect", mine).json
    assert (found["env"], found["cmd"], len(found["layers"])) == (["A=1"], ["/bin/x"], 3)
    manifest = json.loads((layout.path / "blobs/sha256" / layout.index["manifests"][0]["digest"][7:]).read_bytes())
    assert [row["digest"] for row in found["layers"]][:2] == [row["digest"] for row in manifest["layers"]]


def test_save_and_load(monofs: Monofs, layout: Layout, tmp_path: Path) -> None:
    tree = monofs.ok("load", str(layout.path), "--as", "example.com/x:1").text
    monofs.ok("image", "tag", "example.com/x:1", "y")
    monofs.ok("save", "out.tar", "example.com/x:1", "y")
    out = monofs.directory / "out.tar"
    assert monofs.ok("save", "-", "example.com/x:1", "y").out == out.read_bytes()
    assert out.stat().st_size < 2.2 * len(BASE)  # each layer once; the second has `big` too, for its new name
    other = Monofs(tmp_path)
    rows = other.ok("load", str(out), "--json").json
    assert [row["reference"] for row in rows] == ["example.com/x:1", "docker.io/library/y:latest"]
    assert {row["tree"] for row in rows} == {tree.strip()}
    assert other.ok("image", "inspect", "y").json["env"] == ["A=1"]
    for form in ("docker-archive:out.tar:example.com/x:1", "oci-archive:out.tar:example.com/x:1"):
        to = "skopeo-" + form[:3]
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "-q", form, f"oci:{to}:x"],
            cwd=monofs.directory, check=True, capture_output=True,
        )  # fmt: skip
        assert other.ok("load", str(monofs.directory / to), "--as", "z").text == tree
    assert "no image" in monofs.fails("save", "none.tar", "example.com/none")
    assert "No such file" in monofs.fails("save", "no/where.tar", "y")
    assert not (monofs.directory / "none.tar").exists()


def test_wrong_usage(monofs: Monofs) -> None:
    monofs.fails("push", "x", "--since", "y", code=2)
    monofs.fails("push", f"x@sha256:{'0' * 64}", "t", code=2)
    monofs.fails("save", "x", code=2)
