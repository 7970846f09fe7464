"""Manifests, indexes and configurations: what is read, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from store.oci import config, media
from store.oci.errors import BadImage
from store.oci.media import Descriptor, Index, Manifest, Platform

SHA = "sha256:" + "0" * 64


def row(**more: Any) -> dict[str, Any]:
    return {"mediaType": media.OCI_LAYER + "+gzip", "digest": SHA, "size": 3, **more}


def manifest(**more: Any) -> dict[str, Any]:
    doc = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": row(mediaType=media.OCI_CONFIG), "layers": []}
    return {**doc, **more}


def parse(doc: Any, media_type: str = "") -> Index | Manifest:
    return media.parse(json.dumps(doc).encode(), media_type)


@pytest.mark.parametrize(
    "layer",
    [
        media.OCI_LAYER,
        media.OCI_LAYER + "+gzip",
        media.OCI_LAYER + "+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
def test_layers_of_every_kind(layer: str) -> None:
    found = parse(manifest(layers=[row(mediaType=layer)]), media.OCI_MANIFEST)
    assert isinstance(found, Manifest)
    assert found.layers == (Descriptor(layer, SHA, 3),)


def test_docker_and_oci_spell_it_differently() -> None:
    docker = manifest(mediaType=media.DOCKER_MANIFEST, config=row(mediaType=media.DOCKER_CONFIG))
    assert isinstance(parse(docker, media.DOCKER_MANIFEST), Manifest)
    assert isinstance(parse({"schemaVersion": 2, "mediaType": media.DOCKER_LIST, "manifests": []}), Index)
    assert isinstance(parse({"schemaVersion": 2, "manifests": []}, media.OCI_INDEX), Index)


@pytest.mark.parametrize(
    "doc",
    [
        [],
        {},
        None,
        "x",
        {"schemaVersion": 1, "fsLayers": []},
        {"schemaVersion": 2},
        {"schemaVersion": 2, "manifests": {}},
        {"schemaVersion": 2, "manifests": [], "layers": [], "config": row(mediaType=media.OCI_CONFIG)},
        {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "manifests": []},
        manifest(mediaType=media.OCI_INDEX),
        manifest(config=None),
        manifest(config=row(mediaType="application/vnd.cncf.helm.config.v1+json")),
        manifest(config=row(mediaType=media.OCI_CONFIG, size=1 << 40)),
        manifest(layers=[row(size=-1)]),
        manifest(layers=[row(size=True)]),
        manifest(layers=[row(size="3")]),
        manifest(layers=[row(size=1 << 60)]),
        manifest(layers=[row(digest="sha256:../../../etc/passwd")]),
        manifest(layers=[row(digest=None)]),
        manifest(layers=[row(mediaType="application/vnd.oci.image.layer.v1.tar+gzip+encrypted")]),
        manifest(layers=[row(mediaType="application/vnd.in-toto+json")]),
        manifest(layers=[row()] * 501),
        manifest(layers=[row(platform={"os": 3})]),
    ],
)
def test_what_is_no_manifest(doc: Any) -> None:
    with pytest.raises(BadImage):
        parse(doc)


def test_it_must_be_what_it_came_as() -> None:
    with pytest.raises(BadImage, match="it came as"):
        parse(manifest(), media.OCI_INDEX)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"schemaVersion": 2'])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(BadImage):
        media.parse(data)


# Platforms


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("linux/amd64", ("linux", "amd64", "")),
        ("arm64", ("linux", "arm64", "")),
        ("linux/arm64/v8", ("linux", "arm64", "")),
        ("linux/aarch64", ("linux", "arm64", "")),
        ("linux/arm", ("linux", "arm", "v7")),
        ("linux/arm/v6", ("linux", "arm", "v6")),
        ("linux/armhf", ("linux", "arm", "v7")),
        ("linux/x86_64", ("linux", "amd64", "")),
        ("windows/amd64", ("windows", "amd64", "")),
    ],
)
def test_platforms(text: str, wanted: tuple[str, str, str]) -> None:
    assert media.parse_platform(text) == Platform(*wanted)


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/ä", "linux amd64"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(BadImage):
        media.parse_platform(text)


def choice(wanted: str, *offered: str | None) -> list[int]:
    """Return the sizes of the descriptors that will do, which are their numbers."""
    rows = [
        row(
            size=number,
            platform=text and dict(zip(("os", "architecture", "variant"), text.split("/"))),
        )
        for number, text in enumerate(offered)
    ]
    index = parse({"schemaVersion": 2, "manifests": rows})
    assert isinstance(index, Index)
    return [found.size for found in media.candidates(index, media.parse_platform(wanted))]


def test_the_best_comes_first() -> None:
    assert choice("linux/amd64", "linux/arm64", "linux/amd64", "unknown/unknown") == [1]
    assert choice("linux/arm/v7", "linux/arm/v5", "linux/arm/v6", "linux/arm/v8", "linux/arm/v7") == [3, 1, 0]
    assert choice("linux/arm64", "linux/arm64/v8", "linux/arm64") == [0, 1]
    assert choice("linux/amd64", "linux/amd64/v3", "linux/amd64") == [1]
    assert choice("linux/amd64/v3", "linux/amd64/v3", "linux/amd64") == [0, 1]
    assert choice("linux/amd64", None, "linux/amd64", None) == [1, 0, 2]
    assert choice("linux/s390x", "linux/amd64") == []


# Configurations


def test_how_an_image_wants_to_be_run() -> None:
    doc = {
        "os": "linux",
        "architecture": "arm64",
        "variant": "v8",
        "config": {
            "Env": ["PATH=/bin", "EMPTY", "A=b=c"],
            "Entrypoint": ["/entry"],
            "Cmd": ["-c", "x"],
            "User": "1000:33",
            "WorkingDir": "/srv",
            "ExposedPorts": {"80/tcp": {}, "53/UDP": {}, "8000-8010": {}},
            "Volumes": {"/data": {}},
            "Labels": {"b": "2", "a": "1"},
            "StopSignal": "SIGINT",
        },
        "rootfs": {"type": "layers", "diff_ids": [SHA]},
        "history": [{"created_by": "ADD", "created": "2020"}, {"empty_layer": True}],
    }
    found = config.parse(json.dumps(doc).encode())
    assert found.environment() == {"PATH": "/bin", "EMPTY": "", "A": "b=c"}
    assert found.command() == ("/entry", "-c", "x")
    assert found.command("y") == ("/entry", "y")
    assert (found.user, found.workdir, found.stop_signal) == ("1000:33", "/srv", "SIGINT")
    assert found.ports == ("53/udp", "80/tcp", "8000-8010/tcp")
    assert (found.volumes, found.labels) == (("/data",), (("a", "1"), ("b", "2")))
    assert (found.platform, found.diff_ids) == (Platform("linux", "arm64"), (SHA,))
    assert [entry.empty for entry in found.history] == [False, True]
    assert config.parse(b"{}") == config.Config(Platform("", ""), ())


@pytest.mark.parametrize(
    ("test", "wanted"),
    [
        (["CMD", "/check", "-q"], ("/check", "-q")),
        (["CMD-SHELL", "a || b"], ("/bin/sh", "-c", "a || b")),
        (["NONE"], None),
        ([], None),
        (["CMD"], None),
        (["CMD-SHELL"], None),
        (["NONSENSE", "x"], None),
    ],
)
def test_health_checks(test: list[str], wanted: tuple[str, ...] | None) -> None:
    found = config.parse(json.dumps({"config": {"Healthcheck": {"Test": test, "Timeout": 10**9}}}).encode()).health
    assert found == (None if wanted is None else config.Health(wanted, timeout_seconds=1.0))


def test_a_health_check_in_the_images_own_shell() -> None:
    doc = {"config": {"Shell": ["bash", "-lc"], "Healthcheck": {"Test": ["CMD-SHELL", "x"]}}}
    assert config.parse(json.dumps(doc).encode()).health == config.Health(("bash", "-lc", "x"))


@pytest.mark.parametrize("text", ["", "9", "15", "SIGTERM", "TERM", "sigquit", "SIGRTMIN+3", "RTMAX-1", "SIGUSR1"])
def test_stop_signals(text: str) -> None:
    assert config.parse(json.dumps({"config": {"StopSignal": text}}).encode()).stop_signal == text


@pytest.mark.parametrize(
    "doc",
    [
        {"rootfs": []},
        {"rootfs": {"type": "zip"}},
        {"rootfs": {"diff_ids": ["x"]}},
        {"rootfs": {"diff_ids": [SHA] * 501}},
        {"config": {"Env": "A=b"}},
        {"config": {"Env": [3]}},
        {"config": {"Env": ["=x"]}},
        {"config": {"Env": ["A=\0"]}},
        {"config": {"Cmd": {"x": 1}}},
        {"config": {"User": 3}},
        {"config": {"ExposedPorts": {"x": {}}}},
        {"config": {"ExposedPorts": {"99999": {}}}},
        {"config": {"ExposedPorts": {f"{number}": {} for number in range(1, 1002)}}},
        {"config": {"StopSignal": "now, please"}},
        {"config": {"Cmd": ["\ud800"]}},  # half a character
        {"config": {"Entrypoint": "\udcff"}},
        {"config": {"Entrypoint": 3}},
        {"config": {"Healthcheck": []}},
        {"config": {"Healthcheck": {"Test": "x"}}},
        {"config": {"Healthcheck": {"Test": ["CMD", "x"], "Interval": -1}}},
        {"config": {"Healthcheck": {"Test": ["CMD", "x"], "Retries": 1.5}}},
        {"config": {"Healthcheck": {"Test": ["CMD", "x"], "Timeout": True}}},
        {"os": 3},
        {"os": "linux\x1b[31m"},
        {"history": [3]},
        [],
    ],
)
def test_what_is_no_configuration(doc: Any) -> None:
    with pytest.raises(BadImage):
        config.parse(json.dumps(doc).encode())
