"""Reading monofs.toml: all that is wrong with it is told at once, with file, line and key. Nothing else is read."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from vmm import limits
from vmm.errors import BadProject, BadSpec
from vmm.project import form, schema
from vmm.project.lines import line_of, lines_of
from vmm.project.manifest import Condition, Dependency, Health, Machine, Project, Restart, Source
from vmm.spec import Publish, Volume

_UNUSABLE: Final = re.compile(r"[^A-Za-z0-9_.-]+")


def read(file: Path) -> Project:
    """Return the project that the file declares. Raises BadProject, with a line for each thing that is wrong."""
    return parse(load(file), file)


def load(file: Path) -> str:
    """Return the text of a project's file. Raises BadProject."""
    try:
        with file.open("rb") as source:
            data = source.read(limits.manifest_bytes_max + 1)
        if len(data) > limits.manifest_bytes_max:
            raise BadProject(f"{shown(file)}: over {limits.manifest_bytes_max // limits.MIB} MiB")
        return data.decode().replace("\r\n", "\n")
    except OSError as error:
        raise BadProject(f"cannot read {shown(file)}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadProject(f"{shown(file)}:{line}: not UTF-8") from None


def parse(text: str, file: Path) -> Project:
    """Return the project that `text` declares; it is taken to be that of `file`. Raises BadProject."""
    problems: list[tuple[form.Path, str]] = []

    def say(path: form.Path, what: str) -> None:
        problems.append((path, what))

    doc = parse_toml(text, file)
    found = schema.PROJECT.read(doc, (), say) or {}
    rows: Mapping[str, Any] = found.get("machines") or {}
    directory = file.absolute().parent
    machines = [_machine(name, row, directory, say) for name, row in rows.items() if isinstance(row, dict)]
    if not problems:
        _check_ports(machines, say)
    _check_dependencies(rows, say)
    if problems:
        raise BadProject(_told(text, file, problems))
    name = (found.get("project") or {}).get("name") or default_name(directory)
    return Project(name, directory, tuple(machine for machine in machines if machine is not None))


def parse_toml(text: str, file: Path) -> dict[str, Any]:
    """Raises BadProject, with the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.fullmatch(r"(.*) \(at (?:line ([0-9]+), column [0-9]+|end of document)\)", str(error))
        line = where[2] if where and where[2] else text.count("\n") + 1
        raise BadProject(f"{shown(file)}:{line}: {where[1] if where else error}") from None
    except RecursionError:
        raise BadProject(f"{shown(file)}: lists in lists, too deep") from None


def default_name(directory: Path) -> str:
    """Return the name of a project that says none."""
    return _UNUSABLE.sub("-", directory.name).lstrip("_.-")[: limits.project_name_bytes_max].rstrip("-") or "project"


def shown(file: Path) -> str:
    """Return a path as it is said from here: in short below this directory, and from inside of the project."""
    whole = file.absolute()
    here = Path.cwd()
    near = whole.is_relative_to(here) or here.is_relative_to(whole.parent)
    return os.path.relpath(whole) if near else os.fspath(whole)


def _told(text: str, file: Path, problems: list[tuple[form.Path, str]]) -> str:
    known = lines_of(text)
    rows = sorted({(line_of(known, path), f"{form.dotted(path)}: " if path else "", what) for path, what in problems})
    lines = [f"{shown(file)}:{line}: {where}{what}" for line, where, what in rows]
    more = len(lines) - limits.problems_max
    return "\n".join(lines[: limits.problems_max] + ([f"{shown(file)}: and {more} more"] if more > 0 else []))


# A machine


def _machine(name: str, row: dict[str, Any], directory: Path, say: form.Say) -> Machine | None:
    """Return a machine whose values are good, each by itself. None if something was said against it."""
    path: form.Path = ("machines", name)
    volumes = _volumes(row.get("volumes"), directory, path, say)
    ports = tuple(row.get("ports") or ())
    if ports and row.get("net") == "none":
        say((*path, "net"), 'ports need net = "user"')
    sources = [Source(kind, row[kind]) for kind in ("image", "name", "cid", "directory") if row.get(kind)]
    files = row.get("env_file") or ()
    try:
        return Machine(
            name=name,
            source=sources[0],
            command=row.get("command"),
            entrypoint=row.get("entrypoint"),
            env=tuple((key, str(value)) for key, value in (row.get("env") or {}).items()),
            env_files=tuple(_path(directory, text) for text in ((files,) if isinstance(files, str) else files)),
            ports=ports,
            volumes=volumes,
            memory_bytes=row.get("memory") or 512 * limits.MIB,
            cpus=row.get("cpus") or 1,
            workdir=row.get("workdir"),
            user=row.get("user"),
            net=row.get("net") or ("user" if ports else "none"),
            depends_on=tuple(_dependencies(row.get("depends_on"))),
            health=_health(row["health"]) if row.get("health") else None,
            restart=row.get("restart") or Restart(),
            stop_seconds=limits.stop_seconds if row.get("stop_grace") is None else row["stop_grace"],
            scripts=tuple((row.get("scripts") or {}).items()),
        )
    except (IndexError, KeyError, TypeError):
        return None  # what is wrong was said


def _path(directory: Path, text: str) -> Path:
    return Path(os.path.normpath(directory / os.path.expanduser(text)))


def _volumes(texts: Any, directory: Path, path: form.Path, say: form.Say) -> tuple[Volume, ...]:
    found: list[Volume] = []
    for number, text in enumerate(texts or ()):
        host, guest, *mode = (text or "").split(":")[:3] if text and ":" in text else ("", "")
        if not host:
            continue  # that was said
        try:
            volume = Volume(_path(directory, host), os.path.normpath(guest), mode == ["ro"])
        except BadSpec as error:
            say((*path, "volumes", number), str(error))
            continue
        if any(volume.guest == other.guest for other in found):
            say((*path, "volumes", number), f"another volume is on {volume.guest} already")
        found.append(volume)
    return tuple(found)


def _dependencies(found: Any) -> Iterator[Dependency]:
    if isinstance(found, dict):
        yield from (Dependency(name, condition) for name, condition in found.items())
    else:
        yield from (one for one in found or () if one is not None)


def _health(row: Mapping[str, Any]) -> Health:
    names = {"interval": "interval_seconds", "timeout": "timeout_seconds", "start_period": "start_seconds"}
    return Health(**{names.get(key, key): value for key, value in row.items()})


# Between machines


def _check_ports(machines: list[Machine | None], say: form.Say) -> None:
    taken: list[tuple[Publish, str]] = []
    for machine in machines:
        for number, port in enumerate(machine.ports if machine else ()):
            assert machine is not None
            for other, name in taken:
                if _collide(port, other):
                    whose = "twice" if name == machine.name else f"by '{name}', too"
                    say(("machines", machine.name, "ports", number), f"port {port.host_port} is published {whose}")
                    break
            taken.append((port, machine.name))


def _collide(one: Publish, other: Publish) -> bool:
    addresses = {one.host_address, other.host_address}
    return one.host_port == other.host_port and (len(addresses) == 1 or "0.0.0.0" in addresses)  # noqa: S104


def _check_dependencies(rows: Mapping[str, Any], say: form.Say) -> None:
    wanted: dict[str, list[tuple[str, Condition]]] = {}
    for name, row in rows.items():
        wanted[name] = []
        for one in _dependencies(row.get("depends_on")) if isinstance(row, dict) else ():
            path: form.Path = ("machines", name, "depends_on")
            if one.machine not in rows:
                say(path, f"there is no machine '{one.machine}'")
            elif one.condition == "healthy" and not (rows[one.machine] or {}).get("health"):
                say(path, f"'{one.machine}' has no health to wait for; give it [machines.{one.machine}.health]")
            else:
                wanted[name].append((one.machine, one.condition))
    for circle in _circles({name: [to for to, _ in found] for name, found in wanted.items()}):
        say(("machines", circle[0], "depends_on"), f"the machines wait for each other: {' -> '.join(circle)}")


def _circles(graph: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """Yield a circle for each group of machines that wait for each other, from its first machine back to it."""
    done: set[str] = set()
    for start in graph:
        trail: list[str] = []
        stack = [(start, iter(graph[start]))] if start not in done else []
        trail += [start] * len(stack)
        while stack:
            name, rest = stack[-1]
            for to in rest:
                if to in trail:
                    yield [*trail[trail.index(to) :], to]
                elif to not in done:
                    stack.append((to, iter(graph[to])))
                    trail.append(to)
                    break
            else:
                done.add(name)
                stack.pop()
                trail.pop()
