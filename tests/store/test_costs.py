"""What diff, merge, log, prune and so on read depends on what changed, not on the size of the tree.

Counted, not timed, on trees of a thousand and of a hundred thousand files; `tools/bench versions` shows the times.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from store import prune, retention, tree, version
from store.cache import Cache
from store.nodes import DIRECTORY
from store.repository import Repository
from store.version import Tree
from tools.benchmarks import large_histories, rows_versions
from tools.benchmarks.large_histories import CHANGES, VERSIONS

SMALL, LARGE = 1_000, 100_000

# On how many ways down from a root each looks: one node more on each is what a deeper tree may cost.
WAYS = {
    "fork": 0,
    "checkpoint of ten deletions": 2 * CHANGES,
    "diff of ten changes": 2 * CHANGES,
    "merge of ten changes on each side": 4 * CHANGES,  # the base and two sides, of which both changes lie in one
    "log of 100 versions": 0,
    "log of one file in 100 versions": VERSIONS,
    "prune, the plan: 50 of 100 versions": 0,
    "prune: 50 of 100 versions": 0,
    "restore, ten files": 2 * CHANGES,
    "restore, one path": 3 * 2,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    made = {}
    for size in (SMALL, LARGE):
        made[size] = tmp_path_factory.mktemp("costs") / "store"
        repository = Repository.init(made[size])
        large_histories.make(repository, size, tries=1)
        repository.close()
    return made


def levels(store: Path) -> int:
    repository = Repository.open(store)
    root = large_histories.tree_of(repository, "src")
    assert root.tree is not None
    found = tree.load(repository.cache, DIRECTORY, root.tree).level + 1
    repository.close()
    return found


def test_what_is_read_does_not_depend_on_the_size(stores: dict[int, Path]) -> None:
    assert WAYS.keys() == {operation.name for operation in rows_versions.OPERATIONS}
    deeper = levels(stores[LARGE]) - levels(stores[SMALL])
    assert deeper >= 1, "or this compares nothing"
    repository = {size: Repository.open(store) for size, store in stores.items()}
    policy = retention.parse("last=50")
    freed = {size: prune.plan(one, "long-0", policy).freed(one).blocks for size, one in repository.items()}
    for one in repository.values():
        one.close()
    assert freed[LARGE] - freed[SMALL] <= deeper * (VERSIONS // 2) * CHANGES
    for operation in rows_versions.OPERATIONS:
        small, large = (rows_versions.cheapest(stores[size], operation, tries=1).blocks for size in (SMALL, LARGE))
        assert large - small <= deeper * WAYS[operation.name], f"{operation.name}: {small} and {large} blocks"


def test_a_commit_after_a_hundred_versions_costs_what_the_first_did(tmp_path: Path, stores: dict[int, Path]) -> None:
    """Blocks read and stored; how much the database writes for them is its own affair."""
    young = tmp_path / "young"
    repository = Repository.init(young)
    batch, stage = repository.batch("test")
    first = version.put_tree(batch, Tree(large_histories.large_tree(batch, SMALL)))
    repository.publish("src", first, batch, stage)
    repository.close()
    costs = []
    for store in (young, stores[SMALL]):
        repository = Repository.open(store)
        before = repository.store.usage().blocks
        repository.cache = Cache(counted := rows_versions.Counted(repository.store))
        root = large_histories.tree_of(repository, "src")
        large_histories.committed(repository, "src", root, SMALL, 1)
        costs.append((len(counted.read), repository.store.usage().blocks - before))
        repository.close()
    assert all(old <= young for young, old in zip(*costs, strict=True)), costs


def test_a_store_that_is_kept_is_not_made_again(tmp_path: Path) -> None:
    made = set()
    for _ in range(2):
        with large_histories.store(tmp_path / "work", 20, tmp_path / "kept") as store:
            repository = Repository.open(store)
            assert (repository.name("fork") is None) and repository.name("src") is not None
            repository.set_name("fork", None, repository.name("src"), *repository.batch("test"))
            repository.close()
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
        made.add((tmp_path / "kept" / "history-20").stat().st_ino)
    assert len(made) == 1
