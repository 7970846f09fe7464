"""Tar archives: GNU tar, bsdtar and Python read the same tree out of them."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from store import directory
from store.batch import Batch
from store.cache import Cache
from store.entry import Entry
from store.errors import Corrupt, NoSpace, NotFound
from store.importer import Imported, import_directory
from store.memory_store import MemoryStore
from store.tarball import Archived, write_tar
from store.version import Tree
from tests.store.models import imported
from tests.suites import trees

GNU = ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-"]
BSD = ["bsdtar", "--numeric-owner", "-xpf", "-"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can restore owners")
with_bsdtar = pytest.mark.skipif(shutil.which("bsdtar") is None, reason="needs bsdtar")


def extracted(command: list[str], source: Cache, got: Imported, to: Path) -> Archived:
    """Stream an archive into a program, through a pipe."""
    to.mkdir()
    with subprocess.Popen(command, cwd=to, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stderr is not None
        said: list[bytes] = []
        listener = threading.Thread(target=lambda: said.append(program.stderr.read()))  # type: ignore[union-attr]
        listener.start()
        done = write_tar(source, got.tree, program.stdin)
        program.stdin.close()
        listener.join()
    assert program.returncode == 0, b"".join(said).decode(errors="replace")
    return done


def expected(path: Path) -> dict[bytes, trees.Facts]:
    """What a tar archive can hold of a tree."""
    found = trees.facts(path)
    found.pop(b"_specials/socket")
    return {
        path: facts._replace(xattrs=tuple(x for x in facts.xattrs if x[0].isascii())) for path, facts in found.items()
    }


@as_root
@pytest.mark.parametrize("command", [GNU, pytest.param(BSD, marks=with_bsdtar)])
def test_tar_programs_extract_what_was_imported(ground: Path, rng: random.Random, command: list[str]) -> None:
    trees.build(ground / "in", rng)
    source, got = imported(ground / "in")
    done = extracted(command, source, got, ground / "out")
    unnamed = "a tar archive cannot hold the attribute user.\\xff not UTF-8 = %"
    assert dict(done.skipped) == {
        b"_attributes/directory": unnamed,
        b"_attributes/file": unnamed,
        b"_specials/socket": "a tar archive cannot hold a socket",
    }
    assert done.files == got.files - 1
    ours, theirs = expected(ground / "in"), trees.facts(ground / "out")
    if command is BSD:  # it does not restore the time of '.', and misreads fractions before 1970
        for path, facts in ours.items():
            if path == b"" or facts.mtime < 0:
                theirs[path] = theirs[path]._replace(mtime=facts.mtime)
    trees.assert_same(ours, theirs)


def test_python_reads_it_too(ground: Path, rng: random.Random) -> None:
    trees.build(ground / "in", rng)
    source, got = imported(ground / "in")
    out = io.BytesIO()
    write_tar(source, got.tree, out)
    out.seek(0)
    found = expected(ground / "in")
    with tarfile.open(fileobj=out, encoding="utf-8", errors="surrogateescape") as opened:
        members = {m.name.encode("utf-8", "surrogateescape"): m for m in opened}
        assert members.keys() - {b"."} == found.keys() - {b""}
        for path, member in members.items():
            facts = found[b"" if path == b"." else path]
            assert member.mode == facts.mode & 0o7777
            assert (member.uid, member.gid) == (facts.uid, facts.gid)
            if member.isreg() and facts.size < 1 << 24:
                content = opened.extractfile(member)
                assert content is not None
                data = content.read()
                assert len(data) == facts.size
            if member.islnk():
                assert found[member.linkname.encode("utf-8", "surrogateescape")].same == facts.same


def test_the_same_tree_gives_the_same_bytes(ground: Path, rng: random.Random) -> None:
    trees.build(ground / "in", rng)
    source, got = imported(ground / "in")
    first, second = io.BytesIO(), io.BytesIO()
    write_tar(source, got.tree, first)
    again, got_again = imported(ground / "in")
    write_tar(again, got_again.tree, second)
    assert first.getvalue() == second.getvalue()
    assert len(first.getvalue()) % tarfile.RECORDSIZE == 0


@pytest.mark.parametrize(
    "data",
    [
        {},
        {0: b"x"},
        {(1 << 20) - 1: b"x"},
        {511: b"xy", 300_000: b"x", 600_001: b"xyz"},
        {0: b"x" * 513, 1 << 19: b"x" * 511},
    ],
)
@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1])
def test_sparse_files_stay_sparse(ground: Path, data: dict[int, bytes], size: int) -> None:
    (ground / "in").mkdir()
    trees.sparse(ground / "in/file", size, data)
    (ground / "in/next").write_bytes(b"found only if the one before ends where it says")
    source, got = imported(ground / "in")
    out = io.BytesIO()
    write_tar(source, got.tree, out)
    assert len(out.getvalue()) < 4 * tarfile.RECORDSIZE
    for command in (["tar", "-xf", "-"], ["bsdtar", "-xf", "-"]):
        if shutil.which(command[0]):
            (ground / command[0]).mkdir()
            subprocess.run(command, cwd=ground / command[0], input=out.getvalue(), check=True)
            for name in ("file", "next"):
                assert (ground / command[0] / name).read_bytes() == (ground / "in" / name).read_bytes()


def test_a_terabyte_of_hole_takes_no_room(ground: Path) -> None:
    (ground / "in").mkdir()
    trees.sparse(ground / "in/huge", 1 << 40, {1 << 39: b"x"})

    class Counter(io.RawIOBase):
        written = 0

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:  # type: ignore[no-untyped-def]
            self.written += len(data)
            return len(data)

    out = Counter()
    source, got = imported(ground / "in")
    write_tar(source, got.tree, out)  # type: ignore[arg-type]
    assert out.written < 10 * tarfile.RECORDSIZE


@as_root
def test_a_full_disk_is_said_clearly(ground: Path, rng: random.Random) -> None:
    (ground / "in").mkdir()
    (ground / "in/large").write_bytes(rng.randbytes(3 << 20))
    source, got = imported(ground / "in")
    with (
        trees.tmpfs(ground / "disk", "1m") as disk,
        (disk / "a.tar").open("wb", buffering=0) as out,
        pytest.raises(NoSpace, match="not whole"),
    ):
        write_tar(source, got.tree, out)


def test_an_output_that_takes_little_at_a_time_gets_all(ground: Path, rng: random.Random) -> None:
    class Slow(io.BytesIO):
        def write(self, data) -> int:  # type: ignore[no-untyped-def]
            return super().write(data[:1000])

    (ground / "in").mkdir()
    (ground / "in/file").write_bytes(rng.randbytes(100_000))
    source, got = imported(ground / "in")
    slow, quick = Slow(), io.BytesIO()
    write_tar(source, got.tree, slow)
    write_tar(source, got.tree, quick)
    assert slow.getvalue() == quick.getvalue()


def test_a_reader_that_goes_away_ends_it(ground: Path, rng: random.Random) -> None:
    (ground / "in").mkdir()
    (ground / "in/large").write_bytes(rng.randbytes(1 << 20))
    source, got = imported(ground / "in")
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError), os.fdopen(writer, "wb", buffering=0) as out:
        write_tar(source, got.tree, out)


def test_a_lost_block_ends_it(ground: Path, rng: random.Random) -> None:
    """Its bytes were promised in the header already: an archive with others in their place would be a lie."""
    (ground / "in").mkdir()
    (ground / "in/large").write_bytes(rng.randbytes(10_000))
    batch = Batch(Cache(MemoryStore()))
    got = import_directory(batch, ground / "in")
    batch.blocks = {cid: data for cid, data in batch.blocks.items() if cid.is_node}
    with pytest.raises((NotFound, Corrupt)):
        write_tar(batch, got.tree, io.BytesIO())


def test_a_forged_access_list_is_named(ground: Path) -> None:
    batch = Batch(Cache(MemoryStore()))
    entry = Entry("file", 0o644, xattrs=((b"system.posix_acl_access", b"forged"),))
    root = directory.with_entries(batch, Entry("dir", 0o755), {b"a": entry})
    done = write_tar(batch, Tree(root), io.BytesIO())
    assert dict(done.skipped) == {b"a": "not an access list of version 2"}
