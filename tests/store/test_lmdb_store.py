"""The default store: the suite, and what several processes, a full disk and bad bytes do to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.lmdb_store import LmdbStore
from tests.suites import blocks


class TestLmdbStore(blocks.Suite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LmdbStore]:
        store = LmdbStore(tmp_path)
        yield store
        store.close()
