"""Real registries on loopback: Debian's docker-registry, with what a test wants around it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "somebody", "s3cret:with:colons"


def certificate(at: Path, name: str = "tls") -> tuple[Path, Path]:
    """Make a certificate for this machine that nobody knows, and its key."""
    cert, key = at / f"{name}.pem", at / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


class Registry:
    """A running docker-registry. `name` is what references call it."""

    def __init__(self, process: subprocess.Popen[str], port: int, root: Path, cert: Path | None) -> None:
        self.process, self.port, self.root, self.cert = process, port, root, cert
        self.name = f"localhost:{port}"
        self.lines: list[str] = []

    def push(
        self, layout: Path, reference: str, *, tag: str = "latest", everything: bool = False, form: str = ""
    ) -> None:
        """Have skopeo push an image of a layout."""
        command = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
        command += ["--dest-creds", f"{USER}:{PASSWORD}"] if self.cert else []
        command += ["--all"] * everything + (["--format", form] if form else [])
        command += [f"oci:{layout}:{tag}", f"docker://{self.name}/{reference}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def requests(self, text: str) -> list[str]:
        """Return what was logged of requests with `text` in them."""
        return [line for line in self.lines if text in line and "http.request.method" in line]


@contextmanager
def registry(at: Path, *, secure: bool = False, token: tuple[str, Path] | None = None) -> Iterator[Registry]:
    """Run a registry: plain and open, or with TLS and a password, or with tokens from `token` (URL, certificate)."""
    at.mkdir(exist_ok=True)
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(at / "data")}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:0"},
    }
    cert = None
    if secure:
        cert, key = certificate(at)
        config["http"]["tls"] = {"certificate": str(cert), "key": str(key)}
        hashed = subprocess.run(
            ["htpasswd", "-Bbn", USER, PASSWORD], check=True, capture_output=True, text=True
        ).stdout.strip()
        (at / "htpasswd").write_text(hashed + "\n")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(at / "htpasswd")}}
    if token is not None:
        url, bundle = token
        config["auth"] = {
            "token": {"realm": url, "service": "the registry", "issuer": "tests", "rootcertbundle": str(bundle)}
        }
    (at / "config.json").write_text(json.dumps(config))  # JSON is YAML
    process = subprocess.Popen(
        ["docker-registry", "serve", str(at / "config.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
    )
    assert process.stderr is not None
    try:
        seen = []
        for line in process.stderr:
            seen.append(line)
            found = re.search(r"listening on 127\.0\.0\.1:([0-9]+)", line)
            if found:
                break
        else:
            raise AssertionError("".join(seen))
        made = Registry(process, int(found[1]), at, cert)
        reader = threading.Thread(target=lambda: made.lines.extend(process.stderr or ()), daemon=True)
        reader.start()
        yield made
    finally:
        process.terminate()
        process.wait(30)


# A server for tokens


class TokenServer:
    """Gives tokens as the distribution project's documents have it: to USER for anything, to others for pulling."""

    def __init__(self, at: Path) -> None:
        self.cert, self.key = certificate(at, "tokens")
        self.asked: list[dict[str, Any]] = []
        self.seconds = 60
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        query = parse_qs(urlsplit(handler.path).query)
        if handler.command == "POST":
            query = parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
        who = handler.headers.get("Authorization", "")
        self.asked.append({"command": handler.command, "who": who, **query})
        known = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        refresh = query.get("refresh_token", [""])[0]
        if (who and who != f"Basic {known}") or (refresh and refresh != "the identity token"):
            reply(handler, 401, {"details": "incorrect username or password"})
            return
        access = []
        for scope in " ".join(query.get("scope", [])).split():
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            may = [action for action in actions.split(",") if action == "pull" or who or refresh]
            if not name.startswith("private") or who or refresh:
                access.append({"type": kind, "name": name, "actions": may})
        reply(handler, 200, {"token": self.token(query["service"][0], access), "expires_in": self.seconds})

    def token(self, service: str, access: list[dict[str, Any]]) -> str:
        body = "".join(self.cert.read_text().splitlines()[1:-1])
        head = {"typ": "JWT", "alg": "RS256", "x5c": [body]}
        now = int(time.time())
        claims = {"iss": "tests", "aud": service, "exp": now + 600, "nbf": now - 60, "access": access, "jti": str(now)}
        text = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self.key)], input=text.encode(), capture_output=True, check=True
        ).stdout
        return f"{text}.{encoded(signed)}"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def reply(handler: BaseHTTPRequestHandler, status: int, doc: Any = None, headers: dict[str, str] | None = None) -> None:
    data = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None], tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Run an HTTP server on loopback, with a certificate and its key if there are any; yields its host and port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# A line that breaks


class Flaky:
    """Passes connections on to a port; of some it breaks off the answer after so many bytes."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._port = port
        self.cuts = cuts  # for the next connections, while there are any
        self.broken = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.name = f"localhost:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server, contextlib.suppress(OSError):
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
            left: int | None = None
            while data := server.recv(4096):
                if left is None and len(data) > 2000 and self.cuts:  # something larger than a document
                    left = self.cuts.pop(0)
                if left is not None and len(data) >= left:
                    client.sendall(data[:left])
                    self.broken += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                left = None if left is None else left - len(data)
                client.sendall(data)

    def _pass(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)
