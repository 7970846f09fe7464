"""A mount from every kind of store: worked in, killed, mounted again, and nothing that was synced is lost."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import backends, check
from store.errors import Held
from store.repository import Repository
from tests.suites.machine import Machine

pytestmark = pytest.mark.mounted


@pytest.fixture(params=["lmdb", "flatfs", "layered"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def machine(tmp_path: Path, kind: str) -> Iterator[Machine]:
    """Like everybody's, but from a store of this kind; a layer's base is made of a store that has the name already."""
    store = tmp_path / "store"
    if kind == "layered":
        Repository.init(tmp_path / "base").close()
        Repository.init(store, bases=(tmp_path / "base",)).close()
    else:
        Repository.init(store, backend=kind).close()
    made = Machine(tmp_path, store)
    yield made
    made.end()
    print(made.log())


def test_what_was_synced_outlives_a_kill(machine: Machine, rng: random.Random) -> None:
    files = {f"dir/{number}": rng.randbytes(rng.randrange(200_000)) for number in range(20)}
    directory = machine.start()
    (directory / "dir").mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    (directory / "dir/0").rename(directory / "renamed")
    files["renamed"] = files.pop("dir/0")
    file = os.open(directory / "dir/1", os.O_RDONLY)
    os.fsync(file)
    os.close(file)
    machine.kill()
    machine.start()
    assert {name: (directory / name).read_bytes() for name in files} == files
    (directory / "dir/1").unlink()
    machine.umount()

    repository = Repository.open(machine.store, create=False)
    assert check.examine(repository.store).is_clean
    repository.close()


def test_a_mounted_store_is_not_compacted(machine: Machine, kind: str) -> None:
    directory = machine.start()
    (directory / "file").write_bytes(b"text")
    if kind == "flatfs":
        backends.compact(machine.store)  # nobody has to leave for this
    else:
        with pytest.raises(Held, match="unmount"):
            backends.compact(machine.store)
    assert (directory / "file").read_bytes() == b"text"
    machine.umount()
    backends.compact(machine.store)
    machine.start()
    assert (directory / "file").read_bytes() == b"text"
    machine.umount()


@pytest.mark.parametrize("kind", ["layered"], indirect=True)
def test_a_mount_leans_on_the_base(machine: Machine, tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(3_000_000)
    directory = machine.start()
    (directory / "large").write_bytes(data)
    tree = machine.umount()
    over = Repository.init(tmp_path / "second", bases=(machine.store,))  # a layer over a layer
    over.close()
    second = Machine.__new__(Machine)
    second.store, second.dir = tmp_path / "second", machine.dir
    second.start(str(tree), name="fork")
    assert (directory / "large").read_bytes() == data
    with (directory / "large").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed")
    second.umount()
    for path in (tmp_path / "second", machine.store, tmp_path / "base"):
        repository = Repository.open(path, create=False)
        assert check.examine(repository.store).is_clean
        if path == tmp_path / "second":
            assert repository.store.usage().plain < 600_000, "only what was changed is stored"
        repository.close()
