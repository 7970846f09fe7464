"""Programs that people use, unmodified and without special flags, inside a mount. The law is checked behind each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted.conftest import Mount, needs_root
from tests.mounted.programs import git, listing, run, shell, sqlite
from tests.mounted.test_law import imported

pytestmark = [pytest.mark.mounted, needs_root]

# Looking


def test_ls_find_grep_du_stat(work: Path, source: Path) -> None:
    run("cp", "-a", f"{source}/.", work)
    assert listing(work) == listing(source)
    for options in ("-la", "-laR", "-1f", "-lai"):
        assert run("ls", options, work).count("file-7") == run("ls", options, source).count("file-7")
    both = [
        [line for line in run("ls", "-laR", "--time-style=full-iso", ".", cwd=at).splitlines() if "total" not in line]
        for at in (work, source)
    ]
    assert [line for line in both[0] if not line.startswith("d")] == [li for li in both[1] if not li.startswith("d")]
    for argv in (
        ("grep", "-rc", "needle", "many", "text", "deep"),
        ("find", ".", "-type", "f", "-size", "+100k"),
        ("find", ".", "-newer", "text", "-name", "file-1*"),
        ("find", ".", "-links", "3", "-samefile", "large"),
        ("find", ".", "-empty"),
        ("du", "-a", "--apparent-size", "-b", "--exclude=.", "many/file-1", "large", "sparse"),
        ("stat", "-c", "%n %F %a %h %s %t:%T %y", "text", "large", "null", "disk", "fifo", "link", "shared"),
        ("sha256sum", "large", "text", "sparse", "link"),
        ("getfattr", "-d", "-m", "-", "text", "shared", "bin/tool"),
        ("getcap", "bin/tool"),
        ("wc", "-c", "large", "sparse"),
    ):
        here, there = (sorted(run(*argv, cwd=at).splitlines()) for at in (work, source))
        assert here == there, argv
    assert int(run("du", "-sk", work / "sparse").split()[0]) < 100
    assert run(work / "bin/tool") == "works\n"


# Copying whole trees


@pytest.mark.slow
def test_cp_there_and_back(work: Path, source: Path, home: Path) -> None:
    run("cp", "-a", source, work / "copy")
    assert imported(work / "copy") == imported(source)
    run("cp", "-a", work / "copy", work / "again")
    run("cp", "-a", work / "again", home / "back")
    assert imported(home / "back") == imported(work / "again") == imported(source)
    run("cp", "-r", "--sparse=always", work / "copy/large", work / "copy/sparse", work / "again/empty")
    assert (work / "again/empty/large").read_bytes() == (source / "large").read_bytes()


@pytest.mark.slow
def test_rsync_twice(work: Path, source: Path, home: Path) -> None:
    run("rsync", "-aHAX", f"{source}/", work / "copy")
    assert imported(work / "copy") == imported(source)
    assert run("rsync", "-aHAXi", f"{source}/", work / "copy") == ""
    run("rsync", "-aHAX", f"{work}/copy/", home / "back")
    assert imported(home / "back") == imported(source)
    with open(source / "large", "r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed in the middle")
    (source / "many/file-9").unlink()
    os.utime(source / "many", ns=(1, 1))  # rsync takes two times in one second for the same
    run("rsync", "-aHAX", "--inplace", "--no-whole-file", "--delete", f"{source}/", work / "copy")
    assert imported(work / "copy") == imported(source)


@pytest.mark.slow
def test_tar_there_and_back(work: Path, source: Path, home: Path) -> None:
    whole = ("--xattrs", "--xattrs-include=*", "--acls", "--format=posix", "--sparse")
    run("tar", *whole, "-cf", home / "one.tar", "-C", source, ".")
    (work / "copy").mkdir()
    run("tar", *whole, "--numeric-owner", "-xpf", home / "one.tar", "-C", work / "copy")
    assert imported(work / "copy") == imported(source)
    run("tar", *whole, "-cf", work / "two.tar", "-C", work / "copy", ".")
    (home / "back").mkdir()
    run("tar", *whole, "--numeric-owner", "-xpf", work / "two.tar", "-C", home / "back")
    assert imported(home / "back") == imported(source)
    run("tar", "-df", work / "two.tar", "-C", work / "copy")


def test_dpkg_deb_packs_and_unpacks(work: Path) -> None:
    shell(
        """
        mkdir -p p/DEBIAN p/usr/bin p/usr/share/doc/p
        printf 'Package: p\\nVersion: 1\\nArchitecture: all\\nMaintainer: me <me@example.org>\\nDescription: d\\n' \
            > p/DEBIAN/control
        head -c 300000 /dev/urandom > p/usr/share/doc/p/data
        ln -s ../share/doc/p/data p/usr/bin/data
        dpkg-deb -b p p.deb >/dev/null
        dpkg-deb -x p.deb out
        rm -r p/DEBIAN
        diff -r p out
        """,
        work,
    )


@pytest.mark.slow
def test_mv_within_and_across_filesystems(work: Path, source: Path, home: Path) -> None:
    expected = imported(source)
    run("mv", source, work / "moved")
    assert not source.exists() and imported(work / "moved") == expected
    (work / "into/here").mkdir(parents=True)
    run("mv", work / "moved", work / "into/here")
    assert imported(work / "into/here/moved") == expected
    run("mv", "-T", "-n", work / "into/here/moved", work / "renamed")
    shell("mv renamed/text renamed/deep/er; mv renamed/deep/er/text renamed/text", work)
    run("mv", work / "renamed", home / "back")
    assert (home / "back/large").stat().st_nlink == 3 and list((work / "into/here").iterdir()) == []


def test_rm_rf(work: Path, source: Path) -> None:
    run("cp", "-a", source, work / "copy")
    run("cp", "-a", source, work / "keep")
    run("rm", "-rf", work / "copy")
    assert os.listdir(work) == ["keep"]
    run("find", work / "keep", "-mindepth", "1", "-delete")
    assert os.listdir(work / "keep") == []


# Small tools


def test_dd_truncate_fallocate(work: Path) -> None:
    shell(
        """
        head -c 1000000 /dev/zero | tr '\\0' a > f
        printf hello | dd of=f bs=1 seek=500000 conv=notrunc status=none
        [ "$(dd if=f bs=1 skip=499999 count=7 status=none)" = ahelloa ]
        dd if=f of=g bs=4k conv=sparse,fsync status=none
        cmp f g
        dd if=/dev/urandom of=f bs=64k count=4 seek=2 conv=notrunc,fdatasync oflag=append status=none
        [ "$(stat -c %s f)" = 1262144 ]
        truncate -s 10 f; truncate -s +10 f; truncate -s 1T huge; truncate -r f g
        [ "$(stat -c %s f)-$(stat -c %s g)-$(stat -c %s huge)" = 20-20-1099511627776 ]
        [ "$(du -k huge | cut -f1)" -lt 100 ]
        fallocate -l 300000 -x new
        [ "$(stat -c %s new)" = 300000 ]
        printf tail >> huge
        [ "$(tail -c 4 huge)" = tail ]
        rm huge
        """,
        work,
    )


def test_links_nodes_modes_owners_times(work: Path) -> None:
    shell(
        """
        echo data > f
        ln f hard; ln -s f soft; ln -sf hard soft; ln -f f hard2
        [ "$(stat -c %h f)" = 3 ]; [ "$(readlink soft)" = hard ]
        mkfifo p; mknod c c 1 3; mknod b b 7 0; mknod p2 p
        (echo through > p &); [ "$(cat p)" = through ]
        chmod u+s,g+s,+t f; [ "$(stat -c %a f)" = 7644 ]
        chmod 0 f; [ "$(cat f)" = data ]; chmod -R u=rwX,go=rX .
        chown 12:34 f; chown -h 56:78 soft
        [ "$(stat -c %u:%g f soft | xargs)" = "12:34 56:78" ]
        touch -d '2001-02-03 04:05:06.123456789' f; [ "$(stat -c %y f)" = '2001-02-03 04:05:06.123456789 +0000' ]
        touch -d '1965-01-01 00:00:00.5' old; [ "$(stat -c %Y old)" -lt 0 ]
        touch -r f ref; touch -h -r f soft; [ "$(stat -c %y ref)" = "$(stat -c %y soft)" ]
        setfattr -n user.k -v value f; [ "$(getfattr --only-values -n user.k hard)" = value ]
        setfattr -x user.k f; [ -z "$(getfattr f)" ]
        install -m 4711 -o 5 -g 6 f installed; [ "$(stat -c %a:%u:%g installed)" = 4711:5:6 ]
        setfacl -m u:99:rw,g:88:r f; getfacl -c f | grep -q '^user:99:rw-$'
        """,
        work,
    )


def test_a_file_that_is_open_while_it_is_deleted(work: Path) -> None:
    said = shell(
        """
        exec 3<>f; echo one >&3; rm f; echo two >&3; sync
        head -c 100000 /dev/zero >&3
        cat /proc/self/fd/3 | head -c 8
        """,
        work,
    )
    assert said == "one\ntwo\n" and os.listdir(work) == []


def test_editors_save(work: Path) -> None:
    (work / "doc").write_text("first\n")
    os.chmod(work / "doc", 0o640)
    for n in range(20):
        temporary = work / f".doc.{n}.tmp"
        with open(temporary, "w") as out:
            out.write(f"version {n}\n")
            out.flush()
            os.fsync(out.fileno())
        os.rename(temporary, work / "doc")
        assert (work / "doc").read_text() == f"version {n}\n"
    run("sed", "-i.orig", "s/version/edited/", work / "doc")
    assert (work / "doc").read_text() == "edited 19\n" and (work / "doc.orig").read_text() == "version 19\n"
    (work / "notes").write_text("a\nb\n")
    shell(
        "printf '%s\\n' --- +++ '@@ -1,2 +1,2 @@' '-a' '+c' ' b' | sed 's/^---$/--- notes/;s/^+++$/+++ notes/' >d", work
    )
    run("patch", "-s", "notes", "d", cwd=work)
    assert (work / "notes").read_text() == "c\nb\n"


def test_sockets(work: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(".", os.O_RDONLY)
        os.chdir(work)
        server.bind("s")
        os.fchdir(here)
        os.close(here)
    assert run("find", work, "-type", "s") == f"{work}/s\n"


# Compilers and interpreters


def test_compileall(work: Path) -> None:
    (work / "package").mkdir()
    for n in range(30):
        (work / "package" / f"m{n}.py").write_text(f"value = {n}\n")
    run(sys.executable, "-m", "compileall", "-q", work / "package")
    compiled = sorted((work / "package/__pycache__").iterdir())
    assert len(compiled) == 30
    before = [path.stat().st_mtime_ns for path in compiled]
    run(sys.executable, "-m", "compileall", "-q", work / "package")
    assert run(sys.executable, "-c", "import package.m7 as m; print(m.value, m.__cached__)", cwd=work).startswith("7 ")
    assert [path.stat().st_mtime_ns for path in compiled] == before, "they were up to date"


def test_make_builds_once(work: Path) -> None:
    (work / "Makefile").write_text(
        "all: prog\nprog: build/main.o build/other.o\n\t$(CC) -o $@ $^\n"
        "build/%.o: %.c | build\n\t$(CC) -MMD -c -o $@ $<\nbuild:\n\tmkdir build\n-include build/*.d\n"
    )
    (work / "part.h").write_text("int other(void);\n")
    (work / "main.c").write_text(
        '#include "part.h"\n#include <stdio.h>\nint main(void) { printf("%d\\n", other()); }\n'
    )
    (work / "other.c").write_text('#include "part.h"\nint other(void) { return 42; }\n')
    assert "main.o" in run("make", cwd=work)
    assert run(work / "prog") == "42\n"
    assert "Nothing to be done" in run("make", cwd=work)
    (work / "other.c").write_text('#include "part.h"\nint other(void) { return 43; }\n')
    again = run("make", cwd=work)
    assert "other.o" in again and "main.o" in again and "main.c" not in again
    assert run(work / "prog") == "43\n"
    assert "Nothing to be done" in run("make", cwd=work)


# git


@pytest.mark.slow
def test_git(work: Path, source: Path, home: Path) -> None:
    repository = work / "repository"
    git(work, "init", "-q", repository)
    run("cp", "-r", source / "many", source / "text", source / "large", repository)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "one")
    assert git(repository, "status", "--porcelain") == ""
    (repository / "text").write_text("changed\n")
    assert git(repository, "status", "--porcelain") == " M text\n"
    git(repository, "stash", "-q")
    git(repository, "checkout", "-qb", "side")
    (repository / "many/file-1").unlink()
    git(repository, "mv", "many/file-2", "file-2")
    git(repository, "commit", "-qam", "two")
    git(repository, "checkout", "-q", "main")
    (repository / "third").write_text("3\n")
    git(repository, "add", "third")
    git(repository, "commit", "-qm", "three")
    git(repository, "merge", "-qm", "both", "side")
    git(repository, "stash", "pop", "-q")
    git(repository, "commit", "-qam", "four")
    git(repository, "repack", "-qad")
    git(repository, "gc", "-q", "--aggressive", "--prune=now")
    git(repository, "fsck", "--full", "--strict")
    for clone in (work / "clone", home / "clone"):
        git(work, "clone", "-q", "--no-hardlinks" if clone.parent == home else "--local", repository, clone)
        assert git(clone, "rev-parse", "HEAD") == git(repository, "rev-parse", "HEAD")
        assert git(clone, "status", "--porcelain") == ""
    git(work / "clone", "worktree", "add", "-q", work / "tree", "HEAD~1")
    (work / "tree/new").write_text("new\n")
    git(work / "tree", "add", "new")
    git(work / "tree", "commit", "-qm", "in a worktree")
    git(work / "clone", "fsck")
    git(repository, "fetch", "-q", work / "clone", "HEAD:refs/heads/back")
    assert git(repository, "status", "--porcelain") == ""


@pytest.mark.slow
def test_git_needs_no_new_look_after_a_remount(machine: Mount, work: Path, source: Path) -> None:
    """Size, mtime and mode are all that git can compare then; it must not have to read the files again."""
    repository = work / "r"
    git(work, "init", "-q", repository)
    run("cp", "-r", source / "many", repository)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "one")
    machine.remount()
    assert git(repository, "diff-index", "--name-only", "HEAD") == ""
    assert git(repository, "status", "--porcelain") == ""


# sqlite


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "wal"])
def test_sqlite(work: Path, journal: str) -> None:
    database = work / "db"
    assert sqlite(database, f"pragma journal_mode={journal}").strip() == journal
    sqlite(database, "create table t (n integer primary key, data blob); create index i on t(data)")
    for start in range(0, 400, 100):
        values = ",".join(f"({n}, randomblob(700))" for n in range(start, start + 100))
        sqlite(database, f"pragma journal_mode={journal}; begin; insert into t values {values}; commit")
    sqlite(database, "begin; delete from t where n % 2; rollback; update t set data = 'x' where n % 3 = 0")
    assert sqlite(database, "select count(*) from t; select count(*) from t where data = 'x'") == "400\n134\n"
    sqlite(database, "delete from t where n < 100; vacuum")
    assert sqlite(database, "pragma integrity_check; select count(*) from t") == "ok\n300\n"


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("pragma journal_mode=" + sys.argv[2])
for n in range(int(sys.argv[3])):
    connection.execute("begin immediate")
    (count,) = connection.execute("select n from counter").fetchone()
    connection.execute("update counter set n = ?", (count + 1,))
    connection.execute("insert into log values (?, randomblob(3000))", (count,))
    connection.execute("commit")
    print(count, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_writers_that_compete_and_die(work: Path, journal: str) -> None:
    """Locks between processes, shared memory (WAL), and the recovery from a journal that a dead writer left."""
    database = work / "db"
    sqlite(database, "create table counter (n); insert into counter values (0); create table log (n unique, data)")

    def writer(count: int) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", WRITER, str(database), journal, str(count)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE)

    writers = [writer(40) for _ in range(3)]
    done = [int(line) for process in writers for line in process.communicate()[0].split()]
    assert all(process.returncode == 0 for process in writers) and sorted(done) == list(range(120))
    with writer(100_000) as doomed:
        assert doomed.stdout is not None
        for _ in range(20):
            last = int(doomed.stdout.readline())
        doomed.kill()
        last = max([last, *(int(line) for line in doomed.stdout.read().split() if line)])
    count, logged, check = sqlite(
        database, "select n from counter; select count(*) from log; pragma integrity_check"
    ).split()
    assert check == "ok" and count == logged and int(count) in (last + 1, last + 2)
