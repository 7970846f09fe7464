"""A Layer: what one tar archive of an image adds and takes away, stored apart from the layers below it.

So layers are fetched side by side, and a layer that many images share is read once, whatever they lay it upon.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from store import codec, directory, entry, links, tree
from store.batch import Batch, Nodes
from store.cid import Cid
from store.directory import printable
from store.entry import Entry
from store.errors import Corrupt, WrongKind
from store.nodes import LINKS
from store.oci import limits
from store.oci.errors import BadImage

FORMAT: Final = 1

# What `marks` says about a path. They have the form of paths, since a tree of links holds them.
WHITEOUT: Final = b"whiteout"  # the layers below have this path no more
OPAQUE: Final = b"opaque"  # nor anything in this directory
IMPLICIT: Final = b"implicit"  # a directory that no entry was about: one below keeps its metadata
LINK: Final = b"link/"  # and the path: a hard link to a file of the layers below


class Layer(NamedTuple):
    """`root` is what the archive holds; `links` its hard links among themselves; `marks` what concerns those below.

    `bare`: no entry was about the root; `opaque`: it hides the root below.
    """

    root: Entry
    links: Cid | None = None
    marks: Cid | None = None
    bare: bool = False
    opaque: bool = False


EMPTY_ROOT: Final = Entry("dir", 0o755)


def put(batch: Batch, layer: Layer) -> Cid:
    return batch.put_doc(_doc(layer))


def _doc(layer: Layer) -> codec.Doc:
    doc: dict[str, Any] = {"type": "layer", "format": FORMAT, "root": entry.encode(layer.root)}
    if layer.links is not None:
        doc["links"] = layer.links
    if layer.marks is not None:
        doc["marks"] = layer.marks
    if layer.bare:
        doc["bare"] = True
    if layer.opaque:
        doc["opaque"] = True
    return doc


def load(source: Nodes, cid: Cid) -> Layer:
    """Raises NotFound, Corrupt, WrongKind."""
    doc = codec.decode(cid, source.get(cid)) if cid.is_node else None
    if not isinstance(doc, dict) or doc.get("type") != "layer":
        raise WrongKind(f"{cid} is no layer of an image")
    if doc.get("format") != FORMAT:
        raise WrongKind(f"the layer {cid} has a format that this monofs does not know: use a newer one")
    layer = Layer(
        entry.decode(doc.get("root"), cid),
        doc.get("links"),
        doc.get("marks"),
        bool(doc.get("bare")),
        bool(doc.get("opaque")),
    )
    trees = (layer.links, layer.marks)
    if not layer.root.is_dir or not all(cid is None or isinstance(cid, Cid) for cid in trees) or _doc(layer) != doc:
        raise Corrupt(cid, "a layer breaks the format")
    return layer


class Marks(NamedTuple):
    """The marks of a layer by what they say; `hard` is path -> path of a file below."""

    whiteouts: tuple[bytes, ...]
    opaque: tuple[bytes, ...]
    implicit: frozenset[bytes]
    hard: tuple[tuple[bytes, bytes], ...]


def read_marks(source: Nodes, layer: Layer) -> Marks:
    whiteouts, opaque, implicit, hard = [], [], [], []
    for path, item in tree.items(source, LINKS, layer.marks):
        mark: bytes = item[1]
        if mark.startswith(LINK):
            hard.append((path, mark[len(LINK) :]))
        else:
            words = mark.split(b"/")
            whiteouts += [path] * (WHITEOUT in words)
            opaque += [path] * (OPAQUE in words)
            implicit += [path] * (IMPLICIT in words)
    if layer.opaque:
        opaque.append(b"")
    if layer.bare:
        implicit.append(b"")
    return Marks(tuple(whiteouts), tuple(opaque), frozenset(implicit), tuple(hard))


class Steps:
    """What following symbolic links may cost in one layer: each name on the way is a step."""

    def __init__(self) -> None:
        self._left = limits.link_steps_max

    def follow(self, target: bytes, followed: int, path: bytes) -> list[bytes]:
        """Return the names of a link's target, the last first; `followed` links came before. Raises BadImage."""
        names = [name for name in target.split(b"/") if name not in (b"", b".")]
        self._left -= 1 + len(names)
        if followed == limits.symlinks_max or self._left < 0:
            raise BadImage(f"too many symbolic links on the way to '{printable(path)}'")
        return names[::-1]


# A layer that is being made


class Inode:
    """A file; `is_linked` once it may have more than one name."""

    __slots__ = ("entry", "is_linked")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.is_linked = False


class Below(NamedTuple):
    """A name for a file that the layers below have at `path`."""

    path: bytes


class Folder:
    """A directory; `entry` is None until an entry of the archive is about it."""

    __slots__ = ("children", "entry", "opaque", "whiteouts")

    def __init__(self, entry: Entry | None = None) -> None:
        self.entry = entry
        self.children: dict[bytes, Folder | Inode | Below] = {}
        self.whiteouts: set[bytes] = set()
        self.opaque = False


def seal(batch: Batch, root: Folder) -> Layer:
    """Put what was gathered into the batch. Directories that only hold whiteouts leave nothing but marks."""
    marks: dict[bytes, bytes] = {}
    groups: dict[int, tuple[Inode, list[bytes]]] = {}
    for path, folder in _folders(root):
        _mark(path, folder, marks)
        for name, child in folder.children.items():
            if isinstance(child, Inode) and child.is_linked:
                groups.setdefault(id(child), (child, []))[1].append(_joined(path, name))
    for inode, paths in groups.values():
        inode.entry = inode.entry._replace(nlink=len(paths))
    top = _built(batch, root)
    linked = links.changed(batch, None, (), (tuple(paths) for _, paths in groups.values() if len(paths) > 1))
    items = ((path, [path, mark]) for path, mark in sorted(marks.items()) if path)
    return Layer(
        top or (root.entry or EMPTY_ROOT),
        linked,
        tree.build(batch, LINKS, items),
        bare=root.entry is None,
        opaque=root.opaque,
    )


def _mark(path: bytes, folder: Folder, marks: dict[bytes, bytes]) -> None:
    words: list[bytes] = []
    if path in marks:  # the directory above has a whiteout for this name
        words.append(marks[path])
    if folder.entry is None:
        words.append(IMPLICIT)
    if folder.opaque:
        words.append(OPAQUE)
    if words:
        marks[path] = b"/".join(words)
    for name in folder.whiteouts:
        marks[_joined(path, name)] = WHITEOUT
    for name, child in folder.children.items():
        if isinstance(child, Below):
            marks[_joined(path, name)] = LINK + child.path


def _folders(root: Folder) -> Iterator[tuple[bytes, Folder]]:
    """Yield every directory, one above before those in it."""
    stack = [(b"", root)]
    while stack:
        path, folder = stack.pop()
        yield path, folder
        stack += [(_joined(path, name), child) for name, child in folder.children.items() if isinstance(child, Folder)]


def _built(batch: Batch, root: Folder) -> Entry | None:
    """Store the directories, the deepest first; None for one of which nothing is left."""
    made: dict[int, Entry | None] = {}
    order = [root]
    for folder in order:  # which grows as it goes
        order += [child for child in folder.children.values() if isinstance(child, Folder)]
    for folder in reversed(order):
        builder = directory.Builder(batch)
        is_empty = True
        for name, child in sorted(folder.children.items(), key=lambda pair: pair[0]):
            if isinstance(child, Below):
                is_empty = False  # it will be there
                continue
            found = child.entry if isinstance(child, Inode) else made.pop(id(child))
            if found is not None:
                is_empty = False
                builder.add(name, found)
        unwanted = folder.entry is None and is_empty
        made[id(folder)] = None if unwanted else builder.finish(folder.entry or EMPTY_ROOT)
    return made[id(root)]


def _joined(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
