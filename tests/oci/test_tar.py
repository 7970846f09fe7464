"""The reader of tar archives, with archives that GNU tar, bsdtar and Python wrote."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.oci import limits
from store.oci.errors import BadImage
from store.oci.feed import Feed
from store.oci.tar import Archive, Member
from tests.oci import layouts
from tests.suites import trees


def chunks(data: bytes, size: int = 4096) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def content(archive: Archive, member: Member) -> bytes:
    return b"".join(bytes(n) if data is None else data for n, data in archive.content(member))


def read(data: bytes, size: int = 4096) -> dict[bytes, tuple[Member, bytes]]:
    archive = Archive(Feed(chunks(data, size)))
    found = {}
    for member in archive:
        assert member.size <= 8 << 20
        found[member.name.rstrip(b"/").removeprefix(b"./")] = member, content(archive, member)
    return found


def make(command: list[str], at: Path) -> bytes:
    return subprocess.run([*command, "."], cwd=at, capture_output=True, check=True).stdout


WRITERS = {
    "gnu": ["tar", "--format=gnu", "--numeric-owner", "-cf-"],
    "gnu sparse": ["tar", "--format=gnu", "-S", "-cf-"],
    "pax": ["tar", "--format=pax", "--xattrs", "-cf-"],
    "pax sparse 1.0": ["tar", "--format=pax", "-S", "--sparse-version=1.0", "-cf-"],
    "pax sparse 0.1": ["tar", "--format=pax", "-S", "--sparse-version=0.1", "-cf-"],
    "pax sparse 0.0": ["tar", "--format=pax", "-S", "--sparse-version=0.0", "-cf-"],
    "ustar": ["tar", "--format=ustar", "-cf-"],
    "v7": ["tar", "--format=v7", "-cf-"],
    "bsdtar pax": ["bsdtar", "--format=pax", "-cf-"],
    "bsdtar gnu": ["bsdtar", "--format=gnutar", "-cf-"],
    "bsdtar ustar": ["bsdtar", "--format=ustar", "-cf-"],
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_other_programs_write(writer: str, tmp_path: Path, rng: random.Random) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    long = "l" * 120
    files = {"a": b"1", "empty": b"", "block": bytes(512), "random": rng.randbytes(100_000), "d/e/f": b"deep"}
    if writer not in ("v7", "ustar", "bsdtar ustar"):
        files[f"{long}/{long}/{long}"] = b"long"
        files[os.fsdecode(b"bad\xff\xfe")] = b"bytes"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    trees.sparse(root / "sparse", 5 << 20, {n * 131072 + 7: rng.randbytes(100) for n in range(30)})
    trees.sparse(root / "holes", 3 << 20, {})
    trees.sparse(root / "tail", 3 << 20, {0: b"start"})
    os.symlink("a", root / "link")
    os.link(root / "a", root / "d/hard")
    if writer != "v7":  # which has no fifos
        os.mkfifo(root / "fifo")
        (root / "a").chmod(0o4755)
    found = read(make(WRITERS[writer], root), rng.choice([100, 512, 65536]))
    for name in [*files, "sparse", "holes", "tail"]:
        member, data = found[os.fsencode(name)]
        if member.kind == "link":  # whichever comes second
            assert (name, member.target.removeprefix(b"./")) == ("a", b"d/hard")
            continue
        st = (root / name).stat()
        assert data == (root / name).read_bytes(), name
        assert (member.kind, member.size, member.mode) == ("file", st.st_size, st.st_mode & 0o7777)
        assert member.mtime // 10**9 == int(st.st_mtime)
        if writer.startswith("pax") or writer == "bsdtar pax":
            assert member.mtime == st.st_mtime_ns
    assert found[b"link"][0].target == b"a"
    if writer != "v7":
        assert found[b"fifo"][0].kind == "fifo"
    assert found[b"d/e"][0].kind == "dir"
    if "sparse" in writer:
        assert all(found[name][0].segments is not None for name in (b"sparse", b"holes", b"tail"))


def test_attributes_of_both_kinds() -> None:
    entry = layouts.f(
        "x",
        xattrs=(("user.a", b"v\0\xff=\n"), ("user.p%25c%3D", b""), ("user.both", b"right")),
        pax=(("LIBARCHIVE.xattr.user.%E2%82%AC%20", "AAEC/w"), ("LIBARCHIVE.xattr.user.both", "AAEC")),
    )
    member, _ = read(layouts.tar([entry]))[b"x"]
    assert dict(member.xattrs) == {
        b"user.a": b"v\0\xff=\n",
        b"user.p%c=": b"",
        b"user.both": b"right",
        "user.€ ".encode(): b"\0\1\2\xff",
    }


def test_times_and_numbers() -> None:
    rows = [
        layouts.f("n", pax=(("mtime", "-1.5"),)),
        layouts.f("p", pax=(("mtime", "1234567890.1234567899"),)),
        layouts.f("u", uid=4_000_000_000, gid=3_000_000_000),
        layouts.E("c", "char", rdev=(259, 1_000_000)),
    ]
    found = read(layouts.tar(rows))
    assert found[b"n"][0].mtime == -1_500_000_000
    assert found[b"p"][0].mtime == 1234567890_123456789
    gnu = read(layouts.tar(rows[2:], tarfile.GNU_FORMAT))
    for member in (found[b"u"][0], gnu[b"u"][0]):
        assert (member.uid, member.gid) == (4_000_000_000, 3_000_000_000)
    assert found[b"c"][0].rdev == gnu[b"c"][0].rdev == (259, 1_000_000)


def header(**fields: object) -> bytes:
    member = tarfile.TarInfo("x")
    for name, value in fields.items():
        setattr(member, name, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def changed(head: bytes, at: int, data: bytes) -> bytes:
    """Change a header; its checksum is right again."""
    made = head[:at] + data + head[at + len(data) :]
    return made[:148] + b"%06o\0 " % sum(made[:148] + b" " * 8 + made[156:]) + made[156:]


END = bytes(1024)


@pytest.mark.parametrize(
    "data",
    [
        header() + b"x",
        b"\1" + header()[1:],
        changed(header(), 156, b"M"),
        changed(header(), 156, b"Z"),
        changed(header(), 124, b"zzzzzzzzzzz\0"),
        changed(header(), 108, b"\xff" * 8),  # -1 for an owner
        header(size=limits.tar_extra_bytes_max + 1, type=b"x") + bytes(limits.tar_extra_bytes_max + 512),
        header(size=10, type=b"x") + b"99 a=bcde\n".ljust(512, b"\0") + header(),
        header(size=10, type=b"x") + b"10 abcdef\n".ljust(512, b"\0") + header(),
        header(size=9, type=b"x") + b"9 size=x\n".ljust(512, b"\0") + header(),
        header(size=9, type=b"x") + b"9 uid=-1\n".ljust(512, b"\0") + header(),
        header(size=6, type=b"x") + b"6 a=b\n".ljust(512, b"\0") + END,
        (header(size=1, type=b"L") + b"a".ljust(512, b"\0")) * 20 + header(),
        changed(header(size=512, type=b"S"), 386, b"00000000000\0" + b"00000001000\0") + bytes(512),  # realsize 0
        b"garbage " * 200,
    ],
    ids=range(15),
)
def test_what_is_no_archive(data: bytes) -> None:
    with pytest.raises(BadImage):
        read(data + END)


@pytest.mark.parametrize("data", [header()[:-1], header(size=5) + b"abc", header(size=600) + bytes(512), b"x"])
def test_what_is_broken_off(data: bytes) -> None:
    with pytest.raises(BadImage):
        read(data)


def test_too_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "layer_entries_max", 10)
    read(header() * 10 + END)
    with pytest.raises(BadImage, match="10 entries"):
        read(header() * 11 + END)


def sparse_1_0(table: bytes, real: int, data: bytes = b"") -> bytes:
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": str(real)}
    member = tarfile.TarInfo("GNUSparseFile.0/s")
    body = table + bytes(-len(table) % 512) + data
    member.size, member.pax_headers = len(body), pax
    return member.tobuf(tarfile.PAX_FORMAT) + body + bytes(-len(body) % 512) + END


def test_sparse_maps() -> None:
    assert read(sparse_1_0(b"1\n100\n3\n", 200, b"abc"))[b"s"][1] == bytes(100) + b"abc" + bytes(97)
    for table, real, data in [
        (b"1\n100\n3\n", 102, b"abc"),  # beyond the end
        (b"2\n100\n3\n50\n0\n", 200, b"abc"),  # out of order
        (b"1\n0\n4\n", 200, b"abc"),  # more than there is
        (b"1\n0\n2\n", 200, b"abc"),  # less
        (b"9999999\n", 200, b""),
        (b"1" * 600, 200, b""),
        (b"x\n", 200, b""),
        (b"", 200, b""),
    ]:
        with pytest.raises(BadImage):
            read(sparse_1_0(table, real, data))


def test_an_archive_without_its_end() -> None:
    assert list(read(header())) == [b"x"]
    assert read(b"") == {}
    assert list(read(header() + bytes(512))) == [b"x"]


def test_damage_is_found_or_harmless(tmp_path: Path, rng: random.Random) -> None:
    """Whatever the bytes: an archive is read, or refused in the one way; memory and time stay bounded."""
    (tmp_path / "t").mkdir()
    trees.sparse(tmp_path / "t/s", 1 << 20, {n * 65536: b"x" for n in range(8)})
    (tmp_path / "t" / ("n" * 150)).write_bytes(b"long")
    for form in (["--format=gnu", "-S"], ["--format=pax", "-S"]):
        whole = make(["tar", *form, "-cf-"], tmp_path / "t")
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(data)) if rng.random() < 0.3 else rng.randrange(min(len(data), 4096))
                data[at] = rng.choice([0, 0x30, 0x39, 0x80, 0xFF, rng.randrange(256)])
            for block in range(0, 4096, 512):  # so that the change gets past the checksum
                head = bytes(data[block : block + 512])
                if head[257:262] == b"ustar":
                    data[block : block + 512] = changed(head, 0, b"")
            try:
                archive = Archive(Feed(chunks(bytes(data))))
                for member in archive:
                    for length, _ in archive.content(member):
                        assert length >= 0
            except BadImage:
                pass


def test_python_reads_the_same(rng: random.Random) -> None:
    rows = [
        layouts.f(b"n\xff" + b"x" * rng.randrange(300), rng.randbytes(rng.randrange(2000)), uid=n) for n in range(30)
    ]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        data = layouts.tar(rows, form)
        found = read(data, 777)
        with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                ours, body = found[os.fsencode(member.name)]
                file = archive.extractfile(member)
                assert file is not None
                assert (ours.uid, body) == (member.uid, file.read())
