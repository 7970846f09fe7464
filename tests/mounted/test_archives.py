"""Archives unpacked in a mount, and packed from it: nothing that stat or getfattr shows is lost on the way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.mounted.conftest import Mount, needs_root
from tests.mounted.programs import run

pytestmark = [pytest.mark.mounted, pytest.mark.slow, needs_root]

WHOLE = ("--xattrs", "--xattrs-include=*", "--acls", "--format=posix", "--sparse", "--numeric-owner")
PACKAGE = "perl-base"  # essential, so it is on every Debian


def attributes(tree: Path) -> str:
    """Return all that stat and getfattr say about a tree, but inode numbers and the like, which belong to a machine."""
    names = sorted(os.fsencode(at) + b"/" + os.fsencode(n) for at, d, f in os.walk(tree) for n in d + f)
    here = [os.fsdecode(os.path.relpath(name, os.fsencode(tree))) for name in names]
    said = run("stat", "--printf", r"%n %F %a %u:%g %h %t,%T %y\n", "--", *here, cwd=tree)
    files = [name for name in here if not stat.S_ISDIR((tree / name).lstat().st_mode)]
    said += run("stat", "--printf", r"%n %s\n", "--", *files, cwd=tree)  # a directory's is its filesystem's own affair
    return said + run("getfattr", "-h", "-d", "-m", "-", "-e", "hex", "--", *here, cwd=tree)


def test_tar_keeps_all_that_can_be_seen(machine: Mount, work: Path, source: Path, home: Path) -> None:
    run("setfacl", "-m", "u:77:rwx,g:88:r", source / "many/file-4")
    run("setfacl", "-d", "-m", "u:77:rx", source / "deep")
    os.utime(source / "deep", ns=(3, 3))
    run("tar", *WHOLE, "-cf", home / "one.tar", "-C", source, ".")
    run("tar", *WHOLE, "-xpf", home / "one.tar", "-C", work)
    expected = attributes(source)
    assert attributes(work) == expected
    machine.remount()
    assert attributes(work) == expected
    run("tar", *WHOLE, "-cf", home / "two.tar", "-C", work, ".")
    (home / "back").mkdir()
    run("tar", *WHOLE, "-xpf", home / "two.tar", "-C", home / "back")
    assert attributes(home / "back") == expected
    assert int(run("du", "-sk", home / "back/sparse").split()[0]) < 100
    run("diff", "-r", "--no-dereference", "--exclude=fifo", "--exclude=null", "--exclude=disk", source, home / "back")


def test_dpkg_deb_unpacks_a_real_package(work: Path, home: Path) -> None:
    """It is packed again from what is installed here; Debian's own checksums say whether it came through."""
    package = home / "package"
    (package / "DEBIAN").mkdir(parents=True)
    fields = "".join(f"{field}: ${{{field}}}\\n" for field in ("Package", "Version", "Architecture"))
    control = run("dpkg-query", "-W", "-f", fields, PACKAGE)
    (package / "DEBIAN/control").write_text(f"{control}Maintainer: m <m@example.org>\nDescription: a copy\n")
    installed = [path for path in run("dpkg", "-L", PACKAGE).splitlines() if os.path.lexists(path) and path != "/."]
    (home / "list").write_text("".join(f".{path}\n" for path in installed))
    run("tar", "--no-recursion", "-C", "/", "-cf", home / "files.tar", "-T", home / "list")
    run("tar", "-C", package, "-xpf", home / "files.tar")
    run("dpkg-deb", "-Znone", "-b", package, home / "package.deb")
    run("dpkg-deb", "-x", home / "package.deb", work / "out")
    sums = Path(f"/var/lib/dpkg/info/{PACKAGE}.md5sums").read_text().splitlines()
    here = [line for line in sums if (work / "out" / line.split("  ", 1)[1]).exists()]
    assert len(here) > 50
    (home / "sums").write_text("".join(f"{line}\n" for line in here))
    run("md5sum", "--quiet", "--check", home / "sums", cwd=work / "out")
    assert run(work / "out/usr/bin/perl", "-e", "print 6*7") == "42"
