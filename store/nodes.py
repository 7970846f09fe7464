"""The nodes of the one balanced tree that holds files, directories, hard links and marks, and how these differ.

A node is `[flavor, level, items]`. Level 0 is a leaf. An item of a higher level stands for a node one level down:
`[key, CID, totals...]`. All leaves are at the same depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from operator import lt
from typing import Any, Final, Protocol

import blake3

from store import codec, limits
from store.cid import Cid
from store.errors import Corrupt, WrongKind

Key = Any  # bytes (a name or path) or int (the offset where an item ends)
Item = list[Any]
Totals = tuple[int, ...]

LEVEL_MAX: Final = 24


class Flavor(Protocol):
    """What differs between the trees. Keys inside a node count from its `origin`, which is less than all of them."""

    name: str
    start: Key

    def keys(self, items: list[Item]) -> list[Key]: ...
    def relative(self, key: Key, origin: Key) -> Key: ...
    def absolute(self, key: Key, origin: Key) -> Key: ...
    def origin(self, origin: Key, keys: list[Key], index: int) -> Key: ...
    def after(self, key: Key) -> Key: ...
    def label(self, item: Item) -> bytes:
        """32 bytes, of which one decides whether a node may end behind this item."""
        ...

    def totals(self, level: int, items: list[Item]) -> Totals:
        """The sums that stand for these items one level up."""
        ...

    def summary(self, last: Item, totals: Totals, cid: Cid) -> Item:
        """Return the item that stands, one level up, for a node with these totals that ends with `last`."""
        ...

    def check(self, level: int, items: list[Item]) -> str | None:
        """Return what is wrong with items that came from outside; None if they are good."""
        ...


@dataclass(frozen=True, slots=True)
class Node:
    flavor: Flavor
    level: int
    items: list[Item]
    keys: list[Key]
    totals: Totals

    @classmethod
    def decode(cls, cid: Cid, data: bytes) -> Node:
        """Raises Corrupt, or WrongKind if `cid` is a good block but no node of a tree."""
        if not cid.is_node:
            raise WrongKind(f"{cid} holds plain bytes, not a node")
        doc = codec.decode(cid, data)
        if not (isinstance(doc, list) and len(doc) == 3 and isinstance(doc[0], str) and doc[0] in FLAVORS):
            raise WrongKind(f"{cid} is not a node of a file, a directory or a set of hard links")
        flavor, level, items = FLAVORS[doc[0]], doc[1], doc[2]
        if not (type(level) is int and 0 <= level <= LEVEL_MAX and isinstance(items, list) and items):
            raise Corrupt(cid, "a node needs a level and items")
        if problem := flavor.check(level, items):
            raise Corrupt(cid, problem)
        return cls(flavor, level, items, flavor.keys(items), flavor.totals(level, items))


def encode(flavor: Flavor, level: int, encoded_items: list[bytes]) -> bytes:
    head = b"\x83" + codec.encode(flavor.name) + codec.encode(level)
    return b"".join((head, codec.array_header(len(encoded_items)), *encoded_items))


class _Named:
    """Items in the order of their first field, which is bytes."""

    start = b""
    totals_count = 0
    key_bytes_max = limits.name_bytes_max

    def keys(self, items: list[Item]) -> list[Key]:
        return [item[0] for item in items]

    def relative(self, key: Key, origin: Key) -> Key:
        return key

    def absolute(self, key: Key, origin: Key) -> Key:
        return key

    def origin(self, origin: Key, keys: list[Key], index: int) -> Key:
        return keys[index - 1] if index else origin

    def after(self, key: Key) -> Key:
        return key + b"\0"

    def label(self, item: Item) -> bytes:
        return blake3.blake3(item[0]).digest()

    def totals(self, level: int, items: list[Item]) -> Totals:
        return ()

    def summary(self, last: Item, totals: Totals, cid: Cid) -> Item:
        return [last[0], cid, *totals]

    def check(self, level: int, items: list[Item]) -> str | None:
        last = None
        for item in items:
            if not (isinstance(item, list) and len(item) >= 2 and type(item[0]) is bytes):
                return "an item needs a key and a value"
            if last is not None and item[0] <= last:
                return "keys are not in order"
            last = item[0]
            if len(last) > self.key_bytes_max:
                return "a key is too long"
            problem = self.check_leaf(item) if level == 0 else self.check_inner(item)
            if problem:
                return problem
        return None

    def check_inner(self, item: Item) -> str | None:
        numbers = item[2:]
        if not _is_node(item[1]) or len(numbers) != self.totals_count or not all(map(_is_amount, numbers)):
            return "an inner item needs a link to a node and its totals"
        return None

    def check_leaf(self, item: Item) -> str | None:
        raise NotImplementedError


class Directory(_Named):
    """`[name, entry]`; totals are (entries, bytes, subdirectories), the first two counted through all depths."""

    name = "dir"
    totals_count = 3

    def totals(self, level: int, items: list[Item]) -> Totals:
        if level:
            return _sums(sum(i[2] for i in items), sum(i[3] for i in items), sum(i[4] for i in items))
        entries, size, directories = len(items), 0, 0
        for _, entry in items:
            if entry.get("kind") == "dir":
                below = entry.get("total", (0, 0, 0))
                entries += below[0]
                size += below[1]
                directories += 1
            else:
                size += entry.get("size", 0)
        return _sums(entries, size, directories)

    def check(self, level: int, items: list[Item]) -> str | None:
        if level == 0 and _are_plainly_entries(items):  # as nearly always: reading is mostly this
            return None
        return super().check(level, items)

    def check_leaf(self, item: Item) -> str | None:
        if not good_name(item[0]):
            return f"bad file name {item[0][:80]!r}"
        if len(item) != 2 or not isinstance(item[1], dict):
            return "an entry is not a map"
        entry = item[1]
        if not _is_amount(entry.get("size", 0)):
            return "a size is not a number"
        if entry.get("kind") == "dir":
            total = entry.get("total", [0, 0, 0])
            if not (isinstance(total, list) and len(total) == 3 and all(map(_is_amount, total))):
                return "a directory's totals are not three numbers"
        return None


class Links(_Named):
    """`[path, next path of the same file]`: the paths of a hard-linked file form a ring in byte order."""

    name = "links"
    key_bytes_max = limits.link_path_bytes_max

    def check_leaf(self, item: Item) -> str | None:
        for path in item:
            if type(path) is not bytes or not path or not all(map(good_name, path.split(b"/"))):
                return "a bad path"
        return None if len(item) == 2 else "a link needs two paths"


class Marks(_Named):
    """`[path, map]`: what a version says about paths, beside its tree. What the map says is for others to check."""

    key_bytes_max = limits.link_path_bytes_max

    def __init__(self, name: str) -> None:
        self.name = name

    def check_leaf(self, item: Item) -> str | None:
        if not item[0] or not all(map(good_name, item[0].split(b"/"))):
            return "a bad path"
        return None if len(item) == 2 and isinstance(item[1], dict) else "a mark needs a path and a map"


class FileContent:
    """`[length, CID of a chunk]`, or `[length, null]` for a hole; totals are (length, bytes in holes)."""

    name = "file"
    start = 0

    def keys(self, items: list[Item]) -> list[Key]:
        return list(accumulate(item[0] for item in items))

    def relative(self, key: Key, origin: Key) -> Key:
        return key - origin

    def absolute(self, key: Key, origin: Key) -> Key:
        return origin + key

    def origin(self, origin: Key, keys: list[Key], index: int) -> Key:
        return origin + keys[index - 1] if index else origin

    def after(self, key: Key) -> Key:
        return key + 1

    def label(self, item: Item) -> bytes:
        return _HOLE_LABEL if item[1] is None else item[1][4:]

    def totals(self, level: int, items: list[Item]) -> Totals:
        length = sum(item[0] for item in items)
        if level:
            return length, sum(item[2] for item in items)
        return length, sum(item[0] for item in items if item[1] is None)

    def summary(self, last: Item, totals: Totals, cid: Cid) -> Item:
        length, holes = totals
        return [length, cid, holes]

    def check(self, level: int, items: list[Item]) -> str | None:
        length = 0
        for item in items:
            if not (isinstance(item, list) and len(item) == (3 if level else 2) and _is_amount(item[0]) and item[0]):
                return "an item needs a length and a link"
            if level:
                if not (_is_node(item[1]) and _is_amount(item[2]) and item[2] <= item[0]):
                    return "an inner item needs a link to a node and the bytes in holes"
            elif item[1] is not None and not (type(item[1]) is Cid and not item[1].is_node):
                return "a chunk is not a link to bytes"
            length += item[0]
        return "a file is too long" if length > limits.file_bytes_max else None


DIRECTORY: Final = Directory()
LINKS: Final = Links()
FILE: Final = FileContent()
TOMBSTONES: Final = Marks("tombstones")
CONFLICTS: Final = Marks("conflicts")
FLAVORS: Final[dict[Any, Flavor]] = {f.name: f for f in (DIRECTORY, LINKS, FILE, TOMBSTONES, CONFLICTS)}
_NO_TOTAL: Final = [0, 0, 0]
_HOLE_LABEL: Final = b"\xff" * 32


def good_name(name: bytes) -> bool:
    """True for what one directory entry may be called."""
    return 0 < len(name) <= limits.name_bytes_max and name not in (b".", b"..") and not (b"/" in name or b"\0" in name)


def _are_plainly_entries(items: list[Item]) -> bool:
    """True only if `check_leaf` has nothing against any of them and their names are in order.

    False says nothing; then they are looked at one by one.
    """
    if set(map(type, items)) != {list} or set(map(len, items)) != {2}:
        return False
    names, entries = zip(*items, strict=True)
    if set(map(type, names)) != {bytes} or set(map(type, entries)) != {dict} or not all(map(lt, names, names[1:])):
        return False
    joined = b"".join(names)
    if b"/" in joined or b"\0" in joined or not names[0] or b"." in names or b".." in names:
        return False
    if max(map(len, names)) > limits.name_bytes_max:
        return False
    amounts = [entry.get("size", 0) for entry in entries]
    for entry in entries:
        if entry.get("kind") == "dir":
            total = entry.get("total", _NO_TOTAL)
            if type(total) is not list or len(total) != 3:
                return False
            amounts += total
    return set(map(type, amounts)) == {int} and min(amounts) >= 0 and max(amounts) <= limits.file_bytes_max


def _sums(*amounts: int) -> Totals:
    """Sums stop at the limit: a few sparse files can be larger together than any number we store."""
    return tuple(min(amount, limits.file_bytes_max) for amount in amounts)


def _is_amount(value: object) -> bool:
    return type(value) is int and 0 <= value <= limits.file_bytes_max


def _is_node(value: object) -> bool:
    return type(value) is Cid and value.is_node
