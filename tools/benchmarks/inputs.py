"""What is measured with: a source tree of about 14.7k files and 233 MB, and one large binary. The same in every run."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MB = 1_000_000

_FILES, _BYTES = 14_700, 233 * MB
_QUICK_FILES, _QUICK_BYTES = 1_500, 25 * MB
_BIG_BYTES, _QUICK_BIG_BYTES = 500 * MB, 50 * MB
_LARGE_BYTES, _QUICK_LARGE_BYTES = 500 * 1024 * 1024, 10 * 1024 * 1024

_LINUX_PARTS = ("block", "crypto", "drivers/net", "fs", "include", "kernel", "mm")  # 14,707 files, 234 MB of 6.1
_QUICK_LINUX_PARTS = ("block", "kernel", "mm")


class Input(NamedTuple):
    path: Path
    what: str
    files: int
    bytes: int


# A source tree


def tree(work: Path, quick: bool) -> Input:
    """Make a source tree in `work`/base: of Linux if its source is installed, else of this machine's own text files."""
    path = work / "base" / "tree"
    path.parent.mkdir(exist_ok=True)
    archive = next(iter(sorted(Path("/usr/src").glob("linux-source-*.tar.xz"))), None)
    if archive is not None:
        what = _linux(path, archive, _QUICK_LINUX_PARTS if quick else _LINUX_PARTS)
    else:
        what = _of_this_machine(path, *((_QUICK_FILES, _QUICK_BYTES) if quick else (_FILES, _BYTES)))
    sizes = [os.lstat(file).st_size for file in files(path)]
    return Input(path, what, len(sizes), sum(sizes))


def files(path: Path) -> list[Path]:
    """Return all regular files below `path`, sorted."""
    return sorted(Path(at, name) for at, _, names in os.walk(path) for name in names if Path(at, name).is_file())


def _linux(path: Path, archive: Path, parts: tuple[str, ...]) -> str:
    path.mkdir()
    stem = archive.name.removesuffix(".tar.xz")
    members = [f"{stem}/{part}" for part in parts]
    subprocess.run(["tar", "-xJf", archive, "-C", path, "--strip-components=1", *members], check=True)
    return f"{', '.join(parts)} of {stem}"


def _of_this_machine(path: Path, count: int, size: int) -> str:
    """Copy text files from /usr; where there are too few, the rest are copies of these with a line put in."""
    path.mkdir()
    copies, room = 0, size
    originals = list(_text_files(count, size))
    for round_ in range(count // max(1, len(originals)) + 1):
        for source in originals:
            if copies >= count or room <= 0:
                break
            target = path / f"{round_}" / source.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            room -= _copy(source, target, round_)
            copies += 1
    return f"text files of /usr, {len(originals)} different ones"


def _text_files(count: int, size: int) -> Iterator[Path]:
    tops = ("/usr/include", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/share", sys.prefix, "/usr/lib")
    for top in tops:
        for file in files(Path(top)):
            found = os.lstat(file)
            if count <= 0 or size <= 0:
                return
            if 0 < found.st_size < MB and os.access(file, os.R_OK) and file.suffix not in (".pyc", ".so", ".a", ".gz"):
                count, size = count - 1, size - found.st_size
                yield file


def _copy(source: Path, target: Path, round_: int) -> int:
    if round_ == 0:
        shutil.copy(source, target, follow_symlinks=True)
    else:
        data = source.read_bytes()
        middle = data.find(b"\n", len(data) // 2) + 1
        target.write_bytes(data[:middle] + b"copy number %d\n" % round_ + data[middle:])
    return target.stat().st_size


# Large files


def big_file(work: Path, quick: bool) -> Input:
    """Make a directory with one large file: this machine's libraries and programs one after the other."""
    size = _QUICK_BIG_BYTES if quick else _BIG_BYTES
    directory = work / "big"
    directory.mkdir()
    left = size
    with (directory / "binary").open("wb") as out:
        for source in _binaries():
            data = source.read_bytes()[:left]
            out.write(data)
            left -= len(data)
            if left == 0:
                break
        real = size - left
        numbers = random.Random(1)
        while left > 0:
            out.write(numbers.randbytes(min(left, MB)))
            left -= min(left, MB)
    return Input(directory, f"{real // MB} MB of programs and libraries, {(size - real) // MB} MB of noise", 1, size)


def large(work: Path, quick: bool) -> Input:
    """Make a file in `work`/base that cannot be compressed."""
    path = work / "base" / "large"
    path.parent.mkdir(exist_ok=True)
    size = _QUICK_LARGE_BYTES if quick else _LARGE_BYTES
    noise(path, size)
    return Input(path, "noise", 1, size)


def _binaries() -> Iterator[Path]:
    for top in ("/usr/lib", "/usr/bin"):
        for file in files(Path(top)):
            if not file.is_symlink() and file.stat().st_size >= 100_000 and os.access(file, os.R_OK):
                with file.open("rb") as opened:
                    if opened.read(4) == b"\x7fELF":
                        yield file


def noise(path: Path, size: int, *, inserted: int = 0) -> None:
    """Write `size` bytes that cannot be compressed, with `inserted` other ones in their middle."""
    numbers, others = random.Random(2), random.Random(3)
    with path.open("wb") as out:
        for start in range(0, size, MB):
            if inserted and start == size // 2 // MB * MB:
                out.write(others.randbytes(inserted))
            out.write(numbers.randbytes(min(MB, size - start)))


def change_slightly(tree: Path) -> str:
    """Change one file in a hundred: a line put into its middle, with every tenth of these deleted instead."""
    chosen = files(tree)[::100]
    for number, file in enumerate(chosen):
        if number % 10 == 9:
            file.unlink()
            continue
        data = file.read_bytes()
        middle = data.find(b"\n", len(data) // 2) + 1
        file.write_bytes(data[:middle] + b"/* a new line */\n" + data[middle:])
    return f"{len(chosen)} files changed or deleted"
