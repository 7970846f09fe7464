"""A directory: names and their entries. Its Entry is a value; a change gives a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from store import entry as entries_
from store import limits, tree
from store.batch import Batch, Nodes
from store.entry import Entry
from store.errors import NotFound, TooLarge, WrongKind
from store.nodes import DIRECTORY, good_name


def lookup(source: Nodes, directory: Entry, name: bytes) -> Entry | None:
    """Return the entry called `name`, or None. Raises WrongKind if `directory` is none."""
    root = directory.tree
    item = tree.find(source, DIRECTORY, root, name)
    return None if item is None or root is None else entries_.decode(item[1], root)


def entries(source: Nodes, directory: Entry, after: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
    """Yield (name, entry) in the order of the names' bytes, from the first name greater than `after`."""
    root = directory.tree
    if root is not None:
        for name, item in tree.seek(source, DIRECTORY, root, after + b"\0" if after else b""):
            yield name, entries_.decode(item[1], root)


def with_entries(batch: Batch, directory: Entry, changes: Mapping[bytes, Entry | None]) -> Entry:
    """Return `directory` with the names in `changes` set, or taken out (None). Its own metadata stays."""
    assert all(map(good_name, changes)), "names must be checked before they get here"
    items: dict[bytes, Any] = {
        name: None if entry is None else [name, entries_.encode(entry)] for name, entry in changes.items()
    }
    root = tree.edit(batch, DIRECTORY, directory.tree, items)
    if root is None:
        return directory._replace(data=None, total=(0, 0, 0))
    total = cast(tuple[int, int, int], tuple(tree.totals(batch, DIRECTORY, root)))
    return directory._replace(data=root, total=total)


class Builder:
    """A new directory that is fed name by name, in order."""

    def __init__(self, batch: Batch) -> None:
        self._builder = tree.Builder(batch, DIRECTORY)

    def add(self, name: bytes, entry: Entry) -> None:
        self._builder.add(name, [name, entries_.encode(entry)])

    def finish(self, metadata: Entry) -> Entry:
        """Return `metadata`, the entry of an empty directory, with everything that was added."""
        root, totals = self._builder.finish()
        if root is None:
            return metadata
        return metadata._replace(data=root, total=cast(tuple[int, int, int], totals))


def resolve(source: Nodes, directory: Entry, path: bytes) -> Entry:
    """Return the entry at `path`, which is relative; links are not followed. Raises NotFound, WrongKind."""
    entry = directory
    for name in names(path):
        if not entry.is_dir:
            raise WrongKind(f"not a directory on the way to '{printable(path)}'")
        found = lookup(source, entry, name)
        if found is None:
            raise NotFound(f"no '{printable(path)}' in this tree")
        entry = found
    return entry


def find(source: Nodes, directory: Entry, path: bytes) -> Entry | None:
    """Return the entry at `path`, as `resolve` does; None if there is none."""
    entry: Entry | None = directory
    for name in names(path):
        entry = lookup(source, entry, name) if entry is not None and entry.is_dir else None
    return entry


def names(path: bytes) -> list[bytes]:
    """Split a path into names; '.' and empty names are skipped. Raises NotFound for '..'."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise NotFound("'..' is not followed inside a tree")
    return parts


def walk(source: Nodes, directory: Entry, path: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
    """Yield (path, entry) of everything below, a directory before what it holds. Raises TooLarge over `depth_max`."""
    prefix = path + b"/" if path else b""
    stack = [(0, entries(source, directory))]  # how much longer the prefix is than one up
    while stack:
        longer, rest = stack[-1]
        for name, entry in rest:
            yield prefix + name, entry
            if entry.is_dir and len(stack) > limits.depth_max:
                raise TooLarge(f"directories may be {limits.depth_max} deep at most")
            if entry.is_dir and entry.data is not None:
                stack.append((len(name) + 1, entries(source, entry)))
                prefix += name + b"/"
                break
        else:
            stack.pop()
            prefix = prefix[: len(prefix) - longer]


def with_paths(batch: Batch, directory: Entry, changes: Mapping[bytes, Entry]) -> Entry:
    """Return `directory` with the existing entries at these paths replaced."""
    by_depth: dict[int, dict[bytes, dict[bytes, Entry | None]]] = {}  # depth -> directory -> name -> new entry

    def change(path: bytes, entry: Entry) -> None:
        above, _, name = path.rpartition(b"/")
        by_depth.setdefault(path.count(b"/"), {}).setdefault(above, {})[name] = entry

    for path, entry in changes.items():
        change(path, entry)
    for depth in range(max(by_depth, default=-1), -1, -1):
        for at, inside in by_depth[depth].items():
            new = with_entries(batch, resolve(batch, directory, at), inside)
            if not at:
                return new
            change(at, new)
    return directory


def printable(path: bytes) -> str:
    """Return a path as text for a message; bytes that are no UTF-8 and control characters are escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
