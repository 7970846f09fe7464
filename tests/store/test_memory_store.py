"""The reference model keeps what every store promises."""

from __future__ import annotations

import pytest

from store.memory_store import MemoryStore
from tests.suites import blocks


class TestMemoryStore(blocks.Suite):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()
