"""How a project's machines are: ps."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from monofs_fuse.cli import output, project_here
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.project_here import Report
from monofs_fuse.cli.vm import explained
from vmm.errors import BadProject

if TYPE_CHECKING:
    from vmm.project.folder import Folder
    from vmm.project.manifest import Machine, Project
    from vmm.project.wanted import Wanted
    from vmm.state import Row


def ps_options(parser: Parser) -> None:
    parser.json()


def ps(args: Args) -> int:
    """List the project's machines: those of monofs.toml, and any other that still runs.

    The status is down, starting, running, stopping, exited or failed (with the exit code, or 125), waiting (for another
    machine), or restarting (after a pause). The health is starting, healthy or unhealthy, where there is a check. JSON
    is a list of objects: name, status, health, uptime_seconds, restarts, ports, source, tree (its name in .mc/store),
    id (of its last run; 'monofs --store .mc/store vm inspect' knows more), root (where the tree is mounted), wished (up
    or down), exit_code, error, waits_for, next_start (seconds since 1970).

    Examples:
      monofs ps
      monofs ps --json | jq -r '.[] | select(.status == "running").name'
    """
    return explained(partial(_ps, args))


def _ps(args: Args) -> int:
    found = list(statuses(project_here.folder()))
    if args.json:
        output.array(found)
        return 0
    rows = [
        [
            one["name"],
            _status(one),
            one["health"] or "-",
            "-" if one["uptime_seconds"] is None else _age(one["uptime_seconds"]),
            str(one["restarts"]),
            ", ".join(one["ports"]) or "-",
            one["source"],
        ]
        for one in found
    ]
    output.table([["NAME", "STATUS", "HEALTH", "UPTIME", "RESTARTS", "PORTS", "SOURCE"], *rows])
    for one in found:
        if one["error"]:
            output.note(f"{one['name']}: {one['error']}")
    return 0


def statuses(folder: Folder) -> list[dict[str, Any]]:
    """Return how every machine is that is declared or was up, in the order of monofs.toml."""
    from monofs_fuse.project import supervisor

    project = _declared(folder)
    report: Report = {}
    rows: dict[str, Row] = {}
    wishes: dict[str, Any] = {}
    if (folder.mc / "project.sqlite").exists():
        report = supervisor.report(folder)
        wishes = project_here.book(folder).wishes
        rows = _rows(folder)
    names = [one.name for one in project.machines] if project is not None else []
    found = []
    for name in [*names, *(name for name in wishes if name not in names)]:
        machine = project.machine(name) if project is not None else None
        wish = wishes.get(name)
        if machine is None and (wish is None or not project_here.is_up(report.get(name, _NOTHING))):
            continue
        wanted = wish.wanted if wish is not None else None
        ports = wanted.publish if wanted is not None else machine.ports if machine is not None else ()
        one = report.get(name, _NOTHING)
        row = rows.get(one["vm"] or "")
        is_alive = row is not None and one["phase"] != "down"
        found.append(
            {
                "name": name,
                "status": _word(one),
                "health": one["health"],
                "uptime_seconds": time.time() - row.started if is_alive and row is not None and row.started else None,
                "restarts": one["restarts"],
                "ports": [f"{port.host_address}:{port.host_port}->{port.guest_port}" for port in ports],
                "source": _source(machine, wanted),
                "tree": wanted.tree if wanted is not None else project.tree_name(name) if project else None,
                "id": one["vm"],
                "root": row.root if is_alive and row is not None else None,
                **{key: one[key] for key in ("wished", "exit_code", "error", "waits_for", "next_start")},
            }
        )
    return found


def _source(machine: Machine | None, wanted: Wanted | None) -> str:
    if machine is not None:
        return machine.source.text
    return f"{wanted.source} (not in monofs.toml)" if wanted is not None else "-"


_NOTHING: dict[str, Any] = {
    "phase": "down", "wished": "down", "restarts": 0, "waits_for": [], "blocked_by": None, "is_current": False,
    **dict.fromkeys(("vm", "health", "next_start", "exit_code", "error")),
}  # fmt: skip


def _declared(folder: Folder) -> Project | None:
    """Return what monofs.toml declares; what runs can be seen although that is broken."""
    try:
        return project_here.read(folder)
    except BadProject as error:
        if not (folder.mc / "project.sqlite").exists():
            raise
        output.note(str(error))
        return None


def _rows(folder: Folder) -> dict[str, Row]:
    from monofs_fuse.cli.vm import machines

    with machines(folder.store) as (_, listed):
        return {row.id: row for row in listed.all()}


def _word(one: dict[str, Any]) -> str:
    if one["phase"] != "down":
        return str(one["phase"])
    if one["wished"] == "up" and one["waits_for"]:
        return "waiting"
    if one["wished"] == "up" and one["next_start"] is not None:
        return "restarting"
    if one["error"]:
        return "failed"
    return "exited" if one["wished"] == "up" and one["exit_code"] is not None else "down"


def _status(one: dict[str, Any]) -> str:
    word = str(one["status"])
    if word == "waiting":
        return f"waiting for {', '.join(one['waits_for'])}"
    if word == "restarting":
        return f"restarting in {_age(max(0.0, one['next_start'] - time.time()))} ({one['exit_code']})"
    return f"{word} ({one['exit_code']})" if word in ("exited", "failed") else word


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
