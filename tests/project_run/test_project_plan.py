"""Plans: tables of what comes to what, and properties of every plan when it is carried out on a model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.project_run.made import changed, declared, machine, of
from vmm.errors import BadSpec, NoMachine
from vmm.project import plan
from vmm.project.manifest import Dependency
from vmm.project.plan import Plan, Running, Step
from vmm.project.wanted import Wanted

WEB, DB, JOB = machine("web", "db"), machine("db"), machine("job")


def said(found: Plan) -> list[str]:
    return [" ".join(str(step).split()) for step in found.steps]


def test_what_is_missing_is_started_in_order() -> None:
    assert said(plan.up(declared(WEB, DB, JOB).values(), {})) == ["start db", "start job", "start web"]


def test_a_second_plan_is_empty() -> None:
    there = declared(WEB, DB)
    running = {name: Running(one) for name, one in there.items()}
    found = plan.up(there.values(), running)
    assert found.changes == ()
    assert said(found) == ["keep db", "keep web"]


def test_names_bring_what_they_need_and_nothing_else() -> None:
    there = declared(WEB, DB, JOB)
    assert said(plan.up(there.values(), {}, ["web"])) == ["start db", "start web"]
    assert said(plan.up(there.values(), {"old": Running(of(machine("old")))}, ["job"])) == ["start job"]


def test_what_is_no_longer_declared_goes_first_and_backwards() -> None:
    running = {name: Running(one) for name, one in declared(WEB, DB).items()}
    assert said(plan.up(declared(JOB).values(), running)) == [
        "stop web (no longer in monofs.toml)",
        "stop db (no longer in monofs.toml)",
        "start job",
    ]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ({}, {"memory_bytes": 1 << 30}, "memory 512M -> 1G"),
        ({}, {"cpus": 2, "user": "www"}, "cpus 1 -> 2; user root -> www"),
        ({}, {"command": ("sleep", "2")}, "command sleep 1000 -> sleep 2"),
        ({"env": (("A", "secret"),)}, {"env": (("A", "hidden"),)}, "env changed"),
        ({}, {"workdir": "/srv"}, "workdir / -> /srv"),
        ({}, {"net": "user"}, "net none -> user"),
    ],
)
def test_what_changed_is_restarted_and_the_reason_told(old: Any, new: Any, why: str) -> None:
    running = {"web": Running(of(machine("web", **old)))}
    assert plan.up([of(machine("web", **new))], running).steps == (Step("web", "restart", why),)


def test_another_image_is_a_reason() -> None:
    running = {"web": Running(of(machine("web")))}
    assert plan.up([of(machine("web"), tree="bafyother")], running).steps == (Step("web", "restart", "image changed"),)


@pytest.mark.parametrize(
    "new", [{"stop_seconds": 99.0}, {"depends_on": (Dependency("db"),)}, {"scripts": (("test", ("true",)),)}]
)
def test_what_can_change_while_it_runs_is_no_reason(new: Any) -> None:
    from dataclasses import replace

    running = {"web": Running(of(machine("web")))}
    after = [of(replace(machine("web"), **new)), of(DB)]
    assert plan.up(after, {**running, "db": Running(of(DB))}).changes == ()


def test_what_ended_is_started_again() -> None:
    there = declared(JOB)
    running = {"job": Running(there["job"], alive=False, why="it ended with exit code 3")}
    assert said(plan.up(there.values(), running)) == ["start job (it ended with exit code 3)"]


def test_down() -> None:
    running = {name: Running(one) for name, one in declared(WEB, DB, JOB).items()}
    assert said(plan.down(running)) == ["stop web", "stop job", "stop db"]
    assert said(plan.down(running, ["db"])) == ["stop db"]
    assert said(plan.down({**running, "web": Running(of(WEB), alive=False)}, ["web", "db"])) == ["stop db"]
    with pytest.raises(NoMachine, match="'nosuch'"):
        plan.down(running, ["nosuch"])


def test_unknown_names_and_circles() -> None:
    with pytest.raises(NoMachine, match=r"no machine 'wbe' in monofs\.toml; there are: db, web"):
        plan.up(declared(WEB, DB).values(), {}, ["wbe"])
    with pytest.raises(NoMachine, match="'db'"):
        plan.up(declared(WEB).values(), {}, ["web"])
    with pytest.raises(BadSpec, match="circle: "):
        plan.up(declared(machine("a", "b"), machine("b", "c"), machine("c", "a")).values(), {})


# Properties


@st.composite
def projects(draw: st.DrawFn) -> dict[str, Wanted]:
    """Machines that need only those before them, written down in any order."""
    names = [f"m{number}" for number in range(draw(st.integers(0, 7)))]
    found = []
    for number, name in enumerate(names):
        needs = draw(st.sets(st.sampled_from(names[:number]))) if number else set()
        one = of(machine(name, *sorted(needs)))
        found.append(changed(one) if draw(st.booleans()) else one)
    return {one.machine: one for one in draw(st.permutations(found))}


@st.composite
def situations(draw: st.DrawFn) -> tuple[dict[str, Wanted], dict[str, Running]]:
    there, others = draw(projects()), draw(projects())
    kept = [name for name in others if draw(st.booleans())]
    running = {name: Running(others[name], alive=draw(st.booleans())) for name in kept}
    return there, running


def carried_out(found: Plan, there: dict[str, Wanted], running: dict[str, Running]) -> dict[str, Running]:
    """Do the steps one after another on a model, and check each when its turn comes."""
    now = dict(running)
    for step in found.steps:
        name = step.machine
        if step.action == "stop":
            needing = [other for other, one in now.items() if one.alive and other not in there and other != name]
            assert all(need.machine != name for other in needing for need in now[other].wanted.needs)
            del now[name]
            continue
        if step.action == "start":
            assert name not in now or not now[name].alive
        elif step.action == "restart":
            assert now[name].alive and now[name].wanted.essence != there[name].essence and step.why
        else:
            assert now[name].alive and now[name].wanted.essence == there[name].essence
        for need in there[name].needs:
            assert now[need.machine].alive and now[need.machine].wanted.essence == there[need.machine].essence
        now[name] = Running(there[name])
    return now


@given(situations())
def test_every_plan_leads_to_what_is_declared(given: tuple[dict[str, Wanted], dict[str, Running]]) -> None:
    there, running = given
    after = carried_out(plan.up(there.values(), running), there, running)
    alive = {name: one.wanted.essence for name, one in after.items() if one.alive}
    assert alive == {name: one.essence for name, one in there.items()}
    assert plan.up(there.values(), after).changes == ()


@given(situations(), st.data())
def test_a_plan_for_some_leaves_the_others_alone(
    given: tuple[dict[str, Wanted], dict[str, Running]], data: st.DataObject
) -> None:
    there, running = given
    if not there:
        return
    names = data.draw(st.sets(st.sampled_from(sorted(there)), min_size=1))
    found = plan.up(there.values(), running, names)
    touched = {step.machine for step in found.steps}
    assert names <= touched
    assert touched == names | {need.machine for name in touched for need in there[name].needs}
    assert all(step.action != "stop" for step in found.steps)


@given(projects())
def test_down_stops_what_needs_a_machine_before_it(there: dict[str, Wanted]) -> None:
    steps = [step.machine for step in plan.down({name: Running(one) for name, one in there.items()}).steps]
    assert sorted(steps) == sorted(there)
    for name, one in there.items():
        assert all(steps.index(name) < steps.index(need.machine) for need in one.needs)
