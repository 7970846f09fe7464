"""Hard links: which paths of a tree are one file.

The paths of a group form a ring in the order of their bytes: the tree of links maps each path to the next, the last
to the first. So an item stays small whatever the group's size, and a group is found from any of its paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from store import limits, tree
from store.batch import Batch, Nodes
from store.cid import Cid
from store.errors import Corrupt
from store.nodes import LINKS, Item

Group = tuple[bytes, ...]  # the paths of one file, in order


def group(source: Nodes, root: Cid | None, path: bytes) -> Group:
    """Return all paths of the file at `path`: just that one if it has no other. Raises Corrupt if it is no ring."""
    if root is None:
        return (path,)
    found, down = [path], 0
    while True:
        item = tree.find(source, LINKS, root, found[-1])
        if item is None:
            if len(found) == 1:
                return (path,)
            raise Corrupt(root, "a hard link leads to a path that has none")
        following = item[1]
        # In a ring of sorted paths exactly one step goes down; a way that never comes back would go down for ever.
        down += following <= found[-1]
        if down > 1:
            raise Corrupt(root, "hard links do not form a ring")
        if following == path:
            return tuple(sorted(found))
        found.append(following)


def groups_below(source: Nodes, root: Cid | None, directory: bytes) -> Iterator[Group]:
    """Yield every group that has a path below `directory` (b"" for the whole tree), each once."""
    prefix = directory + b"/" if directory else b""
    seen: set[bytes] = set()
    for path, _ in tree.seek(source, LINKS, root, prefix):
        if not path.startswith(prefix):
            return
        if path not in seen:
            found = group(source, root, path)
            seen.update(found)
            yield found


def changed(batch: Batch, root: Cid | None, gone: Iterable[Group], new: Iterable[Group]) -> Cid | None:
    """Return the tree of links without the groups `gone` and with the groups `new` (those of one path are none).

    A group with a path over `link_path_bytes_max` is left out: its paths are then files of their own.
    """
    changes: dict[bytes, Item | None] = {path: None for paths in gone for path in paths}
    for paths in new:
        if len(paths) > 1 and max(map(len, paths)) <= limits.link_path_bytes_max:
            ring = sorted(paths)
            changes.update((path, [path, following]) for path, following in zip(ring, ring[1:] + ring[:1]))
    return tree.edit(batch, LINKS, root, changes)
