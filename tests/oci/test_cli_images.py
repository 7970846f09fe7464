"""Images on the command line: pull, images, image, load, login, with a real registry."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from store.oci import images
from store.oci.media import OCI_CONFIG
from store.repository import Repository
from tests.fuse.cli_command import PROGRAM, Monofs
from tests.oci import registries
from tests.oci.layouts import LAYER, Layout, d, f, hard, sha, tar
from tests.oci.registries import PASSWORD, USER

BASE = tar([d("."), d("etc"), f("etc/os", b"Debian\n"), f("big", bytes(range(256)) * 4000)])
TOP = tar([f("etc/.wh.os"), f("new", b"n"), hard("big2", "big")])
CONFIG = {"Env": ["A=1"], "Cmd": ["/bin/x"], "ExposedPorts": {"80/tcp": {}}, "User": "me", "WorkingDir": "/etc"}


@pytest.fixture
def monofs(tmp_path: Path) -> Monofs:
    (tmp_path / "m").mkdir()
    return Monofs(tmp_path / "m")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = Layout(tmp_path_factory.mktemp("layout") / "image")
    made.image([BASE, TOP], config=CONFIG)
    made.image([BASE], "base")
    return made


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path_factory.mktemp("r")) as made:
        made.push(layout.path, "a/b:t")
        made.push(layout.path, "a/base:t", tag="base")
        yield made


def test_pull_look_and_remove(monofs: Monofs, registry: registries.Registry) -> None:
    ref = f"{registry.name}/a/b:t"
    tree = monofs.ok("pull", ref).text.strip()
    assert re.fullmatch("b[a-z2-7]{58}", tree)
    assert monofs.ok("ls", ref).lines == monofs.ok("ls", tree).lines == ["big", "big2", "etc", "new"]
    assert monofs.ok("cat", f"{ref}/new").out == b"n"
    again = monofs.ok("pull", ref, "--json").json
    assert (again["tree"], again["new_layers"], again["layers"], again["reference"]) == (tree, 0, 2, ref)
    (row,) = monofs.ok("images", "--json").json
    assert (row["reference"], row["tree"], row["platform"]) == (ref, tree, "linux/amd64")
    assert row["digest"] == row["origin"]
    (line,) = monofs.ok("images").lines
    assert line.split()[0] == ref and line.split()[-1] == tree
    monofs.ok("image", "tag", ref, "local/copy:1")
    assert monofs.ok("ls", "local/copy:1").lines == monofs.ok("ls", ref).lines
    assert "freed 0 blocks" in monofs.ok("image", "rm", ref).err
    assert "no image" in monofs.fails("image", "rm", ref)
    assert "no name" in monofs.fails("ls", ref)
    assert re.search("freed [1-9]", monofs.ok("image", "rm", "local/copy:1").err)
    assert monofs.ok("images", "--json").json == []
    assert monofs.ok("store-info", "--json").json["blocks"] == 0
    monofs.ok("check")


def test_inspect_and_history(monofs: Monofs, registry: registries.Registry) -> None:
    ref = f"{registry.name}/a/b:t"
    tree = monofs.ok("pull", ref).text.strip()
    found = monofs.ok("image", "inspect", ref).json
    assert (found["env"], found["cmd"], found["ports"]) == (["A=1"], ["/bin/x"], ["80/tcp"])
    assert (found["user"], found["workdir"], found["entrypoint"]) == ("me", "/etc", [])
    assert [row["tree"] for row in found["layers"]][-1] == tree
    assert found["config"]["rootfs"]["diff_ids"] == [row["diff_id"] for row in found["layers"]]
    rows = monofs.ok("image", "history", ref, "--json").json
    assert [row["tree"] for row in rows] == [tree, found["layers"][0]["tree"]]
    lines = monofs.ok("image", "history", ref).lines
    assert len(lines) == 2 and tree in lines[0]
    assert [line.split("\t")[1] for line in monofs.ok("diff", rows[1]["tree"], tree).lines] == [
        "big",
        "big2",
        "etc/os",
        "new",
    ]


def test_names(monofs: Monofs, registry: registries.Registry) -> None:
    ref, base = f"{registry.name}/a/b:t", f"{registry.name}/a/base:t"
    tree = monofs.ok("pull", base, "--name", "app").text.strip()
    assert "taken" in monofs.fails("pull", ref, "--name", "app")
    new = monofs.ok("pull", ref, "--name", "app", "--update").text.strip()
    (row,) = monofs.ok("names", "--json").json["names"]
    assert (row["tree"], row["message"]) == (new, f"pulled {ref}")
    assert len(row["previous"]) == 1
    assert "already" in monofs.ok("pull", ref, "--name", "app", "--update").err
    monofs.ok("pull", ref, "--name", "steps", "--all-layers")
    (steps,) = [row for row in monofs.ok("names", "--json").json["names"] if row["name"] == "steps"]
    assert steps["tree"] == new
    (before,) = steps["previous"]
    assert monofs.ok("ls", before).lines == monofs.ok("ls", tree).lines
    assert monofs.fails("pull", ref, "--all-layers", code=2)
    monofs.ok("image", "rm", ref, base)  # names keep their trees
    assert monofs.ok("ls", "app").lines == ["big", "big2", "etc", "new"]
    monofs.ok("check")


def test_load(monofs: Monofs, layout: Layout, registry: registries.Registry) -> None:
    tree = monofs.ok("pull", f"{registry.name}/a/b:t").text.strip()
    assert "--as" in monofs.fails("load", str(layout.path))
    assert "one image" in monofs.fails("load", str(layout.path), "--as", "x:1")
    one = Layout(monofs.directory / "one")
    one.image([BASE, TOP], "example.com/x:1", config=CONFIG)
    assert monofs.ok("load", str(one.path)).text.strip() == tree
    assert monofs.ok("ls", "example.com/x:1/etc").lines == []
    (row,) = monofs.ok("load", str(one.path), "--as", "y", "--json").json
    assert (row["reference"], row["tree"], row["new_layers"]) == ("docker.io/library/y:latest", tree, 0)
    assert "No such file" in monofs.fails("load", "nothing.tar")
    assert "/etc/passwd is no archive of images" in monofs.fails("load", "/etc/passwd")


def test_wrong_usage_and_bad_references(monofs: Monofs) -> None:
    assert "lower case" in monofs.fails("pull", "docker.io/UPPER")
    assert "no platform" in monofs.fails("pull", "x", "--platform", "a/b/c/d")
    assert "takes 2 references" in monofs.fails("image", "tag", "x", code=2)
    monofs.fails("image", "rm", code=2)
    monofs.fails("image", "nonsense", code=2)
    monofs.fails("pull", "x", "--update", code=2)
    assert "cannot speak to localhost:1" in monofs.fails("pull", "localhost:1/x")


def test_what_is_not_there_and_what_is_there_already(monofs: Monofs, registry: registries.Registry) -> None:
    assert f"no image '{registry.name}/nope:latest': " in monofs.fails("pull", f"{registry.name}/nope")
    monofs.ok("pull", f"docker://{registry.name}/a/b:t", "--name", "n")
    assert "--update" in monofs.fails("pull", f"{registry.name}/a/b:t", "--name", "n")


def test_log_in_and_out(monofs: Monofs, layout: Layout, tmp_path: Path) -> None:
    with registries.registry(tmp_path / "r", secure=True) as made:
        made.push(layout.path, "a/b:t")
        ref = f"{made.name}/a/b:t"
        settings = monofs.directory / ".config/monofs/registries.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'default = "{made.name}"\n[registry."{made.name}"]\nca = "{made.cert}"\n')
        assert f"monofs login {made.name}" in monofs.fails("pull", ref)

        def login(password: str, user: str = USER) -> tuple[int, str]:
            command = [PROGRAM, "login", made.name, "-u", user, "--password-stdin"]
            done = subprocess.run(
                command, input=password + "\n", capture_output=True, text=True, env=monofs.env, timeout=60
            )
            return done.returncode, done.stderr

        code, said = login("wrong")
        assert code == 1 and "does not accept" in said
        assert not (monofs.directory / ".docker/config.json").exists()
        for bad in ("", "\x1b[31m", "x" * 20_000, "a\0b"):
            code, said = login(bad)
            assert (code, said.count("\n")) == (2, 1), said
        assert "no terminal" in monofs.fails("login", made.name, code=2)
        assert "no terminal" in monofs.fails("login", made.name, "-u", "x", code=2)
        assert "no colon" in login("x", "a:b")[1]
        assert not (monofs.directory / ".docker/config.json").exists()
        code, said = login(PASSWORD)
        assert code == 0, said
        file = monofs.directory / ".docker/config.json"
        assert file.stat().st_mode & 0o777 == 0o600
        assert made.name in json.loads(file.read_text())["auths"]
        monofs.ok("pull", "a/b:t")  # the default registry
        assert [row["reference"] for row in monofs.ok("images", "--json").json] == [ref]
        monofs.ok("logout", made.name)
        assert json.loads(file.read_text())["auths"] == {}
        assert "nothing was known" in monofs.ok("logout").err
        settings.write_text("nonsense = 1")
        assert "no key 'nonsense'" in monofs.fails("pull", ref)


def test_a_bar_for_each_layer(monofs: Monofs, registry: registries.Registry, layout: Layout) -> None:
    code, terminal, _ = monofs.on_terminal("pull", f"{registry.name}/a/b:t", stdout=False)
    assert code == 0
    manifest = json.loads((layout.path / "blobs/sha256" / layout.index["manifests"][0]["digest"][7:]).read_bytes())
    for layer in manifest["layers"]:
        assert layer["digest"][7:19].encode() in terminal


def test_as_an_ordinary_user(monofs: Monofs, registry: registries.Registry) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    tree = monofs.ok("pull", f"{registry.name}/a/b:t").text
    other = monofs.directory / "other"
    other.mkdir()
    os.chown(other, 65534, 65534)
    for directory in (monofs.directory, monofs.directory.parent):
        directory.chmod(0o755)
    env = {"HOME": str(other), "MONOFS_STORE": str(other / "store")}
    assert monofs.ok("pull", f"{registry.name}/a/b:t", user=65534, **env).text == tree


def test_references_are_completed(monofs: Monofs, registry: registries.Registry) -> None:
    monofs.ok("pull", f"{registry.name}/a/b:t")
    assert monofs.ok("__complete", "image", "loc").lines == [f"{registry.name}/a/b:t"]
    assert monofs.ok("__complete", "target", "loc").lines == [f"{registry.name}/a/b:t"]


def test_what_others_wrote_is_shown_without_its_control_characters(monofs: Monofs) -> None:
    made = Layout(monofs.directory / "x")
    manifest = made.manifest([BASE])
    config = json.loads(blob(made, json.loads(blob(made, manifest))["config"]))
    config["history"] = [{"created": "\x1b[31m\n2020", "created_by": "a\x1b]0;b\nc"}]
    doc = json.loads(blob(made, manifest))
    doc["config"] = made.document(config, doc["config"]["mediaType"])
    made.tag(made.document(doc, doc["mediaType"]), "evil/x:1")
    monofs.ok("load", str(made.path))
    (line,) = monofs.ok("image", "history", "evil/x:1").lines
    assert line.isprintable()
    assert line.endswith("a ]0;b c")


def blob(made: Layout, descriptor: dict[str, str]) -> bytes:
    return (made.path / "blobs/sha256" / descriptor["digest"][7:]).read_bytes()


class Stalling:
    """A registry with an image of two layers, of which the second stops half way until it is told to go on."""

    def __init__(self) -> None:
        self.layers = [BASE, tar([f("slow", os.urandom(1 << 20))])]
        config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [sha(layer) for layer in self.layers]}}).encode()
        rows = [{"mediaType": LAYER, "digest": sha(layer), "size": len(layer)} for layer in self.layers]
        doc = {
            "schemaVersion": 2,
            "config": {"mediaType": OCI_CONFIG, "digest": sha(config), "size": len(config)},
            "layers": rows,
        }
        self._known = {sha(config): config, sha(self.layers[0]): self.layers[0]}
        self._manifest = json.dumps(doc).encode()
        self.asked: list[str] = []
        self.is_stalled, self.go_on = threading.Event(), threading.Event()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.rpartition("/")[2]
        self.asked.append(name)
        slow = self.layers[1]
        if name != sha(slow):
            registries.reply(handler, 200, self._known.get(name, self._manifest))
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(slow)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(slow[:300_000])
            handler.wfile.flush()
            self.is_stalled.set()
            self.go_on.wait(120)
            handler.wfile.write(slow[300_000:])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_pull_that_is_interrupted(monofs: Monofs, how: signal.Signals) -> None:
    server = Stalling()
    with registries.serving(server.answer) as host:
        ref = f"{host}/a:t"
        process = monofs.start("pull", ref, "--name", "n")
        assert server.is_stalled.wait(60)
        deadline = time.monotonic() + 60
        while not layers_in(monofs) and time.monotonic() < deadline:
            time.sleep(0.02)  # the first layer is on its way
        assert layers_in(monofs) == 1
        process.send_signal(how)
        out, _ = process.communicate(timeout=60)
        assert (out, process.returncode) == (b"", 130 if how == signal.SIGINT else -how)
        assert monofs.ok("images", "--json").json == []
        assert monofs.ok("names", "--json").json == {"names": [], "pins": []}
        monofs.ok("check")
        server.go_on.set()
        server.asked.clear()
        monofs.ok("pull", ref, "--name", "n")
        assert sha(BASE) not in server.asked  # that one was done
        assert monofs.ok("ls", "n").lines == ["big", "etc", "slow"]
        monofs.ok("image", "rm", ref)
        monofs.ok("forget", "n")
        assert monofs.ok("store-info", "--json").json["blocks"] == 0


def layers_in(monofs: Monofs) -> int:
    """Return how many layers the store knows."""
    if not (monofs.store / "monofs-store.json").exists():
        return 0
    repository = Repository.open(monofs.store, create=False)
    try:
        return len(repository.store.root_keys(images.LAYER))
    finally:
        repository.close()


def test_layers_of_a_pull_that_never_ended_are_pruned(monofs: Monofs) -> None:
    server = Stalling()
    with registries.serving(server.answer) as host:
        process = monofs.start("pull", f"{host}/a:t")
        assert server.is_stalled.wait(60)
        deadline = time.monotonic() + 60
        while not layers_in(monofs) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "another process is fetching" in monofs.ok("image", "prune").err
        assert layers_in(monofs) == 1
        process.kill()
        process.communicate(timeout=60)
        server.go_on.set()
    monofs.ok("image", "prune")
    assert monofs.ok("store-info", "--json").json["blocks"] == 0
