"""`monofs export`: a tree goes out of the store, as a directory or as a tar file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from monofs_fuse import progress
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser, Place, held, opened
from store import version
from store.batch import Batch
from store.directory import printable
from store.errors import NameTaken, WrongKind
from store.progress import Progress, Skip
from store.repository import Repository
from store.version import Tree

if TYPE_CHECKING:  # of these two only one is needed
    from store.exporter import Exported
    from store.tarball import Archived


def export_options(parser: Parser) -> None:
    parser.target()
    where = "a directory that is new or empty, a new FILE.tar, or - for a tar on stdout"
    parser.positional("destination", "file", where, metavar="DIR|FILE.tar|-")
    parser.add_argument("--no-owner", action="store_true", help="what is written belongs to whoever writes it")
    parser.json()


def export(args: Args) -> int:
    """Write a tree to a directory, or to a tar file if the destination ends in .tar or is -.

    Modes, times, extended attributes, hard links, holes and special files come back as they were;
    owners too, if you are root. A target that is a single file is written as one. What cannot
    be written is named on stderr, and the rest is done.

    JSON, with --json: files, bytes, skipped (path and reason of each).

    Examples:
      monofs export src ~/copy
      monofs export $cid/docs docs.tar
      monofs export src - | zstd > src.tar.zst

    Exit codes: 0 done; 1 an error, or done without what is named on stderr; 2 wrong usage; 130 interrupted.
    """
    if args.destination == "-" and args.json:
        args.refuse("--json would stand in the tar on stdout")
    if args.destination == "-" and output.on_terminal():
        args.refuse("a tar is nothing for a terminal; send it to a program or a file")
    with opened(args) as repository, held(repository, args.target) as place, progress.watched() as watcher:
        done = _export(repository, place, args, watcher)
    output.skips(done.skipped)
    if args.json:
        output.document({"files": done.files, "bytes": done.bytes, "skipped": [_skip(one) for one in done.skipped]})
    return 1 if done.skipped else 0


def _export(repository: Repository, place: Place, args: Args, watcher: Progress) -> Exported | Archived:
    # holds the few nodes that are needed to make a subtree a tree of its own
    batch = Batch(repository.cache)
    if args.destination == "-" or args.destination.endswith(".tar"):
        from store.tarball import write_tar

        tree = _tree(batch, place, args)
        with _tar(args.destination) as out:
            return write_tar(batch, tree, out, progress=watcher)
    from store.exporter import export_directory, export_entry

    owner = False if args.no_owner else None
    if not place.entry.is_dir:
        return export_entry(batch, place.entry, args.destination, progress=watcher, owner=owner)
    return export_directory(batch, _tree(batch, place, args), args.destination, progress=watcher, owner=owner)


def _tree(batch: Batch, place: Place, args: Args) -> Tree:
    if not place.entry.is_dir:
        name = printable(os.fsencode(args.target))
        raise WrongKind(f"'{name}' is a {place.entry.kind}, and a tar needs a directory; 'monofs cat' prints a file")
    return version.subtree(batch, place.tree, place.target.path)


@contextmanager
def _tar(destination: str) -> Iterator[BinaryIO]:
    """Open what the tar is written to. A file has its name only once it is whole."""
    if destination == "-":
        yield sys.stdout.buffer
        return
    shown = printable(os.fsencode(destination))
    partial = f"{destination}.partial"
    if os.path.lexists(destination):
        raise NameTaken(f"'{shown}' exists already")
    try:
        out = open(partial, "xb")  # noqa: SIM115, what fails here must not unlink it
    except FileExistsError:
        raise NameTaken(f"'{shown}.partial' exists already; remove it if no other export writes to it") from None
    try:
        with out:
            yield out
        os.rename(partial, destination)
    except BaseException:
        os.unlink(partial)
        raise


def _skip(one: Skip) -> dict[str, str]:
    return {"path": output.text(one.path), "reason": one.reason}
