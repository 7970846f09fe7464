"""A Reference: which image somebody means, by the grammar that Docker made (github.com/distribution/reference)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from store.names import EXPLICIT
from store.oci import digest as digests
from store.oci import limits
from store.oci.errors import BadReference

HUB: Final = "docker.io"
_HUB_OLD: Final = "index.docker.io"
_OFFICIAL: Final = "library/"

_LABEL: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE: Final = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?"
)
_IDENTIFIER: Final = re.compile("[a-f0-9]{64}")


class Reference(NamedTuple):
    """`registry` is a host and perhaps a port. A digest says which image; a tag beside it is a remark."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}{'@' + self.digest if self.digest else ''}"

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def short(self) -> str:
        """As people call it, to be read and not to be parsed: without what Docker adds, and without a digest."""
        name = self.name.removeprefix(f"{HUB}/").removeprefix(_OFFICIAL)
        return f"{name}:{self.tag}" if self.tag and self.tag != "latest" else name

    @property
    def selector(self) -> str:
        """What a registry is asked for: the digest, else the tag."""
        return self.digest or self.tag or "latest"

    @property
    def key(self) -> str:
        """What it is kept under: with a digest the tag says nothing more."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag or 'latest'}"


def parse(text: str, default: str = HUB) -> Reference:
    """Return the image that `text` means, in full. Without tag and digest it is the tag `latest`. Raises BadReference.

    `default` is the registry of names without one. Only Docker Hub has `library/`. `docker://` may be before it.
    """
    text = text.removeprefix(EXPLICIT)
    if len(text) > limits.reference_bytes_max:
        raise BadReference("a reference may have 1024 characters at most")
    if _IDENTIFIER.fullmatch(text):
        raise BadReference(f"'{text}' could be an image's ID, which no registry knows; write the image's name")
    domain, rest = _split(text, default)
    path = rest.partition("@")[0].partition(":")[0]
    if path != path.lower():
        raise BadReference(f"'{_shown(text)}' is no reference: a repository's name is in lower case")
    found = _REFERENCE.fullmatch(f"{domain}/{rest}")
    if found is None:
        raise BadReference(f"'{_shown(text)}' is no reference to an image: [HOST[:PORT]/]NAME[:TAG][@DIGEST]")
    if len(found["path"]) > limits.repository_bytes_max:
        raise BadReference(f"a repository's name may have {limits.repository_bytes_max} characters at most")
    if found["digest"]:
        digests.check(found["digest"], BadReference)
    tag = found["tag"] if found["tag"] or found["digest"] else "latest"
    made = Reference(found["domain"], found["path"], tag, found["digest"])
    if len(made.key) > limits.record_key_bytes_max:
        raise BadReference(f"a reference in full may have {limits.record_key_bytes_max} characters at most")
    return made


def _split(text: str, default: str) -> tuple[str, str]:
    """Return the registry and what follows it."""
    first, slash, rest = text.partition("/")
    is_domain = bool(slash) and (first == "localhost" or "." in first or ":" in first or first != first.lower())
    domain, name = (first, rest) if is_domain else (default, text)
    if domain == _HUB_OLD:
        domain = HUB
    if domain == HUB and "/" not in name:
        name = _OFFICIAL + name
    return domain, name


def check_registry(text: str) -> str:
    """Return the registry that `text` names, as references have it. Raises BadReference."""
    if not re.fullmatch(_DOMAIN, text):
        raise BadReference(f"'{_shown(text)}' is no registry: HOST[:PORT]")
    return HUB if text in (_HUB_OLD, "registry-1.docker.io") else text


def _shown(text: str) -> str:
    return ascii(text[:100])[1:-1]
