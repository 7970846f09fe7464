"""What a project's supervisor does next: tables, and a model world in which everything comes to rest as wished."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.project_run.made import changed, machine, of
from vmm.project import converging, policy
from vmm.project.converging import NOTHING, Seen, Start, Stop
from vmm.project.manifest import Dependency, Health, Restart
from vmm.project.policy import Ended, Past
from vmm.project.wishes import Key, Wish
from vmm.spec import Publish

CHECK = Health(("true",))


def wish(name: str, *needs: str | Dependency, up: bool = True, generation: int = 1, **more: object) -> Wish:
    return Wish(of(machine(name, *needs, **more)), up, generation, 10.0)


def wishes(*found: Wish) -> dict[str, Wish]:
    return {one.wanted.machine: one for one in found}


def as_wished(one: Wish, **more: object) -> Seen:
    return replace(Seen("running", one.key), **more)  # type: ignore[arg-type]


WEB, DB = wish("web", "db"), wish("db")
HEALTHY = wish("web", Dependency("db", "healthy"))
CHECKED = wish("db", health=CHECK)
PUBLIC = wish("public", ports=(Publish(80, 80),))
DOWN = replace(WEB, up=False), replace(DB, up=False)
OVER = Past(next_start=None)


@pytest.mark.parametrize(
    ("wished", "seen", "now", "expected"),
    [
        ([WEB, DB], {}, 0, [Start("db")]),
        ([WEB, DB], {"db": Seen("starting", DB.key)}, 0, []),
        ([WEB, DB], {"db": as_wished(DB)}, 0, [Start("web")]),
        ([HEALTHY, CHECKED], {"db": as_wished(CHECKED, health="starting")}, 0, []),
        ([HEALTHY, CHECKED], {"db": as_wished(CHECKED, health="unhealthy")}, 0, []),
        ([HEALTHY, CHECKED], {"db": as_wished(CHECKED, health="healthy")}, 0, [Start("web")]),
        ([HEALTHY, DB], {"db": as_wished(DB)}, 0, [Start("web")]),  # there is nothing to ask
        # One that did its work and ended was started; one that failed was not.
        ([WEB, DB], {"db": Seen("down", DB.key, past=OVER, ended=Ended(0, 1))}, 0, [Start("web")]),
        ([WEB, DB], {"db": Seen("down", DB.key, past=OVER, ended=Ended(1, 1))}, 0, []),
        # Down goes backwards, and up waits for the pause.
        (DOWN, {"web": as_wished(WEB), "db": as_wished(DB)}, 0, [Stop("web", 10.0)]),
        (DOWN, {"web": as_wished(WEB, asked=10.0), "db": as_wished(DB)}, 0, []),
        (DOWN, {"db": as_wished(DB)}, 0, [Stop("db", 10.0)]),
        ([WEB, replace(DB, up=False)], {"web": as_wished(WEB), "db": as_wished(DB)}, 0, [Stop("db", 10.0)]),
        ([DB], {"db": Seen("down", DB.key, past=Past(next_start=5.0), ended=Ended(1, 0))}, 4.9, []),
        ([DB], {"db": Seen("down", DB.key, past=Past(next_start=5.0), ended=Ended(1, 0))}, 5.0, [Start("db")]),
        ([DB], {"db": Seen("down", DB.key, past=OVER, ended=Ended(0, 1))}, 1e9, []),
        # Another wish: whatever was before does not count.
        ([DB], {"db": Seen("down", Key("x", 1), past=OVER, ended=Ended(0, 1))}, 0, [Start("db")]),
        ([DB], {"db": Seen("running", Key("x", 1))}, 0, [Stop("db", 10.0)]),
        ([DB], {"db": Seen("starting", DB.key._replace(generation=2))}, 0, [Stop("db", 10.0)]),
        # Less patience than before is told, the same is not.
        ([replace(DB, up=False, patience=0.0)], {"db": as_wished(DB, asked=10.0)}, 0, [Stop("db", 0.0)]),
        ([replace(DB, up=False)], {"db": as_wished(DB, asked=0.0)}, 0, []),
        # A port is free once the machine has gone that has it; from one that stays there is nothing to wait for.
        ([PUBLIC, replace(DB, up=False)], {"db": as_wished(DB, asked=10.0, ports=frozenset((80,)))}, 0, []),
        ([PUBLIC, DB], {"db": as_wished(DB, ports=frozenset((80,)))}, 0, [Start("public")]),
        ([PUBLIC, replace(DB, up=False)], {"db": Seen("down", DB.key, ports=frozenset((80,)))}, 0, [Start("public")]),
        # What needs a machine that is being replaced waits for the new one.
        ([WEB, DB], {"db": Seen("running", Key("x", 1), asked=10.0)}, 0, []),
    ],
)
def test_what_is_next(wished: list[Wish], seen: dict[str, Seen], now: float, expected: list[Start | Stop]) -> None:
    assert converging.actions(wishes(*wished), seen, now) == expected


def test_two_declarations_that_make_a_circle_go_down_all_the_same() -> None:
    one, other = wish("a", "b", up=False), wish("b", "a", up=False)
    seen = {"a": as_wished(one), "b": as_wished(other)}
    assert converging.actions(wishes(one, other), seen, 0) == [Stop("a", 10.0), Stop("b", 10.0)]


def test_a_machine_that_is_due_and_cannot_start_yet_does_not_keep_us_awake() -> None:
    due = {"public": Seen("down", PUBLIC.key, past=Past(next_start=5.0), ended=Ended(1, 0))}
    leaving = {"db": as_wished(DB, asked=10.0, ports=frozenset((80,)))}
    assert converging.wakes_at(wishes(PUBLIC), due) == 5.0
    assert converging.wakes_at(wishes(PUBLIC, replace(DB, up=False)), {**due, **leaving}) is None


def test_waiting_in_vain() -> None:
    top, found = wish("top", "web"), {"db": Seen("down", DB.key, past=OVER, ended=Ended(1, 1))}
    all_ = wishes(top, WEB, DB)
    assert converging.blocked_by("top", all_, found) == "web"
    assert converging.blocked_by("web", all_, found) == "db"
    assert converging.is_done(all_, found)
    retrying = {"db": replace(found["db"], past=Past(next_start=9.0))}
    assert converging.blocked_by("top", all_, retrying) is None
    assert not converging.is_done(all_, retrying)
    assert converging.wakes_at(all_, retrying) == 9.0
    assert converging.wakes_at(all_, found) is None
    assert converging.blocked_by("web", wishes(WEB), {}) == "db", "nobody wants it"


# A world of machines that start, end and stop when they like


@st.composite
def many(draw: st.DrawFn) -> dict[str, Wish]:
    found = {}
    names = [f"m{number}" for number in range(draw(st.integers(1, 5)))]
    for number, name in enumerate(names):
        needs = sorted(draw(st.sets(st.sampled_from(names[:number])))) if number else []
        rule = Restart(draw(st.sampled_from(("no", "on-failure", "always"))))  # type: ignore[arg-type]
        found[name] = wish(name, *needs, up=draw(st.booleans()), restart=rule)
    return found


class World:
    """Carries out what is decided, and checks each time that it may be done."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self.now = 0.0

    def decide(self, all_: dict[str, Wish]) -> bool:
        """Returns whether there was anything to do."""
        found = converging.actions(all_, self.seen, self.now)
        for action in found:
            name, one = action.machine, self.seen.get(action.machine, NOTHING)
            if isinstance(action, Start):
                assert not one.alive and all_[name].up
                for need in all_[name].wanted.needs:
                    needed = self.seen[need.machine]
                    assert needed.key == all_[need.machine].key and (needed.phase == "running" or needed.ended)
                past = one.past if one.key == all_[name].key else Past()
                self.seen[name] = Seen("starting", all_[name].key, past=past)
            else:
                assert one.alive and not (all_[name].up and one.key == all_[name].key)
                if not all_[name].up:
                    alive = [other for other in all_ if self.seen.get(other, NOTHING).alive and not all_[other].up]
                    assert all(need.machine != name for other in alive for need in all_[other].wanted.needs)
                self.seen[name] = replace(one, asked=action.seconds, phase="stopping")
        return bool(found)

    def happen(self, name: str, code: int, all_: dict[str, Wish]) -> None:
        """Let what is under way with one machine come about."""
        one = self.seen.get(name, NOTHING)
        if one.phase == "starting":
            self.seen[name] = replace(one, phase="running")
        elif one.phase == "stopping":
            self.seen[name] = replace(one, phase="down", asked=None, past=Past(next_start=None))
        elif one.phase == "running":
            ended = Ended(code, 0.1)
            past = policy.after(one.past, all_[name].wanted.restart, ended, self.now)
            self.seen[name] = replace(one, phase="down", ended=ended, past=past)


@given(many(), st.data())
@settings(max_examples=200)
def test_it_comes_to_rest_as_wished(all_: dict[str, Wish], data: st.DataObject) -> None:
    world = World()
    for _ in range(data.draw(st.integers(0, 25))):
        name = data.draw(st.sampled_from(sorted(all_)))
        what = data.draw(st.sampled_from(("decide", "happen", "wish", "change", "again", "later")))
        if what == "decide":
            world.decide(all_)
        elif what == "happen":
            world.happen(name, data.draw(st.sampled_from((0, 1))), all_)
        elif what == "wish":
            all_[name] = replace(all_[name], up=not all_[name].up)
        elif what == "change":
            all_[name] = replace(all_[name], wanted=changed(all_[name].wanted))
        elif what == "again":
            all_[name] = replace(all_[name], generation=all_[name].generation + 1)
        else:
            world.now += 1
    for _ in range(20 * len(all_)):  # from here on machines start and stop, but none ends by itself
        if not world.decide(all_):
            busy = [name for name, one in world.seen.items() if one.phase in ("starting", "stopping")]
            due = converging.wakes_at(all_, world.seen)
            if busy:
                world.happen(busy[0], 0, all_)
            elif due is not None:
                world.now = max(world.now, due)
            else:
                break
    else:
        raise AssertionError("it never comes to rest")
    for name, one in all_.items():
        seen = world.seen.get(name, NOTHING)
        if not one.up:
            assert not seen.alive
        elif seen.alive:
            assert (seen.phase, seen.key) == ("running", one.key)
        else:
            assert converging.is_over(one, seen) or converging.blocked_by(name, all_, world.seen) is not None
    assert converging.is_done(all_, world.seen) == (not any(one.alive for one in world.seen.values()))
