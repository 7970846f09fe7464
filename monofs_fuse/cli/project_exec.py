"""Commands in a project's machines: exec, run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from monofs_fuse import mountpoint
from monofs_fuse.cli import output, project_here
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import FAILED, explained, machines, machines_directory
from monofs_fuse.cli.vm_command import command_options, stdin_of
from vmm.errors import NoMachine, SupervisorGone, WrongState

if TYPE_CHECKING:
    from vmm.project.folder import Folder
    from vmm.project.manifest import Project
    from vmm.project.wanted import Wanted
    from vmm.spec import Command
    from vmm.state import Row


# exec


def exec_options(parser: Parser) -> None:
    parser.fails_with = FAILED
    parser.positional("machine", "member", "a machine of the project", metavar="NAME")
    command_options(parser)


def exec_(args: Args) -> int:
    """Run one more command in a machine of the project that is up.

    Streams, signals and exit code are as for 'monofs vm run'. It has the variables, the directory and the user of the
    machine's own command, unless you say otherwise.

    Examples:
      monofs exec web -- ps aux
      monofs exec -i -t web -- sh

    Exit codes: the command's own; 125 monofs itself failed, explained in one line on stderr; 126 and 127 the
    command cannot be run or is not there, as in a shell.
    """
    return explained(partial(_exec, args), FAILED)


def _exec(args: Args) -> int:
    from monofs_fuse.cli import vm_exec

    if args.command is None:
        args.refuse("say which command, after --")
    folder = project_here.installed_folder()
    row = _living(folder, args.machine)
    if row is None:
        raise WrongState(f"machine '{args.machine}' is not up; 'monofs up -d {args.machine}' starts it")
    return vm_exec.attach(machines_directory(folder.store) / row.id, vm_exec.command_in(row, args), args)


def _living(folder: Folder, name: str) -> Row | None:
    """Return the machine of that name if it is up. Raises NoMachine, WrongState for one that is about to be."""
    from monofs_fuse.project import supervisor

    report = supervisor.report(folder)
    one = report.get(name)
    if one is None:
        declared = [machine.name for machine in project_here.read(folder).machines]
        if name not in declared:
            from vmm.project import plan

            raise plan.unknown(name, declared)
        return None
    if one["phase"] == "down":
        if project_here.is_up(one):
            raise WrongState(f"machine '{name}' is about to start; 'monofs ps' says what it waits for")
        return None
    with machines(folder.store) as (_, listed):
        row = listed.get(one["vm"])
    if row is None or not row.living:
        raise WrongState(f"machine '{name}' is just starting, or has just ended; try again")
    return row


# run


def run_options(parser: Parser) -> None:
    parser.fails_with = FAILED
    parser.positional("script", "script", "a script of monofs.toml", metavar="[MACHINE:]SCRIPT")
    parser.add_argument("-i", dest="interactive", action="store_true", help="pass a terminal's stdin on, too")
    parser.add_argument("-t", dest="terminal", action="store_true", help="give the script a terminal")
    parser.takes_command()


def run(args: Args) -> int:
    """Run a script that monofs.toml declares, in its machine. What follows -- is added to its arguments; a
    script that is one line for a shell can say where they go: "$@", $1.

    If the machine is up the script runs in it. Otherwise the machine is booted for the script alone, without what it
    depends on and with no ports published, and stopped after; what it wrote is in the machine's tree all the same. The
    machine need not be said if no other has a script of that name.

    Examples:
      monofs run test
      monofs run web:migrate -- --dry-run

    Exit codes: the script's own; 125 monofs itself failed, explained in one line on stderr; 126 and 127 it
    cannot be run or is not there, as in a shell.
    """
    return explained(partial(_run, args), FAILED)


def _run(args: Args) -> int:
    from monofs_fuse.cli import project_up, vm_exec
    from vmm.project import scripts

    folder = project_here.folder()
    project = project_here.read(folder)
    machine, argv = script(project, args.script)
    project_up.install(args, folder)
    row = _living(folder, machine)
    argv = scripts.with_arguments(argv, tuple(args.command or ()))
    if row is not None:
        if row.status == "stopping":
            raise WrongState(f"machine '{machine}' is being stopped; try again when it is down")
        args.env, args.env_file, args.workdir, args.user, args.command = [], [], None, None, list(argv)
        return vm_exec.attach(machines_directory(folder.store) / row.id, vm_exec.command_in(row, args), args)
    return _booted(args, folder, project_here.declared(folder, project)[machine], argv)


def script(project: Project, text: str) -> tuple[str, tuple[str, ...]]:
    """Return the machine and the words of the script that `text` means. Raises NoMachine."""
    machine, colon, name = text.rpartition(":")
    found = [
        (one.name, words)
        for one in project.machines
        for key, words in one.scripts
        if key == name and (not colon or one.name == machine)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{owner}:{name}" for owner, _ in found)
        raise NoMachine(f"several machines have a script '{name}': {several}; say which")
    there = ", ".join(f"{one.name}:{key}" for one in project.machines for key, _ in one.scripts) or "none"
    raise NoMachine(f"no script '{text}' in monofs.toml; there are: {there}")


def _booted(args: Args, folder: Folder, wanted: Wanted, argv: tuple[str, ...]) -> int:
    """Boot a machine for one command; returns its exit code."""
    from monofs_fuse.project import running
    from vmm import client, programs, state

    programs.check_root()
    mountpoint.check_fuse(False)
    programs.find_qemu()
    programs.find_virtiofsd()
    programs.check_helpers()
    quiet = replace(wanted, spec={**wanted.spec, "publish": []})
    id = state.new_id()
    with machines(folder.store, create=True) as (_, listed):
        if any(row.name == wanted.machine for row in listed.living()):
            raise WrongState(f"machine '{wanted.machine}' is busy with another 'monofs run'; wait until it has ended")
    connection = running.start(folder.store, quiet, id, command=_on_terminal(wanted.other(argv), args), detached=False)
    attached = client.Attached(connection, stdin=stdin_of(args), tty=args.terminal and args.interactive)
    try:
        ending = attached.run()
    except SupervisorGone:
        with machines(folder.store) as (_, listed):
            row = listed.get(id)
        raise SupervisorGone(f"the machine died: {row.error if row else 'its supervisor ended at once'}") from None
    return _finish(ending)


def _on_terminal(command: Command, args: Args) -> Command:
    from vmm import terminal

    if not args.terminal:
        return command
    rows, columns = terminal.size() or (24, 80)
    return replace(command, terminal=True, rows=min(rows, 1000), columns=min(columns, 1000))


def _finish(ending: Any) -> int:
    row = ending.ended
    assert row is not None
    for note in [*ending.notes, *filter(None, [row["error"], ending.output_failed])]:
        output.note(note)
    if ending.output_failed is not None:
        return FAILED
    if ending.interrupted is not None and not ending.begun:
        return 128 + int(ending.interrupted)
    return int(row["exit_code"])
