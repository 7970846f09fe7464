"""A directory of ten million entries, made, looked into, edited and checked: tools/bench wide

Too large for CI; `tests/store/test_large_values.py` asks the same of smaller ones.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from store import check, directory, limits, tree, version
from store.cache import Cache
from store.entry import Entry
from store.nodes import DIRECTORY
from store.repository import Repository
from store.version import Tree


def measured(path: Path, count: int) -> dict[str, Any]:
    """Build the directory in a new store at `path`; returns what that took."""
    repository = Repository.init(path)
    found: dict[str, Any] = {"entries": count}
    start = time.process_time()
    batch, stage = repository.batch("large")
    builder = tree.Builder(batch, DIRECTORY)
    for number in range(count):
        name = b"%010d" % number
        builder.add(name, [name, {"mode": 0o644, "mtime": number, "size": 3, "data": b"%03d" % (number % 1000)}])
    data, (entries, size, directories) = builder.finish()
    assert data is not None
    root = Entry("dir", 0o755, data=data, total=(entries, size, directories))
    repository.publish("large", version.put_tree(batch, Tree(root)), batch, stage)
    found["build_cpu_seconds"] = round(time.process_time() - start, 1)
    sizes = repository.store.view(lambda tables: [len(tables.load(cid)()) for cid in tables.cids() if cid.is_node])
    found |= {
        "nodes": len(sizes),
        "largest_node_bytes": max(sizes),
        "levels": tree.load(batch, DIRECTORY, data).level + 1,
    }
    assert max(sizes) <= limits.block_bytes_max
    found |= _looks(repository, root, count)
    start = time.process_time()
    report = check.examine(repository.store)
    assert report.is_clean and report.blocks == len(sizes)
    found["check_cpu_seconds"] = round(time.process_time() - start, 1)
    found["stored_bytes"] = repository.store.usage().stored
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    repository.close()
    return found


def _looks(repository: Repository, root: Entry, count: int) -> dict[str, Any]:
    rng = random.Random(1)
    names = [b"%010d" % rng.randrange(count) for _ in range(1000)]
    start = time.process_time()
    for name in names:
        assert directory.lookup(repository.cache, root, name) is not None
    looks = time.process_time() - start
    batch, _ = repository.batch("edit")
    start = time.process_time()
    directory.with_entries(batch, root, {names[0]: Entry("file", 0o600)})
    start = time.process_time()
    first = list(islice(directory.entries(Cache(repository.store), root), 1000))
    reading = time.process_time() - start
    assert len(first) == min(1000, count)
    return {
        "find_cpu_microseconds": round(looks * 1000),
        "first_1000_names_cpu_milliseconds": round(reading * 1000, 1),
        "edit_cpu_milliseconds": round((time.process_time() - start) * 1000, 1),
        "edit_blocks": len(batch.blocks),
        "edit_bytes": sum(map(len, batch.blocks.values())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--place", type=Path, help="where there is room for the store")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="monofs-large-", dir=args.place))
    try:
        print(json.dumps(measured(place / "store", args.count), indent=2))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
