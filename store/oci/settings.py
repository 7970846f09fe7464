"""What a person says about registries, in one file: the default one, mirrors, own certificates, plain HTTP.

default = "docker.io"

[registry."registry.example:5000"]
mirrors = ["mirror.example"]    # asked first when pulling
ca = "/etc/ssl/our-ca.pem"      # trusted instead of the system's
insecure = true                 # plain HTTP, or a certificate that nobody vouches for
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

from store.oci import limits, reference
from store.oci.errors import BadReference, BadSettings

_HUB_HOST: Final = "registry-1.docker.io"


class Endpoint(NamedTuple):
    """A registry and how to speak to it. `plain`: without TLS, if it has none."""

    registry: str
    insecure: bool = False
    plain: bool = False
    ca: str | None = None

    @property
    def host(self) -> str:
        return _HUB_HOST if self.registry == reference.HUB else self.registry


class Settings(NamedTuple):
    default: str = reference.HUB
    registries: tuple[tuple[Endpoint, tuple[str, ...]], ...] = ()  # with mirrors

    def endpoint(self, registry: str) -> Endpoint:
        found = next((endpoint for endpoint, _ in self.registries if endpoint.registry == registry), Endpoint(registry))
        return found._replace(plain=found.insecure or _is_loopback(registry))

    def endpoints(self, registry: str) -> list[Endpoint]:
        """Return where to pull from: the mirrors, then the registry itself."""
        mirrors = next((mirrors for endpoint, mirrors in self.registries if endpoint.registry == registry), ())
        return [*map(self.endpoint, mirrors), self.endpoint(registry)]


def path() -> Path:
    """Where the file is: MONOFS_REGISTRIES, else monofs/registries.toml in the XDG configuration directory."""
    chosen = os.environ.get("MONOFS_REGISTRIES")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~")) / ".config"
    return home / "monofs" / "registries.toml"


def load(file: Path) -> Settings:
    """Return what the file says; without one, the defaults. Raises BadSettings, with the key that is wrong."""
    try:
        with file.open("rb") as source:
            data = source.read(limits.settings_bytes_max + 1)
        doc = tomllib.loads(data.decode())
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise BadSettings(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadSettings(f"{file} is no TOML: {str(error).splitlines()[0]}") from None
    if len(data) > limits.settings_bytes_max:
        raise BadSettings(f"{file} is over {limits.settings_bytes_max} bytes")
    return _settings(file, doc)


def _settings(file: Path, doc: dict[str, Any]) -> Settings:
    _known(file, "", doc, {"default": str, "registry": dict})
    rows = []
    for name, row in doc.get("registry", {}).items():
        where = f'registry."{name}"'
        if not isinstance(row, dict):
            raise BadSettings(f"{file}: {where} is no table")
        _known(file, where + ".", row, {"mirrors": list, "ca": str, "insecure": bool})
        mirrors = tuple(_registry(file, where + ".mirrors", mirror) for mirror in row.get("mirrors", ()))
        ca = os.path.join(file.parent, os.path.expanduser(row["ca"])) if "ca" in row else None
        rows.append((Endpoint(_registry(file, where, name), row.get("insecure", False), False, ca), mirrors))
    return Settings(_registry(file, "default", doc.get("default", reference.HUB)), tuple(rows))


def _known(file: Path, prefix: str, table: dict[str, Any], known: dict[str, type]) -> None:
    for key, value in table.items():
        if key not in known:
            raise BadSettings(f"{file}: no key '{prefix}{key}'; there are: {', '.join(known)}")
        if type(value) is not known[key]:
            raise BadSettings(f"{file}: '{prefix}{key}' must be a {known[key].__name__}")


def _registry(file: Path, key: str, value: object) -> str:
    try:
        return reference.check_registry(str(value))
    except BadReference as error:
        raise BadSettings(f"{file}: {key}: {error}") from None


def _is_loopback(registry: str) -> bool:
    """As in Docker, a registry on this machine may do without TLS."""
    host = registry.rpartition(":")[0] if not registry.endswith("]") and ":" in registry else registry
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
