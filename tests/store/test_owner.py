"""An owner is alive until its process ends, and never again, whoever gets its pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from store import owner as owners
from store.owner import Owner


def of_process(pid: int) -> Owner:
    start = owners._start(pid)
    assert start is not None
    return Owner(pid, start, Owner.current().boot)


def test_this_process_is_alive() -> None:
    me = Owner.current()
    assert me.pid == os.getpid() and me.is_alive()


def test_an_owner_can_be_written_and_read() -> None:
    me = Owner.current()
    assert Owner.of(me.doc()) == me
    assert Owner.parse(str(me)) == me


@pytest.mark.parametrize("text", ["", "x", "boot-1", "boot-one-2"])
def test_what_is_no_owner_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError):
        Owner.parse(text)


def test_a_process_is_dead_once_it_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = of_process(process.pid)
    assert owner.is_alive()
    process.communicate(b"\n")
    assert not owner.is_alive()


def test_a_process_nobody_reaped_is_dead() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    owner = of_process(process.pid)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert not owner.is_alive()
    process.wait()


def test_another_process_with_the_same_pid_is_not_the_owner() -> None:
    me = Owner.current()
    assert not me._replace(start=me.start - 1).is_alive()
    assert not me._replace(boot="00000000-0000-0000-0000-000000000000").is_alive()


def test_a_command_may_be_called_anything(tmp_path: Path) -> None:
    strange = tmp_path / "x) Z 1 (y"
    strange.symlink_to("/bin/sleep")
    process = subprocess.Popen([strange, "1000"])
    try:
        assert of_process(process.pid).is_alive()
    finally:
        process.kill()
        process.wait()
