"""Layers upon layers, compared entry by entry with what umoci makes of the same images."""

from __future__ import annotations

import os
import posixpath
import random
import stat
import subprocess
from pathlib import Path

import pytest

from store import directory, links
from store.oci import limits
from store.oci.errors import BadImage
from tests.oci.layouts import MTIME, E, Layout, d, f, hard, ln, tar, unpacked
from tests.oci.pulling import differences, now, on_disk, stacked
from tests.suites import trees

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has umoci restore owners and devices")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")

IMAGES = {
    "whiteouts": [
        [d("."), d("a"), f("a/x", b"x"), f("a/y", b"y"), d("a/sub"), f("a/sub/z"), f("top"), d("o"), f("o/1"),
         d("o/d"), f("o/d/2"), d("in"), d("in/deep"), f("in/deep/er")],
        [f("a/.wh.x"), f("a/.wh.sub"), f(".wh.top"), d("o"), f("o/new", b"n"), f("o/.wh..wh..opq"),
         f("nowhere/.wh.q"), f(".wh.nothing"), f("in/deep/.wh.er"), f(".wh..wh.plnk")],
    ],
    "a whiteout does not touch its own layer": [
        [d("."), f("a", b"1"), d("dir"), f("dir/old"), d("dir/older")],
        [f("a", b"2"), f(".wh.a"), d("dir"), f("dir/new"), f(".wh.dir"), d("dir/older"), f("dir/.wh..wh..opq")],
    ],
    "the root is opaque": [[d("."), f("a"), d("b"), f("b/c")], [f(".wh..wh..opq"), f("n")], [f("m")]],
    "opaque at depth": [
        [d("."), d("a"), d("a/b"), d("a/b/c"), f("a/b/c/1"), f("a/b/2"), f("a/3")],
        [d("a"), d("a/b"), f("a/b/.wh..wh..opq"), d("a/b/c"), f("a/b/c/new")],
        [f("a/b/c/.wh..wh..opq")],
    ],
    "hard links across layers": [
        [d("."), f("a", b"data" * 100), d("s"), f("s/b", b"q"), hard("s/c", "s/b"), ln("sl", "a"), hard("sl2", "sl")],
        [hard("new", "a"), hard("s/d", "s/b"), hard("sl3", "sl")],
        [f(".wh.a"), f("s/b", b"changed")],
        [hard("x", "new"), f(".wh.new"), hard("y", "x")],
        [f(".wh.s"), hard("z", "x")],
    ],
    "a directory becomes a file and back": [
        [d("."), d("p"), f("p/q", b"1"), f("r", b"2"), ln("l", "p"), d("m")],
        [f("p", b"file"), d("r"), f("r/in", b"3"), d("l", 0o700), f("l/here"), ln("m", "r")],
        [d("p", 0o700), f("p/z"), f("r", b"again"), f("m", b"file")],
    ],
    "missing parents": [
        [f("usr/share/doc/x", b"1"), f("usr/a", b"2")],
        [f("usr/share/doc/y"), f("usr/share/.wh.none")],
        [d("usr", 0o711, uid=5), f("new/er/est")],
    ],
    "links on the way": [
        [d("."), d("usr"), d("usr/lib"), ln("lib", "usr/lib"), f("usr/lib/a"), ln("abs", "/usr"),
         ln("twice", "abs/lib")],
        [f("lib/b", b"b"), f("lib/deep/er/c"), f("abs/d"), f("twice/t"), hard("twice/h", "lib/a")],
        [f("lib/.wh.a"), f("lib/deep/.wh..wh..opq"), f("lib/deep/n")],
        [d("lib"), f("lib/own")],
    ],
    "nothing gets out": [
        [d("."), ln("out", "../../../../../../etc"), f("out/x", b"evil"), f("../../up", b"u"), f("/abs/y", b"y"),
         ln("abs2", "/tmp/q"), f("abs2/z", b"z"), hard("h", "../../../up"), f("a/../../b", b"b"), ln("root", "/")],
        [f("out/x2", b"e"), f("abs2/w"), f("root/../r"), hard("h2", "/../abs/y"), f("../.wh.b")],
    ],
    "a link in its own layer": [
        [d("."), d("to"), ln("from", "to"), f("from/a", b"1"), hard("b", "from/a"), ln("loop", "to/../from"),
         f("loop/c")],
    ],
    "metadata": [
        [d(".", 0o1750, uid=3, gid=4), f("suid", b"s", 0o6755, uid=1000, gid=33), d("sticky", 0o1777),
         E("null", "char", rdev=(1, 3), mode=0o666), E("sda", "block", rdev=(8, 1)), E("fifo", "fifo", mode=0o600),
         f("capable", b"c", xattrs=(("security.capability", CAPABILITY), ("user.k", b"v\xff\0="))),
         d("attributes", xattrs=(("user.d", b"x" * 900),)),
         f("ns", b"n", pax=(("mtime", "1234567890.123456789"),)), f("before", pax=(("mtime", "-5.5"),)),
         d("closed", 0o000), f(b"bad\xff\xfename", b"n"), f("long/" + "n" * 200 + "/" + "m" * 250, b"l"),
         ln("owned", "x")._replace(uid=7), f("s p\ta\nce")],
        [d("sticky", 0o700, uid=9, mtime=5), f("capable", b"no more"), d(".", 0o711)],
    ],
    "one of several names is replaced": [
        [d("."), f("a", b"1"), hard("b", "a"), f("c"), hard("d", "c"), hard("e", "c")],
        [d("b"), d("c")],
    ],
    "the same name again and again": [
        [d("."), f("a", b"1"), f("a", b"2", 0o600), d("x"), f("x", b"3"), f("y"), d("y", 0o711), f("y/z"),
         d("q"), f("q/lost"), ln("q", "y"), f("q/found")],
        [f("y", b"1"), d("y"), f("y/new")],
    ],
}  # fmt: skip


def compare(layers: list[bytes], at: Path) -> list[str]:
    start = now()
    layout = Layout(at / "image")
    layout.image(layers)
    theirs = trees.facts(unpacked(layout, at / "bundle"))
    return differences(theirs, on_disk(*stacked(layers), at / "ours"), start)


@as_root
@pytest.mark.parametrize("name", IMAGES)
def test_as_umoci_has_it(name: str, tmp_path: Path) -> None:
    assert compare([tar(layer) for layer in IMAGES[name]], tmp_path) == []


@as_root
def test_a_real_root(tmp_path: Path) -> None:
    """Part of the Debian that this runs on, as two layers of which the second takes back much of the first."""
    parts = ["/etc", "/usr/bin", "/usr/sbin", "/usr/share/doc", "/var/lib/dpkg/info", "/bin", "/lib", "/dev/null"]
    command = ["tar", "--format=pax", "--xattrs", "--xattrs-include=*", "--one-file-system", "-cf-", "-C", "/"]
    small = ["find", *[part[1:] for part in parts], "-xdev", "-size", "-100k", "-not", "-type", "s", "-print0"]
    listed = subprocess.run(small, cwd="/", capture_output=True, check=True).stdout.split(b"\0")[:-1]
    chosen = b"\0".join(sorted(listed)[:2500])
    base = subprocess.run(
        [*command, "--no-recursion", "--null", "-T-"], input=chosen, capture_output=True, check=False
    ).stdout
    top = [d("etc"), f("etc/.wh.passwd"), f("usr/share/doc/.wh..wh..opq"), f("usr/bin/.wh.env"), f("etc/motd", b"new")]
    assert compare([base, tar(top)], tmp_path) == []


# Layers at random

_PATHS = ["a", "b", "c", "a/x", "a/y", "b/x", "b/y", "c/x", "a/x/p", "b/y/q", "c/c/c"]


def layer(rng: random.Random, files: list[str]) -> list[E]:
    made = [d(".", rng.choice([0o755, 0o700]), uid=rng.randrange(3))] * rng.randrange(2)
    for _ in range(rng.randrange(1, 9)):
        path, chance, mtime = rng.choice(_PATHS), rng.random(), MTIME + rng.randrange(100)
        above, name = posixpath.split(path)
        if chance < 0.35:
            made.append(d(path, rng.choice([0o755, 0o711]), mtime=mtime))
        elif chance < 0.55:
            made.append(f(path, rng.randbytes(rng.randrange(200)), rng.choice([0o644, 0o4755]), mtime=mtime))
            files.append(path)
        elif chance < 0.62:
            made.append(ln(path, rng.choice(["a", "../b", "/c", "c/a", "../../b/c"])))
        elif chance < 0.8 and files:
            made.append(hard(path, rng.choice(files)))
        elif chance < 0.93:
            made.append(f(posixpath.join(above, ".wh." + name)))
        else:
            made.append(f(posixpath.join(above, ".wh..wh..opq")))
    return made


@as_root
def test_images_at_random(tmp_path: Path, rng: random.Random) -> None:
    """Where umoci makes a tree, so do we, and the same one. Many of these images nobody accepts."""
    compared = 0
    for number in range(40):
        files: list[str] = []
        rows = [layer(rng, files) for _ in range(rng.randrange(1, 4))]
        layers = [tar(row) for row in rows]
        try:
            source, tree = stacked(layers)
        except BadImage:
            continue  # it costs much to ask umoci: see the next test
        at = tmp_path / str(number)
        at.mkdir()
        start = now()
        layout = Layout(at / "image")
        layout.image(layers)
        try:
            theirs = trees.facts(unpacked(layout, at / "bundle"))
        except AssertionError as error:
            assert "unpack entry" in str(error), (number, rows)
            continue
        assert differences(theirs, on_disk(source, tree, at / "ours"), start) == [], (number, rows)
        compared += 1
    assert compared >= 10


# What is refused

REFUSED = {
    "a hard link to nothing": [[f("a")], [hard("b", "c")]],
    "a hard link to a directory": [[d("a")], [hard("b", "a")]],
    "a hard link to a directory of the same layer": [[d("a"), hard("b", "a")]],
    "a hard link to the root": [[hard("b", "/")]],
    "something in a file": [[f("a"), f("a/b")]],
    "something in a file below": [[f("a")], [f("a/b")]],
    "links in a circle": [[ln("a", "b"), ln("b", "a"), f("a/x")]],
    "links in a circle below": [[ln("a", "b"), ln("b", "a")], [f("a/x")]],
    "a link to nothing": [[ln("a", "")]],
    "a link that is too long": [[ln("a", "x" * 4096)]],
    "a root that is a file": [[f(".")]],
    "a name that is too long": [[f("x" * 256)]],
    "a path that is too long": [[f("/".join(["x" * 200] * 50))]],
    "too deep": [[d("/".join("x" * 1100))]],
    "a whiteout of nothing": [[f(".wh.")]],
    "a whiteout of the directory": [[f(".wh..")]],
    "a whiteout of what is above": [[f("a/.wh...")]],
    "a device that is none": [[E("x", "char", rdev=(5000, 0))]],
    "an attribute that is too large": [[f("x", xattrs=(("user.x", b"x" * 65537),))]],
    "an attribute without a name": [[f("x", xattrs=(("", b"x"),))]],
    "an access list that is none": [[f("x", xattrs=(("system.posix_acl_access", b"x"),))]],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    with pytest.raises(BadImage) as caught:
        stacked([tar(layer) for layer in REFUSED[name]])
    assert "\n" not in str(caught.value)


def test_directories_that_would_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "made_up_bytes_max", 20_000)
    rows = [f(f"{n}" + "/d" * 100) for n in range(5)]
    stacked([tar([f("x" + "/d" * 100)])])
    with pytest.raises(BadImage, match="does not describe"):
        stacked([tar(rows)])


def test_links_that_would_fill_memory() -> None:
    """Each leads to the next twice: 2^30 steps without a bound."""
    rows = [ln(f"l{n}", f"l{n + 1}/../l{n + 1}") for n in range(30)]
    with pytest.raises(BadImage, match="too many symbolic links"):
        stacked([tar([*rows, d("l30"), f("l0/x")])])
    with pytest.raises(BadImage, match="too many symbolic links"):
        stacked([tar([*rows, d("l30")]), tar([f("l0/x")])])


def test_links_that_would_take_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "link_steps_max", 10_000)
    far = ln("far", "a/../" * 800 + "a")
    files = [f(f"far/{n}") for n in range(5)]
    stacked([tar([d("a"), far, *files])])
    for layers in ([[d("a"), far, *files * 2]], [[d("a"), far], [f(f"far/.wh.{n}") for n in range(10)]]):
        with pytest.raises(BadImage, match="too many symbolic links"):
            stacked([tar(rows) for rows in layers])


def test_many_names_of_one_file() -> None:
    """In time that grows with their number, not with its square."""
    below = [f("a"), *(hard(f"b{n}", "a") for n in range(2000))]
    source, tree = stacked([tar(below), tar([hard(f"c{n}", f"b{n}") for n in range(2000)])])
    (group,) = links.groups_below(source, tree.links, b"")
    assert len(group) == 4001
    assert directory.resolve(source, tree.root, b"a").nlink == 4001


# What only we say


def test_nothing_that_belongs_to_a_machine_comes_in() -> None:
    source, tree = stacked(
        [tar([f("x", xattrs=(("security.selinux", b"l"), ("security.evm", b"e"), ("user.a", b"1")))])]
    )
    entry = directory.resolve(source, tree.root, b"x")
    assert entry.xattrs == ((b"user.a", b"1"),)


def test_libarchives_attributes_count_too() -> None:
    source, tree = stacked([tar([f("x", pax=(("LIBARCHIVE.xattr.user.a%20b", "AAEC"),))])])
    assert directory.resolve(source, tree.root, b"x").xattrs == ((b"user.a b", b"\0\1\2"),)


def test_directories_that_nobody_described() -> None:
    source, tree = stacked([tar([f("a/b/c"), f("gone/.wh.x")])])
    assert directory.find(source, tree.root, b"gone") is None  # a whiteout makes no directory
    entry = directory.resolve(source, tree.root, b"a/b")
    assert (entry.mode, entry.uid, entry.mtime) == (0o755, 0, 0)


def test_a_name_as_long_as_can_be_is_whited_out() -> None:
    name = "n" * 255
    source, tree = stacked([tar([f(name), f("x")]), tar([f(".wh." + name)])])
    assert [found for found, _ in directory.entries(source, tree.root)] == [b"x"]


def test_groups_that_lose_their_paths() -> None:
    rows = [f("a"), hard("b", "a"), hard("d/c", "a"), f("x"), hard("d/y", "x")]
    source, tree = stacked([tar(rows), tar([f(".wh.d")])])
    assert list(links.groups_below(source, tree.links, b"")) == [(b"a", b"b")]
    assert directory.resolve(source, tree.root, b"x").nlink == 1
    source, tree = stacked([tar(rows), tar([f(".wh.d"), f(".wh.b")])])
    assert tree.links is None
    assert directory.resolve(source, tree.root, b"a").nlink == 1


def test_a_deep_tree() -> None:
    path = "/".join("d" * (limits.depth_max - 1))
    _, tree = stacked([tar([f(path)]), tar([f(path)]), tar([f(posixpath.dirname(path) + "/.wh.d")])])
    assert tree.root.total[0] == limits.depth_max - 2


def test_an_order_makes_no_difference_where_it_should_not(rng: random.Random) -> None:
    """A tree of files in any order of its entries is one tree."""
    rows = [f(f"{a}/{b}/{c}", f"{a}{b}{c}".encode()) for a in "abc" for b in "de" for c in "fg"]
    wanted = stacked([tar(rows)])[1]
    for size in (1, 511, 513, 100_000):
        rng.shuffle(rows)
        assert stacked([tar(rows)], size)[1] == wanted


def test_a_layer_over_nothing_and_over_itself_is_the_same() -> None:
    rows = [d("."), d("a", 0o700), f("a/b", b"1"), hard("c", "a/b"), E("p", "fifo"), ln("s", "a")]
    once, twice = stacked([tar(rows)])[1], stacked([tar(rows), tar(rows)])[1]
    assert once == twice
    assert stat.S_ISDIR(once.root.st_mode)
