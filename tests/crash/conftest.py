"""What crash tests have in common: a place where syncing is quick."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.suites.faults import quick_directory


@pytest.fixture
def quick() -> Iterator[Path]:
    with quick_directory() as path:
        yield path
