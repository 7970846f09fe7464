"""`monofs ls`: directories of stored trees, as names, as `ls -l` has them, or as JSON."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser, find, reading
from store import directory
from store.batch import Nodes
from store.cid import Cid
from store.entry import Entry
from store.revision import moment

Row = tuple[bytes, Entry]


def ls_options(parser: Parser) -> None:
    parser.target()
    parser.add_argument("-l", dest="long", action="store_true", help="mode, links, owner, group, size, time, name")
    parser.add_argument("-a", "-A", dest="all", action="store_true", help="names that begin with a dot as well")
    parser.add_argument("-R", dest="recursive", action="store_true", help="directories below as well")
    parser.add_argument("-d", dest="itself", action="store_true", help="the directory itself, not what is in it")
    parser.add_argument("-n", dest="numeric", action="store_true", help="with -l: owner and group as numbers")
    parser.add_argument("-h", dest="human", action="store_true", help="with -l: sizes as 1.5K, 17M")
    parser.json()


def ls(args: Args) -> int:
    """List a directory of a stored tree, without mounting it.

    One name a line: the bytes as they are when the output goes to a program, quoted as a
    shell would read them when it goes to a terminal. With -l the size of a directory is the
    sum of all file sizes below it.

    JSON is a list of objects: name, path (from the target), kind, mode, uid, gid, size, nlink,
    mtime, mtime_ns, cid (null where the content is too small for a block of its own) and where they
    apply holes, target, rdev, entries. Bytes in names that are no UTF-8 appear as \\udc80 to \\udcff,
    as Python's os.fsdecode has them.

    Examples:
      monofs ls src
      monofs ls -la src/docs
      monofs ls -R --json src | jq -r '.[] | select(.size > 1e6) | .path'
    """
    with reading(args) as repository:
        place = find(repository, args.target)
        nodes = repository.cache
        if args.itself or not place.entry.is_dir:
            name = place.target.path.rpartition(b"/")[2] or b"."
            _print_flat(iter([(name, place.entry)]), args)
        elif args.json:
            pages = _directories(nodes, place.entry, args)
            output.array(row(path, entry) for at, rows in pages for path, entry in _below(at, rows))
        elif args.recursive:
            _print_pages(_directories(nodes, place.entry, args), args)
        else:
            _print_flat(_rows(nodes, place.entry, args), args)
    return 0


def row(path: bytes, entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON has it."""
    name = path.rpartition(b"/")[2]
    doc: dict[str, Any] = {
        "name": output.text(name),
        "path": output.text(path),
        "kind": entry.kind,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.total[1] if entry.is_dir else entry.size,
        "nlink": links(entry),
        "mtime": moment(entry.mtime),
        "mtime_ns": entry.mtime,
        "cid": str(entry.data) if isinstance(entry.data, Cid) else None,
    }
    if entry.holes:
        doc["holes"] = entry.holes
    if entry.is_dir:
        doc["entries"] = entry.total[0]
    elif entry.kind == "symlink":
        doc["target"] = output.text(target(entry))
    elif entry.kind in ("char", "block"):
        doc["rdev"] = list(entry.rdev)
    return doc


def target(entry: Entry) -> bytes:
    """Return where a symbolic link leads."""
    assert type(entry.data) is bytes
    return entry.data


def links(entry: Entry) -> int:
    """Return st_nlink: a directory is named by its parent, itself and its subdirectories."""
    return 2 + entry.total[2] if entry.is_dir else entry.nlink


@cache
def user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@cache
def group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# What to list


def _rows(nodes: Nodes, entry: Entry, args: Args) -> Iterator[Row]:
    for name, found in directory.entries(nodes, entry):
        if args.all or not name.startswith(b"."):
            yield name, found


def _directories(nodes: Nodes, top: Entry, args: Args) -> Iterator[tuple[bytes, list[Row]]]:
    """Yield (path, rows) of the top directory and, with -R, of every one below it. Any depth will do."""
    stack = [(b"", top)]
    while stack:
        at, entry = stack.pop()
        rows = list(_rows(nodes, entry, args))
        yield at, rows
        if args.recursive:
            stack += [(path, below) for path, below in reversed(list(_below(at, rows))) if below.is_dir]


def _below(at: bytes, rows: list[Row]) -> Iterator[Row]:
    for name, entry in rows:
        yield (at + b"/" + name if at else name), entry


# How it looks


def _print_pages(pages: Iterator[tuple[bytes, list[Row]]], args: Args) -> None:
    """What `ls -R` prints: every directory under a heading."""
    separator = b""
    for at, rows in pages:
        output.write(separator)
        output.line(output.shown(b"./" + at if at else b".") + b":")
        _print_flat(iter(rows), args)
        separator = b"\n"


def _print_flat(rows: Iterator[Row], args: Args) -> None:
    if args.json:
        output.array(row(name, entry) for name, entry in rows)
    elif args.long:
        _print_long(list(rows), args)
    else:
        for name, _ in rows:
            output.line(output.shown(name))


def _print_long(rows: list[Row], args: Args) -> None:
    cells = [_cells(entry, args) for _, entry in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for (name, entry), (mode, count, owner, owners, size, when) in zip(rows, cells):
        fields = (
            mode,
            count.rjust(widths[1]),
            owner.ljust(widths[2]),
            owners.ljust(widths[3]),
            size.rjust(widths[4]),
            when,
        )
        arrow = b" -> " + output.shown(target(entry)) if entry.kind == "symlink" else b""
        output.line(" ".join(fields).encode() + b" " + output.shown(name) + arrow)


def _cells(entry: Entry, args: Args) -> tuple[str, str, str, str, str, str]:
    size = entry.total[1] if entry.is_dir else entry.size
    if entry.kind in ("char", "block"):
        amount = "{}, {}".format(*entry.rdev)
    else:
        amount = output.human(size) if args.human else str(size)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.mtime // 10**9))
    owner, owners = str(entry.uid), str(entry.gid)
    if not args.numeric:
        owner, owners = user(entry.uid), group(entry.gid)
    return stat.filemode(entry.st_mode), str(links(entry)), owner, owners, amount, when
