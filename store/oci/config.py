"""An image's configuration: how it wants to be run, and the layers that it is made of."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from store.oci import digest as digests
from store.oci import limits, media
from store.oci.errors import BadImage
from store.oci.media import Platform

_PORT: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_SIGNAL: Final = re.compile(r"|[0-9]{1,2}|(SIG)?[A-Z]{2,9}[0-9]?|(SIG)?RTM(IN\+|AX-)[0-9]{1,2}", re.IGNORECASE)


class History(NamedTuple):
    """How a layer came to be; `empty` for a step that made none."""

    created: str
    created_by: str
    comment: str
    empty: bool


class Health(NamedTuple):
    """How an image can be asked whether it is well: `command` ends with 0 then."""

    command: tuple[str, ...]
    interval_seconds: float = 30.0
    timeout_seconds: float = 30.0
    retries: int = 3
    start_seconds: float = 0.0


class Config(NamedTuple):
    """What is needed to run an image. `env` has NAME=VALUE, `ports` has 80/tcp."""

    platform: Platform
    diff_ids: tuple[str, ...]
    history: tuple[History, ...] = ()
    created: str = ""
    author: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str = ""
    health: Health | None = None

    def command(self, *args: str) -> tuple[str, ...]:
        """Return what to run: the entrypoint with `args`, or with the image's own where there are none."""
        return self.entrypoint + (args or self.cmd)

    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.env)


def parse(data: bytes) -> Config:
    """Raises BadImage. What only other tools need is left alone."""
    doc = media.load(data, "the image's configuration")
    rootfs = _object(doc, "rootfs")
    if rootfs.get("type", "layers") != "layers":
        raise BadImage("the image's rootfs is not made of layers")
    diff_ids = tuple(digests.check(diff_id) for diff_id in _array(rootfs, "diff_ids", limits.layers_max))
    run = _object(doc, "config")
    return Config(
        platform=media.normal(Platform(_text(doc, "os"), _text(doc, "architecture"), _text(doc, "variant"))),
        diff_ids=diff_ids,
        history=tuple(map(_history, _array(doc, "history", limits.history_max))),
        created=_text(doc, "created"),
        author=_text(doc, "author"),
        env=tuple(map(_variable, _texts(run, "Env"))),
        entrypoint=_words(run, "Entrypoint"),
        cmd=_words(run, "Cmd"),
        user=_text(run, "User"),
        workdir=_text(run, "WorkingDir"),
        ports=_ports(run),
        volumes=tuple(sorted(_object(run, "Volumes"))),
        labels=tuple(sorted((key, str(value)) for key, value in _object(run, "Labels").items())),
        stop_signal=_signal(_text(run, "StopSignal")),
        health=_health(run),
    )


def _history(doc: Any) -> History:
    if not isinstance(doc, dict):
        raise BadImage("the history in the image's configuration is no list of objects")
    fields = (_text(doc, "created"), _text(doc, "created_by"), _text(doc, "comment"))
    return History(*fields, doc.get("empty_layer") is True)


def _variable(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not name:
        raise BadImage("a variable in the image's environment has no name")
    return text if equals else text + "="


def _ports(run: dict[str, Any]) -> tuple[str, ...]:
    found = _object(run, "ExposedPorts")
    if len(found) > limits.ports_max:
        raise BadImage(f"the image exposes {len(found)} ports; {limits.ports_max} are allowed")
    return tuple(sorted(set(filter(None, map(_port, found)))))


def _port(text: str) -> str | None:
    found = _PORT.fullmatch(text)
    if found is None or not all(0 < int(number) < 1 << 16 for number in found.group(1, 2) if number):
        raise BadImage(f"the image exposes what is no port: {text[:40]!a}")
    first, last, protocol = found.groups()
    return f"{first}{'-' + last if last else ''}/{(protocol or 'tcp').lower()}"


def _signal(text: str) -> str:
    if not _SIGNAL.fullmatch(text):
        raise BadImage(f"the image wants to be stopped by what is no signal: {text[:40]!a}")
    return text


def _health(run: dict[str, Any]) -> Health | None:
    """Docker's HEALTHCHECK. Times are in ns; 0 and nothing mean its defaults."""
    doc = _object(run, "Healthcheck")
    kind, *words = _texts(doc, "Test") or ("NONE",)
    if kind not in ("CMD", "CMD-SHELL") or not words:
        return None
    if kind == "CMD-SHELL":
        words = [*(_texts(run, "Shell") or ("/bin/sh", "-c")), *words]
    numbers = {key: doc.get(key) or 0 for key in ("Interval", "Timeout", "StartPeriod", "Retries")}
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers.values()):
        raise BadImage("the image's health check has a number that is none")
    seconds = {key: number / 1e9 for key, number in numbers.items()}
    usual = Health(())
    return Health(
        tuple(words),
        seconds["Interval"] or usual.interval_seconds,
        seconds["Timeout"] or usual.timeout_seconds,
        numbers["Retries"] or usual.retries,
        seconds["StartPeriod"],
    )


def _object(doc: dict[str, Any], key: str) -> dict[str, Any]:
    found = doc.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadImage(f"'{key}' in the image's configuration is no object")
    return found


def _array(doc: dict[str, Any], key: str, length_max: int) -> list[Any]:
    found = doc.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > length_max:
        raise BadImage(f"'{key}' in the image's configuration is no list, or too long")
    return found


def _text(doc: dict[str, Any], key: str) -> str:
    found = doc.get(key)
    if found is None:
        return ""
    if not _is_text(found):
        raise BadImage(f"'{key}' in the image's configuration is no text")
    return str(found)


def _texts(doc: dict[str, Any], key: str) -> tuple[str, ...]:
    found = _array(doc, key, limits.config_bytes_max)
    if not all(map(_is_text, found)):
        raise BadImage(f"'{key}' in the image's configuration is no list of texts")
    return tuple(found)


def _words(doc: dict[str, Any], key: str) -> tuple[str, ...]:
    """A command. Old images have a single text for one word."""
    return (_text(doc, key),) if isinstance(doc.get(key), str) else _texts(doc, key)


def _is_text(found: object) -> bool:
    """Whether it is text that a program can be given: no NUL, and no half of a character."""
    if not isinstance(found, str) or "\0" in found:
        return False
    try:
        found.encode()
    except UnicodeEncodeError:
        return False
    return True
