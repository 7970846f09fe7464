"""Going back, and letting go of what was: restore, undelete, prune."""

from __future__ import annotations

import os

from monofs_fuse import live
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser, opened
from monofs_fuse.cli.history import local, row, versioned
from monofs_fuse.cli.keep import collected
from store import prune, retention, revision, rollback
from store.repository import Repository
from store.rollback import Rolled

# restore


def restore_options(parser: Parser) -> None:
    parser.positional("target", "target", "an earlier version: src~1, src@{2 hours ago}", metavar="NAME~N|CID")
    parser.positional("paths", "word", "only what was there (default: everything)", metavar="PATH", many="*")
    parser.add_argument("--to", metavar="NAME", help="the name that goes back (default: the version's)")
    parser.add_argument("-m", dest="message", metavar="TEXT", help="what to remember about the new version")
    parser.json()


def restore(args: Args) -> int:
    """Make a name's tree, or paths in it, what an earlier version had; prints the new tree's CID.

    That is a new version: what the tree is now stays in its history, and can be restored just so.
    Only the paths change that are named, each with all that is below it. If the name is mounted, what
    is written there is saved first, and the mount shows the result when this returns.

    JSON is one object: version, tree.

    Examples:
      monofs restore 'src@{2 hours ago}'
      monofs restore src~1 docs/README.md lib
      monofs restore bafyr4i... --to src
    """
    with opened(args) as repository:
        target = repository.resolve(args.target)
        if target.path:
            args.refuse("paths stand behind the version, with a space between")
        name: str = args.to or _named(repository, args.target) or ""
        if not name:
            args.refuse("--to NAME says which name goes back to a version that is named by its CID")
        paths = [os.fsencode(path) for path in args.paths] or [b""]
        message = f"restored from {args.target}" if args.message is None else args.message
        then = versioned(repository, target)
        with live.held(repository, name):
            rolled = rollback.back(repository, name, then, paths, message)
        _print(args, rolled)
    return 0


def _named(repository: Repository, text: str) -> str | None:
    """Return the name that a revision begins with, if it does with one."""
    return next((one.stem for one in revision.spellings(text) if repository.name(one.stem) is not None), None)


def _print(args: Args, rolled: Rolled) -> None:
    if args.json:
        output.document({"version": str(rolled.version), "tree": str(rolled.tree)})
    else:
        output.line(str(rolled.tree))


# undelete


def undelete_options(parser: Parser) -> None:
    parser.positional("name", "kept", "the name whose tree it was in", metavar="NAME")
    parser.positional("paths", "word", "what was deleted", metavar="PATH", many="+")
    parser.add_argument("-m", dest="message", metavar="TEXT", help="what to remember about the new version")
    parser.json()


def undelete(args: Args) -> int:
    """Bring deleted files or directories back as they last were; prints the new tree's CID.

    `monofs tombstones NAME` lists what was deleted. If NAME is mounted they are back there when this returns.

    JSON is one object: version, tree.

    Examples:
      monofs undelete src docs/README.md
    """
    with opened(args) as repository:
        paths = [os.fsencode(path) for path in args.paths]
        message = f"undeleted {' '.join(args.paths)}" if args.message is None else args.message
        with live.held(repository, args.name):
            rolled = rollback.undelete(repository, args.name, paths, message)
        _print(args, rolled)
    return 0


# prune


def prune_options(parser: Parser) -> None:
    parser.positional("name", "kept", "the name whose history is pruned", metavar="NAME", many="?")
    rules = ", ".join(retention.RULES)
    parser.add_argument("--keep", metavar="POLICY", help=f"how many stay by which rule: {rules}")
    parser.add_argument("--dry-run", action="store_true", help="say what would go and how many bytes that frees")
    parser.add_argument("--yes", action="store_true", help="without NAME: do not ask")
    parser.json()


def prune_(args: Args) -> int:
    """Let go of old versions of a name, and free what only they hold.

    POLICY is rules with numbers, such as last=5,hourly=24,daily=7: the newest five, the newest of
    each of the last 24 hours that have one (in UTC), and so on. A version stays if one rule
    wants it; the newest always does. Trees do not change, but the versions after one that
    went get new CIDs; merges still know them for what they were. What other names, pins and mounts
    hold stays. The last line says how many bytes were, or would be, freed: exactly those
    that nothing else holds.

    Without NAME: let go of projects, and other layers over the store, whose folders vanished. They
    are listed, and forgotten when you agree. One that only moved counts again as soon as it is used: do that first.

    JSON is one object: kept and dropped (lists of versions, as in `monofs log --json`), freed_bytes,
    freed_blocks; without NAME: vanished (id, path, blocks), freed_bytes, freed_blocks.

    Examples:
      monofs prune --dry-run
      monofs prune src --keep last=10,daily=7 --dry-run
      monofs prune src --keep hourly=24,daily=7,monthly=12
    """
    if args.name is None:
        if args.keep is not None:
            args.refuse("--keep goes with a NAME")
        from monofs_fuse.cli import vanished

        return vanished.prune(args)
    if args.keep is None or args.yes:
        args.refuse("a NAME needs --keep" if args.keep is None else "--yes is for what vanished, without a NAME")
    policy = retention.parse(args.keep)
    with opened(args) as repository:
        with live.held(repository, args.name):
            plan = prune.plan(repository, args.name, policy)
            told = plan.freed(repository)
            if not args.dry_run and plan.dropped:
                prune.apply(repository, plan)
        if not args.dry_run and plan.dropped:
            collected(repository)
        if args.json:
            sides = {"kept": plan.kept, "dropped": plan.dropped}
            listed = {title: [row(cid, one) for cid, one in side] for title, side in sides.items()}
            output.document({**listed, "freed_bytes": told.bytes, "freed_blocks": told.blocks})
            return 0
    for _, one in plan.dropped:
        output.line(f"{'would drop' if args.dry_run else 'dropped'}  {local(one.time)}  {one.tree}")
    verb = "would free" if args.dry_run else "freed"
    output.line(f"kept {len(plan.kept)}, {verb} {told.bytes} bytes in {told.blocks} blocks")
    return 0
