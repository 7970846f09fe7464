"""`monofs import`: a directory on disk goes into the store, all of it or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from monofs_fuse import progress
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser, opened
from monofs_fuse.cli.keep import collected
from store import scan
from store.batch import Batch
from store.directory import printable
from store.errors import Skipped, StoreError
from store.importer import Imported, import_directory
from store.names import Name
from store.repository import Repository
from store.staging import Stage


def import_options(parser: Parser) -> None:
    parser.positional("directory", "directory", "the directory to store", metavar="DIR")
    parser.add_argument("--name", metavar="NAME", help="the name to give it; without one its CID is pinned")
    parser.add_argument("--update", action="store_true", help="the name may exist: this is its next version then")
    parser.add_argument("-m", "--message", metavar="TEXT", default="", help="with --name: what to remember about it")
    parser.add_argument("--strict", action="store_true", help="store nothing if anything cannot be read")
    parser.add_argument("-x", "--one-file-system", action="store_true", help="leave out what other filesystems hold")
    parser.json()


def import_(args: Args) -> int:
    """Store a directory tree; prints its CID.

    The same files give the same CID, and what is in the store already is not stored again. Without
    a name the tree is kept until `monofs forget CID`, with one until `monofs forget NAME`.
    Links are stored, not followed. What cannot be read is named on stderr and left out. If this is interrupted,
    nothing of it stays in the store.

    JSON: cid, name, version (null without a name), files, bytes, new_blocks, skipped (path and reason of each)
    and excluded (the store itself, if it lies in DIR).

    Examples:
      cid=$(monofs import ~/src)
      monofs import ~/src --name src
      monofs import ~/src --name src --update -m 'as of today'

    Exit codes: 0 done; 1 an error, or done without the files named on stderr (with --strict: not done);
    2 wrong usage; 130 interrupted.
    """
    if args.name is None and (args.update or args.message):
        args.refuse("--update and --message need a --name")
    os.close(scan.opened(args.directory))  # a mistyped DIR must not make a store
    with opened(args, create=True) as repository:
        old = _present(repository, args)
        with _undone_on_failure(repository) as (batch, stage):
            done = _read(repository, args, batch)
            version = _keep(repository, args, old, done, batch, stage)
        _say(args, done, version, stage.new_blocks)
    return 1 if done.skipped else 0


def _present(repository: Repository, args: Args) -> Name | None:
    """Return what the name stands for now. Raises NameTaken, BadName, Held."""
    if args.name is None:
        return None
    old = repository.name(args.name)
    if old is None or not args.update:
        repository.check_free(args.name)
        return None
    repository.check_unheld(args.name)
    return old


def _read(repository: Repository, args: Args, batch: Batch) -> Imported:
    own = os.stat(repository.path)
    with progress.watched() as watcher:
        done = import_directory(
            batch,
            args.directory,
            progress=watcher,
            exclude=((own.st_dev, own.st_ino),),
            one_file_system=args.one_file_system,
        )
    output.skips(done.skipped)
    paths = [printable(path) for path, _ in done.skipped]
    count = f"{len(done.skipped)} file{'s' if len(done.skipped) > 1 else ''}"
    if done.skipped and args.strict:
        raise Skipped(f"{count} could not be read; nothing was stored (--strict)", paths)
    if done.skipped:
        output.note(f"{count} could not be read; the tree is stored without")
    return done


def _keep(
    repository: Repository, args: Args, old: Name | None, done: Imported, batch: Batch, stage: Stage
) -> str | None:
    """Make a root hold the tree; returns the CID of its version, if it has one."""
    if args.name is None:
        repository.pin(done.cid, batch, stage)
        return None
    if old is not None:
        repository.check_unheld(args.name)
        old = _settled(repository, args.name, old)
        if repository.version(old).tree == done.cid:
            output.note(f"'{args.name}' is this tree already; no version was added")
            return str(old.version)
    return str(repository.publish(args.name, done.cid, batch, stage, message=args.message, old=old))


def _settled(repository: Repository, text: str, old: Name) -> Name:
    """Return a name that points at a version, not beyond it: what a mount that died had saved gets one of its own."""
    if old.head is None:
        return old
    batch, stage = repository.batch("settle")
    return Name(repository.publish(text, old.head, batch, stage, message="saved by a mount", old=old))


@contextmanager
def _undone_on_failure(repository: Repository) -> Iterator[tuple[Batch, Stage]]:
    """A batch of which nothing stays in the store if the work fails or is interrupted."""
    batch, stage = repository.batch("import")
    try:
        yield batch, stage
    except BaseException:
        try:
            stage.release()
            collected(repository)
        except StoreError:
            pass  # a full disk, say: the next command finds it held by a dead process and lets go of it
        raise


def _say(args: Args, done: Imported, version: str | None, new_blocks: int) -> None:
    if not args.json:
        output.line(str(done.cid))
        return
    output.document(
        {
            "cid": str(done.cid),
            "name": args.name,
            "version": version,
            "files": done.files,
            "bytes": done.bytes,
            "new_blocks": new_blocks,
            "skipped": [{"path": output.text(path), "reason": reason} for path, reason in done.skipped],
            "excluded": [output.text(path) for path in done.excluded],
        }
    )
