"""Pulling and pushing with a real registry: TLS, passwords, tokens, broken lines, and registries that mean ill."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from store.errors import MonofsError
from store.oci import credentials, digest, images, limits, media, pull, reference, registry, settings
from store.oci.credentials import Credential
from store.oci.errors import BadImage, Denied, NotInRegistry, RegistryError
from store.oci.settings import Endpoint, Settings
from store.repository import Repository
from tests.oci import registries
from tests.oci.layouts import Layout, d, f, sha, tar
from tests.oci.pulling import Quiet, loaded, pulled
from tests.oci.registries import PASSWORD, USER, Flaky, TokenServer, reply, serving

BASE = tar([d("."), f("base", bytes(range(256)) * 2000)])
TOP = tar([f("top", os.urandom(600_000))])


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = Layout(tmp_path_factory.mktemp("layout") / "image")
    made.image([BASE, TOP])
    arm = made.manifest([TOP], architecture="arm64")
    amd = made.manifest([BASE])
    rows = [
        {**amd, "platform": {"os": "linux", "architecture": "amd64"}},
        {**arm, "platform": {"os": "linux", "architecture": "arm64"}},
    ]
    made.tag(
        made.document({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": rows}, media.OCI_INDEX), "many"
    )
    return made


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path_factory.mktemp("plain")) as made:
        made.push(layout.path, "a/b:t")
        made.push(layout.path, "a/many:t", tag="many", everything=True)
        made.push(layout.path, "a/docker:t", form="v2s2")
        yield made


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path_factory.mktemp("secure"), secure=True) as made:
        made.push(layout.path, "a/b:t")
        yield made


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr(limits, "back_off_seconds", 0.01)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def source(text: str, known: Settings = settings.Settings()) -> registry.Remote:  # noqa: B008, it is a constant
    return registry.remote(reference.parse(text), known)


def get(repository: Repository, text: str, known: Settings = settings.Settings(), watcher: Quiet | None = None):  # type: ignore[no-untyped-def]  # noqa: B008
    return pulled(repository, source(text, known), reference.parse(text).selector, text, watcher=watcher)


def trusting(made: registries.Registry) -> Settings:
    return Settings(registries=((Endpoint(made.name, ca=str(made.cert)), ()),))


def log_in(name: str, user: str = USER, password: str = PASSWORD) -> None:
    credentials.put(credentials.path(), name, Credential(user, password))


# Pulling


def test_what_comes_is_what_was_pushed(
    repository: Repository, plain: registries.Registry, layout: Layout, tmp_path: Path
) -> None:
    watcher = Quiet()
    got = get(repository, f"{plain.name}/a/b:t", watcher=watcher)
    assert got.image.tree == loaded(repository, layout.path, "x").image.tree
    assert sorted(watcher.done) == [0, 1]
    record = images.find(repository.store, reference.parse(f"{plain.name}/a/b:t"))
    assert record is not None
    assert record.origin == layout.index["manifests"][0]["digest"] == got.image.digest


def test_dockers_own_media_types(repository: Repository, plain: registries.Registry) -> None:
    got = get(repository, f"{plain.name}/a/docker:t")
    assert got.image.media_type == media.DOCKER_MANIFEST
    assert got.image.tree == get(repository, f"{plain.name}/a/b:t").image.tree


def test_by_digest_and_by_platform(repository: Repository, plain: registries.Registry) -> None:
    many = source(f"{plain.name}/a/many:t")
    arm = pull.resolve(many, "t", media.parse_platform("linux/arm64"))
    assert arm.config.diff_ids == (sha(TOP),)
    assert arm.origin != digest.of(arm.data)
    text = f"{plain.name}/a/many@{arm.origin}"
    assert get(repository, text).config.diff_ids == (sha(BASE),)
    with pytest.raises(NotInRegistry):
        get(repository, f"{plain.name}/a/b@sha256:{'0' * 64}")
    with pytest.raises(NotInRegistry):
        get(repository, f"{plain.name}/a/b:other")
    with pytest.raises(NotInRegistry):
        get(repository, f"{plain.name}/not/there")


def test_a_layer_that_is_here_is_not_asked_for(repository: Repository, plain: registries.Registry) -> None:
    get(repository, f"{plain.name}/a/many:t")
    watcher = Quiet()
    got = get(repository, f"{plain.name}/a/b:t", watcher=watcher)
    assert (watcher.here, got.new_layers) == ([0], 1)


def test_nobody_there(repository: Repository) -> None:
    with pytest.raises(RegistryError, match="cannot speak to localhost:1: Connection refused"):
        get(repository, "localhost:1/a")
    with pytest.raises(RegistryError, match="cannot speak to no-such-host"):
        get(repository, "no-such-host.invalid/a")


# TLS and passwords


def test_somebody_who_does_not_answer(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried for minutes. The first accepts no connection, the second says nothing on one."""
    monkeypatch.setattr(limits, "connect_seconds", 0.1)
    monkeypatch.setattr(limits, "read_seconds", 0.1)
    for backlog in (0, 100):
        with contextlib.ExitStack() as held, socket.create_server(("127.0.0.1", 0), backlog=backlog) as deaf:
            for _ in range(0 if backlog else 8):
                waiting = held.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(deaf.getsockname())
            with pytest.raises(RegistryError, match="does not answer"):
                get(repository, f"localhost:{deaf.getsockname()[1]}/x")


def test_a_password_and_our_own_certificate(repository: Repository, secure: registries.Registry) -> None:
    text = f"{secure.name}/a/b:t"
    with pytest.raises(RegistryError, match="certificate is not good"):
        get(repository, text)
    with pytest.raises(Denied, match=f"monofs login {secure.name}"):
        get(repository, text, trusting(secure))
    log_in(secure.name, password="wrong")
    with pytest.raises(Denied):
        get(repository, text, trusting(secure))
    log_in(secure.name)
    assert get(repository, text, trusting(secure)).new_layers == 2
    insecure = Settings(registries=((Endpoint(secure.name, insecure=True), ()),))
    assert get(repository, text, insecure).new_layers == 0


def test_no_password_goes_without_tls(secure: registries.Registry) -> None:
    """A registry with TLS that fails is not asked again without."""
    wire = registry.wire(Endpoint(secure.name, plain=True), Credential(USER, PASSWORD))
    with pytest.raises(RegistryError, match="certificate"):
        registry.Registry(wire, "a/b").ping()


def test_mirrors_come_first_and_need_not_work(
    repository: Repository, plain: registries.Registry, secure: registries.Registry
) -> None:
    name = "registry.invalid"
    known = Settings(registries=((Endpoint(name), ("localhost:1", plain.name)),))
    before = len(plain.requests("/v2/a/b/blobs"))
    got = get(repository, f"{name}/a/b:t", known)
    assert got.new_layers == 2
    assert len(plain.requests("/v2/a/b/blobs")) > before
    assert images.find(repository.store, reference.parse(f"{name}/a/b:t")) is not None  # under the name that was asked
    log_in(secure.name)
    both = Settings(registries=(*trusting(secure).registries, (Endpoint(plain.name), (secure.name,))))
    assert get(repository, f"{plain.name}/a/many:t", both).config.diff_ids == (sha(BASE),)  # the mirror lacks it


# Tokens


def test_tokens(tmp_path: Path, repository: Repository, layout: Layout) -> None:
    server = TokenServer(tmp_path)
    with (
        serving(server.answer) as host,
        registries.registry(tmp_path / "r", token=(f"http://{host}/token?x=1", server.cert)) as made,
    ):
        log_in(made.name)
        pusher = registry.target(reference.parse(f"{made.name}/private/x:t"), Settings())
        push_layout(pusher, layout)
        assert server.asked[-1]["scope"] == ["repository:private/x:pull,push"]
        assert server.asked[-1]["x"] == ["1"]
        text = f"{made.name}/private/x:t"
        server.asked.clear()
        assert get(repository, text).new_layers == 2
        assert len(server.asked) == 1  # one token for all of it
        assert server.asked[0]["service"] == ["the registry"]
        assert server.asked[0]["account"] == [USER]
        credentials.put(credentials.path(), made.name, Credential("", "", "the identity token"))
        server.asked.clear()
        get(repository, text)
        assert (server.asked[0]["command"], server.asked[0]["grant_type"]) == ("POST", ["refresh_token"])
        credentials.remove(credentials.path(), made.name)
        with pytest.raises(Denied):  # nobody in particular may not see it
            get(repository, text)
        log_in(made.name, password="wrong")
        with pytest.raises(Denied, match="incorrect username"):
            get(repository, text)


def push_layout(to: registry.Registry, layout: Layout, selector: str = "t") -> None:
    row = layout.index["manifests"][0]
    data = (layout.path / "blobs/sha256" / row["digest"][7:]).read_bytes()
    manifest = media.parse(data)
    assert isinstance(manifest, media.Manifest)
    for blob in (manifest.config, *manifest.layers):
        path = layout.path / "blobs/sha256" / blob.digest[7:]
        to.upload(blob.digest, lambda path=path: [path.read_bytes()])  # type: ignore[misc]
        assert to.has_blob(blob.digest)
    to.put_manifest(selector, data, media.OCI_MANIFEST)


def test_pushing_in_several_requests(
    plain: registries.Registry, layout: Layout, monkeypatch: pytest.MonkeyPatch, repository: Repository
) -> None:
    monkeypatch.setattr(limits, "upload_bytes", 100_000)
    to = registry.target(reference.parse(f"{plain.name}/pushed/x:t"), Settings())
    pieces = [bytes([n]) * 50_000 for n in range(7)]
    whole = b"".join(pieces)
    to.upload(digest.of(whole), lambda: pieces)
    assert b"".join(to.read(digest.of(whole), 0)) == whole
    assert b"".join(to.read(digest.of(whole), 123_456)) == whole[123_456:]
    other = registry.target(reference.parse(f"{plain.name}/pushed/y:t"), Settings())
    assert not other.has_blob(digest.of(whole))
    assert other.mount(digest.of(whole), "pushed/x")
    assert other.has_blob(digest.of(whole))
    assert not other.mount("sha256:" + "0" * 64, "pushed/x")
    with pytest.raises(RegistryError):
        other.upload("sha256:" + "0" * 64, lambda: [b"something else"])
    push_layout(other, layout)
    assert get(repository, f"{plain.name}/pushed/y:t").new_layers == 2


# Lines that break


def test_a_line_that_breaks_again_and_again(repository: Repository, plain: registries.Registry) -> None:
    flaky = Flaky(plain.port, [3000, 1, 50_000, 7, 200_000, 0, 100_000, 13])
    watcher = Quiet()
    try:
        got = get(repository, f"{flaky.name}/a/b:t", watcher=watcher)
    finally:
        flaky.close()
    assert flaky.broken >= 4  # the small layer may have met a cut that is beyond its end
    assert watcher.fetched_bytes == sum(layer.size for layer in got.image.layers)  # nothing came twice
    assert [line for line in plain.requests("/blobs/") if " 206 " in line or "status=206" in line]


def test_a_pull_that_fails_leaves_no_image_and_goes_on_later(
    repository: Repository, plain: registries.Registry, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "parallel_layers", 1)  # or the first might not be done when the second fails
    manifest = json.loads((layout.path / "blobs/sha256" / layout.index["manifests"][0]["digest"][7:]).read_bytes())
    top = manifest["layers"][1]["digest"]
    stored = plain.root / f"data/docker/registry/v2/blobs/sha256/{top[7:9]}/{top[7:]}/data"
    whole = stored.read_bytes()
    text = f"{plain.name}/a/b:t"
    try:
        stored.write_bytes(whole[:-1000] + os.urandom(1000))
        with pytest.raises(BadImage):
            get(repository, text)
    finally:
        stored.write_bytes(whole)
    assert images.find(repository.store, reference.parse(text)) is None
    assert not repository.store.root_keys(images.IMAGE)
    watcher = Quiet()
    assert get(repository, text, watcher=watcher).new_layers == 1
    assert watcher.here == [0]


def test_breaking_off_does_not_wait_for_the_other_side(repository: Repository) -> None:
    """Someone presses Ctrl-C while a registry says nothing more."""
    layer, blobs = tar([f("x", os.urandom(1 << 20))]), {}
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [sha(layer)]}}).encode()
    rows = [{"mediaType": media.OCI_LAYER, "digest": sha(layer), "size": len(layer)}]
    manifest = image(config, rows)
    blobs[sha(config)] = config
    asked, end = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith(sha(layer)):
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(layer)))
            handler.end_headers()
            handler.wfile.write(layer[:70_000])
            handler.wfile.flush()
            asked.set()
            end.wait(60)
        else:
            reply(handler, 200, blobs.get(handler.path.rpartition("/")[2], manifest))

    class Interrupted(Quiet):
        def fetched(self, number: int, size: int) -> None:
            asked.wait(60)

    with serving(answer) as host:
        remote = source(f"{host}/a:t")
        found = pull.resolve(remote, "t", media.host())
        threading.Thread(target=lambda: (asked.wait(60), remote.interrupt())).start()
        with pytest.raises(MonofsError):
            pull.pull(repository, remote, found, [reference.parse("a")], Interrupted())
        end.set()
    assert repository.store.root_keys() == []


# Registries that mean ill, or are broken


def image(config: bytes, layers: list[dict[str, object]]) -> bytes:
    doc = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": {"mediaType": media.OCI_CONFIG, "digest": sha(config), "size": len(config)},
        "layers": layers,
    }
    return json.dumps(doc).encode()


def test_passwords_do_not_follow_redirects() -> None:
    seen: list[tuple[str, str | None]] = []

    def elsewhere(handler: BaseHTTPRequestHandler) -> None:
        seen.append(("elsewhere", handler.headers.get("Authorization")))
        reply(handler, 200, b"blob")

    with serving(elsewhere) as other:

        def answer(handler: BaseHTTPRequestHandler) -> None:
            seen.append(("registry", handler.headers.get("Authorization")))
            if "Authorization" not in handler.headers:
                reply(handler, 401, {}, {"WWW-Authenticate": 'Basic realm="x"'})
            else:
                reply(handler, 307, {}, {"Location": f"http://{other}/blob"})

        with serving(answer) as host:
            log_in(host)
            made = registry.Registry(registry.wire(settings.Settings().endpoint(host)), "a")
            assert b"".join(made.read("sha256:" + "0" * 64, 0)) == b"blob"
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert ("registry", basic) in seen
    assert ("elsewhere", None) in seen
    assert ("elsewhere", basic) not in seen


@pytest.mark.parametrize(
    ("status", "headers", "body", "why"),
    [
        (307, {"Location": "/again"}, b"", "redirects over"),
        (307, {"Location": "file:///etc/passwd"}, b"", "leads away"),
        (200, {}, b"x" * (limits.manifest_bytes_max + 1), "over 4194304 bytes"),
        (200, {}, b"{}", "schemaVersion"),
        (200, {}, b"\xff", "no JSON"),
        (404, {}, b'{"errors": [{"message": "two\\nlines \\u001b[31m"}]}', "two lines"),
        (400, {}, b"[" * 100_000, "answers 400"),
        (403, {}, b'{"errors": []}', "answers 403"),
        (401, {}, b"", "in a way that is not known"),
        (401, {"WWW-Authenticate": 'Bearer realm="ftp://x/"'}, b"", "no server for tokens"),
        (401, {"WWW-Authenticate": "Bearer"}, b"", "no server for tokens"),
        (401, {"WWW-Authenticate": "Basic"}, b"", "monofs login"),
    ],
)
def test_answers_that_are_no_use(
    status: int, headers: dict[str, str], body: bytes, why: str, repository: Repository
) -> None:
    with serving(lambda handler: reply(handler, status, body, headers)) as host, pytest.raises(MonofsError) as caught:
        get(repository, f"{host}/a:t")
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_registry_that_is_busy_is_asked_again(repository: Repository, plain: registries.Registry) -> None:
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": []}}).encode()
    counts = {"n": 0}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        counts["n"] += 1
        if counts["n"] % 3:
            reply(handler, (429, 503)[counts["n"] % 2], {}, {"Retry-After": "0"})
        else:
            reply(handler, 200, config if "blobs" in handler.path else image(config, []))

    with serving(answer) as host:
        assert get(repository, f"{host}/a:t").image.layers == ()
    assert counts["n"] >= 6


def test_a_token_server_without_tls_gets_no_password(secure: registries.Registry) -> None:
    """Only a registry without TLS may have one."""
    wire = registry.wire(Endpoint(secure.name, ca=str(secure.cert)), Credential(USER, PASSWORD))
    wire._scheme = "https"
    with pytest.raises(RegistryError, match="without TLS"):
        wire._answer(['Bearer realm="http://localhost:1/token"'], "")
