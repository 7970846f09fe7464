"""A store over others: the suite on every pair of stores, and what is borrowed, held and given back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store import layered_store
from store.blocks import Store
from store.flatfs_store import FlatFsStore
from store.layered_store import LayeredStore
from store.lmdb_store import LmdbStore
from store.memory_store import MemoryStore
from tests.suites import blocks
from tests.suites.blocks import node, raw

Make = Callable[[Path], Store]
MAKERS: dict[str, Make] = {
    "memory": lambda path: MemoryStore(),
    "lmdb": lambda path: LmdbStore(path),
    "flatfs": lambda path: FlatFsStore(path),
}
ME = "0" * 32


def layered(tmp_path: Path, top: str, *bases: str) -> LayeredStore:
    made = []
    for number, kind in enumerate((top, *bases)):
        path = tmp_path / str(number)
        path.mkdir(exist_ok=True)
        made.append(MAKERS[kind](path))
    (tmp_path / "layer").mkdir(exist_ok=True)
    for base in made[1:]:
        layered_store.register(base, ME, tmp_path)
    return LayeredStore(made[0], made[1:], ME, tmp_path / "layer")


@pytest.mark.parametrize(
    "kinds", [("memory", "memory"), ("lmdb", "flatfs"), ("flatfs", "lmdb", "memory")], ids="/".join
)
class TestLayeredStore(blocks.Suite):
    @pytest.fixture
    def store(self, tmp_path: Path, kinds: tuple[str, ...]) -> Iterator[LayeredStore]:
        made = layered(tmp_path, *kinds)
        for base in made.bases:
            blocks.hold(base, b"its own", node(label="base"), blocks=(raw(b"of the base"), node(label="base")))
        yield made
        made.close()
