"""Copying files into a machine's tree and out of it: vm cp."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from monofs_fuse import config
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser
from monofs_fuse.cli.vm import explained, machines
from vmm.errors import VmError, WrongState

if TYPE_CHECKING:
    from vmm.state import Row


def cp_options(parser: Parser) -> None:
    parser.positional("source", "file", "what to copy", metavar="SRC|ID:SRC")
    parser.positional("to", "file", "where to; an existing directory gets it inside", metavar="ID:DST|DST")


def cp(args: Args) -> int:
    """Copy files and directories between this machine and the tree of a machine that runs.

    One of the two is ID:PATH, where ID may be a name; a local path with a colon in it begins with ./ or /. What is
    copied into the tree belongs to root. What cannot be copied is named on stderr, the rest is, and the exit code is 1.
    Paths in the tree stay in the tree, whatever symbolic links the guest makes. A guest sees new files within a second.

    Examples:
      monofs vm cp ./site.conf web:/etc/site.conf
      monofs vm cp web:/var/log/ .
    """
    return explained(partial(_cp, args))


def _cp(args: Args) -> int:
    from vmm import copying

    source, target = _split(args.source), _split(args.to)
    if (source is None) == (target is None):
        args.refuse("one of the two is ID:PATH, the other one a path here")
    (id, path), inward = (source, False) if source is not None else (target or ("", ""), True)
    with machines(config.store_path(args.store)) as (_, listed):
        row = listed.find(id)
    _check(row, id)
    root = os.open(row.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        skipped = copying.into(root, args.source, path) if inward else copying.out_of(root, path, args.to)
    finally:
        os.close(root)
    for name, why in skipped:
        output.note(f"{output.quoted(os.fsencode(name))} was not copied: {why}")
    return 1 if skipped else 0


def _split(text: str) -> tuple[str, str] | None:
    """Return the machine and the path of ID:PATH, None for a path here."""
    id, colon, path = text.partition(":")
    return (id, path or "/") if colon and id and "/" not in id and not id.startswith(".") else None


def _check(row: Row, id: str) -> None:
    if not row.living:
        tree = f"; its tree is {row.result}: 'monofs export' writes it out" if row.result else ""
        raise WrongState(f"machine {id} has ended{tree}")
    if not os.path.ismount(row.root):
        raise VmError(f"the tree of machine {id} is not mounted yet; try again once 'monofs vm ps' says it runs")
