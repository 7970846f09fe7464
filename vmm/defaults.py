"""Defaults: how an image wants to be run, and the command that comes of it when a person says otherwise.

The rules are Docker's. What an image says is hostile: `Command` checks all of it, and its directory is inside the tree.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

from vmm import limits
from vmm.errors import BadSpec
from vmm.project.manifest import Health
from vmm.spec import Command

_TCP: Final = "tcp"
_SIGNAL: Final = re.compile(r"(?P<number>[0-9]{1,3})|(SIG)?(?P<name>[A-Z]{2,9}[0-9]?)(?P<more>[+-][0-9]{1,2})?")


@dataclass(frozen=True)
class Defaults:
    """What an image says, as it says it. `env` has NAME=VALUE, `ports` has 80/tcp and 8000-8010/tcp."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    ports: tuple[str, ...] = ()
    stop_signal: str = ""
    health: Health | None = None

    def doc(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @classmethod
    def of_doc(cls, doc: dict[str, Any]) -> Self:
        """The reverse of `doc`."""
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in doc.items()}
        health = values.pop("health", None)
        if health is not None:
            values["health"] = Health(**{**health, "command": tuple(health["command"])})
        return cls(**values)


SHELL: Final = Defaults(cmd=("/bin/sh",))  # of a tree that is no image's


@dataclass(frozen=True)
class Wishes:
    """What a person says of a command. None: as the image has it.

    `args` take the place of the image's CMD. `entrypoint` takes that of its ENTRYPOINT, and then its CMD, which was
    meant for that, does not count either; an empty one is none at all.
    """

    args: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    user: str | None = None
    terminal: bool = False
    rows: int = 24
    columns: int = 80


def argv(defaults: Defaults, wishes: Wishes) -> tuple[str, ...]:
    """Return what to run; empty if nobody says."""
    if wishes.entrypoint is not None:
        return wishes.entrypoint + (wishes.args or ())
    return defaults.entrypoint + (defaults.cmd if wishes.args is None else wishes.args)


def command(defaults: Defaults, wishes: Wishes) -> Command:
    """Raises BadSpec."""
    words = argv(defaults, wishes)
    if not words:
        raise BadSpec("neither the image nor you say what to run: write it after --")
    return Command(
        argv=words,
        env=_environment(defaults, wishes),
        workdir=_image_workdir(defaults.workdir) if wishes.workdir is None else wishes.workdir,
        user=_image_user(defaults.user) if wishes.user is None else wishes.user,
        terminal=wishes.terminal,
        rows=wishes.rows,
        columns=wishes.columns,
    )


def surroundings(defaults: Defaults, wishes: Wishes) -> Command:
    """Return what commands are run with in a machine that only waits for them; the command itself says nothing."""
    return command(defaults, replace(wishes, args=("-",), entrypoint=()))


def published(defaults: Defaults, taken: Collection[int] = ()) -> tuple[list[int], list[str]]:
    """Return the ports that an image offers over TCP, but for those that are `taken`, and what else it offers.

    Raises BadSpec if they are too many to lead anywhere.
    """
    ports: dict[int, None] = {}
    others = []
    for text in defaults.ports:
        numbers, _, protocol = text.partition("/")
        if protocol != _TCP:
            others.append(text)
            continue
        first, _, last = numbers.partition("-")
        for port in range(int(first), int(last or first) + 1):
            if port not in taken:
                ports[port] = None
            if len(ports) > limits.publish_max:
                raise BadSpec(
                    f"the image offers over {limits.publish_max} ports, too many for all of them: choose with --publish"
                )
    return list(ports), others


def stop_signal(text: str) -> int:
    """Return the number of the signal by which an image wants to be asked to end; TERM if it says none, or nonsense."""
    found = _SIGNAL.fullmatch(text.upper())
    if found is None:
        return signal.SIGTERM
    name, more = found["name"], int(found["more"] or 0)
    number = int(getattr(signal, f"SIG{name}", signal.SIGTERM) if name else found["number"]) + more
    return number if 0 < number < signal.NSIG else signal.SIGTERM


def parse_entrypoint(text: str) -> tuple[str, ...]:
    """Read an entrypoint: a program, or a JSON list of words; "" is none."""
    if text.startswith("["):
        try:
            words = json.loads(text)
        except (ValueError, RecursionError):
            return (text,)  # a program may be called so
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return tuple(words)
        raise BadSpec(f"an entrypoint is a program or a JSON list of words, not {text[:80]!r}")
    return (text,) if text else ()


def _environment(defaults: Defaults, wishes: Wishes) -> tuple[tuple[str, str], ...]:
    variables: dict[str, str] = {}
    for entry in defaults.env:
        name, _, value = entry.partition("=")
        variables[name] = value
    return tuple({**variables, **dict(wishes.env)}.items())


def _image_workdir(text: str) -> str:
    """An image's directory is meant from the root, whether it says so or not."""
    return posixpath.normpath("/" + text.lstrip("/"))


def _image_user(text: str) -> str | None:
    """Docker takes `U:` for U, and `:G` for root with a group of its own."""
    user, colon, group = text.partition(":")
    if not text.strip(":"):
        return None
    return f"{user or 0}{colon}{group}" if group else user
