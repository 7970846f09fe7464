"""What a name was before: log, show."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from typing import Any

from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import TARGET_HELP, Args, Parser, reading
from store import diff as diffs
from store import directory, history, version
from store.batch import Nodes
from store.cid import Cid
from store.errors import NotFound, WrongKind
from store.repository import Repository, Target
from store.revision import moment
from store.version import Version

_SHOWN_CHARS = 16  # of a CID in a list; a beginning names a version as long as it is unique

Row = tuple[str, Cid | None, Version | None]  # the drawing beside it, and a version if the row has one


def log_options(parser: Parser) -> None:
    parser.positional("target", "target", TARGET_HELP, metavar="CID|NAME")
    parser.positional("path", "word", "only versions that changed this file or directory", metavar="PATH", many="?")
    parser.add_argument("--graph", action="store_true", help="draw how versions follow one another")
    parser.add_argument("-n", dest="count", metavar="N", type=int, help="the newest N")
    parser.json()


def log(args: Args) -> int:
    """List the versions of a name, the newest first.

    A line for each: the beginning of its CID, when it was made, by whom, and its message. With
    PATH only those in which what is there differs from what was there before; all others are
    skipped without a look at what is below.

    JSON is a list of objects: version, tree, previous, line (the previous one that the name was at, if
    there are several), time, time_ns, author, message, origin (what it was before `monofs prune` made it
    again, or null).

    Examples:
      monofs log src
      monofs log src docs/README.md
      monofs log --graph -n 20 src
    """
    if args.graph and args.json:
        args.refuse("--graph is for people, --json for programs")
    if args.count is not None and args.count < 0:
        args.refuse("-n is how many to list")
    with reading(args) as repository:
        start = versioned(repository, repository.resolve(args.target))
        versions = history.ancestors(repository.cache, start)
        if args.path is not None:
            versions = _touching(repository.cache, versions, args.path)
        if args.json:
            output.array(row(cid, one) for cid, one in itertools.islice(versions, args.count))
            return 0
        rows = _drawn(repository.cache, dict(versions)) if args.graph else (("", cid, one) for cid, one in versions)
        for drawing, cid, one in _first(rows, args.count):
            output.line(" ".join(filter(None, [drawing.rstrip(), _summary(cid, one)])))
    return 0


def show_options(parser: Parser) -> None:
    parser.target()
    parser.json()


def show(args: Args) -> int:
    """Show a version: what it is, and what is different from the one before it.

    With a path, only what differs there.

    JSON is one object: as in `monofs log --json`, and changes: a list of status and path.

    Examples:
      monofs show src
      monofs show src~3/docs
      monofs show 'src@{yesterday}'
    """
    with reading(args) as repository:
        target = repository.resolve(args.target)
        cid = versioned(repository, target)
        one = version.load_version(repository.cache, cid)
        changes = list(_changes(repository.cache, one, target.path))
    if args.json:
        listed = [{"status": change.status, "path": output.text(change.path)} for change in changes]
        output.document({**row(cid, one), "changes": listed})
        return 0
    _print_version(cid, one)
    for change in changes:
        output.line(change.status.encode() + b"\t" + output.shown(change.path or b"."))
    return 0


def versioned(repository: Repository, target: Target) -> Cid:
    """Return the version that was meant: for a name that has gone on since, its last one. Raises WrongKind."""
    if target.version is not None:
        return target.version
    if target.name is not None and (record := repository.name(target.name)) is not None:
        return record.version
    raise WrongKind(f"{target.tree} is a tree without a history; name one of 'monofs names', or a version's CID")


def row(cid: Cid, one: Version) -> dict[str, Any]:
    """Return a version as JSON has it."""
    return {
        "version": str(cid),
        "tree": str(one.tree),
        "previous": sorted(map(str, one.previous)),
        "line": one.line and str(one.line),
        "time": moment(one.time),
        "time_ns": one.time,
        "author": one.author,
        "message": one.message,
        "origin": one.origin and str(one.origin),
    }


def _touching(nodes: Nodes, versions: Iterator[tuple[Cid, Version]], path: str) -> Iterator[tuple[Cid, Version]]:
    """Yield the versions in which the path is not what it was in any of those before. Raises NotFound if none is."""
    at = os.fsencode(path)
    found = False
    for one in history.touching(nodes, versions, at):
        found = True
        yield one
    if not found:
        raise NotFound(f"no version has '{directory.printable(at)}'")


def _drawn(nodes: Nodes, versions: dict[Cid, Version]) -> Iterator[Row]:
    from monofs_fuse.cli import graph

    order = history.in_order(versions)
    before = ((cid, [one for one in history.line_first(nodes, versions[cid]) if one in versions]) for cid in order)
    for drawing, cid in graph.drawn(before):
        yield drawing, cid, None if cid is None else versions[cid]


def _first(rows: Iterator[Row], count: int | None) -> Iterator[Row]:
    """Yield rows up to the version number `count`."""
    left = count
    for found in rows:
        if left == 0:
            return
        if left is not None and found[1] is not None:
            left -= 1
        yield found


def _summary(cid: Cid | None, one: Version | None) -> str:
    if cid is None or one is None:
        return ""
    first = one.message.partition("\n")[0]
    cells = [str(cid)[:_SHOWN_CHARS], local(one.time), directory.printable(one.author.encode("utf-8", "replace"))]
    return "  ".join([*cells, directory.printable(first.encode("utf-8", "replace"))]).rstrip()


def _changes(nodes: Nodes, one: Version, path: bytes) -> Iterator[diffs.Difference]:
    new = directory.find(nodes, version.load_tree(nodes, one.tree).root, path)
    before = next(iter(history.line_first(nodes, one)), None)
    old = None if before is None else history.there(nodes, version.load_version(nodes, before), path)
    if old is None and new is None:
        raise NotFound(f"no '{directory.printable(path)}' in this version or before it")
    yield from diffs.compare(nodes, old, new)


def _print_version(cid: Cid, one: Version) -> None:
    rows = [("version", str(cid)), ("tree", str(one.tree))]
    rows += [("previous", str(previous)) for previous in sorted(one.previous)]
    rows += [("time", local(one.time)), ("author", directory.printable(one.author.encode("utf-8", "replace")))]
    for title, text in rows:
        output.line(f"{title:<9} {text}")
    if one.message:
        output.line("")
        for text in one.message.splitlines():
            output.line("    " + directory.printable(text.encode("utf-8", "replace")))
    output.line("")


def local(ns: int) -> str:
    """Return a time in ns as the clock on the wall had it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 10**9))
