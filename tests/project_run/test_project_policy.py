"""When a machine is started again, and when it is healthy: tables, with times that nobody waits for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.project import health, limits, policy
from vmm.project.manifest import Health, Restart, RestartPolicy
from vmm.project.policy import Ended, Past

SHORT, GOOD = 0.1, limits.steady_seconds


@pytest.mark.parametrize(
    ("kind", "code", "again"),
    [
        ("no", 0, False),
        ("no", 1, False),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        ("on-failure", 125, True),
        ("always", 0, True),
        ("always", 137, True),
        ("unless-stopped", 0, True),
    ],
)
def test_who_is_started_again(kind: RestartPolicy, code: int, again: bool) -> None:
    found = policy.after(Past(), Restart(kind), Ended(code, SHORT), 100.0)
    assert (found.next_start is not None) is again
    assert found.restarts == int(again)


def test_pauses_double_up_to_a_bound_and_begin_anew_after_a_good_run() -> None:
    past, pauses = Past(), []
    for _ in range(12):
        past = policy.after(past, Restart("always"), Ended(0, SHORT), 1000.0)
        assert past.next_start is not None
        pauses.append(past.next_start - 1000.0)
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == limits.pause_seconds_max
    past = policy.after(past, Restart("always"), Ended(0, GOOD), 1000.0)
    assert past.next_start == 1000.0, "at once"
    assert policy.after(past, Restart("always"), Ended(0, SHORT), 0.0).next_start == 0.5
    assert past.restarts == 13


def test_so_many_failures_in_a_row() -> None:
    rule, past = Restart("on-failure", 2), Past()
    for _ in range(2):
        past = policy.after(past, rule, Ended(1, SHORT), 0.0)
        assert past.next_start is not None
    assert policy.after(past, rule, Ended(1, SHORT), 0.0).next_start is None
    past = policy.after(past, rule, Ended(1, GOOD), 0.0)
    assert (past.failures, past.next_start) == (1, 0.0), "after a good run they are counted anew"


def test_a_success_is_no_failure_for_always() -> None:
    rule, past = Restart("always", 1), Past()
    for code in (1, 0, 1, 0, 1):
        past = policy.after(past, rule, Ended(code, SHORT), 0.0)
        assert past.next_start is not None
    assert policy.after(past, rule, Ended(1, SHORT), 0.0).next_start is None


@given(st.integers(0, 10**6))
def test_a_pause_is_bounded(short: int) -> None:
    assert 0 <= policy.pause_seconds(short) <= limits.pause_seconds_max
    assert policy.pause_seconds(short) <= policy.pause_seconds(short + 1)


# Health. P passed, F failed; the checks end at these seconds after the start

CHECK = Health(("true",), interval_seconds=5, timeout_seconds=2, retries=3, start_seconds=10)


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ([], "starting"),
        ([(1, "P")], "healthy"),
        ([(1, "F"), (6, "F"), (9, "F")], "starting"),  # while it starts, failures do not count
        ([(11, "F"), (16, "F")], "starting"),
        ([(11, "F"), (16, "F"), (21, "F")], "unhealthy"),
        ([(9, "F"), (14, "F"), (19, "F")], "starting"),
        ([(1, "P"), (2, "F"), (3, "F"), (4, "F")], "unhealthy"),  # once it was healthy it has started
        ([(1, "P"), (20, "F"), (25, "F")], "healthy"),
        ([(1, "P"), (20, "F"), (25, "F"), (30, "P"), (35, "F"), (40, "F")], "healthy"),
        ([(11, "F"), (16, "F"), (21, "F"), (26, "P")], "healthy"),
    ],
)
def test_verdicts(results: list[tuple[float, str]], verdict: str) -> None:
    pulse = health.begun(CHECK, 0.0)
    assert pulse.due == 0.0
    for now, result in results:
        pulse = health.after(pulse, CHECK, result == "P", now)
        assert pulse.due == now + CHECK.interval_seconds
    assert pulse.verdict == verdict
