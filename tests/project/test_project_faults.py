"""Installing is cut off at any step, on a full disk, or done by two at once: installed again it is whole."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import monofs_fuse.cli
import monofs_fuse.cli.project_trees
import monofs_fuse.project.installing
from store import lmdb_store
from tests.fuse.cli_command import PROGRAM
from tests.project.shops import Shop, check_whole
from tests.suites import faults, trees
from vmm import database
from vmm.project import lock

assert monofs_fuse.project.installing and monofs_fuse.cli.project_trees  # loaded before there are children

FIRST = '[machines.a]\nname = "base"\n\n[machines.b]\ndirectory = "./d"\n\n[machines.c]\nname = "base"\n'
SECOND = '[machines.a]\nname = "base"\n\n[machines.b]\ndirectory = "./d"\n\n[machines.new]\nname = "base~1"\n'


@contextmanager
def each_step(act: Callable[[str], None]) -> Iterator[None]:
    """Have `act` called before and after whatever changes something on the disk."""

    def stepped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            act(f"before {name}")
            result = call(*args, **options)
            act(f"after {name}")
            return result

        return run

    places: list[tuple[Any, str]] = [(os, name) for name in ("rename", "mkdir", "unlink", "ftruncate", "fsync")]
    places += [(lmdb_store.LmdbStore, "apply"), (lmdb_store.LmdbStore, "gc"), (database.Database, "change")]
    old = [(holder, name, getattr(holder, name)) for holder, name in places]
    try:
        for holder, name, call in old:
            setattr(holder, name, stepped(name, call))
        yield
    finally:
        for holder, name, call in old:
            setattr(holder, name, call)


def in_child(shop: Shop, act: Callable[[str], None], *args: str) -> int:
    """Run a command in a child that reports each step; returns how the child ended."""

    def work() -> None:
        os.environ.clear()
        os.environ.update(shop.env)
        os.chdir(shop.directory)
        silent = redirect_stdout(io.TextIOWrapper(io.BytesIO()))
        with silent, redirect_stderr(io.StringIO()) as said, each_step(act):
            code = monofs_fuse.cli.main(list(args))
        if code:
            raise AssertionError(said.getvalue())

    return faults.waited(faults.forked(work))


def steps_of(shop: Shop, *args: str) -> list[str]:
    """Return the steps of a command that nobody cuts off."""
    reader, writer = os.pipe()
    with os.fdopen(reader) as seen:
        status = in_child(shop, lambda step: void(os.write(writer, step.encode() + b"\n")), *args)
        os.close(writer)
        assert status == 0
        return seen.read().splitlines()


def void(_: object) -> None:
    pass


def killed_at(nth: int) -> Callable[[str], None]:
    left = [nth]

    def act(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            faults.die()

    return act


def prepared(at: Path, *, installed: bool) -> Shop:
    """A project over its store. If it is installed, its sources have changed since."""
    shop = Shop(at)
    shop.base({"etc/x": b"1", "big": random.Random(1).randbytes(200_000)})
    (shop.directory / "d").mkdir()
    (shop.directory / "d" / "f").write_text("1")
    shop.declare(FIRST)
    if installed:
        shop.ok("install")
        shop.base({"etc/x": b"2", "big": random.Random(2).randbytes(200_000)})
        (shop.directory / "d" / "f").write_text("2")
        shop.declare(SECOND)
    return shop


@pytest.mark.slow
@pytest.mark.parametrize("installed, args", [(False, ["install"]), (True, ["update"]), (True, ["install"])])
def test_killed_at_any_step_and_installed_again(installed: bool, args: list[str], rng: random.Random) -> None:
    with faults.quick_directory() as room:
        original = prepared(room / "original", installed=installed).directory.parent
        once = copied(original, room / "once")
        steps = steps_of(once, *args)
        once.ok(*args)
        wanted = once.names(), once.locked(), {name: row.tree for name, row in once.rows().items()}
        assert len(steps) > 20 and {"before rename", "after apply", "before change"} <= set(steps)
        for nth in range(rng.randint(1, 3), len(steps) + 1, 3):
            shop = copied(original, room / "x")
            assert in_child(shop, killed_at(nth), *args) == -9
            if shop.folder.lock.exists():
                lock.read(shop.folder.lock)
            shop.ok(*args)
            found = shop.names(), shop.locked(), {name: row.tree for name, row in shop.rows().items()}
            assert found == wanted, f"killed at step {nth}: {steps[nth - 1]}"
            assert shop.actions("--locked") == dict.fromkeys(found[2], "same")
            assert sorted(os.listdir(shop.directory)) == [".gitignore", ".mc", "d", "monofs.lock", "monofs.toml"]
            if rng.random() < 0.2:
                check_whole(shop)
            for row in sqlite3.connect(shop.folder.mc / "project.sqlite").execute("PRAGMA integrity_check"):
                assert row == ("ok",)


def copied(original: Path, at: Path) -> Shop:
    """A project with its home store, as they are there; .mc is made to lean on the copy."""
    shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(original, at, symlinks=True)
    config = at / "shop" / ".mc" / "store" / "monofs-store.json"
    if config.exists():
        config.write_text(config.read_text().replace(str(original), str(at)))
        with lmdb_home(at / "home") as home:  # as if it had been moved there
            from store import layered_store

            for top in layered_store.tops(home):
                layered_store.register(home, top.identity, at / "shop" / ".mc" / "store")
    return Shop(at)


@contextmanager
def lmdb_home(path: Path) -> Iterator[Any]:
    from store.repository import Repository

    opened = Repository.open(path, create=False)
    try:
        yield opened.store
    finally:
        opened.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts a tmpfs")
@pytest.mark.slow
def test_on_a_full_disk_nothing_is_lost_and_it_goes_on_once_there_is_room(tmp_path: Path) -> None:
    with trees.tmpfs(tmp_path / "disk", "24M") as disk:
        shop = Shop(disk, tmp_path / "home")
        shop.base({"f": b"1"})
        shop.declare('# mine\n[machines.a]\nname = "base"\n')
        failed, room = 0, 0
        while True:
            before = shop.folder.manifest.read_bytes(), shop.folder.lock.exists() and shop.folder.lock.read_bytes()
            filled(disk, room)
            result = shop.run("add", f"m{room}", "base")
            (disk / "filler").unlink()
            if result.code == 0:
                break
            failed += 1
            assert result.err.count("\n") == 1 and result.err.startswith("monofs: "), result.err
            assert "space left" in result.err.lower() or "disk is full" in result.err, result.err
            assert before == (
                shop.folder.manifest.read_bytes(),
                shop.folder.lock.exists() and shop.folder.lock.read_bytes(),
            )
            room = room * 2 or 4
        assert failed > 3
        assert shop.actions().keys() == {"a", f"m{room}"}
        check_whole(shop)


def filled(disk: Path, room_kib: int) -> None:
    """Leave so much room on a disk."""
    with (disk / "filler").open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"\0" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
        out.truncate(max(0, out.tell() - room_kib * 1024))


def test_many_install_at_once(tmp_path: Path) -> None:
    shop = prepared(tmp_path / "one", installed=False)
    command = [PROGRAM, "install", "--json"]
    running = [
        subprocess.Popen(command, cwd=shop.directory, env=shop.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    ends = [(process.communicate(timeout=120), process.returncode) for process in running]
    assert [(code, err) for (_, err), code in ends] == [(0, b"")] * 4
    assert sum(b'"new"' in out for (out, _), _ in ends) == 1
    assert shop.names().keys() == {"shop/a", "shop/b", "shop/c"}
    assert len(shop.ok("store", "layers", "--json").json) == 1
    check_whole(shop)
