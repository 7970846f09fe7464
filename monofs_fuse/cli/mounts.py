"""Working in a tree: mount, status, checkpoint, umount. What they ask is done by `monofs_fuse.mounts`."""

from __future__ import annotations

import os
import time
from typing import Any

from monofs_fuse import config, live, mountpoint, mounts
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import TARGET_HELP, Args, Parser, opened

# mount


def mount_options(parser: Parser) -> None:
    parser.positional("target", "target", TARGET_HELP, metavar="CID|NAME[/path]")
    parser.positional("mountpoint", "directory", "an empty directory", metavar="DIR")
    parser.add_argument("--name", metavar="NEW", help="go on under a new name: a fork")
    parser.add_argument("--read-only", action="store_true", help="nothing can be changed; any number of these may be")
    parser.add_argument("--foreground", action="store_true", help="stay; Ctrl-C saves and unmounts")
    parser.add_argument("--auto-checkpoint", metavar="10m", help="save a version so often, if something changed")
    rules = "'hourly=24,daily=7'"
    parser.add_argument("--keep", metavar="POLICY", help=f"which versions stay after each, as with prune: {rules}")
    parser.add_argument("--allow-other", action="store_true", help="let other users in (root's mounts do so anyway)")


def mount(args: Args) -> int:
    """Mount a tree on a directory. Returns when it can be used; that takes no longer for a large tree.

    NAME goes on with that name: what is written becomes its next version at `monofs checkpoint`
    and `monofs umount`. With --name NEW, and for a bare CID or a path, it is a fork under a new name
    (made up if none is given), and the old tree stays as it is.

    A mount by root lets other users in under their own permissions; an ordinary user's lets
    in only that user, unless --allow-other is given (user_allow_other must be in /etc/fuse.conf).

    --auto-checkpoint makes a version every so often (90s, 10m, 2h, 1d) if something changed since the last; with
    --keep it then lets go of old versions of the name as `monofs prune` does, also of those made by hand.
    `monofs status` says when, and what went wrong, if something did.

    Examples:
      monofs mount src ~/src
      monofs mount src ~/src --auto-checkpoint 10m --keep hourly=24,daily=7
      monofs mount src ~/try --name experiment
      monofs mount src/docs /mnt --read-only
    """
    if args.keep is not None and args.auto_checkpoint is None:
        args.refuse("--keep says what stays after automatic checkpoints: it needs --auto-checkpoint")
    if args.read_only and args.auto_checkpoint is not None:
        args.refuse("a read-only mount never changes: there is nothing to --auto-checkpoint")
    store = config.store_path(args.store)
    mounts.start(
        store,
        args.target,
        args.mountpoint,
        name=args.name,
        read_only=args.read_only,
        foreground=args.foreground,
        allow_other=args.allow_other,
        auto_checkpoint=args.auto_checkpoint,
        keep=args.keep,
    )
    if args.name is None and not (args.read_only or args.foreground):
        (one,) = mounts.status(store, args.mountpoint)
        if one["name"] != args.target.rstrip("/"):
            output.note(f"the fork is named '{one['name']}'")
    return 0


# status


def status_options(parser: Parser) -> None:
    parser.positional("mountpoint", "mountpoint", "only this mount", metavar="DIR", many="?")
    parser.json()


def status(args: Args) -> int:
    """Show what is mounted, and what of it is not saved yet; in a project's folder that of its own store, too.

    JSON is a list of objects: mountpoint, pid, name (null for a read-only mount), head (the CID of the tree as
    of the last commit), unsaved_bytes, last_commit (seconds since 1970), read_only, store, auto_checkpoint
    (null, or every, every_seconds, keep, last, next, problem). Where a mount does not answer,
    unsaved_bytes and last_commit are null and problem says why.

    Examples:
      monofs status
      monofs status ~/src --json | jq .[0].unsaved_bytes
    """
    found = mounts.status(config.store_path(args.store), args.mountpoint)
    if args.store is None and args.mountpoint is None:
        from monofs_fuse.project import naming

        if (folder := naming.here()) is not None:
            found += mounts.status(folder.store)
    if args.json:
        output.array(found)
        return 0
    for one in found:
        output.line(output.shown(os.fsencode(one["mountpoint"])))
        for key, value in _facts(one):
            output.line(f"  {key:>11}{':' if key else ' '} {value}")
    return 0


def _facts(one: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("name", one["name"] or "-"), ("head", one["head"] or "-")]
    if one.get("read_only"):
        return [*facts, ("mode", "read-only"), ("process", str(one["pid"]))]
    if one["unsaved_bytes"] is not None:
        facts.append(("unsaved", f"{output.human(one['unsaved_bytes'])} bytes"))
    if one["last_commit"] is not None:
        facts.append(("last commit", _moment(one["last_commit"])))
    if one.get("auto_checkpoint"):
        facts += _routine(one["auto_checkpoint"])
    if one.get("problem"):
        facts.append(("problem", one["problem"]))
    return [*facts, ("process", str(one["pid"]))]


def _routine(one: dict[str, Any]) -> list[tuple[str, str]]:
    keep = f", keeping {one['keep']}" if one["keep"] else ""
    last = f"last {_moment(one['last'])}" if one["last"] is not None else "none yet"
    facts = [("checkpoints", f"every {one['every']}{keep}"), ("", f"{last}; next {_moment(one['next'])}")]
    return [*facts, ("", f"the last failed: {one['problem']}")] if one["problem"] else facts


def _moment(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


# checkpoint


def checkpoint_options(parser: Parser) -> None:
    parser.positional("target", "target", "where it is mounted, or the name", metavar="DIR|NAME")
    parser.add_argument("-m", "--message", metavar="TEXT", default="", help="what to remember about this version")


def checkpoint(args: Args) -> int:
    """Save a name's tree as a version of it; prints the tree's CID.

    The name is meant by itself or by where it is mounted; what begins with / or . is always a directory. Without a
    message there is no new version of a tree that the last version has already. When this returns, the version is on
    the disk.

    Examples:
      monofs checkpoint ~/src -m 'before the big change'
      cid=$(monofs checkpoint src)
      monofs checkpoint shop/web   # while the machine runs
    """
    if args.target.startswith(("/", ".")) or mountpoint.mounted(os.path.realpath(args.target)) is not None:
        output.line(mounts.checkpoint(args.target, args.message))
        return 0
    with opened(args) as repository:
        output.line(str(live.checkpoint(repository, args.target, args.message)))
    return 0


# umount


def umount_options(parser: Parser) -> None:
    parser.positional("mountpoint", "mountpoint", "where it is mounted", metavar="DIR")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--lazy", action="store_true", help="take it away now, finish when the last file in it is closed")
    how.add_argument(
        "--force", action="store_true", help="although files in it are open: what their holders write then fails"
    )


def umount(args: Args) -> int:
    """Save everything, then unmount; prints the tree's CID. The name points at that tree then.

    If something in it is open, this says who has it and leaves the mount as it is.

    Examples:
      monofs umount ~/src
      cid=$(monofs umount /mnt)
    """
    cid = mounts.umount(args.mountpoint, lazy=args.lazy, force=args.force)
    if cid is not None:
        output.line(cid)
    else:
        output.note("its process was dead; mounting the name again goes on from the last commit")
    return 0
