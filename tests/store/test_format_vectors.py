"""Format v1 never changes: the store makes vectors.json byte for byte, and so does an implementation of its own.

If a test here fails after a change to the store, the change is wrong: trees that people have would get other CIDs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from store import cid as cids
from store import codec, conflicts, directory, limits, links, names, tombstones, tree, version
from store import entry as entries
from store import file as files
from store.batch import Batch
from store.chunker import FastCdc
from store.cid import ALGORITHMS, Cid
from store.conflicts import Conflict
from store.entry import Entry
from store.file import File
from store.nodes import DIRECTORY, FILE, LINKS, TOMBSTONES
from store.version import Tree, Version
from tests.store.models import new_batch
from tests.vectors import reference
from tests.vectors.reference import CONTENTS, MTIME, made_up

VECTORS = json.loads(reference.VECTORS.read_text())
FORMAT = Path(files.__file__).with_name("FORMAT.md").read_text()
hashes = pytest.mark.parametrize("name", list(ALGORITHMS))


def test_the_other_implementation_makes_the_vectors() -> None:
    assert reference.vectors() == VECTORS


def test_chunks() -> None:
    data = CONTENTS["a megabyte"]()
    assert list(FastCdc().lengths(memoryview(data), True)) == VECTORS["chunks of a megabyte"]


def file_entry(batch: Batch, data: bytes, **more: Any) -> Entry:
    made = files.from_bytes(batch, FastCdc(), data)
    entry = Entry("file", 0o644, mtime=MTIME, size=made.size, holes=made.holes, data=made.content)
    return entry._replace(**more)


def small_tree(batch: Batch) -> Tree:
    """What `reference.small_tree` says, in the store's own words."""
    twin = file_entry(batch, b"two names\n", mode=0o600, nlink=2)
    inside: dict[bytes, Entry | None] = {b"twin": twin, b"\xff\xfe": Entry("file", 0o644, mtime=-1)}
    below = directory.with_entries(batch, Entry("dir", 0o1777, mtime=MTIME), inside)
    large = entries.pack_xattrs(batch, [(b"user.large", made_up("attribute", 600))])
    small = entries.pack_xattrs(batch, [(b"user.b", b""), (b"user.a", b"1")])
    tib = 1 << 40
    children: dict[bytes, Entry | None] = {
        b"README": file_entry(batch, b"hello\n", uid=1000, gid=100),
        b"block": Entry("block", 0o660, mtime=MTIME, rdev=(8, 1)),
        b"char": Entry("char", 0o666, mtime=MTIME, rdev=(1, 3)),
        b"data": file_entry(batch, CONTENTS["holes"]()),
        b"dir": below,
        b"empty": Entry("dir", 0o755, mtime=MTIME),
        b"fifo": Entry("fifo", 0o600, mtime=MTIME),
        b"link": Entry("symlink", 0o777, mtime=MTIME, size=6, data=b"README"),
        b"noted": Entry("file", 0o644, mtime=MTIME, xattrs=small),
        b"setuid": Entry("file", 0o4755, mtime=MTIME),
        b"socket": Entry("socket", 0o755, mtime=MTIME),
        b"sparse": Entry("file", 0o644, mtime=MTIME, size=tib, holes=tib),
        b"tagged": Entry("file", 0o644, mtime=MTIME, xattrs=large),
        b"twin": twin,
    }
    root = directory.with_entries(batch, Entry("dir", 0o755, mtime=MTIME), children)
    return Tree(root, links.changed(batch, None, (), [(b"dir/twin", b"twin")]))


def hand_tree(batch: Batch) -> Tree:
    hello = file_entry(batch, b"hi\n", mtime=0)
    return Tree(directory.with_entries(batch, Entry("dir", 0o755), {b"hello": hello}))


def large_directory(batch: Batch) -> Entry:
    names = [b"file-%05d" % n for n in range(4000)]
    return directory.with_entries(
        batch, Entry("dir", 0o755), {name: file_entry(batch, b"%d" % n, mtime=n) for n, name in enumerate(names)}
    )


def large_links(batch: Batch) -> Cid | None:
    groups = ((b"a/%03d" % n, b"b/%03d" % (299 - n), b"c/%03d" % (n * 7 % 300)) for n in range(300))
    return links.changed(batch, None, (), groups)


def versions(batch: Batch) -> list[Cid]:
    empty = version.put_tree(batch, Tree(Entry("dir", 0o755)))
    first = version.put_version(batch, Version(empty, frozenset(), MTIME))
    second = version.put_version(batch, Version(empty, frozenset((first,)), MTIME + 1, author="ä"))
    merge = Version(empty, frozenset((second, first)), 0)
    third = version.put_version(batch, merge._replace(message="one line\nand another"))
    marked = merge._replace(line=second, tombstones=buried(batch), conflicts=disputed(batch))
    pruned = merge._replace(previous=frozenset(), origin=third)
    return [first, second, third, version.put_version(batch, marked), version.put_version(batch, pruned)]


def buried(batch: Batch) -> Cid | None:
    """The tombstones of `reference.marks`, as two checkpoints write them."""
    scratch = new_batch(batch.algorithm)
    names: dict[bytes, Entry | None] = {b"%03d" % number: Entry("file", 0, mtime=number) for number in range(300)}
    inside = directory.with_entries(scratch, Entry("dir", 0o755, mtime=7), names)
    hello = file_entry(scratch, CONTENTS["one chunk"](), nlink=2)
    contents: tuple[dict[bytes, Entry | None], ...] = ({b"dir": inside, b"hello": hello}, {b"dir": inside}, {})
    roots = [directory.with_entries(scratch, Entry("dir", 0o755), content) for content in contents]
    trees = [version.put_tree(scratch, Tree(root)) for root in roots]
    first = tombstones.after(scratch, [Version(trees[0], frozenset(), 0)], trees[1], -1)
    second = tombstones.after(scratch, [Version(trees[1], frozenset(), 0, tombstones=first)], trees[2], MTIME)
    return tree.build(batch, TOMBSTONES, tree.items(scratch, TOMBSTONES, second))


def disputed(batch: Batch) -> Cid | None:
    found = {
        b"a": Conflict("content", "ours", "theirs", b"a~theirs"),
        b"dir/b": Conflict("metadata", "ä", "", None, "mode"),
    }
    return conflicts.put(batch, found)


def shown(value: Any) -> Any:
    return str(value) if isinstance(value, Cid) else value.hex() if isinstance(value, bytes) else value


def content(file: File) -> dict[str, Any]:
    size, holes, data = file
    return {key: shown(value) for key, value in (("size", size), ("holes", holes), ("data", data)) if value}


@hashes
def test_the_store_makes_the_vectors(name: str) -> None:
    wanted, batch = VECTORS[name], new_batch(ALGORITHMS[name])
    for what, data in CONTENTS.items():
        assert content(files.from_bytes(batch, FastCdc(), data())) == wanted["contents"][what], what
    assert shown(version.put_tree(batch, hand_tree(batch))) == wanted["hand tree"]
    assert shown(version.put_tree(batch, Tree(Entry("dir", 0o755)))) == wanted["empty tree"]
    assert shown(version.put_tree(batch, small_tree(batch))) == wanted["small tree"]
    large = entries.encode(large_directory(batch))
    assert {key: shown(value) for key, value in large.items()} == wanted["large directory"]
    assert shown(large_links(batch)) == wanted["large links"]
    assert [shown(cid) for cid in versions(batch)] == wanted["versions"]
    # Not only the roots: every block, and no other.
    nodes = {str(cid): data.hex() for cid, data in batch.blocks.items() if str(cid) in wanted["blocks"]}
    others = {str(cid): len(data) for cid, data in batch.blocks.items() if str(cid) not in wanted["blocks"]}
    assert nodes == wanted["blocks"] and others == wanted["bytes of larger blocks"]


@hashes
def test_the_store_reads_the_vectors(name: str) -> None:
    wanted, batch = VECTORS[name], new_batch(ALGORITHMS[name])
    for text, data in wanted["blocks"].items():
        cid = cids.parse(text)
        cids.verify(cid, bytes.fromhex(data))
        batch.blocks[cid] = bytes.fromhex(data)
    found = version.load_tree(batch, cids.parse(wanted["small tree"]))
    assert found == small_tree(new_batch(ALGORITHMS[name]))
    assert links.group(batch, found.links, b"twin") == (b"dir/twin", b"twin")
    assert [path for path, _ in directory.walk(batch, found.root)][4:7] == [b"dir", b"dir/twin", b"dir/\xff\xfe"]
    merged = version.load(batch, cids.parse(wanted["versions"][2]))
    assert isinstance(merged, Version)
    assert sorted(map(str, merged.previous)) == sorted(wanted["versions"][:2])
    marked = version.load(batch, cids.parse(wanted["versions"][3]))
    assert isinstance(marked, Version) and str(marked.line) == wanted["versions"][1]
    assert [path for path, _ in conflicts.below(batch, marked.conflicts)] == [b"a", b"dir/b"]


@hashes
def test_the_vectors_have_trees_of_several_levels(name: str) -> None:
    batch = new_batch(ALGORITHMS[name])
    big = files.from_bytes(batch, FastCdc(), CONTENTS["many holes"]()).content
    assert isinstance(big, Cid)
    assert tree.load(batch, FILE, big).level >= 1
    assert tree.load(batch, DIRECTORY, large_directory(batch).tree or big).level >= 1
    assert tree.load(batch, LINKS, large_links(batch) or big).level >= 1


# What FORMAT.md says


def test_the_example_in_the_text() -> None:
    """The hex dumps in FORMAT.md are the blocks of the hand-made tree, byte for byte."""
    found = {}
    for cid, dump in re.findall(r"^block (b[a-z2-7]+)\n\n```\n(.*?)```", FORMAT, re.MULTILINE | re.DOTALL):
        columns = (re.split(r" {2,}", line.strip(), maxsplit=1)[0] for line in dump.splitlines())
        found[cids.parse(cid)] = bytes.fromhex("".join(columns))
    batch = new_batch()
    root = version.put_tree(batch, hand_tree(batch))
    assert str(root) in FORMAT
    assert found == batch.blocks


def test_the_numbers_in_the_text() -> None:
    stated = dict(re.findall(r"^\| `(\w+_\w+)` \| ([\d,]+) ", FORMAT, re.MULTILINE))
    frozen = re.findall(r"^# FORMAT.*?\n((?:\w+: Final = .*\n)+)", Path(limits.__file__).read_text(), re.MULTILINE)
    wanted = re.findall(r"^(\w+):", "".join(re.sub(r"^#.*\n", "", block) for block in frozen), re.MULTILINE)
    assert wanted and set(wanted) <= set(stated), "every frozen number is in FORMAT.md"
    for name, number in stated.items():
        assert getattr(limits, name) == int(number.replace(",", "")), name


def test_records_in_the_text() -> None:
    cid = cids.BLAKE3.node(b"")
    record = names.Name(cid, cid, True)
    assert names.decode(names.encode(record)) == record
    assert set(codec.decode(cid, names.encode(record))) == {"version", "head", "made_up"}
