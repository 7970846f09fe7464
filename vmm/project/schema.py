"""What a monofs.toml may say: one table of forms, by which the file is read, and which editors get as JSON schema."""

from __future__ import annotations

import re
import shlex
from typing import Any, Final, get_args

from vmm import limits, spec
from vmm.errors import BadSpec
from vmm.project import scripts
from vmm.project.form import Choice, Either, Field, Number, Record, Rows, Table, Text
from vmm.project.manifest import Dependency, Restart
from vmm.spec import Net, Publish

SOURCES: Final = ("image", "name", "cid", "directory")
PROJECT_NAME: Final = rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{limits.project_name_bytes_max - 1}}}"
MACHINE_NAME: Final = rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{limits.machine_name_bytes_max - 1}}}"
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_OPERATORS: Final = frozenset("();<>|&")


def split(text: str) -> tuple[str, ...]:
    """Return a command's words, as a shell would split them; nothing else that a shell does is done.

    Raises BadSpec for what only a shell understands.
    """
    words = shlex.shlex(text, posix=True, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, ""
    try:
        found = tuple(words)
    except ValueError as error:
        raise BadSpec(f"{text[:60]!a} cannot be split into words: {str(error).lower()}") from None
    for word in found:
        if word and _OPERATORS.issuperset(word):
            raise BadSpec(f'{word!r} is for a shell, and there is none; write ["sh", "-c", "..."], or a list of words')
    if not found:
        raise BadSpec("a command must have a word at least")
    return found


def _line(text: str) -> tuple[str, ...]:
    if not text.strip():
        raise BadSpec("a script must have a word at least")
    return scripts.of_line(text)


def seconds(text: str) -> float:
    """Read "5s", "1m30s", "500ms"."""
    found = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", text))
    if found > limits.wait_seconds_max:
        raise BadSpec(f"{text!r} is over {limits.wait_seconds_max / 3600:.0f} hours")
    return found


def _some_seconds(text: str) -> float:
    if not (found := seconds(text)):
        raise BadSpec(f"{text!r} is no time at all")
    return found


def _memory(text: str) -> int:
    count = spec.parse_memory(text)
    if not limits.memory_bytes_min <= count <= limits.memory_bytes_max:
        least, most = limits.memory_bytes_min // limits.MIB, limits.memory_bytes_max // limits.GIB
        raise BadSpec(f"a machine's memory is {least}M to {most}G, not {text}")
    if count % limits.MIB:
        raise BadSpec(f"a machine's memory is a whole number of MiB, not {text}")
    return count


def _restart(text: str) -> Restart:
    policy, _, count = text.partition(":")
    if count and not 1 <= int(count) <= limits.retries_max:
        raise BadSpec(f"a machine is restarted 1 to {limits.retries_max} times, not {count}")
    return Restart(policy, int(count) if count else None)  # type: ignore[arg-type]  # the pattern says so


def _dependency(name: str) -> Dependency:
    return Dependency(name)


_DURATION: Final = r"(?:[0-9]{1,9}(?:\.[0-9]{1,3})?(?:ms|s|m|h)){1,4}"
_TEXT: Final = Text("text")
_NAME: Final = Text("a machine's name: letters, digits and _ . -, at most 63", MACHINE_NAME, length_max=63)
_TIME: Final = Text("a time", _DURATION, seconds, ("5s", "1m30s"), 60)
_SOME_TIME: Final = Text("a time", _DURATION, _some_seconds, ("5s", "1m30s"), 60)
_WORDS: Final = Rows(_TEXT, limits.texts_max)
_SOME_WORDS: Final = Rows(_TEXT, limits.texts_max, 1)
_COMMAND: Final = Either((Text("a command", of=split, examples=("httpd -f",)), _WORDS))
_SOME_COMMAND: Final = Either((Text("a command", of=split, examples=("make test",)), _SOME_WORDS))
_SCRIPT: Final = Either((Text("a line for a shell", of=_line, examples=("make test && make docs",)), _SOME_WORDS))
_FILE: Final = Text("a path", r"[^\u0000]+", length_max=limits.path_bytes_max)
_VALUE: Final = Either((_TEXT, Number(-(1 << 63), (1 << 63) - 1, "a number")))
_PORT: Final = Text(
    "HOSTPORT:PORT", r"(?:[0-9.]{7,15}:)?[0-9]{1,5}:[0-9]{1,5}", Publish.parse, ("8080:80", "127.0.0.1:8080:80"), 30
)
_VOLUME: Final = Text(
    "HOST:GUEST or HOST:GUEST:ro", r"[^:\u0000]+:/[^:\u0000]*(?::r[ow])?", examples=("./src:/src", "~/data:/data:ro")
)

_HEALTH: Final = Record(
    (
        Field("command", _SOME_COMMAND, "what is run in the machine; it is healthy when this ends with 0", True),
        Field("interval", _SOME_TIME, "from the end of one try to the next (10s)"),
        Field("timeout", _SOME_TIME, "a try that takes longer has failed (10s)"),
        Field("retries", Number(1, limits.retries_max), "so many failures in a row make it unhealthy (3)"),
        Field("start_period", _TIME, "failures so soon after the start do not count (0s)"),
    )
)

MACHINE: Final = Record(
    (
        Field(
            "image", Text("a reference", r"[^\s\u0000]+", length_max=1024), "an image, as Docker calls it: debian:12"
        ),
        Field("name", Text("a name", r"[^\s\u0000]+", length_max=1024), "a tree in the home store, by its name"),
        Field("cid", Text("a CID", r"[A-Za-z0-9]{46,128}", length_max=128), "a tree in the home store, by its CID"),
        Field(
            "directory", _FILE, "a directory, from the project's: owners, times and what git does not keep are left out"
        ),
        Field("command", _COMMAND, "what runs in it; takes the place of the image's CMD"),
        Field("entrypoint", _COMMAND, "takes the place of the image's ENTRYPOINT; [] is none"),
        Field(
            "env",
            Table(Text("the name of a variable", r"[^=\u0000]+"), _VALUE, limits.texts_max),
            "variables of the environment",
        ),
        Field(
            "env_file",
            Either((_FILE, Rows(_FILE, limits.texts_max))),
            "files of variables, NAME=VALUE on a line each; what `env` says counts more",
        ),
        Field("ports", Rows(_PORT, limits.publish_max), "TCP ports of this host that lead to ports in the machine"),
        Field(
            "volumes",
            Rows(_VOLUME, limits.volumes_max),
            "directories of this host, from the project's, seen in the machine",
        ),
        Field(
            "memory",
            Text("an amount of memory", r"[0-9]{1,15}\s*[KMGTkmgt]?(?:i?[Bb])?", _memory, ("512M", "2G"), 20),
            "512M",
        ),
        Field("cpus", Number(1, limits.cpus_max), "how many processors it has (1)"),
        Field(
            "workdir",
            Text("an absolute path", r"/[^\u0000]*", length_max=limits.path_bytes_max),
            "the directory that the command runs in",
        ),
        Field(
            "user", Text("USER or USER:GROUP", r"[^:\u0000]+(?::[^:\u0000]+)?", length_max=256), "who runs the command"
        ),
        Field(
            "net", Choice(get_args(Net)), "user: out through NAT, and needed for ports; none (unless there are ports)"
        ),
        Field(
            "depends_on",
            Either(
                (
                    Rows(Text("a machine's name", MACHINE_NAME, _dependency, length_max=63), limits.machines_max),
                    Table(_NAME, Choice(("started", "healthy")), limits.machines_max),
                )
            ),
            "machines that are started first: a list, or a table of what is waited for: started or healthy",
        ),
        Field("health", _HEALTH, "how to find out that it is healthy"),
        Field(
            "restart",
            Text(
                "a policy",
                r"no|on-failure(?::[0-9]{1,4})?|always|unless-stopped",
                _restart,
                ("no", "on-failure", "on-failure:5", "always", "unless-stopped"),
                20,
            ),
            "what is done when its command has ended (no)",
        ),
        Field("stop_grace", _TIME, "between asking it to end and ending it (10s)"),
        Field(
            "scripts",
            Table(
                Text("a script's name", r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}", length_max=63),
                _SCRIPT,
                limits.texts_max,
            ),
            "commands for 'monofs run'; a text is run by /bin/sh",
        ),
    ),
    one_of=SOURCES,
)

PROJECT: Final = Record(
    (
        Field(
            "project",
            Record(
                (
                    Field(
                        "name",
                        Text("a project's name: letters, digits and _ . -, at most 40", PROJECT_NAME, length_max=40),
                        "what its machines' trees are called by: NAME/MACHINE (the directory's name)",
                    ),
                )
            ),
            "the project itself",
        ),
        Field("machines", Table(_NAME, MACHINE, limits.machines_max), "the machines, by name"),
    )
)


def document() -> dict[str, Any]:
    """Return the JSON schema of monofs.toml."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "monofs.toml",
        "description": "A project and its machines; 'monofs install' makes them.",
        **PROJECT.schema(),
    }
