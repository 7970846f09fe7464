"""`monofs completion`: what can follow what on the command line, taken from the verbs' own arguments."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from monofs_fuse import config
from monofs_fuse.cli import output, shells, verbs
from monofs_fuse.cli.arguments import Args, Parser, find, reading
from monofs_fuse.cli.shells import Grammar, Option, Value
from monofs_fuse.cli.verbs import Verb
from monofs_fuse.cli.vm import machines_directory
from store import directory
from store.errors import MonofsError
from store.repository import Repository
from vmm.errors import VmError

if TYPE_CHECKING:
    from vmm.project.manifest import Machine


def completion_options(parser: Parser) -> None:
    parser.add_argument("shell", choices=list(_SCRIPTS), help="for which shell")


def completion(args: Args) -> int:
    """Print a script that makes a shell complete commands, options, names, paths in trees and mount points.

    Examples:
      bash:  echo 'source <(monofs completion bash)' >> ~/.bashrc
      zsh:   monofs completion zsh > "${fpath[1]}/_monofs"
      fish:  monofs completion fish > ~/.config/fish/completions/monofs.fish
    """
    output.write(_SCRIPTS[args.shell](list(map(_grammar, verbs.ALL))).encode())
    return 0


_SCRIPTS: Final = {"bash": shells.bash, "zsh": shells.zsh, "fish": shells.fish}


def _grammar(verb: Verb) -> Grammar:
    parser = Parser(verb.name, verb.summary)
    verb.load_options()(parser)
    options: list[Option] = []
    positionals: list[Value] = []
    repeats = False
    for action in parser._actions:
        if action.option_strings:
            value = None if action.nargs == 0 else _value(parser, action)
            options.append(Option(tuple(action.option_strings), action.help or "", value))
        else:
            positionals.append(_value(parser, action))
            repeats = action.nargs in ("+", "*")
    return Grammar(verb.name, verb.summary, options, positionals, repeats)


def _value(parser: Parser, action: argparse.Action) -> Value:
    if action.choices is not None:
        return tuple(action.choices)
    return parser.kinds.get(action.dest, "word")


# What the scripts ask


def candidates_options(parser: Parser) -> None:
    parser.add_argument("kind", choices=shells.STORED)
    parser.add_argument("prefix", nargs="?", default="")


def candidates(args: Args) -> int:
    """Print what may stand in place of a word that begins with `prefix`, a line each. No store: nothing."""
    try:
        found = set(_KINDS.get(args.kind, _stored)(args))
    except (MonofsError, VmError):
        return 0
    for text in sorted(found):
        if text.startswith(args.prefix) and text.isprintable():  # the shells read lines of text
            output.line(text)
    return 0


def _machines(args: Args) -> Iterator[str]:
    from vmm.state import State

    directory = machines_directory(config.store_path(args.store))
    if (directory / "machines.sqlite").exists():
        with State(directory) as listed:
            yield from (name for row in listed.all() for name in (row.id, row.name) if name)


def _members(args: Args) -> Iterator[str]:
    yield from (machine.name for machine in _project())


def _scripts(args: Args) -> Iterator[str]:
    machines = _project()
    names = [name for machine in machines for name, _ in machine.scripts]
    yield from (name for name in names if names.count(name) == 1)
    yield from (f"{machine.name}:{name}" for machine in machines for name, _ in machine.scripts)


def _project() -> tuple[Machine, ...]:
    from monofs_fuse.project import stores
    from vmm.project import reading

    return reading.read(stores.find().manifest).machines


def _stored(args: Args) -> Iterator[str]:
    if args.kind in ("target", "kept") and args.store is None:
        from monofs_fuse.project import naming

        home = config.store_path(None)
        yield from naming.names(home, args.prefix)
        if naming.is_candidate(args.prefix) and (project := naming.store_of([args.prefix], home)) is not None:
            args.store = os.fspath(project)
    with reading(args) as repository:
        yield from list(_found(repository, args.kind, args.prefix))


def _found(repository: Repository, kind: str, prefix: str) -> Iterator[str]:
    if kind == "mountpoint":
        yield from (lease.mountpoint for lease in repository.leases())
        return
    if kind in ("image", "target"):
        from store.oci import images

        yield from (key for key, _ in images.every(repository.store))
    if kind == "image":
        return
    yield from (name for name, _ in repository.names())
    yield from map(str, repository.pins())
    if kind == "target" and "/" in prefix:
        yield from _paths(repository, prefix.rpartition("/")[0])


def _paths(repository: Repository, above: str) -> Iterator[str]:
    """Yield what is in the directory `above`, which is CID|NAME[/path]."""
    try:
        place = find(repository, above)
    except MonofsError:
        return  # it may be the beginning of a name with a slash in it
    if place.entry.is_dir:
        for name, entry in directory.entries(repository.cache, place.entry):
            yield f"{above}/{os.fsdecode(name)}" + ("/" if entry.is_dir else "")


_KINDS: Final = {"machine": _machines, "member": _members, "script": _scripts}
