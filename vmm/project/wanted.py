"""What a machine is to be: all that its project, its files and its image say, put together, as JSON can hold it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from vmm import defaults, limits, spec
from vmm.defaults import Defaults, Wishes
from vmm.errors import BadSpec
from vmm.project.manifest import Dependency, Health, Machine, Project, Restart
from vmm.project.state import Installed
from vmm.spec import Command, MachineSpec, Publish, Volume

Variables = tuple[tuple[str, str], ...]
Facts = dict[str, str]

_UNTOLD: Final = ("image", "env")  # of these it is told that they changed, not how
_WORDS_MAX: Final = 100


@dataclass(frozen=True)
class Wanted:
    """A machine that can be started from this alone. `command` is None for one that only waits for `exec`.

    `facts` are what cannot be changed while it runs, in words; the rest may be.
    """

    machine: str
    tree: str
    source: str
    image: dict[str, Any]
    spec: dict[str, Any]
    command: dict[str, Any] | None
    facts: Facts
    needs: tuple[Dependency, ...] = ()
    restart: Restart = field(default_factory=Restart)
    health: Health | None = None
    stop_seconds: float = limits.stop_seconds

    @property
    def essence(self) -> str:
        """Return what two of these have in common between which a running machine need not be restarted."""
        kept = json.dumps([self.spec, self.command, self.facts], sort_keys=True)
        return hashlib.blake2b(kept.encode(), digest_size=16).hexdigest()

    def doc(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @classmethod
    def of_doc(cls, doc: Mapping[str, Any]) -> Self:
        """The reverse of `doc`."""
        health = doc["health"]
        changed = {
            "needs": tuple(Dependency(**one) for one in doc["needs"]),
            "restart": Restart(**doc["restart"]),
            "health": None if health is None else Health(**{**health, "command": tuple(health["command"])}),
        }
        return cls(**{**doc, **changed})

    def machine_spec(self, root: Path) -> MachineSpec:
        """Return the machine with its tree mounted on `root`. Raises BadSpec."""
        doc = self.spec
        return MachineSpec(
            root=root,
            memory_bytes=doc["memory_bytes"],
            cpus=doc["cpus"],
            volumes=tuple(Volume(Path(one["host"]), one["guest"], one["read_only"]) for one in doc["volumes"]),
            net=doc["net"],
            publish=self.publish,
            hostname=doc["hostname"],
        )

    @property
    def publish(self) -> tuple[Publish, ...]:
        return tuple(Publish(**one) for one in self.spec["publish"])

    def main(self) -> Command | None:
        """Return the command that the machine is there for."""
        return None if self.command is None else _command(self.command)

    def other(self, argv: Iterable[str]) -> Command:
        """Return another command with the variables, the directory and the user of the machine's own."""
        around = self.command or self.image
        return _command({**around, "argv": list(argv)})


def of(project: Project, machine: Machine, made: Installed, env: Variables) -> Wanted:
    """Return what a machine is to be; `env` are its variables, those of its files too. Raises BadSpec."""
    try:
        return _of(project, machine, made, env)
    except BadSpec as error:
        raise BadSpec(f"machine '{machine.name}': {error}") from None


def _of(project: Project, machine: Machine, made: Installed, env: Variables) -> Wanted:
    image = Defaults.of_doc(made.config)
    wishes = Wishes(
        args=machine.command,
        entrypoint=machine.entrypoint,
        env=env,
        workdir=machine.workdir,
        user=machine.user,
    )
    around = defaults.surroundings(image, wishes)
    command = defaults.command(image, wishes) if defaults.argv(image, wishes) else None
    wanted = MachineSpec(
        root=Path("/nowhere"),
        memory_bytes=machine.memory_bytes,
        cpus=machine.cpus,
        volumes=machine.volumes,
        net="user" if machine.ports else machine.net,
        publish=machine.ports,
        hostname=_hostname(machine.name),
    )
    doc = plain(asdict(wanted))
    made_of = {
        "reference": made.source,
        "digest": made.digest or "",
        "ports": list(image.ports),
        "stop_signal": image.stop_signal,
        **{key: plain(asdict(around))[key] for key in ("env", "workdir", "user")},
    }
    return Wanted(
        machine=machine.name,
        tree=project.tree_name(machine.name),
        source=machine.source.text,
        image=made_of,
        spec={key: doc[key] for key in ("memory_bytes", "cpus", "volumes", "net", "publish", "hostname")},
        command=None if command is None else plain(asdict(command)),
        facts=_facts(wanted, made, command or around, is_waiting=command is None),
        needs=machine.depends_on,
        restart=machine.restart,
        health=machine.health or image.health,
        stop_seconds=machine.stop_seconds,
    )


def _facts(wanted: MachineSpec, made: Installed, command: Command, *, is_waiting: bool) -> Facts:
    """Return what is worth telling when it changes, in words."""
    return {
        "image": made.tree,
        "command": "-" if is_waiting else " ".join(command.argv),
        "memory": spec.format_memory(wanted.memory_bytes),
        "cpus": str(wanted.cpus),
        "net": wanted.net,
        "ports": _joined(f"{one.host_address}:{one.host_port}:{one.guest_port}" for one in wanted.publish),
        "volumes": _joined(f"{one.host}:{one.guest}" + ":ro" * one.read_only for one in wanted.volumes),
        "workdir": command.workdir,
        "user": command.user or "root",
        "env": hashlib.blake2b(json.dumps(command.env).encode(), digest_size=8).hexdigest(),
    }


def differences(old: Wanted, new: Wanted) -> list[str]:
    """Return why a machine that runs as `old` has to be restarted to be `new`; nothing if it need not be."""
    if old.essence == new.essence:
        return []
    return list(_differences(old.facts, new.facts)) or ["it is declared otherwise"]


def _differences(old: Facts, new: Facts) -> Iterator[str]:
    for key in new:
        before, after = old.get(key, "-"), new[key]
        if before == after:
            continue
        if key in _UNTOLD or len(before) + len(after) > _WORDS_MAX:
            yield f"{key} changed"
        else:
            yield f"{key} {before} -> {after}"


def _command(doc: Mapping[str, Any]) -> Command:
    return Command(
        argv=tuple(doc["argv"]),
        env=tuple((name, value) for name, value in doc["env"]),
        workdir=doc["workdir"],
        user=doc["user"],
    )


def _hostname(name: str) -> str:
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name).strip("-")
    return letters[:63].strip("-") or "monofs"


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(texts) or "-"


def plain(value: Any) -> Any:
    """Return a value with nothing in it but what JSON has."""
    return json.loads(json.dumps(value, default=str))
