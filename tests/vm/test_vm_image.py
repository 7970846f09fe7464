"""`monofs vm run IMAGE`: which is meant, when it is pulled, and what runs. Most machines here are plain processes."""

from __future__ import annotations

import gc
import gzip
import os
import signal
import tarfile
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from monofs_fuse.cli import vm_image
from tests.oci import registries
from tests.oci.layouts import Layout, d, f, sha, tar
from tests.oci.registries import Registry
from tests.oci.test_cli_images import Stalling
from tests.vm.guests import busybox_tree
from tests.vm.hosts import FAKE, REAL, Host, result_of, terminal

pytestmark = [pytest.mark.mounted, pytest.mark.skipif(os.geteuid() != 0, reason="machines need root")]

SAY = 'echo "$A $B $0 $*"; pwd | sed "s:.*/vm/roots/[0-9a-f]*/*:at /:"'
CONFIG = {
    "Env": ["PATH=/usr/bin:/bin", "A=image", "B=image"],
    "Entrypoint": ["sh", "-c", SAY],
    "Cmd": ["cmd", "1"],
    "WorkingDir": "srv",
    "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
    "StopSignal": "SIGQUIT",
}
LAYER = tar([d("srv"), f("srv/f", b"old\n"), d("tmp")])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with a/b:t, a/none:t, which has no command, and a/bad:t, whose user is none."""
    at = tmp_path_factory.mktemp("registry")
    layout = Layout(at / "layout")
    layout.image([LAYER], "t", config=CONFIG)
    layout.image([LAYER], "none", config={"Env": ["A=none"]})
    layout.image([LAYER], "bad", config={"Cmd": ["true"], "User": "a:b:c"})
    with registries.registry(at / "r") as made:
        made.push(layout.path, "a/b:t", tag="t")
        made.push(layout.path, "a/none:t", tag="none")
        made.push(layout.path, "a/bad:t", tag="bad")
        yield made


@pytest.fixture
def host(tmp_path: Path, registry: Registry) -> Iterator[Host]:
    made = Host(tmp_path, FAKE)
    made.registries.write_text(f'default = "{registry.name}"\n')
    yield made
    made.end()
    for log in tmp_path.glob("store/vm/*/supervisor.log"):
        assert log.read_text() == "", "a supervisor complains"


def said(host: Host, *args: str) -> list[str]:
    return host.ok("vm", "run", *args).lines


def inspected(host: Host, id: str) -> dict[str, Any]:
    found: dict[str, Any] = host.ok("vm", "inspect", id).json
    return found


# What runs


def test_an_image_is_pulled_and_run_as_it_wants(host: Host, registry: Registry) -> None:
    assert not host.store.exists()
    done = host.run("vm", "run", "a/b:t")  # the default registry, as for pull
    assert (done.code, done.lines) == (0, ["image image cmd 1", "at /srv"]), done
    (row,) = host.ok("images", "--json").json
    assert row["reference"] == f"{registry.name}/a/b:t"
    assert result_of(done) == row["tree"], "nothing was changed"
    assert host.names() == {}
    (machine,) = host.machines()
    assert (machine["target"], machine["tree"]) == (row["reference"], row["tree"])
    assert machine["image"] == {
        "reference": row["reference"],
        "digest": row["digest"],
        "ports": ["53/udp", "80/tcp"],
        "stop_signal": "SIGQUIT",
    }
    (_, line) = host.ok("vm", "ps", "-a").lines
    assert line.split()[5:7] == [row["reference"], row["digest"][7:19]]
    host.assert_clean()


def test_what_a_person_says_goes_before(host: Host) -> None:
    assert said(host, "a/b:t", "--", "x", "y z") == ["image image x y z", "at /srv"]
    assert said(host, "--env", "A=mine", "--workdir", "/tmp", "a/b:t") == ["mine image cmd 1", "at /tmp"]
    assert said(host, "--entrypoint", "echo", "a/b:t") == [""]
    assert said(host, "--entrypoint", "", "a/b:t", "--", "echo", "hi") == ["hi"]
    assert said(host, "--entrypoint", '["echo", "-n"]', "a/b:t", "--", "hi") == ["hi"]
    assert said(host, "a/none:t", "--", "sh", "-c", "echo $A") == ["none"]


def test_a_directory_that_the_image_lacks_is_made(host: Host, registry: Registry) -> None:
    done = host.ok("vm", "run", "--workdir", "/new/er", "a/b:t")
    assert done.lines == ["image image cmd 1", "at /new/er"]
    assert host.ok("ls", f"{result_of(done)}/new").lines == ["er"]
    assert host.run("vm", "run", "--workdir", "/newer", host.names().popitem()[0]).code != 0, "no image, no directory"


def test_the_fork_has_a_name_that_people_can_read(host: Host, registry: Registry) -> None:
    script = ["--entrypoint", "", "a/b:t", "--", "sh", "-c", "echo new > f"]
    done = host.ok("vm", "run", *script)
    (name,) = host.names()
    assert name.startswith(f"{registry.name.replace('/', '-')}-a-b:t-vm-")
    assert host.read(result_of(done), "srv/f") == b"new\n"
    assert host.read("a/b:t", "srv/f") == b"old\n", "the image is as it was"
    host.ok("vm", "run", "--keep", "changed", *script)
    assert host.read("changed", "srv/f") == b"new\n"
    host.ok("vm", "run", "--discard", *script)
    assert len(host.names()) == 2
    assert host.ok("vm", "run", "--read-only", "--entrypoint", "cat", "a/b:t", "--", "f").out == b"old\n"


def test_nobody_says_what_to_run(host: Host) -> None:
    for options in ([], ["--detach"]):
        assert "say what to run" in host.fails("vm", "run", *options, "a/none:t")
    assert "say what to run" in host.fails("vm", "run", "--entrypoint", "", "a/b:t")
    assert "'a:b:c' is not USER" in host.fails("vm", "run", "a/bad:t")
    assert host.ok("vm", "run", "--user", "0", "a/bad:t").code == 0
    host.assert_clean()


def test_a_machine_that_waits_and_one_that_does_not(host: Host) -> None:
    host.detached("--name", "waits", "--entrypoint", "", "--env", "B=mine", "a/b:t")
    assert inspected(host, "waits")["command"] == {}
    script = ["--", "sh", "-c", SAY, "exec"]
    assert host.ok("vm", "exec", "waits", *script).lines == ["image mine exec ", "at /srv"]
    assert host.ok("vm", "exec", "--env", "A=x", "--workdir", "/", "waits", *script).lines == ["x mine exec ", "at /"]
    host.ok("vm", "stop", "waits")
    id = host.detached("--env", "B=mine", "a/b:t", "--", "x; sleep 1000")
    assert inspected(host, id)["command"]["argv"] == ["sh", "-c", SAY, "x; sleep 1000"]
    id = host.detached("--entrypoint", "sleep", "--env", "B=mine", "a/b:t", "--", "1000")
    assert host.ok("vm", "exec", id, *script).lines == ["image mine exec ", "at /srv"]
    host.ok("vm", "kill", id)


def test_ports(host: Host) -> None:
    run = ["--entrypoint", "true", "--json", "--net", "user"]
    done = host.ok("vm", "run", *run, "-P", "a/b:t")
    (published,) = done.json["spec"]["publish"]
    assert published["guest_port"] == 80
    assert f"port 80 of the machine is 127.0.0.1:{published['host_port']} here" in done.err
    assert "not published, because only TCP is: 53/udp" in done.err
    done = host.ok("vm", "run", *run, "--publish", "8080:80", "--publish-all", "a/b:t")
    assert [one["host_port"] for one in done.json["spec"]["publish"]] == [8080]
    assert "offers no ports" in host.ok("vm", "run", *run, "-P", "a/none:t").err
    assert "--net user" in host.fails("vm", "run", "-P", "a/b:t")


def test_nothing_is_open_when_the_supervisor_is_forked(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a connection nor a thread: it would close, or wait for, what is not its own."""
    monkeypatch.setenv("MONOFS_REGISTRIES", str(tmp_path / "none"))

    def is_open() -> set[str]:
        return {os.readlink(found.path) for found in os.scandir("/proc/self/fd") if os.path.lexists(found.path)}

    before, threads = is_open(), threading.active_count()
    gc.disable()
    try:
        for policy in ("missing", "always", "never"):
            assert vm_image.found(tmp_path / "store", f"{registry.name}/a/b:t", policy) is not None
            new = is_open() - before
            assert not [found for found in new if "socket" in found or "store" in found], new
            assert threading.active_count() == threads
    finally:
        gc.enable()


# What is meant


def test_what_has_a_meaning_here_keeps_it(host: Host, registry: Registry) -> None:
    """A name, a path in an image that is here, a mount."""
    host.ok("vm", "run", "a/b:t")
    (host.directory / "tree").mkdir()
    (host.directory / "tree/mine").touch()
    mine = host.ok("import", "tree", "--name", "a/b").text.strip()
    script = ["--", "sh", "-c", "ls"]
    assert said(host, "a/b", *script) == ["mine"]
    assert said(host, mine, *script) == ["mine"]
    assert said(host, "a/b:t/srv", *script) == ["f"]
    assert said(host, "--entrypoint", "ls", "a/b:t") == ["f"], "a name 'a/b' is not 'a/b:t'"
    host.ok("name", "a/b:t", "a/b")
    assert said(host, "a/b:t", *script) == ["mine"]
    assert said(host, "--entrypoint", "ls", "docker://a/b:t") == ["f"]
    assert said(host, "--entrypoint", "ls", f"{registry.name}/a/b:t") == ["f"]
    assert host.ok("ls", "docker://a/b:t/srv").lines == ["f"]
    assert "is no image" in host.fails("vm", "run", "--pull", "always", "a/b:t")
    mount = host.directory / "m"
    mount.mkdir()
    host.ok("mount", "a/b", "m")
    assert said(host, "./m", *script) == said(host, "m", *script) == ["mine"]
    host.ok("umount", "m")


def test_a_store_over_another_has_its_images_and_names(host: Host) -> None:
    host.ok("vm", "run", "a/b:t")
    host.ok("name", "mine", "a/b:t")
    upper = {"MONOFS_STORE": str(host.directory / "upper")}
    host.ok("init", "--base", str(host.store), env=upper)
    host.registries.write_text('default = "localhost:1"\n')
    full = host.ok("images", "--json").json[0]["reference"]
    assert host.ok("vm", "run", full, env=upper).lines == ["image image cmd 1", "at /srv"]
    assert host.ok("vm", "run", "mine", "--", "ls", env=upper).lines == ["srv", "tmp"]
    assert host.ok("vm", "ps", "-a", "--json", env=upper).json[0]["image"] == {}


def test_what_is_meant_by_nobody(host: Host, registry: Registry) -> None:
    line = host.fails("vm", "run", "nosuch")
    assert f"no name 'nosuch' in {host.store}; no image '{registry.name}/nosuch:latest'" in line
    assert "no name" not in host.fails("vm", "run", f"{registry.name}/nosuch")
    assert "no name" not in host.fails("vm", "run", "docker://nosuch")
    assert not host.store.exists() or host.machines() == []
    assert "lower case" in host.fails("vm", "run", "docker://Nosuch")
    host.ok("vm", "run", "a/b:t")
    for text in ("nosuch~1", "Nosuch", "no such", "bafynonsense", "a/b:t/nothing/here", "a/b:t/\udcff", "\udcff"):
        host.fails("vm", "run", text)
    host.assert_clean()


# When it is pulled


def test_policies(host: Host, registry: Registry) -> None:
    assert "--pull missing" in host.fails("vm", "run", "--pull", "never", "a/b:t")
    assert not (host.store / "monofs-store.json").exists()
    host.ok("vm", "run", "a/b:t")
    host.registries.write_text(
        f'default = "{registry.name}"\n[registry."{registry.name}"]\nmirrors = ["localhost:1"]\n'
    )
    asked = len(registry.requests("/v2/"))
    host.ok("vm", "run", "a/b:t")
    host.ok("vm", "run", "--pull", "never", "a/b:t")
    host.ok("vm", "run", "--pull", "missing", "a/b:t")
    assert len(registry.requests("/v2/")) == asked, "what is here needs no network"
    host.ok("vm", "run", "--pull", "always", "a/b:t")
    assert len(registry.requests("/v2/a/b/manifests/t")) > 1


def test_pulling_again_moves_the_reference(host: Host, registry: Registry, tmp_path: Path) -> None:
    for number in (1, 2):
        layout = Layout(tmp_path / f"layout{number}")
        layout.image([tar([f(f"v{number}")])], config={"Cmd": ["ls"]})
        registry.push(layout.path, "moving:t")
        wanted = ["v1"] if number == 1 else ["v2"]
        assert said(host, "moving:t") == ["v1"]
        assert said(host, "--pull", "always", "moving:t") == wanted
    assert said(host, "moving:t") == ["v2"]


def test_no_registry(host: Host) -> None:
    host.ok("vm", "run", "a/b:t")
    reference = "localhost:1/a/b:t"
    host.ok("image", "tag", "a/b:t", reference)
    assert said(host, reference) == ["image image cmd 1", "at /srv"]
    assert "cannot speak to localhost:1" in host.fails("vm", "run", "--pull", "always", reference)
    assert said(host, reference) == ["image image cmd 1", "at /srv"], "a pull that fails changes nothing"
    host.assert_clean()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_pull_that_is_interrupted(host: Host, how: signal.Signals) -> None:
    server = Stalling()
    with registries.serving(server.answer) as name:
        process = host.popen("vm", "run", f"{name}/a:t", "--", "true")
        assert server.is_stalled.wait(60)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
        server.go_on.set()
    assert (out, process.returncode) == (b"", 130 if how == signal.SIGINT else -signal.SIGTERM), err
    assert b"Traceback" not in err
    assert host.ok("images", "--json").json == []
    assert host.names() == {}
    host.assert_clean()


def test_a_bar_for_each_layer(host: Host) -> None:
    with terminal(host, "vm", "run", "-t", "--entrypoint", "echo", "a/b:t", "--", "done") as shown:
        shown.expect(b"asking for localhost:")
        shown.expect(sha(gzip.compress(LAYER, 1, mtime=0))[7:19].encode())
        shown.expect(b"done")
        assert shown.code() == 0


# In real machines


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("host"), REAL)
    yield made
    made.end()


def busybox_layer(tmp_path: Path) -> bytes:
    root = busybox_tree(tmp_path / "root")
    for path, text in {
        "etc/passwd": "root:x:0:0::/root:/bin/sh\napp:x:1000:100::/home/app:/bin/sh\n",
        "etc/group": "root:x:0:\nusers:x:100:\nmore:x:7:app\n",
        "opt/app/run": '#!/bin/sh\nid; pwd; echo "$HOME $GREETING $*"; echo mine > made\n',
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "opt/app/run").chmod(0o755)
    os.chown(root / "opt/app", 1000, 100)
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(root, ".")
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_image_in_a_real_machine(real: Host, registry: Registry, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    config = {
        "Env": ["PATH=/opt/app:/bin", "GREETING=hello"],
        "Entrypoint": ["run"],
        "Cmd": ["from", "the image"],
        "User": "app",
        "WorkingDir": "/opt/app",
    }
    layout.image([busybox_layer(tmp_path)], config=config)
    registry.push(layout.path, "busybox:1")
    done = real.ok("vm", "run", f"{registry.name}/busybox:1")
    assert done.lines == [
        "uid=1000(app) gid=100(users) groups=7(more),100(users)",
        "/opt/app",
        "/home/app hello from the image",
    ]
    assert real.read(result_of(done), "opt/app/made") == b"mine\n"
    words = ["--pull", "never", "--user", "0", "--workdir", "/", "--entrypoint", "", "--discard"]
    done = real.ok("vm", "run", *words, f"{registry.name}/busybox:1", "--", "sh", "-c", "id -u; pwd; run x")
    assert done.lines[0] == "0" and done.lines[1] == "/" and done.lines[-1].endswith("hello x")
    real.assert_clean()
