"""What one tree has that another has not, as the tar archive of a layer: the opposite of laying a layer upon a tree."""

from __future__ import annotations

from typing import BinaryIO

from store import diff, directory, links
from store.batch import Batch
from store.entry import Entry
from store.errors import TooLarge
from store.nodes import good_name
from store.oci import layer, limits, overlay
from store.oci.layer import Folder, Inode
from store.progress import Skip
from store.tarball import write_tar
from store.version import Tree

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_EMPTY_FILE = Entry("file", 0o644)


def write_layer(batch: Batch, old: Tree | None, new: Tree, out: BinaryIO) -> tuple[Skip, ...]:
    """Write the layer that makes `new` of `old` (None: of nothing). Returns what a tar archive cannot hold.

    The same trees give the same bytes. Raises TooLarge for a name that cannot be taken away.
    """
    root = _between(batch, old, new)
    if old is not None and overlay.apply(batch, old, layer.seal(batch, root)) != new:
        root = _between(batch, None, new)  # should a difference ever be one that a layer cannot tell
        root.opaque = True
    _write_out_whiteouts(root)
    sealed = layer.seal(batch, root)
    return write_tar(batch, Tree(sealed.root, sealed.links), out).skipped


def _between(batch: Batch, old: Tree | None, new: Tree) -> Folder:
    work = _Between(batch, new)
    gone: bytes | None = None  # the directory that is gone; what was in it needs no word
    for difference in diff.compare(batch, None if old is None else old.root, new.root):
        path = difference.path
        if gone is not None and path.startswith(gone) and difference.new is None:
            continue
        if difference.new is None:
            work.remove(path)
        else:
            work.add(path, difference.new)
        was_dir = difference.old is not None and difference.old.is_dir
        if was_dir and (difference.new is None or not difference.new.is_dir):
            gone = path + b"/"
    for group in links.groups_below(batch, new.links, b""):
        before = () if old is None else links.group(batch, old.links, group[0])
        if group != before or any(path in work.added for path in group):
            work.link(group)
    return work.root


class _Between:
    def __init__(self, batch: Batch, new: Tree) -> None:
        self.root = Folder(diff.own(new.root))
        self.added: set[bytes] = set()
        self._batch, self._new = batch, new
        self._known: dict[bytes, tuple[Folder, Entry]] = {b"": (self.root, new.root)}

    def add(self, path: bytes, entry: Entry) -> None:
        if not path:
            return
        if len(path) > limits.path_bytes_max or path.count(b"/") >= limits.depth_max:
            raise TooLarge(
                f"a layer cannot hold paths of over {limits.depth_max} names or {limits.path_bytes_max} bytes"
            )
        above, name = self._above(path)
        if entry.is_dir:
            if not isinstance(above.children.get(name), Folder):
                above.children[name] = Folder(diff.own(entry))
        else:
            above.children[name] = Inode(entry)
            self.added.add(path)

    def remove(self, path: bytes) -> None:
        above, name = self._above(path)
        above.whiteouts.add(name)

    def link(self, group: links.Group) -> None:
        """Have all paths of a group in the layer, as one file."""
        inode = Inode(directory.resolve(self._batch, self._new.root, group[0]))
        inode.is_linked = True
        for path in group:
            above, name = self._above(path)
            above.children[name] = inode

    def _above(self, path: bytes) -> tuple[Folder, bytes]:
        """Return the directory of a path, with the metadata it has in the new tree, and the last name."""
        above, _, name = path.rpartition(b"/")
        missing: list[bytes] = []  # directories on the way that were not met yet, the deepest first
        while above not in self._known:
            missing.append(above)
            above = above.rpartition(b"/")[0]
        folder, entry = self._known[above]
        for at in reversed(missing):
            part = at.rpartition(b"/")[2]
            found = directory.lookup(self._batch, entry, part)
            assert found is not None, "what differs lies in a directory of the new tree"
            child = folder.children.get(part)
            if not isinstance(child, Folder):
                child = folder.children[part] = Folder(diff.own(found))
            folder, entry = child, found
            self._known[at] = folder, entry
        return folder, name


def _write_out_whiteouts(root: Folder) -> None:
    """Have whiteouts be files with their names, as archives have them."""
    todo = [root]
    while todo:
        folder = todo.pop()
        for name in sorted(folder.whiteouts):
            if not good_name(_WHITEOUT + name):
                raise TooLarge("a layer cannot take away a name of over 251 bytes")
            folder.children[_WHITEOUT + name] = Inode(_EMPTY_FILE)
        if folder.opaque:
            folder.children[_OPAQUE] = Inode(_EMPTY_FILE)
        folder.whiteouts, folder.opaque = set(), False
        todo += [child for child in folder.children.values() if isinstance(child, Folder)]
