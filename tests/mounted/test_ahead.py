"""Small files that are in the kernel's cache before it asks: it asks for few, and nobody reads what is no more."""

from __future__ import annotations

import mmap
import os
import random
import threading
from pathlib import Path

import pytest

from monofs_fuse import limits
from tests.mounted.conftest import Mount
from tests.suites import counted

pytestmark = pytest.mark.mounted
FILES = 160


@pytest.fixture
def files(machine: Mount, rng: random.Random) -> dict[str, bytes]:
    """Files of many sizes in the tree 't', which is not mounted."""
    sizes = [0, 1, 4095, 4096, 4097, 70_000, limits.ahead_bytes_max, limits.ahead_bytes_max + 1]
    made = {f"f{n:03}": rng.randbytes(rng.choice(sizes) if n % 4 else rng.randrange(20_000)) for n in range(FILES)}
    mnt = machine.start()
    for name, data in made.items():
        (mnt / name).write_bytes(data)
    machine.umount()
    return made


def test_what_is_read_is_what_is_there(machine: Mount, files: dict[str, bytes]) -> None:
    mnt = machine.start_counted()
    for name, data in files.items():
        assert (mnt / name).read_bytes() == data
    small = sum(0 < len(data) <= limits.ahead_bytes_max for data in files.values())
    large = sum(len(data) > limits.ahead_bytes_max for data in files.values())
    reads = counted.counts(mnt)["read"]
    assert 0 < reads <= small // 10 + 3 * large, "the kernel had to ask for most files"


def test_nothing_is_read_for_who_only_opens(machine: Mount, files: dict[str, bytes]) -> None:
    mnt = machine.start_counted()
    os.listdir(mnt)
    before = counted.counts(mnt)
    for name in files:
        os.close(os.open(mnt / name, os.O_RDONLY))
    done = counted.counts(mnt) - before
    assert done["open"] == FILES and done["read"] == 0 and done["blocks"] <= FILES // 8


def test_a_file_that_is_being_written_is_left_alone(machine: Mount, files: dict[str, bytes]) -> None:
    """What the kernel has not written back yet must not be overwritten by what is stored."""
    mnt = machine.start()
    for name in files:
        (mnt / name).read_bytes()  # reading is worth it
    machine.remount()
    for name in sorted(files)[:20]:
        (mnt / name).read_bytes()
    for name, data in files.items():
        fd = os.open(mnt / name, os.O_RDWR)
        os.pwrite(fd, b"new", 1)
        assert (mnt / name).read_bytes() == (data[:1].ljust(1, b"\0") + b"new" + data[4:]), name
        os.close(fd)
        os.truncate(mnt / name, 2)
        assert (mnt / name).read_bytes() == data[:1].ljust(1, b"\0") + b"n"


def test_many_at_once_see_no_old_content(machine: Mount, rng: random.Random) -> None:
    """Writers put rising numbers into files while readers open them, in a mount that forgets inodes all the time."""
    mnt = machine.start_tight()
    names = [f"n{n}" for n in range(40)]
    least = dict.fromkeys(names, 0)  # what is in the file at least
    for name in names:
        (mnt / name).write_bytes(_content(0, 50))
    seeds = [rng.random() for _ in range(4)]
    errors: list[BaseException] = []

    def write(seed: float, mine: list[str]) -> None:
        numbers = random.Random(seed)
        try:
            for value in range(1, 250):
                name = numbers.choice(mine)
                _write(mnt / name, value, numbers)
                least[name] = value
        except BaseException as error:
            errors.append(error)

    def read(seed: float) -> None:
        numbers = random.Random(seed)
        try:
            for _ in range(800):
                name = numbers.choice(names)
                expected = least[name]
                found = _read(mnt / name, numbers)
                assert found >= expected, f"{name} has {found} again, it had {expected}"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(seeds[n], names[n::2])) for n in range(2)]
    threads += [threading.Thread(target=read, args=(seed,)) for seed in seeds[2:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    for name in names:
        assert _read(mnt / name, rng) >= least[name]


def _content(value: int, count: int) -> bytes:
    return b"%08d" % value * count


def _write(path: Path, value: int, numbers: random.Random) -> None:
    """Have the file begin with `value`, in one of the ways that there are."""
    data = _content(value, numbers.choice((1, 50, 3000)))
    how = numbers.randrange(4)
    if how == 0:
        other = path.with_suffix(".new")
        other.write_bytes(data)
        os.rename(other, path)
        return
    fd = os.open(path, os.O_RDWR)
    try:
        if how == 1:
            os.pwrite(fd, data[:8], 0)
        elif how == 2:
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
        else:
            with mmap.mmap(fd, 8) as memory:
                memory[:8] = data[:8]
        if numbers.random() < 0.3:
            os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path, numbers: random.Random) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        if numbers.random() < 0.3:
            with mmap.mmap(fd, 8, prot=mmap.PROT_READ) as memory:
                return int(memory[:8])
        return int(os.pread(fd, 8, 0))
    finally:
        os.close(fd)
