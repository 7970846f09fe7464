"""The list of machines: what is kept, who is found, and what happens to the rows of the dead."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from vmm import limits, reconcile
from vmm.errors import MachineNameTaken, NoMachine, StateError, VmError
from vmm.pids import Pid
from vmm.state import Row, State, document, new_id, row_of
from vmm.tenancy import Returned


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(tmp_path) as made:
        yield made


def row(id: str, **more: object) -> Row:
    return Row(id, "t", "/nowhere", {"cpus": 1}, {"argv": ["true", "\udcff"]}, **more)  # type: ignore[arg-type]


def test_a_row_comes_back_as_it_was(state: State) -> None:
    added = state.add(row("aa", name="web", mounted=True, discard=True, fork="f", pids={"qemu": [Pid(5, 6)]}))
    assert state.get("aa") == added
    assert row_of(document(added)) == added
    assert added.supervised and added.supervisor == Pid.current()
    state.update("aa", status="exited", exit_code=3, timings={"boot": 1.5}, pids={"virtiofsd": [(7, 8)]})
    found = state.get("aa")
    assert found is not None
    assert (found.status, found.exit_code, found.timings, found.living) == ("exited", 3, {"boot": 1.5}, False)
    assert found.pids == {"virtiofsd": [Pid(7, 8)]}
    state.remove("aa")
    assert state.get("aa") is None
    state.update("aa", status="exited")


def test_a_target_that_is_no_text(state: State) -> None:
    state.add(replace(row("aa"), target="t/\udcff"))
    assert state.find("aa").target == "t/\\udcff"


def test_finding(state: State) -> None:
    for id in ("abc1", "abc2", "b000"):
        state.add(row(id))
    assert state.find("abc1").id == "abc1"
    assert state.find("b").id == "b000"
    with pytest.raises(NoMachine, match="several"):
        state.find("abc")
    for text in ("", "x", "%", "abc1x"):
        with pytest.raises(NoMachine):
            state.find(text)
    assert [found.id for found in state.all()] == ["b000", "abc2", "abc1"], "the newest first"


def test_a_name_means_the_living_machine(state: State) -> None:
    state.add(row("aa", name="n"))
    with pytest.raises(MachineNameTaken, match="'n'"):
        state.add(row("bb", name="n"))
    state.update("aa", status="exited")
    state.add(row("bb", name="n"))
    assert state.find("n").id == "bb"
    state.update("bb", status="died")
    assert state.find("n").id == "bb"
    assert state.living() == []


def test_the_files_are_private(state: State, tmp_path: Path) -> None:
    state.add(row("aa"))
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_older_and_a_newer_database(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "machines.sqlite")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StateError, match="newer monofs"):
        State(tmp_path)


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "machines.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StateError, match="cannot be used"):
        State(tmp_path)


def test_looking_makes_nothing(tmp_path: Path) -> None:
    with State(tmp_path / "none", create=False) as state:
        assert state.all() == []
    assert list(tmp_path.iterdir()) == []


def test_many_open_it_at_once(tmp_path: Path) -> None:
    def add(number: int) -> None:
        with State(tmp_path / "new") as state:
            state.add(row(new_id(), name=f"n{number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    with State(tmp_path / "new") as state:
        assert len(state.all()) == 24


# Reconciling


@pytest.fixture
def dead() -> Pid:
    """A process that is gone."""
    process = subprocess.Popen(["true"])
    pid = Pid.of(process.pid)
    process.wait()
    return Pid(pid.number, max(pid.start, 1))


def test_reconciling(state: State, tmp_path: Path, dead: Pid) -> None:
    orphan = subprocess.Popen(["sleep", "100"])
    state.add(row("alive"))
    state.add(row("dead", fork="f"))
    state.update("dead", supervisor=dead, pids={"qemu": [Pid.of(orphan.pid)]})
    asked = []

    def give_back(found: Row) -> Returned:
        asked.append(found.id)
        assert orphan.wait(10) == -9, "what used the tree is gone first"
        return Returned("cid", "f", "by the way")

    (found,) = reconcile.reconcile(tmp_path, state, give_back)
    assert (found.status, found.result, found.kept, found.exit_code) == ("died", "cid", "f", 125)
    assert found.error is not None and "killed" in found.error and "by the way" in found.error
    assert reconcile.reconcile(tmp_path, state, give_back) == []
    assert asked == ["dead"]


def test_a_tree_that_cannot_be_given_back(state: State, tmp_path: Path, dead: Pid) -> None:
    state.add(row("dead"))
    state.update("dead", supervisor=dead)

    def give_back(found: Row) -> Returned:
        raise VmError("the disk is full; still mounted on /x")

    (found,) = reconcile.reconcile(tmp_path, state, give_back)
    assert found.status == "died" and found.error is not None and "/x" in found.error


def test_a_pid_that_is_another_process_now(state: State, tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "100"])
    try:
        state.add(row("dead"))
        old = Pid(bystander.pid, 1)
        state.update("dead", supervisor=old, pids={"qemu": [old]})
        assert len(reconcile.reconcile(tmp_path, state, lambda found: Returned(None))) == 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_list_is_bounded(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ended_machines_max", 2)
    for id in ("a", "b", "c", "d"):
        state.add(row(id))
        (tmp_path / id).mkdir()
        if id != "a":
            state.update(id, status="exited")
    reconcile.prune(tmp_path, state)
    assert [found.id for found in state.all()] == ["d", "c", "a"], "those that live stay"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "c", "d"]


def test_pids() -> None:
    process = subprocess.Popen(["sleep", "100"])
    pid = Pid.of(process.pid)
    assert pid.is_alive() and not pid.wait(0)
    assert not Pid(pid.number, pid.start + 1).is_alive()
    assert Pid(pid.number, pid.start + 1).wait(0)
    Pid(pid.number, pid.start + 1).kill()
    assert process.poll() is None
    pid.kill()
    assert pid.wait(10) and process.wait() == -9
    assert not pid.is_alive() and not Pid.of(pid.number).is_alive()
    assert Pid.of(os.getpid()) == Pid.current()
