"""What a store keeps, and why: names, name, forget."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser, opened, reading
from store import cid as cids
from store import directory, limits, version
from store.batch import Batch
from store.blocks import Freed, collect
from store.cid import Cid
from store.errors import NotFound, StoreError
from store.names import Name
from store.repository import Repository, Target
from store.revision import moment

# names


def names_options(parser: Parser) -> None:
    parser.json()


def names(args: Args) -> int:
    """List the names in the store, and the CIDs that are pinned.

    A line for each: the name (- for a pin), the CID of its tree, when its last version was made,
    and the message of that version. If a version cannot be read, the line says why, and the exit code is 1.

    JSON is {"names": [...], "pins": [...]}: a name has name, tree, version, previous, time, time_ns,
    author, message, ahead (its tree is newer than its version), mountpoint (null: not mounted)
    and problem (null, or why its version cannot be read); a pin has tree.

    Examples:
      monofs names
      monofs names --json | jq -r '.names[].name'
    """
    with reading(args) as repository:
        mounted = {lease.name: lease.mountpoint for lease in repository.leases()}
        rows = [_described(repository, text, name, mounted.get(text)) for text, name in repository.names()]
        pins = [str(cid) for cid in repository.pins()]
    if args.json:
        output.document({"names": rows, "pins": [{"tree": pin} for pin in pins]})
    else:
        output.table([*map(_cells, rows), *(["-", pin, "-", "pinned"] for pin in pins)])
    return 1 if any(row["problem"] for row in rows) else 0


def _described(repository: Repository, text: str, name: Name, mountpoint: str | None) -> dict[str, Any]:
    last = problem = None
    try:
        last = repository.version(name)
    except StoreError as error:
        problem = str(error)
    tree = name.head or (last and last.tree)
    return {
        "name": text,
        "tree": tree and str(tree),
        "version": str(name.version),
        "previous": sorted(map(str, last.previous)) if last else None,
        "time": moment(last.time) if last else None,
        "time_ns": last.time if last else None,
        "author": last.author if last else None,
        "message": last.message if last else None,
        "ahead": name.head is not None,
        "mountpoint": mountpoint,
        "problem": problem,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    if row["problem"]:
        return [row["name"], row["tree"] or "-", "-", row["problem"]]
    return [row["name"], row["tree"], _when(row["time_ns"]), _remark(row)]


def _when(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ns // 10**9))


def _remark(row: dict[str, Any]) -> str:
    message = directory.printable(row["message"].encode("utf-8", "surrogateescape"))
    if row["mountpoint"] is None:
        return message
    return " ".join(filter(None, [message, f"(mounted on {directory.printable(row['mountpoint'].encode())})"]))


# name


def name_options(parser: Parser) -> None:
    parser.positional("name", "word", "the new name", metavar="NAME")
    parser.target()
    parser.add_argument("-m", dest="message", metavar="TEXT", help="what to remember about the version that a CID gets")


def name(args: Args) -> int:
    """Give a tree a name, one more if it has one already.

    A name for a NAME or an earlier version of it shares that version and so its history, and
    goes its own way from there. A name for the CID of a tree, or of a directory inside one, begins
    a history. A named tree is kept until the last of its names and pins is forgotten.

    Examples:
      monofs name release-1.0 src
      monofs name before src~2
      monofs name old bafyr4i...
      monofs name docs src/docs
    """
    with opened(args) as repository:
        repository.check_free(args.name)
        repository.retried(args.target, partial(_name, repository, args))
    return 0


def _name(repository: Repository, args: Args, target: Target) -> None:
    old = None if directory.names(target.path) else repository.shared(target)
    batch, stage = repository.batch("name")
    if old is not None:
        if args.message is not None:
            args.refuse("-m is for a new version, and this name would share one that is there")
        repository.set_name(args.name, None, old, batch, stage)
    else:
        tree = _tree(repository, target, batch)
        repository.publish(args.name, tree, batch, stage, message=args.message or "")


def _tree(repository: Repository, target: Target, batch: Batch) -> Cid:
    """Return the CID of the tree that is at the target's path."""
    if not directory.names(target.path):
        return target.tree
    whole = version.load_tree(repository.cache, target.tree)
    return version.put_tree(batch, version.subtree(batch, whole, target.path))


# forget


def forget_options(parser: Parser) -> None:
    parser.positional("targets", "kept", "a name, or a CID that is pinned", metavar="NAME|CID", many="+")


def forget(args: Args) -> int:
    """Remove names and pins, and free what only they held.

    What was freed is told on stderr. A name that is mounted cannot be forgotten.

    Examples:
      monofs forget src-fork
      monofs forget $cid
    """
    with opened(args) as repository:
        for text in args.targets:
            if cids.looks_like(text):
                repository.forget_pin(_pinned(repository, text))
            else:
                repository.forget_name(text)
        output.note(freed(collected(repository)))
    return 0


def _pinned(repository: Repository, text: str) -> Cid:
    cid = cids.parse(text)
    held = repository.pins()
    if cid not in held:
        raise NotFound(f"{cid} is not pinned; 'monofs names' lists names and pins")
    return cid


def collected(repository: Repository) -> Freed:
    """Delete all that nothing refers to."""
    *_, total = collect(repository.store, limits.gc_blocks_per_step)
    return total


def freed(total: Freed) -> str:
    return f"freed {total.blocks} block{'' if total.blocks == 1 else 's'}, {output.human(total.bytes)} stored bytes"
