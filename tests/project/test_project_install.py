"""Projects are installed: from images, names, CIDs, directories; the same everywhere; what people changed stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from store.repository import Repository
from tests.oci import registries
from tests.oci.layouts import Layout, d, f, tar
from tests.project.shops import Shop, check_whole
from vmm.project import lock
from vmm.project.state import State

CONFIG = {"Env": ["A=1"], "Cmd": ["/bin/x"], "User": "me", "WorkingDir": "/etc", "StopSignal": "SIGINT"}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "one")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = Layout(tmp_path_factory.mktemp("layout") / "image")
    made.image([tar([d("."), d("etc"), f("etc/os", b"one\n"), f("big", bytes(range(256)) * 4000)])], "1", config=CONFIG)
    made.image([tar([d("."), d("etc"), f("etc/os", b"two\n"), f("big", bytes(range(256)) * 4000)])], "2", config=CONFIG)
    return made


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Registry]:
    with registries.registry(tmp_path_factory.mktemp("r")) as made:
        yield made


# Images


def test_an_image_is_locked_and_a_second_clone_gets_it_though_the_tag_has_moved(
    shop: Shop, registry: registries.Registry, layout: Layout, tmp_path: Path
) -> None:
    ref = f"{registry.name}/lock/os:t"
    registry.push(layout.path, "lock/os:t", tag="1")
    added = shop.ok("add", "web", ref, "--memory", "1G", "--json", "--", "serve", "-v").json
    assert shop.folder.manifest.read_text() == (
        f'[project]\nname = "shop"\n\n[machines.web]\nimage = "{ref}"\ncommand = ["serve", "-v"]\nmemory = "1G"\n'
    )
    (one,) = lock.read(shop.folder.lock).values()
    assert (one.reference, one.platform, one.tree) == (ref, "linux/amd64", added[0]["tree"])
    image = shop.ok("image", "inspect", ref).json
    assert (image["digest"], image["tree"]) == (one.digest, one.tree)
    assert (shop.directory / ".gitignore").read_text() == ".mc/\n"
    assert (shop.folder.mc / ".gitignore").read_text() == "*\n"
    assert shop.names() == {"shop/web": one.tree}
    row = shop.rows()["web"]
    assert (row.source, row.tree, row.digest) == (f"image {ref}", one.tree, one.digest)
    assert {key: row.config[key] for key in ("env", "cmd", "user", "workdir", "stop_signal")} == {
        "env": ["A=1"], "cmd": ["/bin/x"], "user": "me", "workdir": "/etc", "stop_signal": "SIGINT"
    }  # fmt: skip

    registry.push(layout.path, "lock/os:t", tag="2")
    before = shop.locked()
    clone = shop.clone(tmp_path / "two")
    assert clone.actions("--locked") == {"web": "new"}
    assert (clone.locked(), clone.names()) == (before, shop.names())
    assert clone.rows()["web"].config == row.config
    for each in (shop, clone):
        check_whole(each)


def test_what_is_installed_asks_no_registry_and_writes_nothing(
    shop: Shop, registry: registries.Registry, layout: Layout
) -> None:
    registry.push(layout.path, "quiet/os:t", tag="1")
    shop.ok("add", "web", f"{registry.name}/quiet/os:t")
    seen, asked = shop.seen(), len(registry.requests("quiet/os"))
    assert shop.actions() == shop.actions("--locked") == {"web": "same"}
    assert (shop.seen(), len(registry.requests("quiet/os"))) == (seen, asked)
    shutil.rmtree(shop.folder.mc)
    assert shop.actions("--locked") == {"web": "new"}
    assert len(registry.requests("quiet/os")) == asked


def test_a_tag_moves_and_untouched_forks_follow_it(shop: Shop, registry: registries.Registry, layout: Layout) -> None:
    ref = f"{registry.name}/move/os:t"
    registry.push(layout.path, "move/os:t", tag="1")
    shop.declare(f'[machines.a]\nimage = "{ref}"\n\n[machines.b]\nimage = "{ref}"\n').ok("install")
    assert shop.ok("outdated").out == b""
    old = lock.read(shop.folder.lock)["a"]
    changed = shop.change("b", {"mine": b"x"})
    registry.push(layout.path, "move/os:t", tag="2")

    result = shop.run("outdated", "--json")
    assert (result.code, [row["machine"] for row in result.json]) == (1, ["a", "b"])
    now = result.json[0]["now"]["digest"]
    assert (result.json[0]["locked"]["digest"], now != old.digest) == (old.digest, True)
    assert shop.run("outdated").text.split() == [w for m in "ab" for w in (m, ref, old.digest[:19], ref, now[:19])]
    assert lock.read(shop.folder.lock)["a"] == old  # nothing was changed
    assert shop.actions() == {"a": "same", "b": "same"}

    result = shop.ok("update")
    assert result.lines == [f"{m}: {ref} {old.digest[:19]} -> {ref} {now[:19]}" for m in "ab"]
    new = lock.read(shop.folder.lock)["a"]
    assert (new.digest, shop.names()) == (now, {"shop/a": new.tree, "shop/b": changed})
    (note,) = result.err.splitlines()
    assert note.startswith("monofs: 'shop/b' was changed, or is in use: it stays as it is")
    assert "'monofs reset b'" in note and f"'monofs merge shop/b {new.tree}'" in note
    assert (shop.rows()["b"].tree, shop.rows()["a"].tree) == (new.tree, new.tree)
    assert shop.ok("outdated").out == b"" and shop.actions() == {"a": "same", "b": "same"}
    check_whole(shop)
    # What 'reset' needs is here, whatever becomes of the image.
    shop.ok("image", "rm", ref)
    shop.ok("gc")
    check_whole(shop)
    assert json.loads(shop.ok("--store", str(shop.folder.store), "ls", new.tree, "--json").out)


def test_only_the_machine_that_is_named_is_updated(shop: Shop, registry: registries.Registry, layout: Layout) -> None:
    registry.push(layout.path, "named/os:t", tag="1")
    ref = f"{registry.name}/named/os:t"
    shop.declare(f'[machines.a]\nimage = "{ref}"\n\n[machines.b]\nimage = "{ref}"\n').ok("install")
    old = lock.read(shop.folder.lock)
    registry.push(layout.path, "named/os:t", tag="2")
    (change,) = shop.ok("update", "b", "--json").json
    assert (change["machine"], change["old"]["tree"], change["new"]["tree"]) == (
        "b",
        old["b"].tree,
        shop.names()["shop/b"],
    )
    assert lock.read(shop.folder.lock)["a"] == old["a"]
    assert "monofs.toml has no machine 'c'" in shop.fails("update", "c")


def test_an_image_that_is_gone_is_one_clear_error(
    shop: Shop, registry: registries.Registry, layout: Layout, tmp_path: Path
) -> None:
    registry.push(layout.path, "gone/os:t", tag="1")
    shop.ok("add", "web", f"{registry.name}/gone/os:t")
    text = shop.locked()
    digest = lock.read(shop.folder.lock)["web"].digest or ""
    shop.folder.lock.write_text(text.replace(digest, "sha256:" + "0" * 64))
    clone = shop.clone(tmp_path / "two")
    said = clone.fails("install")
    assert said.startswith("monofs: monofs.toml: machines.web.image: ") and "gone/os" in said
    # A lock that somebody has tampered with: another tree than the image is.
    shop.folder.lock.write_text(text.replace(lock.read(shop.folder.lock)["web"].tree, "b" + "a" * 58))
    clone = shop.clone(tmp_path / "three")
    assert "machines.web.image: " in clone.fails("install")


# Names, CIDs, directories


def test_names_and_cids(shop: Shop, tmp_path: Path) -> None:
    first = shop.base({"etc/x": b"1", "sub/y": b"2"})
    shop.base({"etc/x": b"3", "sub/y": b"2"})
    shop.declare(
        f'[machines.now]\nname = "base"\n[machines.before]\nname = "base~1"\n'
        f'[machines.cid]\ncid = "{first}"\n[machines.part]\nname = "base/sub"\n'
    )
    assert set(shop.actions().values()) == {"new"}
    names = shop.names()
    assert names["shop/before"] == names["shop/cid"] == first != names["shop/now"]
    export = tmp_path / "out"
    shop.ok("--store", str(shop.folder.store), "export", "shop/part", str(export))
    assert os.listdir(export) == ["y"]
    # Elsewhere: what is not there is said, once and clearly.
    clone = shop.clone(tmp_path / "two")
    said = clone.fails("install")
    assert said.startswith(
        f"monofs: monofs.toml: machines.now.name: the tree {names['shop/now']} is not in {clone.home}, "
    )
    assert not clone.folder.mc.exists() or clone.names() == {}
    shop.ok("store", "copy", str(shop.home), str(clone.home))
    assert set(clone.actions("--locked").values()) == {"new"}
    assert clone.names() == names
    shop.base({"etc/x": b"4", "sub/y": b"2"})
    assert shop.actions() == dict.fromkeys(("now", "before", "cid", "part"), "same")
    assert [row["machine"] for row in shop.run("outdated", "--json").json] == ["now", "before", "part"]
    late = shop.clone(tmp_path / "three")
    shop.ok("store", "copy", str(shop.home), str(late.home))
    assert "machines.part.name: 'base/sub' is bafyr4i" in late.fails("install", "--locked")  # and no name's any more


def test_a_directory_is_the_same_in_every_clone(shop: Shop, tmp_path: Path) -> None:
    def git(at: Path, *args: str, umask: int = 0o022) -> None:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@x", *args]
        subprocess.run(command, cwd=at, check=True, capture_output=True, umask=umask)

    root = shop.directory / "rootfs"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "run").write_text("#!/bin/sh\n")
    (root / "bin" / "run").chmod(0o775)
    (root / "data").write_bytes(bytes(range(256)) * 1000)
    os.link(root / "data", root / "data2")
    (root / "link").symlink_to("bin/run")
    shop.declare('[machines.web]\ndirectory = "rootfs"\n[machines.self]\ndirectory = "."\n')
    shop.folder.lock.write_text(lock.text({}))
    git(shop.directory, "init", "-qb", "main")
    (shop.directory / ".gitignore").write_text("monofs.lock\n.mc\n")
    git(shop.directory, "add", ".")
    git(shop.directory, "commit", "-qm", "x")
    # What a checkout does not have, or has otherwise.
    (root / "empty" / "er").mkdir(parents=True)
    os.mkfifo(root / "fifo")
    os.utime(root / "data", (1, 1))
    os.setxattr(root / "data", "user.x", b"1")
    (root / "bin" / "run").chmod(0o4711)
    if os.geteuid() == 0:
        os.chown(root / "data", 5, 6)
    shop.ok("install")
    one = shop.names()["shop/web"]
    (shop.directory / "monofs.lock").unlink()

    clone = Shop(tmp_path / "two")
    clone.directory.rmdir()
    git(tmp_path, "clone", "-q", str(shop.directory), str(clone.directory), umask=0o077)
    clone.ok("install")
    assert clone.names()["shop/web"] == one
    rows = clone.ok("--store", str(clone.folder.store), "ls", "-R", "shop/web", "--json").json
    facts = {row["path"]: (row["mode"], row["uid"], row["gid"], row["mtime_ns"], row["nlink"]) for row in rows}
    assert (
        facts["bin/run"][1:] == (0, 0, 0, 1) and {path for path in facts if "empty" in path or "fifo" in path} == set()
    )


def test_a_directory_that_changes_is_outdated_and_elsewhere_an_error(shop: Shop, tmp_path: Path) -> None:
    (shop.directory / "d").mkdir()
    (shop.directory / "d" / "f").write_text("1")
    shop.declare('[machines.web]\ndirectory = "./d"\n').ok("install")
    old = shop.names()["shop/web"]
    (shop.directory / "d" / "f").write_text("2")
    assert shop.actions("--locked") == {"web": "same"}
    assert shop.names() == {"shop/web": old}
    (row,) = shop.run("outdated", "--json").json
    assert row["locked"]["tree"] == old
    said = shop.clone(tmp_path / "two").fails("install")
    assert f"machines.web.directory: './d' is {row['now']['tree']} now, and monofs.lock has {old}" in said
    assert "'monofs update web'" in said
    shop.ok("update", "web")
    assert shop.names() == {"shop/web": row["now"]["tree"]}


def test_a_store_with_another_hash_is_told_so(shop: Shop, tmp_path: Path) -> None:
    shop.base({"f": b"1"})
    shop.declare('[machines.web]\nname = "base"\n').ok("install")
    clone = shop.clone(tmp_path / "two")
    clone.ok("init", "--hash", "sha2-256")
    assert "uses sha2-256, and bafyr4i" in clone.fails("install")


# The lock


def test_locked_never_writes_and_says_what_differs(shop: Shop) -> None:
    shop.base({"f": b"1"})
    shop.declare('[machines.web]\nname = "base"\n')
    assert shop.fails("install", "--locked") == "monofs: there is no monofs.lock; 'monofs install' makes one\n"
    assert not shop.folder.mc.exists()
    shop.ok("install")
    seen = shop.seen()
    for more, said in (
        ('[machines.web]\nname = "base~0"\n', "'web' is name 'base' in it, and name 'base~0' in monofs.toml"),
        ('[machines.web]\nname = "base"\n[machines.db]\nname = "base"\n', "'db' is not in it"),
        ("", "'web' is in it, and not in monofs.toml"),
    ):
        shop.declare(more)
        assert said in shop.fails("install", "--locked")
    shop.declare('[machines.web]\nname = "base"\n')
    shop.ok("install", "--locked")
    assert {k: v for k, v in shop.seen().items() if "toml" not in k} == {
        k: v for k, v in seen.items() if "toml" not in k
    }


def test_a_project_that_is_wrong_is_told_line_by_line_and_gets_nothing(shop: Shop) -> None:
    shop.declare('[machines.web]\nname = "base"\ncpus = 0\nmemory = "x"\n')
    result = shop.run("install")
    assert result.code == 1
    assert result.err.splitlines() == [
        "monofs: monofs.toml:3: machines.web.cpus: 0 is not a number from 1 to 64",
        "monofs: monofs.toml:4: machines.web.memory: 'x' is not an amount of memory, like 512M or 2G",
    ]
    assert os.listdir(shop.directory) == ["monofs.toml"]
    shop.folder.manifest.unlink()
    assert shop.fails("install").startswith("monofs: no monofs.toml here, nor in a directory above;")


# add and remove


def test_add_finds_out_what_a_source_is(shop: Shop) -> None:
    cid = shop.base({"f": b"1"})
    (shop.directory / "sub" / "d").mkdir(parents=True)
    (shop.directory / "sub" / "d" / "f").write_text("x")
    shop.declare("# mine\n[project]\nname = 'p'  # so\n")
    shop.ok("add", "a", "base", "--env", "A=1", "--env", "B=x y", "--publish", "8080:80", "--cpus", "2")
    shop.ok(
        "add", "b", cid, "--depends-on", "a", "--restart", "always", "--net", "user", "--workdir", "/", "--user", "u"
    )
    inside = Shop(shop.directory.parent, shop.home, "shop/sub")
    inside.ok("add", "c", "./d", "--volume", "./x:/x:ro")
    inside.ok("add", "e.e", ".", "--from", "directory")
    assert shop.folder.manifest.read_text() == (
        "# mine\n[project]\nname = 'p'  # so\n\n"
        '[machines.a]\nname = "base"\ncpus = 2\nports = ["8080:80"]\nenv = { A = "1", B = "x y" }\n\n'
        f'[machines.b]\ncid = "{cid}"\nworkdir = "/"\nuser = "u"\nnet = "user"\n'
        'depends_on = ["a"]\nrestart = "always"\n\n'
        '[machines.c]\ndirectory = "./sub/d"\nvolumes = ["./x:/x:ro"]\n\n'
        '[machines."e.e"]\ndirectory = "./sub"\n'
    )
    assert set(shop.names()) == {"p/a", "p/b", "p/c", "p/e.e"}
    assert "has a machine 'a' already" in shop.fails("add", "a", "base")
    assert "wait" not in shop.fails("remove", "a") and "there is no machine 'a'" in shop.fails("remove", "a")
    shop.ok("remove", "b")
    shop.ok("remove", "a")
    assert shop.folder.manifest.read_text().startswith("# mine\n[project]\nname = 'p'  # so\n\n[machines.c]\n")
    assert set(shop.names()) == {f"p/{name}" for name in lock.read(shop.folder.lock)} == {"p/c", "p/e.e"}


@pytest.mark.parametrize("args", [["nope/none:1", "--from", "name"], ["./none"], ["base", "--memory", "x"], ["Base"]])
def test_what_cannot_be_added_leaves_everything_as_it_was(shop: Shop, args: list[str]) -> None:
    shop.base({"f": b"1"})
    shop.fails("add", "web", *args)
    assert os.listdir(shop.directory) == []
    shop.declare('# mine\n[machines.a]\nname = "base"\n').ok("install")
    seen = shop.seen()
    shop.fails("add", "web", *args)
    assert shop.seen() == seen
    assert shop.names().keys() == {"shop/a"}


def test_a_fork_that_was_changed_is_not_removed(shop: Shop) -> None:
    shop.base({"f": b"1"})
    shop.declare('[machines.a]\nname = "base"\n[machines.b]\nname = "base"\n').ok("install")
    changed = shop.change("a", {"mine": b"x"})
    result = shop.ok("remove", "a", "--json")
    assert {row["machine"]: row["action"] for row in result.json} == {"a": "kept", "b": "same"}
    assert "'shop/a' was changed, so it stays" in result.err and "'monofs forget shop/a'" in result.err
    assert shop.names()["shop/a"] == changed
    assert shop.actions() == {"a": "kept", "b": "same"}
    shop.ok("--store", str(shop.folder.store), "forget", "shop/a")
    assert shop.actions() == {"a": "removed", "b": "same"}
    assert (shop.names().keys(), shop.rows().keys()) == ({"shop/b"}, {"b"})


def test_a_project_gets_another_name(shop: Shop) -> None:
    shop.base({"f": b"1"})
    shop.declare('[machines.a]\nname = "base"\n').ok("install")
    changed = shop.change("a", {"mine": b"x"})
    shop.declare('[project]\nname = "new"\n[machines.a]\nname = "base"\n')
    assert shop.actions() == {"a": "same"}
    assert shop.names() == {"new/a": changed}


def test_what_a_reset_machine_was_stays_in_its_history_when_it_moves_on(shop: Shop) -> None:
    """`monofs reset` makes a version of what is locked, and says that one."""
    tree = shop.base({"f": b"1"})
    shop.declare('[machines.a]\nname = "base"\n').ok("install")
    changed = shop.change("a", {"mine": b"x"})
    shop.ok("restore", "shop/a~1")
    with closing(Repository.open(shop.folder.store)) as own, State(shop.folder.mc) as state:
        record = own.name("shop/a")
        assert record is not None
        state.put_installed(replace(state.installed()[0], version=str(record.version)))
    new = shop.base({"f": b"2"})
    shop.ok("update")
    trees = [row["tree"] for row in shop.ok("log", "shop/a", "--json").json]
    assert trees == [new, tree, changed, tree]
    assert shop.actions() == {"a": "same"}
    assert shop.ok("diff", "shop/a").out == b""
    assert [row["action"] for row in shop.ok("remove", "a", "--json").json] == ["kept"]


# The folder


def test_deleting_mc_loses_the_changes_and_nothing_else(shop: Shop) -> None:
    tree = shop.base({"f": b"1"})
    shop.declare('[machines.a]\nname = "base"\n').ok("install")
    shop.change("a", {"mine": b"x"})
    shutil.rmtree(shop.folder.mc)
    assert shop.actions("--locked") == {"a": "new"}
    assert shop.names() == {"shop/a": tree}


def test_a_folder_that_was_moved_goes_on_and_a_copy_is_told_what_to_do(shop: Shop, tmp_path: Path) -> None:
    shop.base({"f": b"1"})
    shop.declare('[project]\nname="p"\n[machines.a]\nname = "base"\n').ok("install")
    moved = Shop(tmp_path / "two", shop.home, "elsewhere")
    moved.directory.rmdir()
    shop.directory.rename(moved.directory)
    assert moved.actions() == {"a": "same"}
    (top,) = moved.ok("store", "layers", "--json").json
    assert (top["path"], top["exists"]) == (str(moved.folder.store), True)

    copy = Shop(tmp_path / "three", shop.home)
    copy.directory.rmdir()
    subprocess.run(["cp", "-a", moved.directory, copy.directory], check=True)
    said = copy.fails("install")
    assert f"{copy.folder.mc} was copied" in said and f"rm -rf {copy.folder.mc}" in said
    assert moved.actions() == {"a": "same"}
    shutil.rmtree(copy.folder.mc)
    assert copy.actions() == {"a": "new"}


def test_the_home_store_is_the_one_that_it_was_installed_over(shop: Shop, tmp_path: Path) -> None:
    shop.base({"f": b"1"})
    shop.declare('[machines.a]\nname = "base"\n').ok("install")
    assert shop.actions(MONOFS_STORE=str(tmp_path / "other")) == {"a": "same"}
    assert "this project leans on" in shop.fails("--store", str(tmp_path / "other"), "install")
    assert not (tmp_path / "other").exists()


def test_gc_of_the_home_store_leaves_what_projects_lean_on(shop: Shop) -> None:
    tree = shop.base({"f": os.urandom(300_000), "d/g": b"x"})
    shop.declare('[machines.a]\nname = "base"\n').ok("install")
    shop.ok("forget", "base")
    shop.ok("gc")
    assert shop.names() == {"shop/a": tree}
    check_whole(shop)
    shop.ok("remove", "a")
    shop.ok("gc")
    with closing(Repository.open(shop.home)) as home:
        assert not home.store.usage().blocks


def test_tree(shop: Shop) -> None:
    tree = shop.base({"f": b"1" * 5000})
    shop.declare('[machines.a]\nname = "base"\n[machines.b]\nname = "base"\n')
    found = shop.ok("tree", "--json").json
    assert [row["tree"] for row in found["machines"]] == [None, None]
    shop.ok("install")
    changed = shop.change("b", {"mine": os.urandom(100_000)})
    found = shop.ok("tree", "--json").json
    a, b = found["machines"]
    assert (found["project"], found["home"], found["borrowed_blocks"]) == ("shop", str(shop.home), 1)
    assert (a["tree"], a["locked"], a["changed"], a["size"], a["own_blocks"]) == (tree, tree, False, 5000, 1)
    assert (b["tree"], b["locked"], b["changed"], b["size"]) == (changed, tree, True, 100_000)
    assert a["own_bytes"] < 500 and 100_000 < b["own_bytes"] < 102_000
    assert shop.ok("tree").lines[:2] == [f"shop  {shop.directory}", "├─ a  name base"]


def test_an_ordinary_user_removes_mc_whatever_is_in_its_trees(shop: Shop) -> None:
    """Trees are blocks and not files: no mode of theirs is in anybody's way."""
    if os.geteuid() != 0:
        user = None
    else:
        user = 1234
        os.chmod(shop.directory.parent, 0o777)
        for above in (shop.directory, *shop.directory.parents):
            if os.stat(above).st_uid == 0 and str(above).startswith(os.environ.get("MONOFS_TEST_RUN", "/nowhere")):
                os.chmod(above, 0o777)
    at = shop.directory / "made"
    (at / "locked").mkdir(parents=True)
    (at / "locked" / "f").write_text("x")
    (at / "locked").chmod(0)
    shop.ok("import", str(at), "--name", "base") if user is None else None
    if user is not None:
        subprocess.run(["chown", "-R", f"{user}", at], check=True)
        os.chmod(at / "locked", 0o700)
        shop.ok("import", str(at), "--name", "base", user=user)
    text = "".join(f'[machines.{name}]\nname = "base"\n' for name in "ab")
    shop.declare(text)
    shop.ok("install", user=user)
    copy = shop.directory / "copy"
    for command in (["cp", "-a", shop.folder.mc, copy], ["rm", "-rf", copy], ["rm", "-rf", shop.folder.mc]):
        done = subprocess.run(command, user=user, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert not shop.folder.mc.exists() and not copy.exists()
    shop.ok("install", "--locked", user=user)
