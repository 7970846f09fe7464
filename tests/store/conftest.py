"""What the tests of import and export need: a place whose trees may be as nasty as they like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.suites import trees


@pytest.fixture
def ground() -> Iterator[Path]:
    with trees.ground() as made:
        yield made
