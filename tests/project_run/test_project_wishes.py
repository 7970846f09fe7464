"""Wishes, and what machines are made of: they come back from the database as they went in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.project_run.made import machine, of
from vmm.errors import BadSpec, StateError
from vmm.project import wanted, wishes
from vmm.project.manifest import Dependency, Health, Machine, Project, Restart
from vmm.project.policy import Ended, Past
from vmm.project.state import Installed, State
from vmm.project.wanted import Wanted
from vmm.project.wishes import Run, Wishes
from vmm.spec import Publish, Volume

IMAGE = {"env": ["PATH=/bin", "A=1"], "entrypoint": ["/run"], "cmd": ["x"], "user": "www", "workdir": "srv"}
MANY = machine(
    "web",
    Dependency("db", "healthy"),
    env=(("A", "ü\udcff"),),
    ports=(Publish(8080, 80),),
    volumes=(Volume(Path("/data"), "/srv", True),),
    health=Health(("wget", "-q"), 1.0, 2.0, 4, 5.0),
    restart=Restart("on-failure", 3),
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(tmp_path) as made:
        yield made


@pytest.fixture
def kept(state: State) -> Wishes:
    return Wishes(state)


# What a machine is to be


@pytest.mark.parametrize("config", [{}, IMAGE])
def test_it_comes_back_from_json(config: dict[str, object]) -> None:
    import json

    one = of(MANY, config=config)
    again = Wanted.of_doc(json.loads(json.dumps(one.doc())))
    assert again == one
    assert again.essence == one.essence
    spec = one.machine_spec(Path("/root"))
    assert (spec.volumes, spec.publish, spec.net, spec.hostname) == (MANY.volumes, MANY.ports, "user", "web")


def test_the_image_and_the_file_together() -> None:
    main = of(machine("web", env=(("A", "2"), ("B", "3"))), config=IMAGE).main()
    assert main is not None
    assert main.argv == ("/run", "sleep", "1000")
    assert dict(main.env) == {"PATH": "/bin", "A": "2", "B": "3"}
    assert (main.workdir, main.user) == ("/srv", "www")
    bare = of(machine("web", command=None), config=IMAGE).main()
    assert bare is not None and bare.argv == ("/run", "x")


def test_a_machine_may_only_wait() -> None:
    one = of(machine("web", command=None, workdir="/srv"))
    assert one.main() is None
    other = one.other(("ls",))
    assert (other.argv, other.workdir) == (("ls",), "/srv")


def test_what_makes_no_sense_names_the_machine() -> None:
    one = machine("web", command=("",))
    with pytest.raises(BadSpec, match="machine 'web': no command"):
        wanted.of(Project("shop", Path("/"), (one,)), one, Installed("web", "b", "t", "v"), ())


@given(st.text(max_size=80))
def test_any_name_gives_a_host_name(name: str) -> None:
    of(Machine(name, MANY.source)).machine_spec(Path("/root"))


# Wishes


def test_wishes_up_and_down(kept: Wishes) -> None:
    web, db = of(machine("web", stop_seconds=7.0)), of(machine("db"))
    kept.wish_up([web, db])
    first = kept.all()
    assert list(first) == ["web", "db"]
    assert (first["web"].wanted, first["web"].up, first["web"].patience) == (web, True, 7.0)
    kept.wish_up([web], anew=["web"])
    assert kept.all()["web"].generation == first["web"].generation + 1
    assert kept.all()["web"].key != first["web"].key
    kept.wish_up([replace(web, stop_seconds=9.0), db])
    assert kept.all()["web"].patience == 9.0
    assert kept.all()["db"].key == first["db"].key
    kept.wish_down({"web": None, "db": 0.0})
    assert [(one.up, one.patience) for one in kept.all().values()] == [(False, 9.0), (False, 0.0)]
    kept.wish_up([db])
    assert (kept.all()["db"].up, kept.all()["db"].patience) == (True, 10.0)
    kept.forget("web")
    assert list(kept.all()) == ["db"]


def test_after_a_boot_nothing_is_wished(kept: Wishes, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.wish_up([of(machine("web"))])
    monkeypatch.setattr(wishes, "boot_id", lambda: "another")
    assert not kept.all()["web"].up
    kept.wish_up([of(machine("web"))])
    assert kept.all()["web"].up


def test_runs(kept: Wishes) -> None:
    kept.wish_up([of(MANY)])
    key = kept.all()["web"].key
    for run in (
        Run("abc", key, of(MANY), "running", "healthy", Past(1, 2, 3, 4.5)),
        Run("abc", key, of(MANY), "down", None, Past(next_start=None), Ended(125, 1.5, "why")),
    ):
        kept.put_run("web", run)
        assert kept.runs() == {"web": run}
    kept.forget("web")
    assert kept.runs() == {}


def test_wishes_of_several_are_wished_together(kept: Wishes, state: State) -> None:
    kept.wish_up([of(machine("web"))])
    state.change(
        "CREATE TRIGGER no BEFORE INSERT ON wished WHEN new.machine = 'db' BEGIN SELECT RAISE(FAIL, 'no'); END"
    )
    import sqlite3

    with pytest.raises((StateError, sqlite3.Error)):
        kept.wish_up([of(machine("web"))], anew=["web"])
        kept.wish_up([of(machine("job")), of(machine("db"))])
    assert list(kept.all()) == ["web"]
    kept.wish_up([of(machine("job"))])
    assert list(kept.all()) == ["web", "job"]


def test_an_older_state_is_carried_on(tmp_path: Path) -> None:
    """One that was made when there were no wishes."""
    from vmm.database import Database
    from vmm.project import state as module

    Database(tmp_path / "project.sqlite", module._MIGRATIONS[:1], "it").close()
    with State(tmp_path) as found:
        found.put_installed(Installed("web", "base", "t", "v"))
        Wishes(found).wish_up([of(MANY)])
        assert list(Wishes(found).all()) == ["web"]
