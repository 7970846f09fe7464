"""Running a command in a new machine: vm run."""

from __future__ import annotations

import os
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monofs_fuse import config, mountpoint
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import FAILED, explained, machines, resolve, settled
from monofs_fuse.cli.vm_command import command_doc, command_options, plain, stdin_of, wishes_of
from vmm.errors import BadSpec, SupervisorGone

if TYPE_CHECKING:
    from vmm.client import Ending
    from vmm.defaults import Defaults, Wishes
    from vmm.spec import Command, MachineSpec, Publish
    from vmm.state import Row


def run_options(parser: Parser) -> None:
    parser.fails_with = FAILED
    parser.positional(
        "target",
        "target",
        "a tree or an image to fork, or a mount to use as it is",
        metavar="CID|NAME|IMAGE|MOUNTPOINT",
    )
    command_options(parser)
    add = parser.add_argument
    add("--entrypoint", metavar="PROGRAM", help="instead of the image's, and without its CMD; '' is none")
    add("--pull", choices=["missing", "always", "never"], help="when to fetch an image (missing)")
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
    add("-P", "--publish-all", action="store_true", help="publish the ports that the image offers, on free ports here")
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

    What is none of these and can be an image's reference is an IMAGE, and debian is docker.io/library/debian:latest.
    One that is not here is pulled first. docker://debian is always the image, whatever has that name here. An image
    is run as it wants to be: with its variables, user and directory. The command is its ENTRYPOINT, followed by
    its CMD or, instead of that, by what you write after --.

    stdin is passed on if it is a pipe or a file; a terminal only with -i. stdout and stderr stay apart, unless -t
    makes them one terminal. Ctrl-C and other signals go to the command; a third Ctrl-C ends its machine at once.
    Without a command it is /bin/sh where the tree is no image's, or with --detach nothing: the machine then waits for
    'monofs vm exec'. So does one of an image with --detach --entrypoint ''.

    With --json stdout has one line of JSON at the end: id, name, status, exit_code, error, notes, tree (the CID at
    the beginning), result (at the end), kept (under which name), image (reference, digest, ports), engine, timings
    (seconds: fork, mount, ..., command, shutdown, commit) and first_byte and total, which count from the beginning of
    this command.

    Examples:
      monofs vm run debian:12 -- cat /etc/os-release
      monofs vm run --detach --net user -P --name web docker.io/library/nginx
      monofs vm run --pull always --entrypoint env ghcr.io/owner/app:2
      monofs import ~/tree --name mine; monofs vm run -i -t mine
      tar -c src | monofs vm run mine --keep built -- sh -c 'tar -x; make -C src'
      monofs vm run ~/mnt --memory 2G --cpus 2 --timeout 600 -- make test
      monofs vm run --detach --net user --publish 8080:80 site -- httpd -f

    Exit codes: the command's own; 124 the time limit was reached; 125 monofs itself failed, explained in one
    line on stderr; 126 and 127 the command cannot be run or is not there, as in a shell.
    """
    return explained(partial(_run, args), FAILED)


def _run(args: Args) -> int:
    begin = time.monotonic()
    from monofs_fuse import supervise
    from vmm import client, programs, reconcile

    store = config.store_path(args.store)
    programs.check_root()
    mountpoint.check_fuse(False)
    if args.detach and args.interactive:
        args.refuse("-i lends this terminal to the command, and --detach leaves; choose one")
    wish = _wish(args, store)
    programs.find_qemu()
    programs.find_virtiofsd()
    programs.check_helpers()
    with machines(store, create=True) as (directory, listed):
        reconcile.prune(directory, listed)
        if wish.row.name is not None:
            _check_name(listed.living(), wish.row.name)
    wish = _of_image(args, store, wish)
    row, spec, command = wish.row, wish.spec, wish.command
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


class _Wish(NamedTuple):
    """The machine that is to be, and what is to run in it."""

    row: Row
    spec: MachineSpec
    command: Command | None
    wishes: Wishes


def _wish(args: Args, store: Path) -> _Wish:
    """Return the machine that the arguments ask for, if the target is no image. Raises BadSpec."""
    from dataclasses import asdict

    from monofs_fuse import tenancy
    from vmm import defaults, spec, state

    id = state.new_id()
    wishes = wishes_of(args)
    waits = args.detach and not defaults.argv(defaults.Defaults(), wishes)
    command = None if waits else defaults.command(defaults.SHELL, wishes)
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
    if args.publish_all and wanted.net == "none":
        raise BadSpec("a port can be published only with --net user")
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
    return _Wish(row, wanted, command, wishes)


def _of_image(args: Args, store: Path, wish: _Wish) -> _Wish:
    """Return the machine with what its image says, pulled if it has to be; as it was if it is of no image."""
    from dataclasses import asdict, replace

    from monofs_fuse import tenancy
    from vmm import defaults

    image = None
    if wish.row.mounted and not _is_named(store, args.target):
        from monofs_fuse.cli import vm_image  # which takes a while to load

        image = vm_image.found(store, args.target, args.pull)
    if image is None:
        if args.publish_all or args.pull == "always":
            raise BadSpec(f"'{args.target}' is no image: nothing can be pulled, and it offers no ports for -P")
        return wish
    row, spec, _, wishes = wish
    waits = args.detach and wishes.entrypoint is not None and not defaults.argv(image.defaults, wishes)
    command = defaults.surroundings(image.defaults, wishes) if waits else defaults.command(image.defaults, wishes)
    if args.publish_all:
        spec = replace(spec, publish=(*spec.publish, *_published(image.defaults, spec)))
    doc, around = image.doc(), command_doc(command)
    row = replace(
        row,
        target=image.reference.key,
        tree=image.tree,
        image={**doc, **{key: around[key] for key in ("env", "workdir", "user")}} if waits else doc,
        fork=None if row.fork is None else tenancy.fork_name(image.reference.short, row.id),
        spec=plain(asdict(spec)),
        command={} if waits else around,
    )
    return _Wish(row, spec, None if waits else command, wishes)


def _is_named(store: Path, target: str) -> bool:
    """Whether it is a name or a CID of the store. Raises MonofsError for one that is half right."""
    from contextlib import closing

    from store import place
    from store.repository import Repository

    if not place.exists(place.config_path(store)):
        return False
    with closing(Repository.open(store, create=False)) as repository:
        return any(each.named(target) is not None for each in (repository, *repository.bases()))


def _published(run: Defaults, spec: MachineSpec) -> list[Publish]:
    """Find a port here for each that an image offers, and tell which."""
    from contextlib import ExitStack

    from vmm import defaults
    from vmm.spec import Publish

    ports, others = defaults.published(run, {one.guest_port for one in spec.publish})
    made = []
    with ExitStack() as held:  # all at once, so that none is found twice
        for port in ports:
            listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            made.append(Publish(listener.getsockname()[1], port))
    for one in made:
        output.note(f"port {one.guest_port} of the machine is {one.host_address}:{one.host_port} here")
    if others:
        output.note(f"not published, because only TCP is: {', '.join(others)[:200]}")
    if not made and not spec.publish:
        output.note("the image offers no ports that can be published")
    return made


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
    found = settled(store, row.id)
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
