"""monofs.lock: which tree each machine of a project is made from, so that it is the same one wherever it is installed.

A section for each machine, in the order of their names, so that two people's changes to it merge like their reasons do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vmm import limits
from vmm.errors import BadProject
from vmm.project import form, schema, toml
from vmm.project.form import Field, Number, Record, Table, Text
from vmm.project.lines import line_of, lines_of
from vmm.project.manifest import Machine, Project, Source
from vmm.project.reading import load, parse_toml, shown

FORMAT: Final = 1
_HEAD: Final = """\
# Made by monofs from monofs.toml ('monofs install', 'monofs update'). Keep it in version control.
format = 1
"""


@dataclass(frozen=True)
class Locked:
    """The tree of one machine. `reference`, `digest` and `platform` are there for an image, and say it in full."""

    machine: str
    source: Source
    tree: str
    reference: str | None = None
    digest: str | None = None
    platform: str | None = None

    @property
    def pulled_as(self) -> str:
        """The reference by digest: what it means can never change."""
        assert self.reference is not None and self.digest is not None
        name = self.reference.partition("@")[0]
        head, slash, last = name.rpartition("/")
        return f"{head}{slash}{last.partition(':')[0]}@{self.digest}"


_TEXT: Final = Text("text", r"[^\u0000]+")
_LOCKED: Final = Record(
    (
        *(Field(kind, _TEXT, "as monofs.toml has it") for kind in schema.SOURCES),
        Field("tree", Text("a CID", r"b[a-z2-7]{58}"), "the tree's CID", True),
        Field("reference", Text("a reference in full", r"[^\s\u0000]+"), "the image's reference in full"),
        Field("digest", Text("a digest", r"sha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128})"), "of the image's manifest"),
        Field("platform", Text("a platform", r"[a-z0-9_./-]+"), "that the image is for"),
    ),
    one_of=schema.SOURCES,
)
_LOCK: Final = Record(
    (
        Field("format", Number(FORMAT, FORMAT), "of this file", True),
        Field(
            "machines", Table(Text("a machine's name", schema.MACHINE_NAME), _LOCKED, limits.machines_max), "by name"
        ),
    )
)

Lock = dict[str, Locked]


def read(file: Path) -> Lock:
    """Return what is locked; nothing if there is no such file. Raises BadProject."""
    return parse(load(file), file) if file.exists() else {}


def parse(text: str, file: Path) -> Lock:
    """Raises BadProject."""
    problems: list[tuple[form.Path, str]] = []
    doc = parse_toml(text, file)
    if type(doc.get("format")) is int and doc["format"] > FORMAT:
        raise BadProject(f"{shown(file)} was written by a newer monofs (format {doc['format']}); use that")
    found = _LOCK.read(doc, (), lambda path, what: problems.append((path, what)))
    rows: dict[str, Any] = (found or {}).get("machines") or {}
    for name, row in rows.items():
        if row and ("image" in row) != all(key in row for key in ("reference", "digest", "platform")):
            problems.append((("machines", name), "reference, digest and platform go with an image"))
    if problems:
        path, what = problems[0]
        where = f"{shown(file)}:{line_of(lines_of(text), path)}: {form.dotted(path)}{': ' if path else ''}"
        raise BadProject(f"{where}{what}; bring a good one back, or remove it and 'monofs install' locks anew")
    return {name: _locked(name, row) for name, row in rows.items()}


def _locked(name: str, row: dict[str, Any]) -> Locked:
    kind = next(kind for kind in schema.SOURCES if kind in row)
    rest = {key: row.get(key) for key in ("reference", "digest", "platform")}
    return Locked(name, Source(kind, row[kind]), row["tree"], **rest)


def text(lock: Lock) -> str:
    """Return the file for a lock: the same text for the same lock."""
    return "\n".join([_HEAD, *(_section(lock[name]) for name in sorted(lock))])


def _section(one: Locked) -> str:
    rows = [(one.source.kind, one.source.text), ("reference", one.reference), ("digest", one.digest)]
    rows += [("platform", one.platform), ("tree", one.tree)]
    lines = [f"{key} = {toml.value(value)}" for key, value in rows if value is not None]
    return "\n".join([f"[machines.{toml.key(one.machine)}]", *lines, ""])


def is_of(one: Locked | None, machine: Machine) -> bool:
    """True if this is locked from what the machine's declaration says."""
    return one is not None and one.source == machine.source


def differences(project: Project, lock: Lock) -> list[str]:
    """Return what the lock says otherwise than the project, a line each."""
    found = []
    for machine in project.machines:
        one = lock.get(machine.name)
        if one is None:
            found.append(f"'{machine.name}' is not in it")
        elif one.source != machine.source:
            found.append(f"'{machine.name}' is {_said(one.source)} in it, and {_said(machine.source)} in monofs.toml")
    found += [f"'{name}' is in it, and not in monofs.toml" for name in sorted(lock) if project.machine(name) is None]
    return found


def _said(source: Source) -> str:
    return f"{source.kind} {form.shown(source.text)}"
