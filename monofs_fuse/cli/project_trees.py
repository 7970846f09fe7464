"""What a project's machines are made of: outdated, tree."""

from __future__ import annotations

from functools import partial
from typing import Any

from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.projects import brief, doc
from monofs_fuse.cli.vm import explained

# outdated


def outdated_options(parser: Parser) -> None:
    parser.json()


def outdated(args: Args) -> int:
    """List the machines that 'monofs update' would make from another tree.

    A line for each: the machine, what is locked, and what its source stands for now. Nothing is changed; of
    images only the documents are fetched.

    JSON is a list of: machine, locked and now (each with tree, reference, digest, platform).

    Examples:
      monofs outdated
      monofs outdated --json | jq -r '.[].machine'

    Exit codes: 0 nothing is outdated; 1 something is, or an error; 2 wrong usage.
    """
    return explained(partial(_outdated, args))


def _outdated(args: Args) -> int:
    from monofs_fuse.project import sources, stores
    from vmm.project import lock, reading

    folder = stores.find()
    project, locked = reading.read(folder.manifest), lock.read(folder.lock)
    found = []
    with stores.opened(folder) as opened:
        for machine in project.machines:
            old, new = locked.get(machine.name), sources.newest(machine, opened.home, folder.directory)
            is_same = old is not None and (old.digest == new.digest if new.digest else old.tree == new.tree)
            if not is_same or not lock.is_of(old, machine):
                found.append((old, new))
    if args.json:
        output.document([{"machine": new.machine, "locked": doc(old), "now": doc(new)} for old, new in found])
    else:
        output.table([[new.machine, brief(old), brief(new)] for old, new in found])
    return 1 if found else 0


# tree


def tree_options(parser: Parser) -> None:
    parser.json()


def tree(args: Args) -> int:
    """Show the project: its machines, what each is made from, and how much each has of its own.

    The size is that of all files in the machine's tree as it is now. Own is what of it only the project's store has;
    the rest is shared with the home store, and with everything else there.

    JSON is an object: project, directory, home, own_blocks, borrowed_blocks, machines: a list of name, source,
    reference, digest, platform, locked (tree), tree (as it is now; null if it is not installed), changed,
    size, own_blocks, own_bytes.

    Examples:
      monofs tree
      monofs tree --json | jq '.machines[] | {name, own_bytes}'
    """
    return explained(partial(_tree, args))


def _tree(args: Args) -> int:
    from monofs_fuse.project import overview, stores

    found = overview.of(stores.find())
    if args.json:
        output.document(found)
        return 0
    output.line(f"{found['project']}  {found['directory']}")
    machines = found["machines"]
    for number, machine in enumerate(machines):
        is_last = number == len(machines) - 1
        output.line(f"{'└─' if is_last else '├─'} {machine['name']}  {machine['source']}")
        for text in _facts(machine):
            output.line(f"{'  ' if is_last else '│ '}    {text}")
    return 0


def _facts(machine: dict[str, Any]) -> list[str]:
    lines = []
    if machine["reference"] is not None:
        lines.append(f"{machine['reference']}  {machine['platform']}")
        lines.append(machine["digest"])
    lines.append(machine["locked"] or "not locked")
    if machine["tree"] is None:
        return [*lines, "not installed"]
    if machine["changed"]:
        lines.append(f"changed: {machine['tree']}")
    own = f"{output.human(machine['own_bytes'])} in {machine['own_blocks']} blocks of its own"
    return [*lines, f"{output.human(machine['size'])} in all, {own}"]
