"""Ending machines: vm stop, vm kill, vm wait, vm rm."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from monofs_fuse import config
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import explained, machines, settled

if TYPE_CHECKING:
    from vmm.state import Row


def _machine(parser: Parser) -> None:
    parser.positional("machine", "machine", "its ID, the beginning of that, or its name", metavar="ID")


# stop


def stop_options(parser: Parser) -> None:
    _machine(parser)
    parser.add_argument("--time", metavar="S", type=float, default=10.0, help="how long to wait before KILL (10)")


def stop(args: Args) -> int:
    """Ask a machine to end, wait for that, and print the CID of its tree.

    Its command gets TERM, and KILL if it does not end in time. Then the guest writes back what it holds, unmounts and
    powers off, and the tree is saved. To stop a machine that has ended is no error.

    Examples:
      cid=$(monofs vm stop web)
      monofs vm stop --time 60 database
    """
    if not args.time >= 0:
        args.refuse("a time is a number of seconds, 0 or more")
    return explained(partial(_end, args, op="stop", seconds=args.time))


# kill


def kill_options(parser: Parser) -> None:
    _machine(parser)


def kill(args: Args) -> int:
    """End a machine at once, as if its power was cut, and print the CID of its tree.

    What the guest had not written back is lost; the tree itself is whole. To kill a machine that has ended is no error.

    Examples:
      monofs vm kill web
    """
    return explained(partial(_end, args, op="kill"))


def _end(args: Args, **request: Any) -> int:
    row = _ended(args, **request)
    if row.result is not None:
        output.line(row.result)
    if row.error:
        output.note(row.error)
    return 0


# wait


def wait_options(parser: Parser) -> None:
    _machine(parser)
    parser.json()


def wait(args: Args) -> int:
    """Wait until a machine has ended, and print the exit code of its command. JSON is what 'monofs vm inspect' prints.

    Examples:
      code=$(monofs vm wait web)
    """
    return explained(partial(_wait, args))


def _wait(args: Args) -> int:
    from vmm.state import document

    row = _ended(args, op="wait")
    if args.json:
        output.document(document(row))
    else:
        output.line(str(row.exit_code))
    return 0


def _ended(args: Args, **request: Any) -> Row:
    """Ask the machine's supervisor for something that takes until its end; returns its row from then."""
    from vmm import client
    from vmm.errors import NoMachine, SupervisorGone
    from vmm.state import row_of

    store = config.store_path(args.store)
    with machines(store) as (directory, listed):
        row = listed.find(args.machine)
    if not row.living:
        return row
    try:
        ending = client.ask(client.connect(directory / row.id), **request)
        assert ending.ended is not None
        return row_of(ending.ended)
    except SupervisorGone:
        found = settled(store, row.id)
        if found is None:
            raise NoMachine(f"machine {args.machine} has ended and was removed") from None
        return found


# rm


def rm_options(parser: Parser) -> None:
    parser.positional("machines", "machine", "an ID, the beginning of one, or a name", metavar="ID", many="+")


def rm(args: Args) -> int:
    """Forget machines that have ended, and their logs. Their trees stay: 'monofs forget' is for those.

    Examples:
      monofs vm rm web
      monofs vm rm $(monofs vm ps -a --json | jq -r '.[]|select(.ended).id')
    """
    return explained(partial(_rm, args))


def _rm(args: Args) -> int:
    from vmm import reconcile
    from vmm.errors import WrongState

    with machines(config.store_path(args.store)) as (directory, listed):
        rows = [listed.find(text) for text in args.machines]
        for row in rows:
            if row.living:
                raise WrongState(f"machine {row.name or row.id} is {row.status}; 'monofs vm stop {row.id}' ends it")
        for row in rows:
            reconcile.remove(directory, listed, row)
    return 0
