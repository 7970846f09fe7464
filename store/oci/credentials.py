"""Who we are to registries: Docker's own file, and the helpers that it names."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from store.oci import limits, reference
from store.oci.errors import BadSettings

_HUB_KEY: Final = "https://index.docker.io/v1/"
_TOKEN: Final = "<token>"  # noqa: S105, how helpers say that the secret is an identity token


class Credential(NamedTuple):
    """A user and a password, or an identity token instead of these."""

    user: str
    password: str
    token: str = ""

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def path() -> Path:
    """Docker's file: in DOCKER_CONFIG, else in ~/.docker."""
    chosen = os.environ.get("DOCKER_CONFIG")
    return (Path(chosen) if chosen else Path(os.path.expanduser("~")) / ".docker") / "config.json"


def find(file: Path, registry: str) -> Credential | None:
    """Return what there is for a registry. Raises BadSettings if the file or a helper is broken."""
    doc = _read(file)
    helper = _helper(file, doc, registry)
    if helper is not None:
        return _ask(helper, _key(registry))
    for key, row in _object(file, doc, "auths").items():
        if _names(key, registry) and isinstance(row, dict):
            found = _decoded(file, row)
            if found is not None:
                return found
    return None


def put(file: Path, registry: str, credential: Credential) -> str:
    """Keep a credential, with the helper if there is one. Returns where."""
    doc = _read(file)
    helper = _helper(file, doc, registry)
    if helper is not None:
        row = {"ServerURL": _key(registry), "Username": credential.user, "Secret": credential.password}
        if credential.token:
            row |= {"Username": _TOKEN, "Secret": credential.token}
        _run(helper, "store", json.dumps(row))
        return f"docker-credential-{helper}"
    auths = {key: row for key, row in _object(file, doc, "auths").items() if not _names(key, registry)}
    basic = base64.b64encode(f"{credential.user}:{credential.password}".encode()).decode()
    auths[_key(registry)] = {"auth": basic} | ({"identitytoken": credential.token} if credential.token else {})
    _write(file, {**doc, "auths": auths})
    return str(file)


def remove(file: Path, registry: str) -> bool:
    """Forget a registry's credential. Returns False if there was none."""
    doc = _read(file)
    helper = _helper(file, doc, registry)
    if helper is not None:
        if _ask(helper, _key(registry)) is None:
            return False
        _run(helper, "erase", _key(registry))
        return True
    auths = _object(file, doc, "auths")
    left = {key: row for key, row in auths.items() if not _names(key, registry)}
    if len(left) == len(auths):
        return False
    _write(file, {**doc, "auths": left})
    return True


# The file


def _key(registry: str) -> str:
    return _HUB_KEY if registry == reference.HUB else registry


def _names(key: str, registry: str) -> bool:
    """Docker has had several spellings: with a scheme and a path, and of the Hub."""
    host = re.sub("^https?://", "", key).partition("/")[0]
    return host == registry or (registry == reference.HUB and host in ("index.docker.io", "registry-1.docker.io"))


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as source:
            data = source.read(limits.settings_bytes_max + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadSettings(f"cannot read {file}: {error.strerror}") from None
    try:
        doc = json.loads(data) if len(data) <= limits.settings_bytes_max else None
    except (ValueError, RecursionError):
        doc = None
    if not isinstance(doc, dict):
        raise BadSettings(f"{file} is no JSON object")
    return doc


def _write(file: Path, doc: dict[str, Any]) -> None:
    """Replace the file at once; only its owner can read it."""
    real = Path(os.path.realpath(file))  # it may be a link into somebody's collection of such files
    try:
        real.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, name = tempfile.mkstemp(dir=real.parent, prefix=".config.")
        with os.fdopen(fd, "w") as out:
            json.dump(doc, out, indent="\t")
            out.write("\n")
            out.flush()
            os.fsync(fd)
        os.rename(name, real)
    except OSError as error:
        raise BadSettings(f"cannot write {file}: {error.strerror}") from None


def _decoded(file: Path, row: dict[str, Any]) -> Credential | None:
    token = row.get("identitytoken")
    if isinstance(row.get("auth"), str) and row["auth"]:
        try:
            user, colon, password = base64.b64decode(row["auth"], validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            raise BadSettings(f"{file} has an 'auth' that is no base64 of user:password") from None
        if not colon:
            raise BadSettings(f"{file} has an 'auth' without a password")
        return Credential(user, password.rstrip("\0"), token if isinstance(token, str) else "")
    if isinstance(token, str) and token:
        return Credential("", "", token)
    name, secret = row.get("username"), row.get("password")
    return Credential(name, secret) if isinstance(name, str) and isinstance(secret, str) else None


def _object(file: Path, doc: dict[str, Any], key: str) -> dict[str, Any]:
    found = doc.get(key)
    if found is not None and not isinstance(found, dict):
        raise BadSettings(f"{file}: '{key}' is no object")
    return found or {}


# Helpers


def _helper(file: Path, doc: dict[str, Any], registry: str) -> str | None:
    """Return the helper for a registry, which is a program `docker-credential-NAME`."""
    rows = _object(file, doc, "credHelpers")
    found = next((name for key, name in rows.items() if _names(key, registry)), doc.get("credsStore"))
    if not found:
        return None
    if not isinstance(found, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", found):
        raise BadSettings(f"{file} names a credential helper that is none")
    return found


def _ask(helper: str, key: str) -> Credential | None:
    said = _run(helper, "get", key)
    if said is None:
        return None
    try:
        doc = json.loads(said)
        user, secret = doc["Username"], doc["Secret"]
        good = isinstance(user, str) and isinstance(secret, str)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise BadSettings(f"docker-credential-{helper} gave no Username and Secret")
    return Credential("", "", secret) if user == _TOKEN else Credential(user, secret)


def _run(helper: str, verb: str, text: str) -> str | None:
    """Return what a helper says; None if it has nothing. Its secrets are never part of a message."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, verb], input=text, capture_output=True, text=True, timeout=limits.helper_seconds, check=False
        )
    except FileNotFoundError:
        raise BadSettings(f"there is no program '{program}', which Docker's configuration names") from None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        raise BadSettings(f"'{program} {verb}' could not be run") from None
    if done.returncode:
        if "credentials not found" in (done.stdout + done.stderr).lower():
            return None
        raise BadSettings(f"'{program} {verb}' failed with code {done.returncode}")
    return done.stdout
