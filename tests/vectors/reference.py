"""Format v1 once more, from the text of store/FORMAT.md alone: plain Python, `dag_cbor` and `multiformats`, no monofs.

Slow and simple. `python -m tests.vectors.reference` writes what it makes to vectors.json, which the store is held to.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import dag_cbor
from blake3 import blake3
from multiformats import CID, multihash

HERE = Path(__file__).parent
VECTORS = HERE / "vectors.json"
GEAR = [int(number, 16) for number in (HERE / "gear.txt").read_text().split()]
HASHES: dict[str, Callable[[bytes], bytes]] = {
    "blake3": lambda data: blake3(data).digest(),
    "sha2-256": lambda data: sha256(data).digest(),
}
Blocks = dict[str, bytes]  # CID as text -> block, children before parents


@functools.cache
def made_up(what: str, size: int) -> bytes:
    """Bytes that look random and are the same in any language: SHA-256 of `what` and a counter, one after another."""
    head = what.encode()
    return b"".join(sha256(head + n.to_bytes(8, "big")).digest() for n in range(-(-size // 32)))[:size]


# Chunks and holes


def fastcdc(data: bytes, minimum: int = 16384, average: int = 65536, maximum: int = 262144) -> Iterator[int]:
    """Yield the lengths of the chunks."""
    bits = average.bit_length() - 1
    center = average - min(average, minimum + (minimum + 1) // 2)
    at = 0
    while at < len(data):
        end = min(maximum, len(data) - at)
        length, pattern = end, 0
        for i in range(minimum, end):
            pattern = (pattern >> 1) + GEAR[data[at + i]]
            if pattern % (1 << (bits + 1 if i < center else bits - 1)) == 0:
                length = i + 1
                break
        yield length
        at += length


@functools.cache
def pieces(data: bytes) -> list[tuple[int, bytes | None]]:
    """Return (length, bytes) of each chunk and (length, None) of each hole."""
    found: list[tuple[int, bytes | None]] = []
    at = 0
    for run in [*re.finditer(rb"\0{65536,}", data), None]:
        body, start = data[at : run.start() if run else len(data)], 0
        for length in fastcdc(body):
            found.append((length, body[start : start + length]))
            start += length
        if run:
            found.append((run.end() - run.start(), None))
            at = run.end()
    return found


# Nodes


class Maker:
    """Makes blocks with one hash function and keeps them."""

    def __init__(self, hash_name: str) -> None:
        self.hash = hash_name
        self.blocks: Blocks = {}

    def put(self, codec: str, data: bytes) -> CID:
        cid = CID("base32", 1, codec, multihash.wrap(HASHES[self.hash](data), self.hash))
        self.blocks.setdefault(str(cid), data)
        return cid

    def raw(self, data: bytes) -> CID:
        return self.put("raw", data)

    def node(self, doc: Any) -> CID:
        return self.put("dag-cbor", dag_cbor.encode(doc))

    def tree(self, name: str, items: list[Any]) -> CID:
        """Return the root over the leaves' items."""
        level = 0
        while True:
            groups = cut(name, level, items)
            made = [(group, self.node([name, level, group])) for group in groups]
            if len(made) == 1:
                return made[0][1]
            items = [above(name, level, group, cid) for group, cid in made]
            level += 1

    def file(self, data: bytes) -> dict[str, Any]:
        """Return what an entry says about this content."""
        found = pieces(data)
        holes = sum(length for length, body in found if body is None)
        content: dict[str, Any] = {"size": len(data), "holes": holes}
        if len(found) > 1:
            items = [[length, None if body is None else self.raw(body)] for length, body in found]
            content["data"] = self.tree("file", items)
        elif found and found[0][1] is not None:
            content["data"] = data if len(data) <= 128 else self.raw(data)
        return {key: value for key, value in content.items() if value}

    def directory(self, names: dict[bytes, Any], **metadata: Any) -> dict[str, Any]:
        """Return the entry of a directory."""
        entry = {"kind": "dir", "mode": 0o755, "mtime": 0, **metadata}
        if names:
            items = [[name, names[name]] for name in sorted(names)]
            entry |= {"data": self.tree("dir", items), "total": sums("dir", 0, items)}
        return entry

    def links(self, groups: list[list[bytes]]) -> CID:
        following = {}
        for paths in map(sorted, groups):
            following |= dict(zip(paths, paths[1:] + paths[:1]))
        return self.tree("links", [[path, following[path]] for path in sorted(following)])


def cut(name: str, level: int, items: list[Any]) -> list[list[Any]]:
    """Cut a level's items into nodes."""
    nodes: list[list[Any]] = [[]]
    size = 0
    for item in items:
        if nodes[-1] and ends(name, level, nodes[-1], size):
            nodes.append([])
            size = 0
        nodes[-1].append(item)
        size += len(dag_cbor.encode(item))
    return nodes


def ends(name: str, level: int, items: list[Any], size: int) -> bool:
    count = len(items)
    return (count >= 2 and size >= 65536) or (count >= 32 and label(name, items[-1])[level] % 64 == 0)


def label(name: str, item: Any) -> bytes:
    if name != "file":
        return blake3(item[0]).digest()
    return b"\xff" * 32 if item[1] is None else item[1].raw_digest


def above(name: str, level: int, items: list[Any], cid: CID) -> list[Any]:
    """Return the item that stands for a node one level up."""
    totals = sums(name, level, items)
    return [totals[0], cid, totals[1]] if name == "file" else [items[-1][0], cid, *totals]


def sums(name: str, level: int, items: list[Any]) -> list[int]:
    if name not in ("file", "dir"):
        return []
    if level:
        columns = [0, 2] if name == "file" else [2, 3, 4]
        found = [sum(item[n] for item in items) for n in columns]
    elif name == "file":
        found = [sum(item[0] for item in items), sum(item[0] for item in items if item[1] is None)]
    else:
        below = [entry.get("total", [0, 0, 0]) for _, entry in items if entry.get("kind") == "dir"]
        size = sum(entry.get("size", 0) for _, entry in items if entry.get("kind") != "dir")
        found = [len(items) + sum(t[0] for t in below), size + sum(t[1] for t in below), len(below)]
    return [min(number, 2**63 - 1) for number in found]


# Vectors

HOLE = 65536
CONTENTS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "hello": lambda: b"hello\n",
    "128 bytes": lambda: made_up("small", 128),
    "129 bytes": lambda: made_up("small", 129),
    "65535 zeros": lambda: bytes(HOLE - 1),
    "65536 zeros": lambda: bytes(HOLE),
    "one chunk": lambda: made_up("one chunk", 16385),
    "255 times a megabyte": lambda: b"\xff" * 1_000_000,
    "a megabyte": lambda: made_up("a megabyte", 1_000_000),
    "holes": lambda: b"".join(
        (made_up("head", 100_000), bytes(HOLE), b"x", bytes(HOLE - 1), made_up("tail", 50_000), bytes(HOLE + 1))
    ),
    "many holes": lambda: b"".join(bytes((n, n)) + bytes(HOLE) for n in range(1, 256)),
}
MTIME = 1_700_000_000_123_456_789


def contents(make: Maker) -> dict[str, Any]:
    return {name: make.file(content()) for name, content in CONTENTS.items()}


def small_tree(make: Maker) -> CID:
    """Every kind of entry, a hard link and attributes of both sizes."""
    twin = {"mode": 0o600, "mtime": MTIME, "nlink": 2, **make.file(b"two names\n")}
    large = make.node([[b"user.large", made_up("attribute", 600)]])
    below = make.directory({b"twin": twin, b"\xff\xfe": {"mode": 0o644, "mtime": -1}}, mode=0o1777, mtime=MTIME)
    root = make.directory(
        {
            b"README": {"mode": 0o644, "mtime": MTIME, "uid": 1000, "gid": 100, **make.file(b"hello\n")},
            b"block": {"kind": "block", "mode": 0o660, "mtime": MTIME, "rdev": [8, 1]},
            b"char": {"kind": "char", "mode": 0o666, "mtime": MTIME, "rdev": [1, 3]},
            b"data": {"mode": 0o644, "mtime": MTIME, **make.file(CONTENTS["holes"]())},
            b"dir": below,
            b"empty": make.directory({}, mtime=MTIME),
            b"fifo": {"kind": "fifo", "mode": 0o600, "mtime": MTIME},
            b"link": {"kind": "symlink", "mode": 0o777, "mtime": MTIME, "size": 6, "data": b"README"},
            b"noted": {"mode": 0o644, "mtime": MTIME, "xattrs": [[b"user.a", b"1"], [b"user.b", b""]]},
            b"setuid": {"mode": 0o4755, "mtime": MTIME},
            b"socket": {"kind": "socket", "mode": 0o755, "mtime": MTIME},
            b"sparse": {"mode": 0o644, "mtime": MTIME, "size": 1 << 40, "holes": 1 << 40},
            b"tagged": {"mode": 0o644, "mtime": MTIME, "xattrs": large},
            b"twin": twin,
        },
        mtime=MTIME,
    )
    links = make.links([[b"twin", b"dir/twin"]])
    return make.node({"type": "tree", "format": 1, "root": root, "links": links})


def empty_tree(make: Maker) -> CID:
    return make.node({"type": "tree", "format": 1, "root": make.directory({})})


def hand_tree(make: Maker) -> CID:
    """The example that FORMAT.md takes apart."""
    hello = {"mode": 0o644, "mtime": 0, **make.file(b"hi\n")}
    return make.node({"type": "tree", "format": 1, "root": make.directory({b"hello": hello})})


def large_directory(make: Maker) -> dict[str, Any]:
    names = {b"file-%05d" % n: {"mode": 0o644, "mtime": n, **make.file(b"%d" % n)} for n in range(4000)}
    return make.directory(names)


def large_links(make: Maker) -> CID:
    return make.links([[b"a/%03d" % n, b"b/%03d" % (299 - n), b"c/%03d" % (n * 7 % 300)] for n in range(300)])


def marks(make: Maker) -> dict[str, CID]:
    """What can be said about paths beside a tree."""
    scratch = Maker(make.hash)  # of what was deleted nothing is left but CIDs
    hello = {"mode": 0o644, "mtime": MTIME, "nlink": 2, **scratch.file(CONTENTS["one chunk"]())}
    was = {key: value for key, value in hello.items() if key != "nlink"} | {"mtime": 0}
    inside = scratch.directory({b"%03d" % n: {"mode": 0, "mtime": n} for n in range(300)}, mtime=7)
    tombstones = {b"dir/%03d" % n: {"time": MTIME, "was": would_be(make, {"mode": 0, "mtime": 0})} for n in range(300)}
    tombstones[b"dir"] = {
        "time": MTIME, "kind": "dir", "was": would_be(make, {"kind": "dir", "mode": 0o755, "mtime": 0}),
        "content": bytes(inside["data"]),
    }  # fmt: skip
    tombstones[b"hello"] = {"time": -1, "was": would_be(make, was), "size": 16385, "content": bytes(hello["data"])}
    conflicts = {
        b"a": {"kind": "content", "stands": "ours", "other": "theirs", "copy": b"a~theirs"},
        b"dir/b": {"kind": "metadata", "stands": "ä", "other": "", "detail": "mode"},
    }
    return {
        name: make.tree(name, [[path, found[path]] for path in sorted(found)])
        for name, found in (("tombstones", tombstones), ("conflicts", conflicts))
    }


def would_be(make: Maker, entry: dict[str, Any]) -> bytes:
    """Return the CID of an entry that is no block."""
    return bytes(CID("base32", 1, "dag-cbor", multihash.wrap(HASHES[make.hash](dag_cbor.encode(entry)), make.hash)))


def versions(make: Maker) -> list[CID]:
    tree = empty_tree(make)
    first = make.node({"type": "version", "format": 1, "tree": tree, "previous": [], "time": MTIME})
    second = make.node(
        {"type": "version", "format": 1, "tree": tree, "previous": [first], "time": MTIME + 1, "author": "ä"}
    )
    merge = {"type": "version", "format": 1, "tree": tree, "previous": sorted((first, second), key=bytes), "time": 0}
    third = make.node({**merge, "message": "one line\nand another"})
    fourth = make.node({**merge, "line": second, **marks(make)})
    return [first, second, third, fourth, make.node({**merge, "previous": [], "origin": bytes(third)})]


def vectors() -> dict[str, Any]:
    """Return everything, as vectors.json has it."""
    return {
        "format": 1,
        "chunks of a megabyte": [length for length, _ in pieces(CONTENTS["a megabyte"]())],
        **{name: of_hash(name) for name in HASHES},
    }


def of_hash(name: str) -> dict[str, Any]:
    make = Maker(name)
    found = {
        "contents": {what: shown(content) for what, content in contents(make).items()},
        "hand tree": shown(hand_tree(make)),
        "empty tree": shown(empty_tree(make)),
        "small tree": shown(small_tree(make)),
        "large directory": shown(large_directory(make)),
        "large links": shown(large_links(make)),
        "versions": shown(versions(make)),
    }
    nodes = {cid: data.hex() for cid, data in make.blocks.items() if len(data) < 2000}
    others = {cid: len(data) for cid, data in make.blocks.items() if cid not in nodes}
    return {**found, "blocks": nodes, "bytes of larger blocks": others}


def shown(value: Any) -> Any:
    """As JSON has it: CIDs as text, bytes in hexadecimal."""
    match value:
        case CID():
            return str(value)
        case bytes():
            return value.hex()
        case dict():
            return {key: shown(inner) for key, inner in value.items()}
        case list():
            return [shown(inner) for inner in value]
    return value


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
