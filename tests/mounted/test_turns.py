"""Requests go on while some handlers wait, and nobody starves."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tests.suites.machine import Machine

pytestmark = pytest.mark.mounted


def test_many_fsyncs_and_other_requests_at_once(machine: Machine) -> None:
    """More threads wait in fsync than there are workers; each gets its answer, and lookups are answered meanwhile."""
    mnt = machine.start()
    (mnt / "there").touch()
    errors: list[BaseException] = []

    def sync(number: int) -> None:
        try:
            for round_ in range(5):
                fd = os.open(mnt / f"f{number}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
                os.write(fd, b"%d" % round_)
                os.fsync(fd)
                os.close(fd)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=sync, args=(n,)) for n in range(48)]
    for thread in threads:
        thread.start()
    looked = 0
    while any(thread.is_alive() for thread in threads):
        assert not os.path.lexists(mnt / f"absent{looked}")
        looked += 1
    assert not errors
    assert looked > 10
    assert sorted(os.listdir(mnt)) == sorted(["there", *(f"f{n}" for n in range(48))])
    machine.umount()


def test_other_tasks_run_under_a_flood_of_requests(machine: Machine) -> None:
    """The control socket and the timer's commits are tasks beside the worker that never has to wait."""
    mnt = machine.start()
    stop = threading.Event()

    def flood() -> None:
        number = 0
        while not stop.is_set():
            os.path.lexists(mnt / f"absent{number}")
            number += 1

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        (mnt / "file").touch()
        head = machine.status()["head"]
        deadline = time.monotonic() + 60
        while machine.status()["head"] == head:  # the timer commits the new name
            assert time.monotonic() < deadline, "no commit came while requests kept coming"
        assert len(machine.checkpoint()) > 40
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    machine.umount()
