"""A machine's tree is a name like any other: in the project's folder, and from anywhere if one alone is meant."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fuse.cli_command import Monofs, plant
from tests.project.shops import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path / "one")
    made.base({"f": b"1\n", "d/g": b"2\n"})
    made.declare('[machines.web]\nname = "base"\n[machines.db]\nname = "base"\n').ok("install")
    return made


def elsewhere(shop: Shop) -> Monofs:
    """`monofs` outside of every project, over the same home store."""
    at = shop.directory.parent / "elsewhere"
    at.mkdir(exist_ok=True)
    return Monofs(at, {"MONOFS_STORE": str(shop.home)})


def test_every_verb_that_takes_a_target_finds_it(shop: Shop, tmp_path: Path) -> None:
    out = elsewhere(shop)
    (shop.directory / "sub").mkdir()
    inside = Shop(shop.directory.parent, shop.home, "shop/sub")
    for monofs in (shop, inside, out):
        assert monofs.ok("ls", "shop/web").lines == ["d", "f"]
        assert monofs.ok("cat", "shop/web/d/g", "shop/db~0/f").text == "2\n1\n"
        assert monofs.ok("ls", "base").lines == ["d", "f"]  # and the home store's names mean what they meant
    changed = shop.change("web", {"f": b"1\n", "new": b"x\n"})
    for number, monofs in enumerate((shop, inside, out)):
        assert monofs.ok("diff", "base", "shop/web", "--name-status").lines == ["D\td/", "D\td/g", "M\tf", "A\tnew"]
        assert len(monofs.ok("log", "shop/web", "--json").json) == 2
        assert monofs.ok("show", "shop/web", "--json").json["tree"] == changed
        assert monofs.ok("stat", "shop/web/new").out and monofs.ok("du", "shop/web").out
        monofs.ok("export", "shop/web", str(tmp_path / f"x{number}"))
        assert (tmp_path / f"x{number}" / "new").read_text() == "x\n"
    out.ok("merge", "shop/db", "shop/web")
    assert shop.names()["shop/db"] == changed
    shop.ok("restore", "shop/db~1")
    inside.ok("name", "before", "shop/web~1")
    assert "before" in shop.names()
    out.ok("undelete", "shop/web", "d/g")
    assert out.ok("tombstones", "shop/web").out == b""
    out.ok("prune", "shop/web", "--keep", "last=1")
    assert len(shop.ok("log", "shop/web", "--json").json) == 1
    out.ok("forget", "shop/web")
    assert "shop/web" not in shop.names()
    assert "no name 'shop'" in shop.fails("ls", "shop/web")
    assert shop.ok("names").text.count("\n") == 1  # those of the home store, as ever


@pytest.mark.mounted
def test_a_mount_of_a_machines_tree_goes_on_with_it(shop: Shop) -> None:
    at = shop.directory / "mnt"
    at.mkdir()
    shop.ok("mount", "shop/web", str(at))
    try:
        (at / "made").write_text("x\n")
        shop.ok("checkpoint", str(at), "-m", "made")
        assert shop.ok("diff", "base", "./mnt", "--name-status").lines == ["A\tmade"]
        result = shop.ok("remove", "web", "--json")  # in use: it stays
        assert "'monofs forget shop/web'" in result.err
    finally:
        cid = shop.ok("umount", str(at)).lines[0]
    assert shop.names()["shop/web"] == cid
    shop.ok("mount", "shop/db", str(at), "--name", "shop/other")
    shop.ok("umount", str(at))
    assert shop.names().keys() == {"shop/web", "shop/db", "shop/other"}
    # gc of the home store, with its name gone, takes nothing that a fork needs.
    shop.ok("forget", "base")
    shop.ok("gc")
    shop.ok("mount", "shop/db", str(at))
    try:
        assert (at / "d" / "g").read_text() == "2\n"
    finally:
        shop.ok("umount", str(at))


def test_diff_with_one_argument_is_against_what_it_came_from(shop: Shop) -> None:
    out = elsewhere(shop)
    assert shop.ok("diff", "shop/web").out == b""
    shop.change("web", {"f": b"1\n", "new": b"x\n"})
    changed = ["D\td/", "D\td/g", "M\tf", "A\tnew"]
    assert shop.ok("diff", "shop/web", "--name-status").lines == changed
    assert out.ok("diff", "shop/web", "--name-status").lines == changed
    assert shop.ok("diff", "shop/web~1").out == b""
    shop.ok("prune", "shop/web", "--keep", "last=1")
    assert shop.ok("diff", "shop/web", "--name-status").lines == changed
    # Any other name: the first version on its line.
    shop.base({"f": b"2\n", "d/g": b"2\n"})
    shop.base({"f": b"3\n", "d/g": b"2\n"})
    assert "M\tf" in out.ok("diff", "base", "--name-status").lines
    assert out.ok("diff", "base~2").out == b""
    cid = shop.ok("ls", "base", "--json") and shop.ok("names", "--json").json["names"][0]["tree"]
    assert "is a tree without a history" in out.fails("diff", cid)


@pytest.mark.mounted
def test_diff_of_a_mounted_directory_alone(shop: Shop) -> None:
    at = shop.directory / "mnt"
    at.mkdir()
    shop.ok("mount", "shop/web", str(at))
    try:
        (at / "d" / "made").write_text("x\n")
        assert shop.ok("diff", "./mnt", "--name-status").lines == ["A\td/made"]
        assert [row["name"] for row in shop.ok("status", "--json").json] == ["shop/web"]
        assert elsewhere(shop).ok("status").out == b""
        assert elsewhere(shop).ok("diff", str(at / "d"), "--name-status").lines == ["A\tmade"]
    finally:
        shop.ok("umount", str(at))


def test_home_names_come_first_elsewhere_and_last_in_the_project(shop: Shop) -> None:
    out = elsewhere(shop)
    out.ok("import", str(plant(out.directory / "t", {"mine": b""})), "--name", "shop/web")
    assert out.ok("ls", "shop/web").lines == ["mine"]
    assert shop.ok("ls", "shop/web").lines == ["d", "f"]
    assert shop.ok("--store", str(shop.home), "ls", "shop/web").lines == ["mine"]
    assert out.ok("ls", "shop/db").lines == ["d", "f"]


def test_what_could_be_two_things_is_told(shop: Shop, tmp_path: Path) -> None:
    other = Shop(tmp_path / "two", shop.home)
    other.declare('[machines.web]\nname = "base"\n').ok("install")
    third = Shop(tmp_path / "three", shop.home, "third")
    third.declare('[machines.x]\nname = "base"\n').ok("install")
    out = elsewhere(shop)
    said = out.fails("ls", "shop/web")
    assert "'shop/web' is a name in several projects" in said
    assert str(shop.directory) in said and str(other.directory) in said
    assert other.ok("ls", "shop/web").lines == out.ok("ls", "shop/db").lines
    assert "machines of two projects" in out.fails("diff", "third/x", "shop/db")
    assert out.ok("diff", "third/x", "base").out == b""
    # One that vanished is not looked for.
    shutil.rmtree(shop.folder.mc)
    assert out.ok("ls", "shop/web").lines == ["d", "f"]
    assert "no name 'shop'" in out.fails("ls", "shop/db")


def test_a_copy_that_cannot_be_used_says_so_where_it_is_meant(shop: Shop, tmp_path: Path) -> None:
    copy = Shop(tmp_path / "two", shop.home)
    copy.directory.rmdir()
    subprocess.run(["cp", "-a", shop.directory, copy.directory], check=True)
    assert "was copied from another project's folder" in copy.fails("ls", "shop/web")
    assert copy.ok("ls", "base/d").lines == ["g"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it acts as two users")
def test_a_project_that_somebody_else_has_planted_is_not_opened(tmp_path: Path) -> None:
    """As in /tmp, where anybody can make a monofs.toml above where others work."""
    for above in (tmp_path, *tmp_path.parents):
        if str(above).startswith(os.environ.get("MONOFS_TEST_RUN", "/nowhere")):
            above.chmod(0o777)
    planted = Shop(tmp_path, tmp_path / "theirs", "planted")
    planted.directory.chmod(0o777)
    planted.base({"f": b"1"})
    planted.declare('[machines.web]\nname = "base"\n').ok("install")
    for path in (
        planted.folder.mc,
        *planted.folder.mc.rglob("*"),
        tmp_path / "theirs",
        *(tmp_path / "theirs").rglob("*"),
    ):
        os.chown(path, 1234, 1234)
    (planted.directory / "sub").mkdir()
    inside = Shop(tmp_path, tmp_path / "ours", "planted/sub")
    inside.directory.chmod(0o777)
    assert planted.ok("ls", "planted/web", user=1234).lines == ["f"]
    for user in (None, 4321):
        assert "no store at" in inside.fails("ls", "planted/web", user=user)


def test_a_base_is_read_and_never_written(shop: Shop) -> None:
    own = ("--store", str(shop.folder.store))
    assert shop.ok(*own, "ls", "base").lines == ["d", "f"]
    assert "no name 'base'" in shop.fails(*own, "forget", "base")
    assert "no name 'base'" in shop.fails(*own, "merge", "base", "shop/web")
    before = shop.ok("names", "--json").json
    shop.ok(*own, "name", "mine", "base")
    shop.ok(*own, "name", "sub", "base/d")
    assert shop.ok("names", "--json").json == before
    assert {"mine", "sub"} < shop.names().keys()


def test_completion_knows_them(shop: Shop) -> None:
    assert {"base", "shop/web", "shop/db"} <= set(shop.ok("__complete", "target").lines)
    assert shop.ok("__complete", "target", "shop/w").lines == ["shop/web"]
    assert shop.ok("__complete", "target", "shop/web/").lines == ["shop/web/d/", "shop/web/f"]
    assert elsewhere(shop).ok("__complete", "target", "shop/w").lines == ["shop/web"]
    assert elsewhere(shop).ok("__complete", "target", "shop/web/").lines == ["shop/web/d/", "shop/web/f"]
    assert elsewhere(shop).ok("__complete", "kept", "shop/").lines == ["shop/db", "shop/web"]


def test_a_target_without_a_slash_costs_nothing(shop: Shop) -> None:
    assert not {name for name in shop.modules("ls", "base") if name.startswith("monofs_fuse.project")}
    assert os.path.exists(shop.folder.store)
