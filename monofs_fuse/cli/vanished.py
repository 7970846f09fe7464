"""`monofs prune` without a name: projects and other layers that vanished from the disk stop counting."""

from __future__ import annotations

import sys

from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, opened
from monofs_fuse.cli.keep import collected
from monofs_fuse.cli.stores import is_there
from store import layered_store, rehearsal
from store.blocks import Change
from store.errors import MonofsError
from store.repository import Repository


def prune(args: Args) -> int:
    """Forget the stores over this one that are not where they were, and free what only they held."""
    with opened(args) as repository:
        gone = [top for top in layered_store.tops(repository.store) if not is_there(top)]
        changes = tuple(change for top in gone for change in layered_store.forgetting(repository.store, top.identity))
        told = rehearsal.freed_by(repository.store, Change(roots=changes))
        if args.json:
            rows = [{"id": top.identity, "path": top.path, "blocks": top.blocks} for top in gone]
            if not args.dry_run:
                _forget(args, repository, gone)
            output.document({"vanished": rows, "freed_bytes": told.bytes, "freed_blocks": told.blocks})
            return 0
        for top in gone:
            output.line(f"{'would forget' if args.dry_run else 'vanished'}  {top.path}")
        if gone and not args.dry_run:
            _forget(args, repository, gone)
        verb = "would free" if args.dry_run else "freed"
        output.line(f"{len(gone)} vanished, {verb} {told.bytes} bytes in {told.blocks} blocks")
    return 0


def _forget(args: Args, repository: Repository, gone: list[layered_store.Top]) -> None:
    if gone and not args.yes:
        if not sys.stdin.isatty():
            raise MonofsError("nothing was forgotten: say --yes, or --dry-run to see what would be freed")
        sys.stdout.flush()
        print(
            "What was changed there is lost then, should they come back. Forget them? [y/N] ", end="", file=sys.stderr
        )
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise MonofsError("nothing was forgotten")
    for top in gone:
        if not is_there(top):  # it may have come back while somebody thought about it
            layered_store.forget(repository.store, top.identity)
    collected(repository)
