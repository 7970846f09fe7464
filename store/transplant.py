"""A transplant: a tree in which one path is as another tree has it."""

from __future__ import annotations

from collections.abc import Iterator

from store import directory, edits, links
from store.batch import Batch
from store.cid import Cid
from store.entry import Entry
from store.errors import Corrupt, WrongKind
from store.links import Group
from store.version import Tree


def made(batch: Batch, now: Tree, then: Tree, path: bytes) -> Tree:
    """Return `now` with what `then` has at `path` and below; directories on the way that are gone come back empty.

    Hard links between what was there and the rest end, in both trees. Takes the time that these links and the depth of
    the path take. Raises NotFound if `then` has no such path, WrongKind if a file of `now` is in its way.
    """
    parts = directory.names(path)
    at = b"/".join(parts)
    changes: dict[bytes, Entry | None] = dict(_way(batch, now, then, parts))
    old = directory.resolve(batch, then.root, at)
    if not parts:
        return then
    gone = list(_groups(batch, now.links, at))
    left = [tuple(one for one in group if not _is_in(one, at)) for group in gone]
    back = [tuple(one for one in group if _is_in(one, at)) for group in _groups(batch, then.links, at)]
    changes.update(_linked(batch, now, left))
    inside = Tree(edits.made(batch, then.root, dict(_linked(batch, then, back))))
    changes[at] = directory.resolve(batch, inside.root, at) if back else old
    return Tree(edits.made(batch, now.root, changes), links.changed(batch, now.links, gone, left + back))


def _way(batch: Batch, now: Tree, then: Tree, parts: list[bytes]) -> Iterator[tuple[bytes, Entry]]:
    """Yield the directories above the path that `now` lacks, as `then` has them and with nothing in them."""
    for count in range(1, len(parts)):
        at = b"/".join(parts[:count])
        here = directory.find(batch, now.root, at)
        if here is None:
            yield at, directory.resolve(batch, then.root, at)._replace(data=None, total=(0, 0, 0))
        elif not here.is_dir:
            raise WrongKind(f"'{directory.printable(at)}' is a {here.kind} now; move it out of the way first")


def _groups(batch: Batch, root: Cid | None, at: bytes) -> Iterator[Group]:
    """Yield the groups that have a path at `at` or below."""
    own = links.group(batch, root, at)
    if len(own) > 1:
        yield own
    yield from links.groups_below(batch, root, at)


def _is_in(path: bytes, at: bytes) -> bool:
    return path == at or path.startswith(at + b"/")


def _linked(batch: Batch, tree: Tree, groups: list[Group]) -> Iterator[tuple[bytes, Entry]]:
    """Yield the entries of these paths with as many links as their groups have now."""
    for group in groups:
        for path in group:
            entry = directory.find(batch, tree.root, path)
            if entry is None or entry.is_dir:
                raise Corrupt(tree.links or bytes(36), "a hard link's path leads to no file")
            yield path, entry._replace(nlink=len(group))
