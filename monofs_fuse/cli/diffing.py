"""What differs between two trees: as a list, as numbers, as JSON, or as a patch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from monofs_fuse.cli import listing, output
from monofs_fuse.cli.arguments import Args, Parser, find, opened
from monofs_fuse.cli.history import versioned
from store import changes, directory, history, patch, version
from store import cid as cids
from store.batch import Nodes
from store.changes import Change
from store.cid import Cid
from store.entry import Entry
from store.errors import NotFound, WrongKind
from store.layered_store import LayeredStore
from store.repository import Repository


def diff_options(parser: Parser) -> None:
    parser.positional("old", "target", "the tree before: a CID, a name, src~2, or a mounted directory", metavar="A")
    parser.positional("new", "target", "the tree after (alone, A is the one after)", metavar="B", many="?")
    parser.positional("path", "word", "only what lies there, in both", metavar="PATH", many="?")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--name-status", action="store_true", help="only a letter and a path for each difference")
    how.add_argument("--stat", action="store_true", help="how many lines of each file differ")
    how.add_argument("--patch", "-p", action="store_true", help="as text that patch(1) and git apply understand")
    parser.add_argument("--no-renames", action="store_true", help="a renamed file is one that went and one that came")
    parser.add_argument("--times", action="store_true", help="directories too of which only the time differs")
    parser.json()


def diff(args: Args) -> int:
    """List what differs between two trees.

    A line for each path: A it is new, D it is gone, M its content or metadata differ (which of the
    metadata is said behind it), T it is of another kind, R it was renamed: the old path, then the new.
    A file was renamed if one with just its content went; where several could be it, it is new, and
    they are said behind it. Equal parts are not read, so this is quick for large trees that differ little.

    With A alone: what was changed in A since what it came from. That is what a project's machine was installed or
    reset to, for any other name or version the first version on its line.

    A and B can be directories in which a tree is mounted, or mounted names: what is written there is saved first.
    In a patch binary files are only named; what a patch cannot say (owners, attributes, special
    files, empty directories) is not in it.

    JSON is a list of objects: status, path, old_path (of a rename), old and new (as in `monofs ls --json`,
    or null), fields (which differ: content, mode, owner, xattrs, links, time), candidates.

    Examples:
      monofs diff $old $new
      monofs diff src~1 src docs --stat
      monofs diff src ~/agent-1 --patch | patch -p1
      monofs diff shop/web
    """
    args.store = args.store or _store_of_mounts(args)
    with _saved(args) as (repository, targets):
        nodes = repository.cache
        old, new = (_inside(repository, text, args.path) for text in targets)
        if old is None and new is None:
            raise NotFound(f"no '{directory.printable(os.fsencode(args.path))}' in either tree")
        found = changes.between(nodes, old, new, find_renames=not args.no_renames)
        worth = (one for one in found if args.times or not _is_only_time(one))
        if args.json:
            output.array(map(row, worth))
        elif args.patch:
            _print_patch(nodes, worth, args.path)
        elif args.stat:
            _print_stat(nodes, worth)
        else:
            for line in lines(worth, with_fields=not args.name_status):
                output.line(line)
    return 0


def told(nodes: Nodes, old: Cid, new: Cid) -> Iterator[Change]:
    """Yield what differs between two whole trees, without what says nothing."""
    roots = (version.load_tree(nodes, cid).root for cid in (old, new))
    return (one for one in changes.between(nodes, *roots) if not _is_only_time(one))


@contextmanager
def _saved(args: Args) -> Iterator[tuple[Repository, list[str]]]:
    """The store as it is when what is mounted has been saved, and what is to be compared."""
    with opened(args) as repository:
        if args.new is None:
            args.old, args.new = _origin(repository, args.old), args.old
        for text in (args.old, args.new):
            _save(repository, text)
        for is_last in (False, False, False, True):
            targets = [_tree(args, text) for text in (args.old, args.new)]
            with repository.store.steady():
                heads = [cids.parse(there.partition("/")[0]) for there in set(targets) - {args.old, args.new}]
                if is_last or all(map(repository.store.has, heads)):  # else another commit was quicker, and a gc
                    yield repository, targets
                    return


def _save(repository: Repository, text: str) -> None:
    """If `text` means the newest tree of a name that is mounted, have what was written there committed."""
    from monofs_fuse import live

    if not _is_directory(text):
        with suppress(NotFound):
            target = repository.resolve(text)
            if target.name is not None:
                live.save(repository, target.name)


def _tree(args: Args, text: str) -> str:
    """Return the target for a directory in which a tree is mounted; other texts as they are."""
    if not _is_directory(text):
        return text
    from monofs_fuse import config, mountpoint, mounts

    top, real = _top(text), os.path.realpath(text)
    there = mountpoint.mounted(top)
    if there is None or there.kind != "fuse.monofs":
        shown = directory.printable(os.fsencode(text))
        raise NotFound(f"'{shown}' is in no mounted tree; 'monofs status' shows what is mounted")
    (status,) = mounts.status(config.store_path(args.store), top)
    if not status["read_only"]:
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        (status,) = mounts.status(config.store_path(args.store), top)
    inside = os.path.relpath(real, top)
    return status["head"] if inside == "." else f"{status['head']}/{inside}"


def _origin(repository: Repository, text: str) -> str:
    """Return the target for what `text` came from. Raises WrongKind if nobody knows what that is."""
    if _is_directory(text):
        top = _top(text)
        with suppress(OSError):
            inside = os.path.relpath(os.path.realpath(text), top)
            name = os.fsdecode(os.getxattr(top, "user.monofs.name"))
            text = name if inside == "." else f"{name}/{inside}"
    target = repository.resolve(text)
    if target.name is not None and (tree := _of_machine(repository, target.name)) is not None:
        return _joined(tree, target.path)
    *_, (_, first) = history.line(repository.cache, versioned(repository, target))
    return _joined(first.tree, target.path)


def _of_machine(repository: Repository, name: str) -> Cid | None:
    if "/" not in name or not isinstance(repository.store, LayeredStore):
        return None
    from monofs_fuse.project import forks

    return forks.came_from(repository, name)


def _joined(tree: Cid, path: bytes) -> str:
    return os.fsdecode(b"%s/%s" % (str(tree).encode(), path) if path else str(tree))


def _store_of_mounts(args: Args) -> str | None:
    """Return the store of the tree that is mounted on A, or else on B: that of a project, perhaps."""
    for text in (args.old, args.new):
        if _is_directory(text):
            with suppress(OSError):
                return os.fsdecode(os.getxattr(_top(text), "user.monofs.store"))
    return None


def _top(text: str) -> str:
    """Return the mount point that a directory is below."""
    top = os.path.realpath(text)
    while not os.path.ismount(top):
        top = os.path.dirname(top)
    return top


def _is_directory(text: str | None) -> bool:
    return text is not None and text.startswith(("/", "./", "../")) and os.path.isdir(text)


def _inside(repository: Repository, text: str, path: str | None) -> Entry | None:
    place = find(repository, text)
    try:
        return directory.resolve(repository.cache, place.entry, os.fsencode(path or ""))
    except (NotFound, WrongKind):
        return None


def _is_only_time(one: Change) -> bool:
    """True for a directory whose time alone tells that something in it came or went; what that is has its own line."""
    return one.status == "M" and one.new is not None and one.new.is_dir and one.fields == ("time",)


# As a list


def lines(found: Iterable[Change], *, with_fields: bool = True) -> Iterator[bytes]:
    for one in found:
        names = [output.shown(path or b".") + _slash(one) for path in (one.was_at, one.path) if path is not None]
        more = _metadata(one) if with_fields else ""
        yield b"\t".join([one.status.encode(), *names, *([more.encode("utf-8", "surrogateescape")] if more else [])])


def _slash(one: Change) -> bytes:
    last = one.new or one.old
    return b"/" if last is not None and last.is_dir else b""


def _metadata(one: Change) -> str:
    """Say what of the metadata differs; what went with the content need not be said."""
    if one.candidates:
        return "as was " + " or ".join(output.quoted(path) for path in one.candidates)
    old, new = one.old, one.new
    if old is None or new is None or one.status == "T":
        return ""
    said = {
        "mode": f"mode {old.mode:04o} -> {new.mode:04o}",
        "owner": f"owner {old.uid}:{old.gid} -> {new.uid}:{new.gid}",
        "xattrs": "attributes",
        "links": f"links {old.nlink} -> {new.nlink}",
    }
    if one.fields == ("time",):
        return "time"
    return ", ".join(said[name] for name in one.fields if name in said)


def row(one: Change) -> dict[str, Any]:
    """Return a change as JSON has it."""
    was_at = one.was_at if one.was_at is not None else one.path
    return {
        "status": one.status,
        "path": output.text(one.path),
        "old_path": None if one.was_at is None else output.text(one.was_at),
        "old": None if one.old is None else listing.row(was_at, one.old),
        "new": None if one.new is None else listing.row(one.path, one.new),
        "fields": list(one.fields),
        "candidates": list(map(output.text, one.candidates)),
    }


# As numbers, and as a patch


def _print_stat(nodes: Nodes, found: Iterable[Change]) -> None:
    rows: list[tuple[bytes, bytes]] = []
    files = added = removed = 0
    for one in (each for change in found for each in changes.files(nodes, change)):
        last = one.new or one.old
        if last is None or last.is_dir:
            continue
        files += 1
        name = output.shown(one.path or b".")
        if one.was_at is not None:
            name = output.shown(one.was_at) + b" => " + name
        counts = patch.counted(nodes, one)
        if counts is None:
            sizes = [0 if side is None else side.size for side in (one.old, one.new)]
            rows.append((name, b"Bin %d -> %d bytes" % (sizes[0], sizes[1])))
            continue
        added, removed = added + counts.added, removed + counts.removed
        rows.append((name, b"%d %s" % (sum(counts), _bar(*counts)) if any(counts) else b"0"))
    width = max((len(name) for name, _ in rows), default=0)
    for name, count in rows:
        output.line(b" %s | %s" % (name.ljust(width), count))
    output.line(f" {files} file{'' if files == 1 else 's'} changed, {added} insertions(+), {removed} deletions(-)")


def _bar(added: int, removed: int) -> bytes:
    if added + removed > 40:
        scale = 40 / (added + removed)
        added, removed = -int(-added * scale // 1), -int(-removed * scale // 1)
    return b"+" * added + b"-" * removed


def _print_patch(nodes: Nodes, found: Iterable[Change], path: str | None) -> None:
    own = os.fsencode(path or "").rstrip(b"/").rpartition(b"/")[2]  # the name of a single file, which has none here
    for one in found:
        for each in changes.files(nodes, one if one.path or not own else one._replace(path=own)):
            for piece in patch.written(nodes, each):
                output.write(piece)
