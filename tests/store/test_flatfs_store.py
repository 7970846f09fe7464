"""The store of plain files: the suite, and what crashes, a full disk and lost files do to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.flatfs_store import FlatFsStore
from tests.suites import blocks


class TestFlatFsStore(blocks.Suite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[FlatFsStore]:
        made = FlatFsStore(tmp_path)
        yield made
        made.close()
