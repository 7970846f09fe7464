"""The whereabouts of blocks: by which names, and at which paths, they are needed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from store import codec, lease, limits, names, repository
from store.cid import Cid
from store.directory import printable
from store.errors import Corrupt, StoreError
from store.ledger import RECORD_CID
from store.nodes import DIRECTORY, Node
from store.oci import images
from store.tables import Tables


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block is needed. `root` is a name, a pinned CID, or who else holds it; `path` lies in its tree."""

    root: str
    path: bytes

    def __str__(self) -> str:
        return f"{self.root}/{printable(self.path)}" if self.path else self.root


def places_of(tables: Tables, bad: frozenset[Cid]) -> dict[Cid, tuple[Place, ...]]:
    """Return the first few places of each bad block."""
    places: dict[Cid, list[Place]] = {cid: [] for cid in bad}
    if bad:
        above = _above(tables, bad)
        for root, starts in sorted(_roots(tables), key=_people_first):
            _walk(tables, root, starts, above, places)
    return {cid: tuple(found) for cid, found in places.items()}


def _above(tables: Tables, bad: frozenset[Cid]) -> set[Cid]:
    """Return the bad blocks and every node from which a root leads to one."""
    above, below = set(bad), set[Cid]()  # `below`: nodes with nothing bad under them
    for _, starts in _roots(tables):
        stack = [(RECORD_CID, iter(starts))]
        while stack:
            cid, links = stack[-1]
            for link in links:
                if link in above:
                    above.add(cid)
                elif link.is_node and link not in below:
                    stack.append((link, iter(codec.links(link, tables.load(link)()))))
                    break
            else:
                stack.pop()
                if cid not in above:
                    below.add(cid)
                elif stack:
                    above.add(stack[-1][0])
    return above


def _walk(tables: Tables, root: str, starts: Iterable[Cid], above: set[Cid], places: dict[Cid, list[Place]]) -> None:
    """Add the places of bad blocks below `starts`; of a tree that several versions share, those in the newest."""
    seen: set[tuple[Cid, bytes]] = set()
    todo = deque((start, root, b"") for start in starts)
    while todo:
        cid, label, path = todo.popleft()
        if cid not in above or (cid, path) in seen:
            continue
        seen.add((cid, path))
        if cid not in places:
            todo.extend(_below(root, label, path, cid, tables.load(cid)()))
        elif len(places[cid]) <= limits.check_places_max:
            places[cid].append(Place(label, path))


def _below(root: str, label: str, path: bytes, cid: Cid, data: bytes) -> Iterator[tuple[Cid, str, bytes]]:
    """Yield each link of a node, with the root and path that it belongs to."""
    doc = codec.decode(cid, data)
    if isinstance(doc, dict) and doc.get("type") == "version":
        previous = doc.get("previous")
        for link in sorted(codec.links(cid, data)):
            is_previous = isinstance(previous, list) and link in previous
            yield link, f"{root} (version {link})" if is_previous else label, path
        return
    leaf = _directory_leaf(cid, data)
    if leaf is None:
        yield from ((link, label, path) for link in sorted(codec.links(cid, data)))
        return
    for name, entry in leaf.items:
        here = path + b"/" + name if path else name
        yield from ((value, label, here) for value in entry.values() if isinstance(value, Cid))


def _directory_leaf(cid: Cid, data: bytes) -> Node | None:
    try:
        node = Node.decode(cid, data)
    except StoreError:
        return None
    return node if node.flavor is DIRECTORY and node.level == 0 else None


def _roots(tables: Tables) -> Iterator[tuple[str, list[Cid]]]:
    """Yield what people call each root, and what it refers to, the newest first."""
    for key, record in tables.roots():
        try:
            links = sorted(codec.links_of_record(RECORD_CID, record))
            if key.startswith(repository.NAME):
                version = names.decode(record).version
                links.sort(key=lambda link, version=version: link == version)  # type: ignore[misc]
            yield _called(key, record), links
        except Corrupt:
            continue


def _called(key: bytes, record: bytes) -> str:
    if key.startswith(lease.PREFIX):
        return _MOUNT + printable(os.fsencode(lease.decode(key, record).mountpoint))
    for prefix in (repository.NAME, repository.PIN, images.IMAGE):
        if key.startswith(prefix):
            return printable(key[len(prefix) :])
    return _HELD + printable(key)


_MOUNT: Final = "the mount on "
_HELD: Final = "what is held by "


def _people_first(root: tuple[str, list[Cid]]) -> tuple[bool, str]:
    return root[0].startswith((_MOUNT, _HELD)), root[0]
