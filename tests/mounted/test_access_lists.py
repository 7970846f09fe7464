"""setfacl and getfacl do on a mount what they do on the disk beside it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.suites.machine import Machine

pytestmark = pytest.mark.mounted

SCRIPT = """
set -e
umask 0
mkdir dir; echo x > file; chmod 640 file
setfacl -m u:1234:rw,g:4321:r file
chmod 604 file
setfacl -d -m u:1234:rwx,g::rx,o::- dir
echo y > dir/made
mkdir dir/below
echo z > dir/below/deep
mkfifo dir/fifo
ln -s file dir/link
cp -a file copy
setfacl -m u::r,g::-,o::w copy
setfacl -b copy
setfacl -x u:1234 file
setfacl -k dir/below
mv file dir/moved
ln dir/moved linked
"""


def shown(directory: Path) -> str:
    run = subprocess.run("getfacl -Rpn . ; stat -c '%n %A' $(find . | sort)", shell=True, cwd=directory, check=True,
                         capture_output=True, text=True)  # fmt: skip
    blocks = run.stdout.split("\n\n")
    return "\n\n".join(sorted(blocks))


def test_setfacl(machine: Machine, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mnt = machine.start()
    for directory in (disk, mnt):
        subprocess.run(SCRIPT, shell=True, cwd=directory, check=True)
    assert shown(mnt) == shown(disk)
    machine.umount()
    mnt = machine.start()
    assert shown(mnt) == shown(disk), "after a remount"
    machine.umount()


def test_a_list_decides_who_gets_in(machine: Machine) -> None:
    mnt = machine.start()
    os.chmod(mnt, 0o755)
    (mnt / "file").write_text("secret")
    os.chmod(mnt / "file", 0o600)
    read = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", mnt / "file"]
    path = mnt
    while path != path.parent:  # pytest keeps its directories private
        path = path.parent
        os.chmod(path, os.stat(path).st_mode | 0o011)
    assert subprocess.run(read, capture_output=True, check=False).returncode != 0
    subprocess.run(["setfacl", "-m", "u:65534:r", mnt / "file"], check=True)
    assert subprocess.run(read, capture_output=True, check=True).stdout == b"secret"
    machine.umount()
