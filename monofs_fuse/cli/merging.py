"""Bringing work back together: merge, conflicts, tombstones."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from monofs_fuse import live
from monofs_fuse.cli import diffing, output
from monofs_fuse.cli.arguments import TARGET_HELP, Args, Parser, opened
from store import conflicts as marks
from store import directory, plan, revision, successor, version
from store import tombstones as graves
from store.batch import Batch
from store.changes import Change
from store.cid import Cid
from store.conflicts import KINDS, Conflict
from store.errors import MissingLink, NotFound, RootMoved, WrongKind
from store.merge import STRATEGIES
from store.names import Name
from store.plan import Plan, Step
from store.repository import Repository, Target
from store.revision import moment
from store.staging import Stage
from store.version import Version

# merge


def merge_options(parser: Parser) -> None:
    parser.positional("name", "target", "the name that shall have it all", metavar="NAME")
    parser.positional("others", "target", "what to merge into it", metavar="OTHER", many="+")
    parser.add_argument("--base", metavar="V", help="what both began as, if the histories do not tell")
    parser.add_argument("--strategy", choices=STRATEGIES, default="merge", help="what to do about conflicts")
    parser.add_argument("-m", dest="message", metavar="TEXT", default="", help="what to remember about the merge")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.json()


def merge(args: Args) -> int:
    """Merge other trees into NAME, one after the other; prints the CID of the tree that NAME has then.

    What only one side changed since their last common version is as that side has it. Text that both
    changed is merged line by line. Where that cannot be both contents are kept: that of the newer
    version under the name, the other's beside it as FILE~OTHER. What one side deleted and the other
    changed is kept. Nothing is lost; all that needs a look is listed on stderr, the exit code is 1
    then, and `monofs conflicts NAME` lists it until it is resolved.

    --strategy ours or theirs takes NAME's or OTHER's side where there is a conflict; union keeps the
    lines of both in text. An OTHER that is mounted is saved first. If NAME is mounted, what is written there
    is saved first, and the mount shows the merged tree when this returns; files that are open stay
    so. All of it happens in one step or not at all. --dry-run prints what `monofs diff` will, before
    and after.

    JSON: name, tree, version, before, after (trees), changes (with --dry-run, as in `monofs diff --json`),
    steps (other, version, outcome: merged, forward or nothing, bases) and conflicts (as in
    `monofs conflicts --json`).

    Examples:
      monofs merge src agent-1 agent-2
      monofs merge src agent-1 --dry-run
      monofs merge src old-copy --base src~12 -m 'bring back the old copy'
    """
    with opened(args) as repository:
        live.save(repository, args.name)
        if not args.dry_run:
            _save_mounted(repository, args.others)
        made, batch, _ = _merged(repository, args)
        changes = list(diffing.told(batch, made.before, made.after)) if args.dry_run else None
    if args.json:
        output.document(_document(made, changes))
    elif changes is not None:
        for line in diffing.lines(changes):
            output.line(line)
    else:
        output.line(str(made.after))
    for step in made.steps:
        _tell(step)
    return 1 if made.conflicts else 0


class _Made(NamedTuple):
    plan: Plan
    batch: Batch
    stage: Stage


def _merged(repository: Repository, args: Args) -> _Made:
    """Make the plan, and carry it out unless it is only to be shown."""
    made = _tried(repository, args)
    if made is not None and (args.dry_run or made.plan.new == made.plan.old):
        return made
    with live.held(repository, args.name):
        if made is None or repository.name(args.name) != made.plan.old:  # it was written to meanwhile
            made = _caught_up(repository, args, made) or _planned(repository, args)
        if not args.dry_run:
            plan.apply(repository, *made)
    return made


def _tried(repository: Repository, args: Args) -> _Made | None:
    """Make the plan while a mount of the name goes on; None if what it was made of is gone because of that."""
    is_mounted = live.is_mounted(repository, args.name)
    try:
        made = _planned(repository, args)
        if is_mounted:
            made.batch.flush()  # from here on we hold the tree that it was made of
        return made
    except (NotFound, MissingLink):
        if not is_mounted:
            raise
        return None


def _caught_up(repository: Repository, args: Args, made: _Made | None) -> _Made | None:
    """Return the plan for what the name is by now, made of an earlier one; None if that cannot be."""
    from store.chunker import FastCdc

    if made is None:
        return None
    found = plan.caught_up(repository, made.batch, FastCdc(), made.plan, strategy=args.strategy, message=args.message)
    return None if found is None else made._replace(plan=found)


def _planned(repository: Repository, args: Args) -> _Made:
    from store.chunker import FastCdc

    batch, stage = repository.batch("merge")
    others = [plan.other(repository, batch, text) for text in args.others]
    base = repository.resolve(args.base) if args.base is not None else None
    if base is not None and directory.names(base.path):
        raise WrongKind(f"'{args.base}' is a part of a tree; only a whole tree can be the base")
    made = plan.made(
        repository,
        batch,
        FastCdc(),
        args.name,
        others,
        base=(base.version or base.tree) if base is not None else None,
        strategy=args.strategy,
        message=args.message,
    )
    return _Made(made, batch, stage)


def _save_mounted(repository: Repository, texts: list[str]) -> None:
    """Make versions of the others that are mounted, so that the next merge knows what this one had."""
    from monofs_fuse import mounts

    mounted = {lease.name: lease.mountpoint for lease in repository.leases()}
    for text in texts:
        name = repository.resolve(text).name
        if name in mounted:
            mounts.checkpoint(mounted[name], "")


def _document(made: Plan, changes: list[Change] | None) -> dict[str, Any]:
    doc: dict[str, Any] = {
        "name": made.name,
        "tree": str(made.after),
        "version": str(made.new.version),
        "before": str(made.before),
        "after": str(made.after),
        "steps": [
            {
                "other": step.other.label,
                "version": str(step.other.version),
                "outcome": step.outcome,
                "bases": list(map(str, step.bases)),
            }
            for step in made.steps
        ],
        "conflicts": [_row(path, one) for path, one in sorted(made.conflicts.items())],
    }
    if changes is not None:
        doc["changes"] = list(map(diffing.row, changes))
    return doc


def _tell(step: Step) -> None:
    if step.outcome == "nothing":
        output.note(f"nothing to merge: all of {step.other.label} is there already")
    for path, one in sorted(step.conflicts.items()):
        output.note(f"conflict: {_said(path, one)}")


# conflicts


def conflicts_options(parser: Parser) -> None:
    parser.positional("target", "target", TARGET_HELP, metavar="CID|NAME[/path]")
    done = parser.add_mutually_exclusive_group()
    done.add_argument("--resolved", metavar="PATH", nargs="+", help="these need no look any more")
    done.add_argument("--all-resolved", action="store_true", help="none of them does")
    parser.json()


def conflicts(args: Args) -> int:
    """List what merges could not decide and nobody has resolved yet.

    A conflict is resolved when its file is deleted, or the copy with the other side's content is: put
    into the one what you want of both and delete the other. --resolved says so of the others, as a
    new version of NAME with the same tree. Conflicts belong to a version: forks and later versions
    have them too until they are resolved there.

    JSON is a list of objects: path, kind (content, kind, deleted, metadata, renamed, links), stands (whose
    it is), other, copy (the path of the other's content, or null), detail, text (what that means).

    Examples:
      monofs conflicts src
      monofs conflicts src --resolved Makefile docs/index.md
    """
    with opened(args) as repository:
        target = repository.resolve(args.target)
        path = b"/".join(directory.names(target.path))
        batch, stage = repository.batch("conflicts")
        cid, found = _last_version(repository, target)
        rows = list(marks.below(repository.cache, found.conflicts, path))
        if args.resolved is not None or args.all_resolved:
            chosen = _chosen(dict(rows), args.resolved)
            left = marks.without(batch, found.conflicts, chosen)
            new = successor.with_marks(
                batch, cid, found.tombstones, left, f"{_counted(len(chosen), 'conflict')} resolved"
            )
            _move(repository, args.target, target, cid, new, batch, stage)
            return 0
    if args.json:
        output.array(_row(path, one) for path, one in rows)
    else:
        for path, one in rows:
            output.line(_said(path, one))
    return 0


def _chosen(found: Mapping[bytes, Conflict], wanted: list[str] | None) -> list[bytes]:
    if wanted is None:
        return list(found)
    chosen = [b"/".join(directory.names(os.fsencode(text))) for text in wanted]
    for path in chosen:
        if path not in found:
            raise NotFound(f"no conflict at '{directory.printable(path)}'; 'monofs conflicts' lists them")
    return chosen


def _row(path: bytes, one: Conflict) -> dict[str, Any]:
    return {
        "path": output.text(path),
        "kind": one.kind,
        "stands": one.stands,
        "other": one.other,
        "copy": None if one.copy is None else output.text(one.copy),
        "detail": one.detail,
        "text": KINDS[one.kind],
    }


def _said(path: bytes, one: Conflict) -> str:
    stands, other, detail = (directory.printable(text.encode()) for text in (one.stands, one.other, one.detail))
    more = f" ({detail})" if detail else ""
    copy = f"; {other}'s is '{directory.printable(one.copy)}'" if one.copy is not None else ""
    return f"'{directory.printable(path) or '.'}': {_MEANINGS[one.kind].format(stands, other)}{more}{copy}"


_MEANINGS = {
    "content": "both changed it; {0}'s has the name",
    "kind": "both changed what kind of file it is; {0}'s has the name",
    "deleted": "{1} deleted it and {0} changed it; it was kept",
    "metadata": "both changed the same metadata; {0}'s was taken",
    "renamed": "{0} renamed it and {1} deleted it or renamed it too; all names were kept",
    "links": "what was one file with several names is several files now",
}


# tombstones


def tombstones_options(parser: Parser) -> None:
    parser.positional("target", "target", TARGET_HELP, metavar="CID|NAME[/path]")
    parser.add_argument("--prune", metavar="TIME", help="forget those from before TIME ('30 days ago', 2026-01-31)")
    parser.json()


def tombstones(args: Args) -> int:
    """List what a tree no longer has, and when each name went.

    Merging asks them what was deleted where the versions that had it are gone. They hold no
    content: that is there as long as a version has it. --prune forgets old ones, as a new version of
    NAME with the same tree.

    JSON is a list of objects: path, kind, size, time, time_ns (when it went), cid (of its content, or null).

    Examples:
      monofs tombstones src
      monofs tombstones src/docs --json
      monofs tombstones src --prune '90 days ago'
    """
    with opened(args) as repository:
        target = repository.resolve(args.target)
        cid, found = _last_version(repository, target)
        path = b"/".join(directory.names(target.path))
        if args.prune is None:
            rows = graves.below(repository.cache, found.tombstones, path)
            if args.json:
                output.array(_grave(path, one) for path, one in rows)
            else:
                for path, one in rows:
                    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.time // 10**9))
                    output.line(f"{when}  {one.kind:<7} {one.size:>12}  ".encode() + output.shown(path))
            return 0
        if path:
            args.refuse("--prune is for a whole NAME")
        batch, stage = repository.batch("tombstones")
        left = graves.without(batch, found.tombstones, before=revision.parse_time(args.prune))
        if left != found.tombstones:
            new = successor.with_marks(batch, cid, left, found.conflicts, "tombstones pruned")
            _move(repository, args.target, target, cid, new, batch, stage)
    return 0


def _grave(path: bytes, one: graves.Tombstone) -> dict[str, Any]:
    return {
        "path": output.text(path),
        "kind": one.kind,
        "size": one.size,
        "time": moment(one.time),
        "time_ns": one.time,
        "cid": None if one.content is None else str(one.content),
    }


# What both have


def _last_version(repository: Repository, target: Target) -> tuple[Cid, Version]:
    """Return the version that a target means; for a head that is newer than it, the last one of its name."""
    cid = target.version
    if cid is None and target.name is not None and (name := repository.name(target.name)) is not None:
        cid = name.version
    if cid is None:
        raise WrongKind(f"{target.tree} is a tree without a history; name a version of it")
    return cid, version.load_version(repository.cache, cid)


def _move(repository: Repository, text: str, target: Target, old: Cid, new: Cid, batch: Batch, stage: Any) -> None:
    """Make the name point at `new`, which is right behind its version `old`."""
    name = repository.name(target.name) if target.name is not None else None
    if name is None or target.name is None or name.version != old:
        raise WrongKind(f"'{text}' is no name, and only what a name points at can change")
    with live.held(repository, target.name):
        name = repository.name(target.name)
        if name is None or name.version != old:
            raise RootMoved(f"'{target.name}' has changed meanwhile; try again")
        repository.set_name(target.name, name, Name(new, name.head, name.made_up), batch, stage)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
