"""A registry of the OCI distribution specification: what images are pulled from and pushed to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from urllib3.exceptions import HTTPError, ProtocolError

from store.oci import credentials, limits, media
from store.oci.credentials import Credential
from store.oci.errors import NotInRegistry, RegistryError
from store.oci.media import Descriptor
from store.oci.reference import Reference
from store.oci.settings import Endpoint, Settings
from store.oci.wire import Response, Wire

_ACCEPT: Final = ", ".join(media.ACCEPTED)


class Registry:
    """One repository of one registry."""

    def __init__(self, wire: Wire, repository: str, *, push: bool = False) -> None:
        self.wire = wire
        self._repository = repository
        self._scope = f"repository:{repository}:{'pull,push' if push else 'pull'}"

    @property
    def name(self) -> str:
        return self.wire.endpoint.registry

    def ping(self) -> None:
        """Raise Denied if the registry does not know us."""
        self.wire.ask("GET", "/v2/", "", good=(200,)).close()

    # Pulling

    def manifest(self, selector: str) -> tuple[bytes, str]:
        headers = {"Accept": _ACCEPT}
        data, said = self.wire.fetched(
            self._path("manifests", selector), self._scope, headers, limits.manifest_bytes_max
        )
        return data, said.partition(";")[0].strip()

    def read(self, digest: str, at: int) -> Iterator[bytes]:
        """Yield the bytes of a blob from `at`. Raises HTTPError, OSError when the connection breaks."""
        headers = {"Range": f"bytes={at}-"} if at else {}
        response = self.wire.ask("GET", self._path("blobs", digest), self._scope, headers=headers, good=(200, 206))
        skip = at
        if response.status == 206:
            found = re.match(r"bytes ([0-9]{1,19})-", response.headers.get("Content-Range", ""))
            if found is None:
                response.close()
                raise ProtocolError("the headers of a partial answer are broken off")
            if int(found[1]) > at:
                response.close()
                raise RegistryError(f"{self.name} sent another part of a layer than was asked for")
            skip = at - int(found[1])
        for data in self.wire.reading(response):
            if skip < len(data):
                yield data[skip:] if skip else data
            skip = max(0, skip - len(data))

    # Pushing

    def has_blob(self, digest: str) -> bool:
        response = self.wire.ask("HEAD", self._path("blobs", digest), self._scope, good=(200, 404))
        response.close()
        return response.status == 200

    def mount(self, digest: str, repository: str) -> bool:
        """Have the registry take a blob from another of its repositories. Returns False if it does not."""
        scope = f"{self._scope} repository:{repository}:pull"
        path = f"{self._path('blobs', 'uploads/')}?mount={digest}&from={repository}"
        response = self.wire.ask("POST", path, scope, good=(201, 202), headers={"Content-Length": "0"})
        where = response.headers.get("Location", "")
        response.close()
        if response.status == 202 and where:  # it has begun an upload instead, which nobody wants
            self.wire.ask("DELETE", self._own(where), self._scope, good=(200, 204, 404, 405)).close()
        return response.status == 201

    def upload(self, digest: str, pieces: Callable[[], Iterable[bytes]]) -> None:
        """Send a blob; if the connection breaks, from the beginning."""
        for number in range(limits.tries_max):
            try:
                self._upload(digest, pieces())
                return
            except RegistryError:
                if number + 1 == limits.tries_max or not self._is_worth_it():
                    raise
                self.wire.pause(number)

    def _is_worth_it(self) -> bool:
        """True if the registry still talks to us."""
        try:
            self.has_blob("sha256:" + "0" * 64)
        except RegistryError:
            return False
        return True

    def _upload(self, digest: str, pieces: Iterable[bytes]) -> None:
        start = self.wire.ask(
            "POST", self._path("blobs", "uploads/"), self._scope, good=(202,), headers={"Content-Length": "0"}
        )
        where, at = self._location(start), 0
        for data in _joined(pieces):
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{at}-{at + len(data) - 1}",
                "Content-Length": str(len(data)),
            }
            answer = self.wire.ask(
                "PATCH", where, self._scope, headers=headers, body=data, good=(202, 204), retried=False
            )
            where, at = self._location(answer), at + len(data)
        end = f"{where}{'&' if urlsplit(where).query else '?'}digest={digest}"
        self.wire.ask(
            "PUT", end, self._scope, good=(201, 204), headers={"Content-Length": "0"}, body=b"", retried=False
        ).close()

    def put_manifest(self, selector: str, data: bytes, media_type: str) -> None:
        self.wire.ask(
            "PUT",
            self._path("manifests", selector),
            self._scope,
            headers={"Content-Type": media_type},
            body=data,
            good=(201, 200, 202),
        ).close()

    def _location(self, response: Response) -> str:
        where = response.headers.get("Location", "")
        response.close()
        return self._own(where)

    def _own(self, where: str) -> str:
        """Return where an upload goes on. Other hosts get no layers from us."""
        try:
            parts = urlsplit(where)
        except ValueError:
            parts = urlsplit("")
        is_elsewhere = parts.netloc not in ("", self.wire.endpoint.host) or parts.path.startswith("//")
        if not parts.path or is_elsewhere:
            raise RegistryError(f"{self.name} wants a layer to be sent elsewhere; that is not done")
        return parts._replace(scheme="", netloc="").geturl()

    def _path(self, kind: str, what: str) -> str:
        return f"/v2/{self._repository}/{kind}/{what}"


class Remote:
    """Where a reference is pulled from: the mirrors of its registry, then the registry."""

    def __init__(self, registries: list[Registry]) -> None:
        self._registries = registries

    def manifest(self, selector: str) -> tuple[bytes, str]:
        for registry in self._registries[:-1]:
            try:
                found = registry.manifest(selector)
            except RegistryError:  # that is what the others are for
                continue
            self._registries.remove(registry)
            self._registries.insert(0, registry)  # blobs are most likely there, too
            return found
        return self._registries[-1].manifest(selector)

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes. Where the connection breaks it goes on, from the next registry if there is one."""
        at = failures = turn = 0
        while True:
            registry = self._registries[turn % len(self._registries)]
            try:
                for data in registry.read(descriptor.digest, at):
                    yield data
                    at += len(data)
                    failures = 0
                if at >= descriptor.size:
                    return
                problem = RegistryError(f"{registry.name} breaks off a layer at byte {at} of {descriptor.size}")
            except NotInRegistry as error:
                if turn + 1 >= len(self._registries):
                    raise
                turn, problem = turn + 1, error
                continue
            except RegistryError as error:
                if turn + 1 >= len(self._registries):
                    raise
                turn, problem = turn + 1, error
            except (HTTPError, OSError) as error:
                problem = RegistryError(f"{registry.name} breaks off a layer at byte {at}: {type(error).__name__}")
            failures += 1
            if failures == limits.tries_max:
                raise problem
            registry.wire.pause(failures - 1)

    def interrupt(self) -> None:
        for registry in self._registries:
            registry.wire.close()


def remote(reference: Reference, settings: Settings) -> Remote:
    return Remote(
        [Registry(wire(endpoint), reference.repository) for endpoint in settings.endpoints(reference.registry)]
    )


def target(reference: Reference, settings: Settings) -> Registry:
    return Registry(wire(settings.endpoint(reference.registry)), reference.repository, push=True)


def wire(endpoint: Endpoint, credential: Credential | None = None) -> Wire:
    def find() -> Credential | None:
        return credential or credentials.find(credentials.path(), endpoint.registry)

    return Wire(endpoint, find)


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces that are worth a request."""
    waiting, size = [], 0
    for data in pieces:
        waiting.append(data)
        size += len(data)
        if size >= limits.upload_bytes:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
