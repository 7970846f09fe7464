"""Running a command in a new machine: vm run."""

from __future__ import annotations

import os
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monofs_fuse import config, mountpoint
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import FAILED, explained, machines, resolve
from monofs_fuse.cli.vm_command import command_doc, command_of, command_options, plain, stdin_of
from vmm.errors import BadSpec, SupervisorGone

if TYPE_CHECKING:
    from vmm.client import Ending
    from vmm.spec import Command, MachineSpec
    from vmm.state import Row


def run_options(parser: Parser) -> None:
    parser.fails_with = FAILED
    parser.positional("target", "target", "a tree to fork, or a mount to use as it is", metavar="CID|NAME|MOUNTPOINT")
    command_options(parser)
    add = parser.add_argument
    add("--memory", metavar="SIZE", default="512M", help="the machine's memory (512M)")
    add("--cpus", metavar="N", type=int, default=1, help="how many processors it has (1)")
    add("--timeout", metavar="S", type=float, help="end the command after S seconds, with exit code 124")
    add("--detach", action="store_true", help="print the machine's ID and leave it running")
    add("--name", metavar="NAME", help="call the machine so; no other living one may have the name")
    add("--rm", action="store_true", help="forget the machine and its logs when it has ended")
    add("--volume", metavar="HOST:GUEST[:ro]", action="append", default=[], help="share a directory of this machine")
    add("--net", choices=["none", "user"], default="none", help="none: no network (default). user: out through NAT")
    add(
        "--publish", metavar="PORT:PORT", action="append", default=[], help="a port here that leads to one in the guest"
    )
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--keep", metavar="NAME", help="the resulting tree becomes NAME")
    after.add_argument("--discard", action="store_true", help="the resulting tree is not kept")
    after.add_argument("--read-only", action="store_true", help="the machine cannot change its tree")
    parser.kinds["kernel"] = "file"
    add("--kernel", metavar="FILE", help="boot this kernel")
    add("--engine", choices=["auto", "kvm", "tcg"], default="auto", help="what runs it; auto: kvm where it works")
    add("--json", action="store_true", help="print JSON at the end; what the command says goes to stderr")


def run(args: Args) -> int:
    """Run a command in a microVM whose root filesystem is a tree. Nothing else is needed in the tree but the program.

    Given a CID or a NAME (and a path inside it, if you like) the machine works on a fork of that tree, mounted for it
    alone. When it has ended the resulting tree is saved; its CID is printed on stderr. It is kept under the fork's
    name, or with --keep under the one you say; an unchanged fork goes. Given a mount point (one that
    begins with / or . is always taken as such), the machine uses that very mount, and it stays mounted.

    stdin is passed on if it is a pipe or a file; a terminal only with -i. stdout and stderr stay apart, unless -t
    makes them one terminal. Ctrl-C and other signals go to the command; a third Ctrl-C ends its machine at once.
    Without a command it is /bin/sh, or with --detach nothing: the machine then waits for 'monofs vm exec'.

    With --json stdout has one line of JSON at the end: id, name, status, exit_code, error, notes, tree (the CID at
    the beginning), result (at the end), kept (under which name), engine, timings (seconds: fork, mount, ..., command,
    shutdown, commit) and first_byte and total, which count from the beginning of this command.

    Examples:
      monofs vm run debian -- cat /etc/os-release
      tar -c src | monofs vm run debian --keep built -- sh -c 'tar -x; make -C src'
      monofs vm run -i -t debian
      monofs vm run ~/mnt --memory 2G --cpus 2 --timeout 600 -- make test
      monofs vm run --detach --net user --publish 8080:80 site -- httpd -f

    Exit codes: the command's own; 124 the time limit was reached; 125 monofs itself failed, explained in one
    line on stderr; 126 and 127 the command cannot be run or is not there, as in a shell.
    """
    return explained(partial(_run, args), FAILED)


def _run(args: Args) -> int:
    begin = time.monotonic()
    from monofs_fuse import supervise
    from vmm import client, programs, reconcile, state

    store = config.store_path(args.store)
    programs.check_root()
    mountpoint.check_fuse(False)
    if args.detach and args.interactive:
        args.refuse("-i lends this terminal to the command, and --detach leaves; choose one")
    command = None if args.detach and args.command is None else command_of(args)
    row, spec = _wish(args, store, state.new_id(), command)
    programs.find_qemu()
    programs.find_virtiofsd()
    programs.check_helpers()
    with machines(store, create=True) as (directory, listed):
        reconcile.prune(directory, listed)
        if row.name is not None:
            _check_name(listed.living(), row.name)
    connection = supervise.start(store, row, spec, command, timeout=args.timeout, detached=args.detach)
    if args.detach:
        return _detached(connection, args)
    lent = stdin_of(args)
    attached = client.Attached(
        connection, stdin=lent, tty=args.terminal and args.interactive, outputs=(2, 2) if args.json else (1, 2)
    )
    try:
        ending = attached.run()
    except SupervisorGone:
        return _orphaned(store, row)
    return _finish(args, ending, begin)


def _wish(args: Args, store: Path, id: str, command: Command | None) -> tuple[Row, MachineSpec]:
    """Return the machine that the arguments ask for. Raises BadSpec."""
    from dataclasses import asdict

    from monofs_fuse import tenancy
    from vmm import spec, state

    mount = _mount(store, args.target)
    if mount is not None and (args.keep or args.discard or args.read_only):
        raise BadSpec("--keep, --discard and --read-only are for a fork; the tree of a mount is the mount's")
    root = Path(mount) if mount is not None else tenancy.root_of(store, id)
    read_only = args.read_only if mount is None else bool(os.statvfs(mount).f_flag & os.ST_RDONLY)
    if args.timeout is not None and not args.timeout > 0:
        raise BadSpec("a time limit is a number of seconds above 0")
    wanted = spec.MachineSpec(
        root=root,
        root_read_only=read_only,
        memory_bytes=spec.parse_memory(args.memory),
        cpus=args.cpus,
        volumes=tuple(map(_volume, args.volume)),
        net=args.net,
        publish=tuple(map(spec.Publish.parse, args.publish)),
        kernel=None if args.kernel is None else Path(args.kernel).absolute(),
        engine=args.engine,
        hostname=_hostname(args.name),
    )
    row = state.Row(
        id=id,
        target=args.target,
        root=os.fspath(root),
        mounted=mount is None,
        fork=None if mount is not None or args.read_only else tenancy.fork_name(args.target, id),
        keep=args.keep,
        discard=args.discard,
        remove=args.rm,
        name=_name(args.name),
        spec=plain(asdict(wanted)),
        command={} if command is None else command_doc(command),
    )
    return row, wanted


def _mount(store: Path, target: str) -> str | None:
    """Return the mount point that `target` means, None if it means a CID or a name."""
    from store.errors import MonofsError

    real = os.path.realpath(target)
    there = mountpoint.mounted(real)
    is_mount = there is not None and there.kind == "fuse.monofs"
    if target.startswith(("/", ".")):
        if not is_mount:
            raise BadSpec(f"no monofs is mounted on {target}; 'monofs status' shows what is")
        return real
    if not is_mount:
        return None
    try:
        resolve(store, target)
    except MonofsError:
        return real
    return None


def _volume(text: str) -> Any:
    from vmm.spec import Volume

    volume = Volume.parse(text)
    if not volume.host.is_dir():
        raise BadSpec(f"no directory {volume.host}: --volume shares a directory that is there")
    return volume


def _name(name: str | None) -> str | None:
    import re

    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
        raise BadSpec(f"'{name}' is no good name for a machine: letters, digits and _ . - are, at most 63")
    return name


def _hostname(name: str | None) -> str:
    import re

    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-") or "monofs" if name is not None else "monofs"


def _check_name(living: list[Row], name: str) -> None:
    from vmm.errors import MachineNameTaken

    if any(row.name == name for row in living):
        raise MachineNameTaken(f"a machine named '{name}' is running; choose another, or 'monofs vm stop {name}'")


def _detached(connection: socket.socket, args: Args) -> int:
    """Wait until the command runs, then leave it; print the ID."""
    from vmm import client

    found: dict[str, Any] = {}
    for doc in client.hear(connection):
        found.update(doc)
        if "ended" in doc and doc["ended"]["error"]:
            raise client.failure(doc["ended"]["exit_code"], doc["ended"]["error"])
        if "begun" in doc or "ended" in doc:
            break
    if args.json:
        output.line(_json({"id": found["id"], "name": found["name"]}))
    else:
        output.line(found["id"])
    return 0


def _orphaned(store: Path, row: Row) -> int:
    """Our supervisor was killed: clear up after it, and say what became of the tree."""
    with machines(store) as (_, listed):
        found = listed.get(row.id)
    if found is None:
        raise SupervisorGone(f"the machine's supervisor ended at once; see {store / 'vm' / row.id / 'supervisor.log'}")
    if found.result is not None:
        _tell_result(found.result, found.kept)
    raise SupervisorGone(f"machine {row.id} died: {found.error}")


def _finish(args: Args, ending: Ending, begin: float) -> int:
    """Tell how it ended; returns the exit code."""
    row = ending.ended
    assert row is not None
    code = int(row["exit_code"])
    if ending.interrupted is not None and not ending.begun:
        code = 128 + ending.interrupted
    for note in [*(ending.hints if sys.stderr.isatty() else []), *ending.notes]:
        output.note(note)
    if row["error"]:
        output.note(row["error"])
    if ending.output_failed is not None:
        output.note(ending.output_failed)
        code = FAILED
    if args.json:
        first = None if ending.first_byte is None else ending.first_byte - begin
        extra = {"notes": ending.hints + ending.notes, "first_byte": first, "total": time.monotonic() - begin}
        output.line(_json({**row, "exit_code": code, **extra}))
    elif row["result"] is not None:
        _tell_result(row["result"], row["kept"])
    return code


def _tell_result(result: str, kept: str | None) -> None:
    output.note(f"result {result}" + (f" (kept as '{kept}')" if kept else ""))


def _json(doc: dict[str, Any]) -> str:
    import json

    return json.dumps(doc)
