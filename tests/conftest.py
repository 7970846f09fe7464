"""Fixtures that many tests share. Every random choice comes from one seed, which a failure shows."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.repository import Repository
from tests.suites.machine import Machine


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers; `MONOFS_SEED` chooses other ones."""
    seed = f"{os.environ.get('MONOFS_SEED', '0')}/{request.node.nodeid}"
    print(f"seed {seed}")  # pytest shows it when the test fails
    return random.Random(seed)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """An empty repository of this test's own."""
    made = Repository.init(tmp_path / "store")
    yield made
    made.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A store and a directory to mount it on; nothing of it is left when the test ends."""
    made = Machine(tmp_path)
    yield made
    made.end()
    print(made.log())
