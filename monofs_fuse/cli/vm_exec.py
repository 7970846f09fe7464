"""One more command in a machine that runs: vm exec."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from monofs_fuse import config
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import FAILED, explained, machines
from monofs_fuse.cli.vm_command import command_doc, command_options, stdin_of, wishes_of
from vmm.errors import VmError, WrongState

if TYPE_CHECKING:
    from vmm.defaults import Defaults
    from vmm.spec import Command
    from vmm.state import Row


def exec_options(parser: Parser) -> None:
    parser.fails_with = FAILED
    parser.positional("machine", "machine", "its ID, the beginning of that, or its name", metavar="ID")
    command_options(parser)


def exec_(args: Args) -> int:
    """Run one more command in a machine that is running. Streams, signals and exit code are as for 'monofs vm run'.

    In a machine that runs an image it has the variables, the directory and the user of the machine's own command,
    unless you say otherwise. It ends with its machine, which ends with the command that it was started for.

    Examples:
      monofs vm exec web -- ps aux
      monofs vm exec -i -t 4f9c -- bash

    Exit codes: the command's own; 125 monofs itself failed, explained in one line on stderr; 126 and 127 the
    command cannot be run or is not there, as in a shell.
    """
    return explained(partial(_exec, args), FAILED)


def _exec(args: Args) -> int:
    if args.command is None:
        args.refuse("say which command, after --")
    with machines(config.store_path(args.store)) as (directory, listed):
        row = listed.find(args.machine)
    if not row.living:
        raise WrongState(f"machine {args.machine} has ended; 'monofs vm ps' lists those that run")
    return attach(directory / row.id, command_in(row, args), args)


def command_in(row: Row, args: Args) -> Command:
    """Return the command that the arguments ask for, with what the machine's own has. Raises BadSpec."""
    from vmm import defaults

    return defaults.command(_defaults(row), wishes_of(args))


def attach(directory: Path, command: Command, args: Args) -> int:
    """Run a command in the machine of that directory, with our streams; returns its exit code. Raises VmError."""
    from vmm import client, wire

    connection = client.connect(directory)
    connection.sendall(wire.doc(op="exec", command=command_doc(command)))
    ending = client.Attached(connection, stdin=stdin_of(args), tty=args.terminal and args.interactive).run()
    if ending.output_failed is not None:
        raise VmError(ending.output_failed)
    assert ending.exit_code is not None
    return ending.exit_code


def _defaults(row: Row) -> Defaults:
    """Return what commands in a machine have that say nothing else."""
    from vmm.defaults import Defaults

    if not row.image:
        return Defaults()
    found = row.command or row.image
    env = tuple(f"{name}={value}" for name, value in found["env"])
    return Defaults(env=env, workdir=found["workdir"], user=found["user"] or "")
