"""Looking into stored trees without mounting them: cat, stat, du, diff."""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Iterator
from typing import Any, Final

from monofs_fuse.cli import listing, output
from monofs_fuse.cli.arguments import TARGET_HELP, Args, Parser, Place, find, reading
from store import directory, entry, links
from store.batch import Nodes
from store.entry import Entry
from store.errors import StoreError, WrongKind
from store.file import STREAM_BYTES, File
from store.repository import Repository

# cat


def cat_options(parser: Parser) -> None:
    parser.positional("targets", "target", TARGET_HELP, metavar="CID|NAME/path", many="+")


def cat(args: Args) -> int:
    """Print the bytes of stored files, one after the other.

    Symbolic links are not followed. A file that cannot be printed is named on stderr, the others
    are printed all the same, and the exit code is 1.

    Examples:
      monofs cat src/README.md
      monofs cat src/a.gz src/b.gz | zcat | less
    """
    failed = False
    with reading(args) as repository:
        for text in args.targets:
            try:
                _print_file(repository.cache, text, find(repository, text).entry)
            except StoreError as error:
                failed = True
                output.note(str(error))
    return 1 if failed else 0


_ZEROS: Final = bytes(STREAM_BYTES)


def _print_file(nodes: Nodes, text: str, found: Entry) -> None:
    name = directory.printable(os.fsencode(text))
    if found.kind == "symlink":
        where = directory.printable(listing.target(found))
        raise WrongKind(f"'{name}' is a symbolic link to '{where}'; print that one")
    if found.kind != "file":
        raise WrongKind(f"'{name}' is a {_KINDS.get(found.kind, found.kind)}; only files can be printed")
    for length, data in File.of(found).pieces(nodes, 0, found.size):
        if data is not None:
            output.write(data)
            continue
        for start in range(0, length, STREAM_BYTES):
            output.write(_ZEROS[: length - start])


_KINDS: Final = {"dir": "directory", "char": "character device", "block": "block device", "fifo": "named pipe"}


# stat


def stat_options(parser: Parser) -> None:
    parser.target()
    parser.json()


def stat(args: Args) -> int:
    """Show all that is stored about one file or directory.

    `cid` names the content: the whole tree for a tree's root, the directory or the bytes for what
    lies below. There is none where the content is too small to have a block of its own.

    JSON: what `monofs ls --json` has, and tree (the CID of the tree it is in), tree_name (null if a CID was
    given), hard_links (its paths in that tree), xattrs.

    Examples:
      monofs stat src
      monofs stat --json src/Makefile | jq -r .mode
    """
    with reading(args) as repository:
        doc = _description(repository, find(repository, args.target))
    if args.json:
        output.document(doc)
    else:
        width = max(map(len, doc))
        for key, value in _readable(doc):
            output.line(f"{key:>{width}}: {value}")
    return 0


def _description(repository: Repository, place: Place) -> dict[str, Any]:
    doc = listing.row(place.target.path, place.entry)
    if not directory.names(place.target.path):
        doc["cid"] = str(place.target.tree)
    doc["tree"] = str(place.target.tree)
    doc["tree_name"] = place.target.name
    path = b"/".join(directory.names(place.target.path))
    doc["hard_links"] = [output.text(one) for one in links.group(repository.cache, place.tree.links, path)]
    pairs = entry.unpack_xattrs(repository.cache, place.entry)
    doc["xattrs"] = {output.text(name): output.text(value) for name, value in pairs}
    return doc


def _readable(doc: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in doc.items():
        if key in ("name", "mtime_ns") or value is None or value == {} or (key == "hard_links" and len(value) == 1):
            continue
        if key == "hard_links":
            value = ", ".join(map(_quoted, value))
        elif key == "xattrs":
            value = ", ".join(f"{_quoted(name)}={_quoted(data)}" for name, data in value.items())
        elif key in ("path", "target"):
            value = _quoted(value or ".")
        elif key == "mode":
            value = f"{value} {modes.filemode(int(value, 8))[1:]}"
        elif key in ("uid", "gid"):
            value = f"{value} ({listing.user(value) if key == 'uid' else listing.group(value)})"
        elif key in ("size", "holes"):
            value = f"{value} ({output.human(value)})" if value >= 1024 else value
        elif key == "rdev":
            value = "{}, {}".format(*value)
        yield key, str(value)


def _quoted(text: str) -> str:
    return output.quoted(text.encode("utf-8", "surrogateescape"))


# du


def du_options(parser: Parser) -> None:
    parser.target()
    parser.add_argument("-s", dest="summary", action="store_true", help="only the sum")
    parser.add_argument("-a", dest="all", action="store_true", help="files of the first level as well")
    parser.add_argument("-h", dest="human", action="store_true", help="sizes as 1.5K, 17M")
    parser.json()


def du(args: Args) -> int:
    """Sum up file sizes, in bytes: of the directories on the first level, then of all.

    The sums lie in the directories themselves, so this takes no longer for a large tree than for
    a small one. A file with several hard links counts once for each; holes count in full.

    JSON is a list of objects: path (from the target), bytes, entries.

    Examples:
      monofs du -h src
      monofs du -s src/docs
    """
    with reading(args) as repository:
        place = find(repository, args.target)
        rows = list(_sums(repository.cache, place, args))
    if args.json:
        output.array({"path": output.text(path), "bytes": size, "entries": count} for path, size, count in rows)
        return 0
    typed = os.fsencode(args.target.rstrip("/"))
    for path, size, _ in rows:
        amount = output.human(size) if args.human else str(size)
        output.line(amount.encode() + b"\t" + output.shown(typed + b"/" + path if path != b"." else typed))
    return 0


def _sums(nodes: Nodes, place: Place, args: Args) -> Iterator[tuple[bytes, int, int]]:
    if place.entry.is_dir and not args.summary:
        for name, found in directory.entries(nodes, place.entry):
            if found.is_dir or args.all:
                yield name, *_sum(found)
    yield b".", *_sum(place.entry)


def _sum(found: Entry) -> tuple[int, int]:
    return (found.total[1], found.total[0]) if found.is_dir else (found.size, 0)
