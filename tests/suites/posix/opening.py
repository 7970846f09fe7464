"""open(2): its flags and what they promise."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import tempfile
from pathlib import Path

from tests.suites.posix.tools import PAGE, USER, as_user, case, child, ended, fails, file, mode, moved, opened


@case
def open_creates_only_with_o_creat(at: Path) -> None:
    with fails(errno.ENOENT):
        os.open(at / "f", os.O_RDWR)
    with opened(at / "f", os.O_RDWR | os.O_CREAT, 0o640):
        assert stat.S_ISREG(os.lstat(at / "f").st_mode) and mode(at / "f") == 0o640


@case
def open_applies_the_umask(at: Path) -> None:
    old = os.umask(0o027)
    try:
        with opened(at / "f", mode=0o666):
            os.mkdir(at / "d", 0o777)
            os.mkfifo(at / "p", 0o666)
    finally:
        os.umask(old)
    assert (mode(at / "f"), mode(at / "d"), mode(at / "p")) == (0o640, 0o750, 0o640)


@case
def open_with_a_mode_that_forbids_writing_still_writes_the_new_file(at: Path) -> None:
    def create() -> None:
        with opened(at / "f", os.O_WRONLY | os.O_CREAT, 0o400) as fd:
            assert os.write(fd, b"x") == 1
        with fails(errno.EACCES):
            os.open(at / "f", os.O_WRONLY)

    os.chmod(at, 0o777)
    as_user(USER, create)
    assert (at / "f").read_bytes() == b"x"


@case
def o_excl_refuses_what_is_there(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    os.symlink("nowhere", at / "dangling")
    for name in ("f", "d", "dangling"):
        with fails(errno.EEXIST):
            os.open(at / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert not (at / "nowhere").exists()


@case
def o_creat_follows_a_dangling_link(at: Path) -> None:
    os.symlink("there", at / "l")
    with opened(at / "l", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x")
    assert (at / "there").read_bytes() == b"x" and os.readlink(at / "l") == "there"


@case
def o_nofollow_and_o_directory(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    os.symlink("f", at / "l")
    os.symlink("d", at / "ld")
    with fails(errno.ELOOP):
        os.open(at / "l", os.O_RDONLY | os.O_NOFOLLOW)
    with fails(errno.ENOTDIR):
        os.open(at / "f", os.O_RDONLY | os.O_DIRECTORY)
    with fails(errno.ENOTDIR):
        os.open(at / "ld", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    with opened(at / "ld", os.O_RDONLY | os.O_DIRECTORY) as fd:
        assert os.fstat(fd).st_ino == os.stat(at / "d").st_ino


@case
def o_trunc_empties_and_moves_the_times(at: Path) -> None:
    file(at / "f")
    assert moved(at / "f", lambda: os.close(os.open(at / "f", os.O_WRONLY | os.O_TRUNC))) == "mc"
    assert os.stat(at / "f").st_size == 0
    assert moved(at / "f", lambda: os.close(os.open(at / "f", os.O_WRONLY | os.O_TRUNC))) == "mc"
    assert (at / "f").read_bytes() == b""


@case
def directories_cannot_be_written(at: Path) -> None:
    os.mkdir(at / "d")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        with fails(errno.EISDIR):
            os.open(at / "d", flags)
    with opened(at / "d", os.O_RDONLY) as fd, fails(errno.EISDIR):
        os.read(fd, 1)


@case
def a_slash_at_the_end_means_a_directory(at: Path) -> None:
    file(at / "f")
    os.mkdir(at / "d")
    with fails(errno.ENOTDIR):
        os.open(os.fsencode(at / "f") + b"/", os.O_RDONLY)
    with fails(errno.EISDIR):
        os.open(os.fsencode(at / "new") + b"/", os.O_CREAT | os.O_WRONLY)
    os.rename(os.fsencode(at / "d") + b"/", os.fsencode(at / "e") + b"/")
    with fails(errno.ENOTDIR):
        os.rename(at / "f", os.fsencode(at / "g") + b"/")
    with fails(errno.ENOTDIR):
        os.unlink(os.fsencode(at / "f") + b"/")


@case
def access_modes_of_descriptors(at: Path) -> None:
    file(at / "f")
    with opened(at / "f", os.O_RDONLY) as fd:
        with fails(errno.EBADF):
            os.write(fd, b"x")
        with fails(errno.EINVAL):
            os.ftruncate(fd, 1)
    with opened(at / "f", os.O_WRONLY) as fd, fails(errno.EBADF):
        os.read(fd, 1)
    with opened(at / "f", os.O_PATH) as fd:
        with fails(errno.EBADF):
            os.read(fd, 1)
        assert os.fstat(fd).st_size == 4
        assert Path(f"/proc/self/fd/{fd}").read_bytes() == b"data"


@case
def o_append_always_writes_at_the_end(at: Path) -> None:
    with opened(at / "f", os.O_RDWR | os.O_CREAT | os.O_APPEND) as one, opened(at / "f", os.O_RDWR) as two:
        os.write(one, b"aa")
        os.pwrite(two, b"bbbb", 2)
        os.lseek(one, 0, os.SEEK_SET)
        os.write(one, b"cc")
        assert os.pread(two, 100, 0) == b"aabbbbcc"
        os.ftruncate(two, 1)
        os.write(one, b"d")
        assert os.pread(two, 100, 0) == b"ad"
        assert os.lseek(one, 0, os.SEEK_CUR) == 2


@case
def o_append_of_two_processes_loses_nothing(at: Path) -> None:
    lines = 300

    def write(who: bytes) -> None:
        with opened(at / "f", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
            for number in range(lines):
                line = b"%s%06d%s\n" % (who, number, who * (number % 50))
                assert os.write(fd, line) == len(line)

    for pid in [child(lambda who=who: write(who)) for who in (b"a", b"b")]:
        ended(pid)
    found = (at / "f").read_bytes().splitlines()
    assert len(found) == 2 * lines
    for who in (b"a", b"b"):
        mine = [line for line in found if line.startswith(who)]
        assert mine == [b"%s%06d%s" % (who, number, who * (number % 50)) for number in range(lines)]


@case
def o_tmpfile_works_or_is_refused_cleanly(at: Path) -> None:
    try:
        os.close(os.open(at, os.O_TMPFILE | os.O_RDWR))
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
    with tempfile.TemporaryFile(dir=at) as out:
        out.write(b"x")
    assert os.listdir(at) == []


@case
def o_direct_and_o_sync(at: Path) -> None:
    with mmap.mmap(-1, 2 * PAGE) as buffer:
        buffer.write(b"d" * 2 * PAGE)
        with opened(at / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
            assert os.pwritev(fd, [buffer], 0) == 2 * PAGE
            buffer[:] = bytes(2 * PAGE)
            assert os.preadv(fd, [buffer], 0) == 2 * PAGE
        assert buffer[:] == b"d" * 2 * PAGE
    with opened(at / "f", os.O_RDWR | os.O_SYNC) as fd:
        os.pwrite(fd, b"s", 1)
    assert (at / "f").read_bytes() == b"ds" + b"d" * (2 * PAGE - 2)
