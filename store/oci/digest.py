"""A digest: what a registry calls bytes by, an algorithm and the hash in hexadecimal."""

from __future__ import annotations

import hashlib
import re
from typing import Final, Protocol

from store.errors import StoreError
from store.oci.errors import BadImage

_DIGEST: Final = re.compile("(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def check(text: object, error: type[StoreError] = BadImage) -> str:
    """Return `text` if it is a digest that can be verified. Raises `error`."""
    if isinstance(text, str) and _DIGEST.fullmatch(text):
        return text
    shown = ascii(str(text)[:150])[1:-1]
    raise error(f"'{shown}' is no digest: sha256 or sha512, and the hash in lower-case hexadecimal")


def of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def verify(digest: str, data: bytes, what: str) -> None:
    """Raise BadImage unless `digest` is that of `data`."""
    running = Running(digest)
    running.update(data)
    running.verify(what)


def chain(parent: str | None, diff_id: str) -> str:
    """Return the ChainID of a layer on its parents, as the OCI image specification defines it."""
    return diff_id if parent is None else of(f"{parent} {diff_id}".encode())


class Running:
    """Hashes what passes, to be compared with `digest` at the end."""

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._algorithm = digest.partition(":")[0]
        self._hash: Hash = hashlib.new(self._algorithm)
        self.update = self._hash.update

    def verify(self, what: str) -> None:
        found = f"{self._algorithm}:{self._hash.hexdigest()}"
        if found != self._digest:
            raise BadImage(f"{what} is not what was promised: its digest is {found}, not {self._digest}")
