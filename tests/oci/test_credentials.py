"""Docker's file of credentials and its helpers; our file of registries."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from store.oci import credentials, settings
from store.oci.credentials import Credential
from store.oci.errors import BadSettings

SOMEBODY = Credential("somebody", "pass:word")
AUTH = base64.b64encode(b"somebody:pass:word").decode()


def write(file: Path, doc: object) -> Path:
    file.write_text(doc if isinstance(doc, str) else json.dumps(doc))
    return file


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("https://ghcr.io/v2/", "ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
    ],
)
def test_every_spelling_is_found(key: str, registry: str, tmp_path: Path) -> None:
    file = write(tmp_path / "c", {"auths": {"other": {"auth": "!"}, key: {"auth": AUTH}}})
    assert credentials.find(file, registry) == SOMEBODY
    assert credentials.find(file, "quay.io") is None
    assert credentials.remove(file, registry)
    assert not credentials.remove(file, registry)
    assert json.loads(file.read_text())["auths"] == {"other": {"auth": "!"}}


def test_what_is_put_is_found_and_nothing_else_changes(tmp_path: Path) -> None:
    file = tmp_path / "docker" / "config.json"
    credentials.put(file, "docker.io", SOMEBODY)
    assert file.stat().st_mode & 0o777 == 0o600
    doc = json.loads(file.read_text())
    assert doc == {"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}}
    write(file, {**doc, "detachKeys": "x", "auths": {**doc["auths"], "ghcr.io": {"auth": "a"}}})
    credentials.put(file, "docker.io", Credential("other", "", "token"))
    assert json.loads(file.read_text())["detachKeys"] == "x"
    assert json.loads(file.read_text())["auths"]["ghcr.io"] == {"auth": "a"}
    assert credentials.find(file, "docker.io") == Credential("other", "", "token")


def test_a_link_stays_one(tmp_path: Path) -> None:
    real = write(tmp_path / "real", {})
    (tmp_path / "link").symlink_to(real)
    credentials.put(tmp_path / "link", "a.b", SOMEBODY)
    assert (tmp_path / "link").is_symlink()
    assert credentials.find(real, "a.b") == SOMEBODY


@pytest.mark.parametrize(
    "doc",
    ["", "[]", "{", {"auths": []}, {"auths": {"a.b": {"auth": "!"}}}, {"auths": {"a.b": {"auth": "YQ=="}}},
     {"credsStore": "../../bin/sh"}, {"credHelpers": {"a.b": "x y"}}, {"credHelpers": {"a.b": "no-such-helper"}}],
)  # fmt: skip
def test_what_is_broken(doc: object, tmp_path: Path) -> None:
    with pytest.raises(BadSettings) as caught:
        credentials.find(write(tmp_path / "c", doc), "a.b")
    assert "\n" not in str(caught.value)
    assert credentials.find(tmp_path / "none", "a.b") is None


HELPER = """#!/bin/sh
printf '%s ' "$1" >> "$0.log"; read -r line; printf '%s\\n' "$line" >> "$0.log"
case $1 in
get) case $line in
    known) echo '{"ServerURL": "known", "Username": "somebody", "Secret": "pass:word"}' ;;
    tokens) echo '{"ServerURL": "tokens", "Username": "<token>", "Secret": "identity"}' ;;
    broken) echo '{}' ;;
    failing) echo 'secret things'; exit 2 ;;
    *) echo 'credentials not found in native keychain'; exit 1 ;;
esac ;;
esac
"""


def test_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file = write(tmp_path / "c", {"credsStore": "test", "credHelpers": {"own": "test"}})
    assert credentials.find(file, "known") == SOMEBODY
    assert credentials.find(file, "tokens") == Credential("", "", "identity")
    assert credentials.find(file, "own") is None
    assert credentials.find(file, "docker.io") is None
    for bad in ("broken", "failing"):
        with pytest.raises(BadSettings) as caught:
            credentials.find(file, bad)
        assert "secret" not in str(caught.value)
    assert credentials.put(file, "new", SOMEBODY) == "docker-credential-test"
    assert credentials.remove(file, "known")
    assert not credentials.remove(file, "unknown")
    log = (tmp_path / "docker-credential-test.log").read_text()
    assert "get https://index.docker.io/v1/\n" in log
    assert 'store {"ServerURL": "new", "Username": "somebody", "Secret": "pass:word"}\n' in log
    assert log.endswith("get known\nerase known\nget unknown\n")
    assert "auths" not in json.loads(file.read_text())  # no password in the file


# Settings


def test_settings(tmp_path: Path) -> None:
    file = write(
        tmp_path / "r.toml",
        'default = "ghcr.io"\n[registry."r.example:5000"]\nmirrors = ["m.example", "localhost:1"]\nca = "ca.pem"\n'
        '[registry."docker.io"]\ninsecure = true\n',
    )
    found = settings.load(file)
    assert found.default == "ghcr.io"
    first, second, third = found.endpoints("r.example:5000")
    assert (first.registry, first.plain) == ("m.example", False)
    assert (second.registry, second.plain) == ("localhost:1", True)
    assert (third.host, third.ca, third.insecure) == ("r.example:5000", str(tmp_path / "ca.pem"), False)
    hub = found.endpoint("docker.io")
    assert (hub.host, hub.insecure, hub.plain) == ("registry-1.docker.io", True, True)
    assert settings.load(tmp_path / "none") == settings.Settings()


@pytest.mark.parametrize("host", ["localhost", "localhost:5", "127.0.0.1", "127.9.9.9:1", "[::1]:5000", "[::1]"])
def test_this_machine_may_do_without_tls(host: str) -> None:
    assert settings.Settings().endpoint(host).plain


@pytest.mark.parametrize("host", ["localhost.example", "128.0.0.1", "docker.io", "127.0.0.1.example:5000", "[::2]"])
def test_others_may_not(host: str) -> None:
    assert not settings.Settings().endpoint(host).plain


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("default = 3", "'default' must be a str"),
        ("defualt = 'x'", "no key 'defualt'"),
        ("default = 'a/b'", "no registry"),
        ("[registry.x]\ninsecure = 1", "'registry.\"x\".insecure' must be a bool"),
        ("[registry.x]\nca = true", "must be a str"),
        ("[registry.x]\nmirrors = ['https://x']", "mirrors: "),
        ("[registry]\nx = 1", "no table"),
        ("x", "no TOML"),
        ("\0", "no TOML"),
    ],
)
def test_settings_that_are_wrong(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(BadSettings) as caught:
        settings.load(write(tmp_path / "r.toml", text))
    assert why in str(caught.value)
    assert str(tmp_path / "r.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_the_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_CONFIG", "MONOFS_REGISTRIES", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/h")
    assert str(credentials.path()) == "/h/.docker/config.json"
    assert str(settings.path()) == "/h/.config/monofs/registries.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x")
    assert str(settings.path()) == "/x/monofs/registries.toml"
    monkeypatch.setenv("MONOFS_REGISTRIES", "/r")
    monkeypatch.setenv("DOCKER_CONFIG", "/d")
    assert (str(settings.path()), str(credentials.path())) == ("/r", "/d/config.json")
