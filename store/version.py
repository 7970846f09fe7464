"""A Tree is what a CID that people pass around stands for; a Version is a Tree with its history."""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple

from store import cid as cids
from store import codec, directory, limits, links
from store import entry as entries
from store.batch import Batch, Nodes
from store.cid import Cid
from store.entry import Entry
from store.errors import BadCid, Corrupt, TooLarge, WrongKind
from store.nodes import FLAVORS

FORMAT = 1
_TIME_MAX = (1 << 63) - 1


class Tree(NamedTuple):
    """The root directory, and the tree of hard links (None: there are none)."""

    root: Entry
    links: Cid | None = None


class Version(NamedTuple):
    """`time` is in ns since 1970.

    `line` is the one of several `previous` that the name was at before: the others were merged into it.
    `tombstones` and `conflicts` are trees of marks on paths, see those modules. `origin` is the version that this one
    stands for since some before it were pruned; it is no link, and the store need not have it.
    """

    tree: Cid
    previous: frozenset[Cid]
    time: int
    author: str = ""
    message: str = ""
    line: Cid | None = None
    tombstones: Cid | None = None
    conflicts: Cid | None = None
    origin: Cid | None = None


def identity(cid: Cid, version: Version) -> Cid:
    """Return what a version has in common with those that stand for it since it was pruned."""
    return version.origin or cid


def put_tree(batch: Batch, tree: Tree) -> Cid:
    return batch.put_doc(_tree_doc(tree))


def put_version(batch: Batch, version: Version) -> Cid:
    """Raises TooLarge for more than `previous_max` previous versions."""
    if len(version.previous) > limits.previous_max:
        raise TooLarge(f"a version may have {limits.previous_max} previous ones at most")
    return batch.put_doc(_version_doc(version))


def _tree_doc(tree: Tree) -> codec.Doc:
    doc = {"type": "tree", "format": FORMAT, "root": entries.encode(tree.root)}
    if tree.links is not None:
        doc["links"] = tree.links
    return doc


def _version_doc(version: Version) -> codec.Doc:
    doc = {
        "type": "version",
        "format": FORMAT,
        "tree": version.tree,
        "previous": sorted(version.previous),
        "time": version.time,
    }
    if version.author:
        doc["author"] = version.author
    if version.message:
        doc["message"] = version.message
    links = (("line", version.line), ("tombstones", version.tombstones), ("conflicts", version.conflicts))
    doc.update((field, link) for field, link in links if link is not None)
    if version.origin is not None:
        doc["origin"] = bytes(version.origin)
    return doc


def load(source: Nodes, cid: Cid) -> Tree | Version:
    """Return the Tree or the Version `cid`. Raises NotFound, Corrupt, or WrongKind for any other block."""
    if not cid.is_node:
        raise WrongKind(f"{cid} is the content of a file, not a tree")
    doc = codec.decode(cid, source.get(cid))
    kind = doc.get("type") if isinstance(doc, dict) else None
    if kind not in ("tree", "version"):
        raise WrongKind(f"{cid} is {_what(doc)}, not a tree")
    found = doc.get("format")
    if type(found) is not int:
        raise Corrupt(cid, f"a {kind} breaks the format")
    if found != FORMAT:
        raise WrongKind(f"{cid} has format {found}; this monofs knows format {FORMAT}: use a newer monofs")
    return _tree(cid, doc) if kind == "tree" else _version(cid, doc)


def load_tree(source: Nodes, cid: Cid) -> Tree:
    """Return the Tree `cid`, or that of the Version `cid`."""
    found = load(source, cid)
    if isinstance(found, Version):
        found = load(source, found.tree)
    if not isinstance(found, Tree):
        raise Corrupt(cid, "a version of a version")
    return found


def load_version(source: Nodes, cid: Cid) -> Version:
    """Return the Version `cid`. Raises what `load` does, and WrongKind for a tree."""
    found = load(source, cid)
    if not isinstance(found, Version):
        raise WrongKind(f"{cid} is a tree without a history, not a version")
    return found


def tree_cid(source: Nodes, cid: Cid) -> Cid:
    """Return the CID of the tree that `cid` stands for: itself, or the tree of the version."""
    found = load(source, cid)
    return found.tree if isinstance(found, Version) else cid


def subtree(batch: Batch, tree: Tree, path: bytes) -> Tree:
    """Return the directory at `path` as a tree of its own. Raises NotFound, WrongKind if it is no directory.

    O(1), but for hard links that lead out of it: these lose the paths outside.
    """
    parts = directory.names(path)
    if not parts:
        return tree
    root = directory.resolve(batch, tree.root, path)
    if not root.is_dir:
        raise WrongKind(f"'{directory.printable(path)}' is a {root.kind}; only a directory can be mounted")
    prefix = b"/".join(parts)
    kept: list[links.Group] = []
    torn: dict[bytes, Entry] = {}
    for group in links.groups_below(batch, tree.links, prefix):
        inside = tuple(p[len(prefix) + 1 :] for p in group if p.startswith(prefix + b"/"))
        kept.append(inside)
        if len(inside) < len(group):
            torn.update((p, _linked(batch, tree, root, p)._replace(nlink=len(inside))) for p in inside)
    return Tree(directory.with_paths(batch, root, torn), links.changed(batch, None, (), kept))


def now() -> int:
    """Return the time for a new version in ns: SOURCE_DATE_EPOCH if it is set, so that builds can be repeated."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if re.fullmatch("[0-9]{1,18}", epoch):
        return min(int(epoch) * 10**9, _TIME_MAX)
    return time.time_ns()


def _linked(source: Nodes, tree: Tree, root: Entry, path: bytes) -> Entry:
    entry = directory.find(source, root, path)
    if entry is None or entry.is_dir:
        assert tree.links is not None
        raise Corrupt(tree.links, "a hard link's path leads to no file")
    return entry


def _tree(cid: Cid, doc: codec.Doc) -> Tree:
    tree = Tree(entries.decode(doc.get("root"), cid), doc.get("links"))
    if not tree.root.is_dir or not (tree.links is None or _is_node(tree.links)) or _tree_doc(tree) != doc:
        raise Corrupt(cid, "a tree breaks the format")
    return tree


def _version(cid: Cid, doc: codec.Doc) -> Version:
    previous, author, message = doc.get("previous"), doc.get("author", ""), doc.get("message", "")
    good = _is_node(doc.get("tree")) and isinstance(previous, list) and all(map(_is_node, previous))
    if not good or type(doc.get("time")) is not int or not (type(author) is type(message) is str):
        raise Corrupt(cid, "a version breaks the format")
    line, marks = doc.get("line"), (doc.get("tombstones"), doc.get("conflicts"))
    if len(previous) > limits.previous_max or not (line is None or (line in previous and len(previous) > 1)):
        raise Corrupt(cid, "a version breaks the format")
    if not all(mark is None or _is_node(mark) for mark in marks):
        raise Corrupt(cid, "a version breaks the format")
    origin = _origin(cid, doc.get("origin"))
    version = Version(doc["tree"], frozenset(previous), doc["time"], author, message, line, *marks, origin)
    if _version_doc(version) != doc:
        raise Corrupt(cid, "a version breaks the format")
    return version


def _origin(cid: Cid, value: codec.Doc) -> Cid | None:
    """Return the CID that a byte string says: `origin` keeps no block."""
    if value is None:
        return None
    try:
        origin = cids.checked(value) if type(value) is bytes else None
    except BadCid:
        origin = None
    if origin is None or not origin.is_node:
        raise Corrupt(cid, "a version breaks the format")
    return origin


def _is_node(value: object) -> bool:
    return isinstance(value, Cid) and value.is_node


def _what(doc: codec.Doc) -> str:
    if isinstance(doc, list) and len(doc) == 3 and isinstance(doc[0], str) and doc[0] in FLAVORS:
        return f"a node inside a {doc[0]} tree"
    return "some other node"
