"""Conflicts: the places where a merge could not know what its two sides wanted, until somebody says they are resolved.

A tree of marks in the Version, so a conflict goes wherever the tree goes: into forks, other merges, another store. A
record beside the name would be left behind, and an old version could not tell that it had some.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from store import codec, directory, limits, tree, version
from store.batch import Batch, Nodes
from store.cid import Cid
from store.errors import Corrupt
from store.nodes import CONFLICTS, Item, good_name
from store.version import Version

KINDS: Final = {
    "content": "both changed it; the other's is in the copy",
    "kind": "both changed what kind of file it is; the other's is in the copy",
    "deleted": "one deleted it and the other changed it; it was kept",
    "metadata": "both changed the same metadata; the newer version's was taken",
    "renamed": "one renamed it and the other deleted it or renamed it too; all were kept",
    "links": "what was one file with several names is several files now",
}


class Conflict(NamedTuple):
    """`kind` is one of KINDS. `stands` and `other` say whose what is at `path` is, and whose came second.

    `copy` is the path where the other's content is, `detail` which fields or paths it is about.
    """

    kind: str
    stands: str
    other: str
    copy: bytes | None = None
    detail: str = ""


Conflicts = Mapping[bytes, Conflict]


def below(source: Nodes, root: Cid | None, path: bytes = b"") -> Iterator[tuple[bytes, Conflict]]:
    """Yield (path, conflict), in order, of `path` and what is below it; b"" is everything."""
    if root is None:
        return
    prefix = path + b"/" if path else b""
    own = tree.find(source, CONFLICTS, root, path) if path else None
    if own is not None:
        yield path, _decode(own, root)
    for key, item in tree.seek(source, CONFLICTS, root, prefix):
        if not key.startswith(prefix):
            return
        yield key, _decode(item, root)


def after(batch: Batch, before: Sequence[Version], new: Cid, more: Conflicts | None = None) -> Cid | None:
    """Return the conflicts of a version of the tree `new`: those of `before` that are not resolved in it, and `more`.

    One is resolved when its file is gone, or the copy of the other's content is.
    """
    root = version.load_tree(batch, new).root
    left = {path: one for version_ in before for path, one in below(batch, version_.conflicts)}
    left = {
        path: one
        for path, one in left.items()
        if directory.find(batch, root, path) is not None
        and (one.copy is None or directory.find(batch, root, one.copy) is not None)
    }
    return put(batch, {**left, **(more or {})})


def put(batch: Batch, conflicts: Conflicts) -> Cid | None:
    """Return a tree of conflicts; None if there are none. One at a path over `link_path_bytes_max` is left out."""
    fitting = sorted((path, one) for path, one in conflicts.items() if 0 < len(path) <= limits.link_path_bytes_max)
    return tree.build(batch, CONFLICTS, ((path, [path, _encode(one)]) for path, one in fitting))


def without(batch: Batch, root: Cid | None, paths: Iterable[bytes]) -> Cid | None:
    """Return the conflicts without those at these paths, which must be there."""
    return tree.edit(batch, CONFLICTS, root, dict.fromkeys(paths))


def _encode(one: Conflict) -> codec.Doc:
    doc: codec.Doc = {"kind": one.kind, "stands": one.stands, "other": one.other}
    if one.copy is not None:
        doc["copy"] = one.copy
    if one.detail:
        doc["detail"] = one.detail
    return doc


def _decode(item: Item, leaf: Cid) -> Conflict:
    doc = item[1]
    try:
        found = Conflict(doc["kind"], doc["stands"], doc["other"], doc.get("copy"), doc.get("detail", ""))
        texts = all(type(text) is str for text in (found.kind, found.stands, found.other, found.detail))
        path = found.copy is None or (type(found.copy) is bytes and all(map(good_name, found.copy.split(b"/"))))
        if texts and found.kind in KINDS and path and _encode(found) == doc:
            return found
    except (KeyError, TypeError):
        pass
    raise Corrupt(leaf, "a conflict breaks the format")
