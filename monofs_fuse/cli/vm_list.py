"""Looking at machines: vm ps, vm logs, vm inspect."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monofs_fuse import config
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import explained, machines

if TYPE_CHECKING:
    from vmm.state import Row

# ps


def ps_options(parser: Parser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="those that have ended, too")
    parser.json()


def ps(args: Args) -> int:
    """List the machines that run: ID, name, status, exit code, age, tree, digest of the image and command.

    The status is starting, running or stopping; with -a also exited (its command ended), failed (monofs could
    not go on) or died (its supervisor was killed). JSON is a list of what 'monofs vm inspect' prints.

    Examples:
      monofs vm ps
      monofs vm ps -a --json | jq -r '.[] | .id + " " + .result'
    """
    return explained(partial(_ps, args))


def _ps(args: Args) -> int:
    with machines(config.store_path(args.store)) as (directory, listed):
        rows = listed.all() if args.all else listed.living()
    if args.json:
        output.array(_described(directory, row) for row in rows)
    else:
        output.table([["ID", "NAME", "STATUS", "CODE", "AGE", "TREE", "DIGEST", "COMMAND"], *map(_cells, rows)])
    return 0


def _cells(row: Row) -> list[str]:
    words = b" ".join(
        output.quoted(word.encode("utf-8", "surrogateescape")).encode() for word in row.command.get("argv", [])
    )
    command = words.decode("utf-8", "surrogateescape")
    code = "-" if row.exit_code is None else str(row.exit_code)
    short = command if len(command) <= 40 else command[:39] + "…"
    digest = row.image.get("digest", "").partition(":")[2][:12] or "-"
    age = _age(time.time() - row.created)
    return [row.id, row.name or "-", row.status, code, age, row.target, digest, short or "-"]


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def _described(directory: Path, row: Row) -> dict[str, Any]:
    from vmm.state import document

    here = directory / row.id
    return {**document(row), "directory": str(here), "console": str(here / "machine" / "console.log")}


# inspect


def inspect_options(parser: Parser) -> None:
    parser.positional("machine", "machine", "its ID, the beginning of that, or its name", metavar="ID")


def inspect(args: Args) -> int:
    """Print all that is known of a machine, as JSON.

    That is: id, name, status, exit_code, error, target and tree (what it began with), image (if it is one: reference,
    digest, ports that it offers, stop_signal), root (where its tree is mounted while it runs), fork, keep, result and
    kept (the CID at the end, and under which name), spec, command, engine, supervisor and pids ([pid, start time in
    ticks]), boot, created, started and ended (seconds since 1970), timings (seconds), directory and console.

    Examples:
      monofs vm inspect web | jq -r .root
    """
    return explained(partial(_inspect, args))


def _inspect(args: Args) -> int:
    with machines(config.store_path(args.store)) as (directory, listed):
        output.document(_described(directory, listed.find(args.machine)))
    return 0


# logs


def logs_options(parser: Parser) -> None:
    parser.positional("machine", "machine", "its ID, the beginning of that, or its name", metavar="ID")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the machine ends")


def logs(args: Args) -> int:
    """Print what a machine's command wrote: its stdout to stdout, its stderr to stderr.

    The last 8 to 16 MiB are kept. What 'monofs vm exec' ran is not in it.

    Examples:
      monofs vm logs web
      monofs vm logs -f web 2>/dev/null
    """
    return explained(partial(_logs, args))


def _logs(args: Args) -> int:
    from vmm import client
    from vmm.errors import SupervisorGone
    from vmm.logs import LogReader

    with machines(config.store_path(args.store)) as (directory, listed):
        row = listed.find(args.machine)
    if args.follow and row.living:
        try:
            connection = client.connect(directory / row.id)
        except SupervisorGone:
            pass  # it has just ended: all it wrote is in the files
        else:
            client.ask(connection, op="follow")
            return 0
    reader = LogReader(directory / row.id)
    try:
        for stream, data in reader.read():
            to = sys.stdout if stream == 1 else sys.stderr
            to.buffer.write(data)
            to.buffer.flush()
    finally:
        reader.close()
    return 0
