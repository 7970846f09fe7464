"""What a project's machines print: logs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from monofs_fuse.cli import project_here
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import explained

if TYPE_CHECKING:
    pass


def logs_options(parser: Parser) -> None:
    parser.positional("names", "member", "only these machines", metavar="NAME", many="*")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the machines have ended, or Ctrl-C")
    parser.add_argument("--tail", metavar="N", type=int, help="no more than the last N lines of each machine")


def logs(args: Args) -> int:
    """Print what the commands of the project's machines wrote, of earlier runs too.

    The machine's name is before each line. Of one machine alone it is as it was written, its stderr to stderr. The last
    8 to 16 MiB of each of the last 10 runs are kept. What 'monofs exec' ran is not in it.

    Examples:
      monofs logs -f
      monofs logs web --tail 100
    """
    if args.tail is not None and args.tail < 0:
        args.refuse("--tail is a number of lines")
    return explained(partial(_logs, args))


def _logs(args: Args) -> int:
    from monofs_fuse import tenancy
    from monofs_fuse.project import following, supervisor
    from monofs_fuse.project.following import Follower, Printer, Tail

    folder = project_here.installed_folder()
    report = supervisor.report(folder)
    for name in args.names:
        project_here.known(name, report)
    names = list(dict.fromkeys(args.names)) or list(report)
    printer = Printer(names, plain=len(args.names) == 1)
    living = {one["vm"] for one in report.values() if one["phase"] != "down"}
    for name in names:
        tail = None if args.tail is None else Tail(args.tail)
        for row in following.runs(folder, name):
            if args.follow and row.id in living:
                continue
            for stream, data in following.records(tenancy.machines_directory(folder.store) / row.id):
                if tail is None:
                    printer.write(name, stream, data)
                else:
                    tail.add(stream, data)
        for stream, line in tail.lines() if tail is not None else []:
            printer.write(name, stream, line)
        printer.end(name)
    if not (args.follow and living):
        return 0
    with Follower(folder, names, dict.fromkeys(names, args.tail), printer=printer, since=report) as follower:
        for event in follower.events():
            if event == "interrupt":
                return 130
        follower.drain()
    return 0
