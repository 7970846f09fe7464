"""Registries that lie: whatever one says, a pull ends with one line, soon, and nothing of the image is visible."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from store.errors import MonofsError
from store.oci import credentials, images, limits, media, reference, registry
from store.oci.credentials import Credential
from store.oci.errors import BadImage, RegistryError
from store.oci.settings import Endpoint, Settings
from store.repository import Repository
from tests.oci.layouts import d, f, packed, sha, tar
from tests.oci.pulling import pulled
from tests.oci.registries import PASSWORD, USER, certificate, reply, serving

Handler = BaseHTTPRequestHandler
Lie = Callable[["Liar", Handler], None]

LAYER = tar([d("a"), f("a/b", b"x" * 10_000)])
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr(limits, "back_off_seconds", 0.001)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


class Liar:
    """A registry with one image, which is honest but for what `lies` says of manifest, config and layer."""

    def __init__(self, **lies: Lie) -> None:
        self.lies = lies
        self.blob = packed(LAYER, "gzip")
        self.config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [sha(LAYER)]}}).encode()
        self.asked: list[tuple[str, str | None]] = []

    @property
    def manifest(self) -> bytes:
        rows = [{"mediaType": media.OCI_LAYER + "+gzip", "digest": sha(self.blob), "size": len(self.blob)}]
        config = {"mediaType": media.OCI_CONFIG, "digest": sha(self.config), "size": len(self.config)}
        return json.dumps({"schemaVersion": 2, "config": config, "layers": rows}).encode()

    def answer(self, handler: Handler) -> None:
        self.asked.append((handler.path, handler.headers.get("Authorization")))
        known = {sha(self.config): ("config", self.config), sha(self.blob): ("layer", self.blob)}
        kind, data = known.get(handler.path.rpartition("/")[2], ("manifest", self.manifest))
        lie = self.lies.get(kind)
        if lie is None:
            reply(handler, 200, data)
        else:
            with contextlib.suppress(OSError):
                lie(self, handler)


def pull(repository: Repository, host: str, selector: str = "t", known: Settings | None = None) -> None:
    text = f"{host}/a:t"
    remote = registry.remote(reference.parse(text), known or Settings())
    try:
        pulled(repository, remote, selector, text)
    finally:
        remote.interrupt()


def refused(repository: Repository, liar: Liar, selector: str = "t") -> str:
    """Pull what cannot be pulled; returns the one line that says why."""
    with serving(liar.answer) as host, pytest.raises(MonofsError) as caught:
        pull(repository, host, selector)
    assert not repository.store.root_keys(images.IMAGE) and not repository.store.root_keys(images.LAYER)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 500
    return text


def said(status: int, body: bytes = b"", **headers: str) -> Lie:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda liar, handler: reply(handler, status, body, named)


def endless(liar: Liar, handler: Handler) -> None:
    """A body that never ends, of no length that was said."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    while True:
        handler.wfile.write(os.urandom(1 << 16))


def endless_chunks(liar: Liar, handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def raw(data: bytes) -> Lie:
    def answer(liar: Liar, handler: Handler) -> None:
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


def flip(name: str) -> Lie:
    """The right length, with one byte another."""

    def answer(liar: Liar, handler: Handler) -> None:
        data = bytearray(getattr(liar, name))
        data[len(data) // 2] ^= 1
        reply(handler, 200, bytes(data))

    return answer


def test_the_liar_can_be_honest(repository: Repository) -> None:
    with serving(Liar().answer) as host:
        pull(repository, host)
    assert len(repository.store.root_keys(images.IMAGE)) == 1


@pytest.mark.parametrize("kind", ["manifest", "config", "layer"])
@pytest.mark.parametrize(
    "lie",
    [
        endless,
        endless_chunks,
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n"),
        raw(b"nonsense\r\n\r\n"),
        raw(b""),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nxxxxx"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nxxxxx"),
        said(200),
        said(200, b"x"),
        said(204),
        said(206, b"x", Content_Range="bytes 7-8/9"),
        said(206, b"x", Content_Range="nonsense"),
        said(404, b"[]"),
        said(404, b'"x"'),
        said(404, b'{"errors": ["x"]}'),
        said(404, b'{"errors": {"0": 1}}'),
        said(500, b'{"errors": [{"message": {"a": "\\u001b"}}]}', Retry_After="\xb2"),
        said(429, b"", Retry_After="-1"),
        said(302, b"", Location="file:///etc/passwd"),
        said(302, b"", Location="http://["),
        said(302, b"", Location="//["),
        said(302, b"", Location="http://h:99999/"),
        said(302, b"", Location="http:///x"),
        said(302, b"", Location="http://" + "a" * 300 + "/"),
        said(302, b"", Location="gopher://localhost/"),
        said(302, b"", Location=""),
        said(302, b""),
        said(401, b"", WWW_Authenticate='Bearer realm="http://["'),
        said(401, b"", WWW_Authenticate='Bearer realm="file:///etc/passwd"'),
        said(401, b"", WWW_Authenticate='Digest realm="x"'),
        said(401, b"", WWW_Authenticate="\xff"),
    ],
    ids=lambda lie: None,
)
def test_answers(repository: Repository, kind: str, lie: Lie) -> None:
    refused(repository, Liar(**{kind: lie}))


def test_memory_does_not_grow_with_what_is_sent(repository: Repository) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in ("manifest", "config", "layer"):
        refused(repository, Liar(**{kind: endless}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("kind", ["manifest", "config", "layer"])
def test_a_byte_that_is_another(repository: Repository, kind: str) -> None:
    liar = Liar(**{kind: flip({"layer": "blob"}.get(kind, kind))})
    refused(repository, liar, sha(liar.manifest) if kind == "manifest" else "t")


def test_another_image_than_the_one_of_that_digest(repository: Repository) -> None:
    assert "digest" in refused(repository, Liar(), "sha256:" + "0" * 64)


def test_a_layer_of_another_size(repository: Repository) -> None:
    for size in (0, 1, len(Liar().blob) - 1, len(Liar().blob) + 1, limits.blob_bytes_max + 1, -1, 1 << 80):

        class Wrong(Liar):
            @property
            def manifest(self) -> bytes:
                doc = json.loads(super().manifest)
                doc["layers"][0]["size"] = size  # noqa: B023
                return json.dumps(doc).encode()

        refused(repository, Wrong())


@pytest.mark.parametrize(
    "change",
    [
        {"rootfs": {"type": "layers", "diff_ids": [sha(b"other")]}},
        {"rootfs": {"type": "layers", "diff_ids": []}},
        {"rootfs": {"type": "layers", "diff_ids": [sha(LAYER)] * 2}},
        {"rootfs": {"type": "layers", "diff_ids": ["sha256:../../etc/passwd"]}},
        {"os": "linux\n"},
        [],
    ],
)
def test_configurations(repository: Repository, change: Any) -> None:
    liar = Liar()
    liar.config = json.dumps(change).encode()
    refused(repository, liar)


def test_a_digest_that_is_a_path_is_never_asked_for(repository: Repository) -> None:
    for digest in ("sha256:../../x", "../../x", "sha256:" + "A" * 64, "md5:" + "0" * 32, "", 3, None):

        class Wrong(Liar):
            @property
            def manifest(self) -> bytes:
                doc = json.loads(super().manifest)
                doc["config"]["digest"] = digest  # noqa: B023
                return json.dumps(doc).encode()

        liar = Wrong()
        refused(repository, liar)
        assert {path for path, _ in liar.asked} <= {"/v2/", "/v2/a/manifests/t"}


def test_a_bomb(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ratio_free_bytes", 1 << 20)
    liar = Liar()
    liar.blob = packed(tar([f("zeros", bytes(1 << 24))]), "gzip", 9)
    assert "times when decompressed" in refused(repository, liar)


# Tokens


@pytest.mark.parametrize(
    ("token", "is_good"),
    [
        ({"token": "t", "expires_in": 10**400}, True),
        ({"token": "t", "expires_in": -1}, True),
        ({"token": "t", "expires_in": "soon"}, True),
        ({"access_token": "t"}, True),
        ({"token": "t\r\nX-Evil: 1"}, False),
        ({"token": "\u00e9"}, False),
        ({"token": 3}, False),
        ({"token": "x" * (limits.token_bytes_max + 1)}, False),
        ([], False),
        ("t", False),
        (None, False),
    ],
)
def test_tokens(repository: Repository, token: Any, is_good: bool) -> None:
    hosts: list[str] = []

    def manifest(liar: Liar, handler: Handler) -> None:
        if handler.path.startswith("/token"):
            reply(handler, 200, token)
        elif handler.headers.get("Authorization") != "Bearer t":
            reply(handler, 401, {}, {"WWW-Authenticate": f'Bearer realm="http://{hosts[0]}/token",service="s"'})
        else:
            reply(handler, 200, liar.manifest)

    liar = Liar(manifest=manifest)
    with serving(liar.answer) as host:
        hosts.append(host)
        if is_good:
            pull(repository, host)
        else:
            with pytest.raises(RegistryError, match="gave none"):
                pull(repository, host)


# What must not get out


def log_in(host: str) -> None:
    credentials.put(credentials.path(), host, Credential(USER, PASSWORD))


def test_no_password_and_no_token_goes_to_another_host(repository: Repository) -> None:
    """A layer lies somewhere else, which asks who we are, as the registry itself does."""
    elsewhere = Liar(layer=said(401, b"", WWW_Authenticate='Basic realm="give it to me"'))
    with serving(elsewhere.answer) as other:

        def layer(liar: Liar, handler: Handler) -> None:
            if handler.headers.get("Authorization") != BASIC:
                reply(handler, 401, {}, {"WWW-Authenticate": 'Basic realm="x"'})
            else:
                reply(handler, 307, b"", {"Location": f"http://{other}{handler.path}"})

        liar = Liar(layer=layer)
        with serving(liar.answer) as host:
            log_in(host)
            with pytest.raises(MonofsError):
                pull(repository, host)
    assert BASIC in [who for _, who in liar.asked]
    assert elsewhere.asked and {who for _, who in elsewhere.asked} == {None}


def test_nothing_leads_away_from_tls(repository: Repository, tmp_path: Path) -> None:
    """Neither a layer nor a password, whatever a registry with TLS says."""
    pair = certificate(tmp_path)
    plain = Liar()
    with serving(plain.answer) as other:
        for lie in (
            said(307, b"", Location=f"http://{other}/x"),
            said(307, b"", Location=f"http://localhost:{other.rpartition(':')[2]}/x"),
            said(401, b"", WWW_Authenticate=f'Bearer realm="http://{other}/token"'),
        ):
            liar = Liar(manifest=lie)
            with serving(liar.answer, pair) as host:
                log_in(host)
                known = Settings(registries=((Endpoint(host, ca=str(pair[0])), ()),))
                with pytest.raises(RegistryError, match="TLS"):
                    pull(repository, host, known=known)
            assert liar.asked
    assert plain.asked == []


def test_a_certificate_that_nobody_vouches_for(repository: Repository, tmp_path: Path) -> None:
    liar = Liar()
    with serving(liar.answer, certificate(tmp_path)) as host:
        log_in(host)
        with pytest.raises(RegistryError, match="certificate is not good"):
            pull(repository, host)
    assert liar.asked == []


@pytest.mark.parametrize(
    "where", ["//{other}/up", "http://{other}/up", "http://{host}//{other}/up", "http://[", "", "///{other}/up"]
)
def test_a_layer_is_sent_nowhere_else(where: str) -> None:
    elsewhere = Liar()
    with serving(elsewhere.answer) as other:

        def answer(handler: Handler) -> None:
            handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
            reply(handler, 202, b"", {"Location": where.format(other=other, host=host)})

        with serving(answer) as host:
            made = registry.target(reference.parse(f"{host}/a:t"), Settings())
            with pytest.raises(RegistryError):
                made.upload(sha(b"secret"), lambda: [b"secret"])
            made.wire.close()
    assert elsewhere.asked == []


def test_a_broken_off_manifest_is_asked_for_again(repository: Repository) -> None:
    times = []

    def manifest(liar: Liar, handler: Handler) -> None:
        times.append(1)
        if len(times) < 3:
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")(liar, handler)
        else:
            reply(handler, 200, liar.manifest)

    with serving(Liar(manifest=manifest).answer) as host:
        pull(repository, host)
    assert len(times) == 3


def test_one_layer_is_a_lie_and_the_other_stays(repository: Repository) -> None:
    """What was right is kept, so that it need not come again; no name leads to it."""
    liar = Liar(layer=flip("blob"))
    with serving(liar.answer) as host, pytest.raises(BadImage):
        pull(repository, host)
    liar.lies = {}
    with serving(liar.answer) as host:
        pull(repository, host)
    assert len(repository.store.root_keys(images.IMAGE)) == 1
