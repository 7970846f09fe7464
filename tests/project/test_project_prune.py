"""Projects that vanished stop counting once `monofs prune` has said so; those that moved or are there do not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.project.shops import Shop, check_whole


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path / "one")
    made.base({"f": os.urandom(100_000)})
    made.declare('[machines.web]\nname = "base"\n').ok("install")
    return made


def other(shop: Shop, tmp_path: Path, name: str) -> Shop:
    """A second project over the same home store, with a tree that it alone holds."""
    made = Shop(tmp_path / name, shop.home, name)
    (made.directory / "d").mkdir()
    (made.directory / "d" / "f").write_bytes(os.urandom(50_000))
    made.declare('[machines.db]\ndirectory = "d"\n[machines.web]\nname = "base"\n').ok("install")
    return made


def test_what_vanished_is_listed_and_then_forgotten(shop: Shop, tmp_path: Path) -> None:
    gone = other(shop, tmp_path, "gone")
    blocks = shop.ok("store-info", "--json").json
    assert shop.ok("prune").text == "0 vanished, freed 0 bytes in 0 blocks\n"
    shutil.rmtree(gone.directory)
    found = shop.ok("prune", "--dry-run", "--json").json
    assert [row["path"] for row in found["vanished"]] == [str(gone.folder.store)]
    assert 50_000 < found["freed_bytes"] < 60_000
    assert shop.ok("prune", "--dry-run").lines == [
        f"would forget  {gone.folder.store}",
        f"1 vanished, would free {found['freed_bytes']} bytes in {found['freed_blocks']} blocks",
    ]
    result = shop.run("prune")
    assert (result.code, result.err) == (
        1, "monofs: nothing was forgotten: say --yes, or --dry-run to see what would be freed\n"
    )  # fmt: skip
    assert shop.ok("store-info", "--json").json == blocks
    assert len(shop.ok("store", "layers", "--json").json) == 2
    assert f"freed {found['freed_bytes']} bytes" in shop.ok("prune", "--yes").text
    assert [row["path"] for row in shop.ok("store", "layers", "--json").json] == [str(shop.folder.store)]
    check_whole(shop)
    assert shop.ok("ls", "shop/web").lines == ["f"]


def test_mc_that_was_removed_and_made_again_is_one_that_vanished_and_one_that_is_there(shop: Shop) -> None:
    shutil.rmtree(shop.folder.mc)
    shop.ok("install")
    assert len(shop.ok("prune", "--dry-run", "--json").json["vanished"]) == 1
    shop.ok("prune", "--yes")
    assert shop.actions("--locked") == {"web": "same"}
    check_whole(shop)


def test_one_that_moved_counts_as_soon_as_it_is_used(shop: Shop, tmp_path: Path) -> None:
    moved = Shop(tmp_path / "two", shop.home)
    moved.directory.rmdir()
    shop.directory.rename(moved.directory)
    assert len(moved.ok("prune", "--dry-run", "--json").json["vanished"]) == 1
    moved.ok("ls", "shop/web")
    assert moved.ok("prune", "--dry-run", "--json").json["vanished"] == []
    moved.ok("prune", "--yes")
    moved.ok("gc")
    check_whole(moved)


def test_one_that_was_forgotten_too_early_is_held_again_if_all_of_it_is_there(shop: Shop, tmp_path: Path) -> None:
    changed = shop.change("web", {"mine": os.urandom(100_000)})
    moved = Shop(tmp_path / "two", shop.home)
    moved.directory.rmdir()
    shop.directory.rename(moved.directory)
    moved.ok("prune", "--yes")
    moved.ok("gc")
    assert "was told to forget it" in moved.fails("ls", "shop/web")
    assert moved.actions() == {"web": "same"}
    assert moved.names() == {"shop/web": changed}
    moved.ok("forget", "base")
    moved.ok("gc")
    check_whole(moved)
    # And if it is not: one line that says what to do, and nothing is changed.
    again = Shop(tmp_path / "three", shop.home)
    again.directory.rmdir()
    moved.directory.rename(again.directory)
    again.ok("prune", "--yes")
    assert f"rm -rf {again.folder.mc}" in again.fails("install")
    assert again.ok("store", "layers").out == b""
    assert again.folder.store.exists()


def test_prune_says_which_options_go_together(shop: Shop) -> None:
    assert "--keep goes with a NAME" in shop.fails("prune", "--keep", "last=1", code=2)
    assert "a NAME needs --keep" in shop.fails("prune", "base", code=2)
    assert "--yes is for what vanished" in shop.fails("prune", "base", "--keep", "last=1", "--yes", code=2)
