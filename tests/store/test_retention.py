"""Retention: what a policy keeps of a history."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from store import retention
from store.errors import BadPolicy

START = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)


def ns(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


def every(step: timedelta, count: int) -> list[int]:
    return [ns(START + step * number) for number in range(count)]


def kept(policy: str, times: list[int]) -> list[int]:
    """Return the places in `times` of those that stay."""
    chosen = retention.parse(policy).kept(times)
    return [place for place, time in enumerate(times) if time in chosen]


@pytest.mark.parametrize(
    ("policy", "step", "count", "expected"),
    [
        ("last=3", timedelta(minutes=1), 10, [7, 8, 9]),
        ("last=3", timedelta(minutes=1), 2, [0, 1]),
        ("hourly=2", timedelta(minutes=20), 9, [5, 8]),  # 00:10 00:30 00:50 | 01:10 ... 01:50 | 02:10 02:30 02:50
        ("hourly=99", timedelta(minutes=20), 9, [2, 5, 8]),
        ("daily=2", timedelta(hours=12), 5, [3, 4]),
        ("weekly=2", timedelta(days=1), 14, [10, 13]),  # 2026-01-01 is a Thursday
        ("monthly=3", timedelta(days=10), 10, [5, 8, 9]),
        ("yearly=2", timedelta(days=200), 4, [1, 3]),
        ("last=1,daily=2,monthly=2", timedelta(days=7), 9, [4, 7, 8]),
        ("hourly=2", timedelta(days=300), 4, [2, 3]),  # hours without a version do not count
    ],
)
def test_what_is_kept(policy: str, step: timedelta, count: int, expected: list[int]) -> None:
    assert kept(policy, every(step, count)) == expected


def test_the_newest_stays_whatever_the_policy(rng: random.Random) -> None:
    for _ in range(200):
        times = [rng.randrange(-(1 << 63), 1 << 63) for _ in range(rng.randint(1, 20))]
        policy = ",".join(f"{rule}={rng.randint(0, 3)}" for rule in rng.sample(retention.RULES, rng.randint(1, 6)))
        if any(char in policy for char in "123"):
            stays = retention.parse(policy).kept(times)
            assert max(times) in stays <= set(times)


def test_keeping_again_drops_nothing_more(rng: random.Random) -> None:
    for _ in range(100):
        times = [ns(START) + rng.randrange(10**17) for _ in range(rng.randint(1, 60))]
        policy = retention.parse(f"last={rng.randint(0, 3)},hourly={rng.randint(1, 5)},weekly={rng.randint(0, 4)}")
        stays = policy.kept(times)
        assert policy.kept(stays) == stays


def test_a_policy_is_printed_as_it_is_typed() -> None:
    assert str(retention.parse("daily=7, hourly=24")) == "hourly=24,daily=7"
    assert retention.parse(str(retention.parse("yearly=1,last=2"))) == retention.parse("last=2,yearly=1")


NONE_OF_THEM = ["", "daily", "daily=", "daily=-1", "daily=x", "last=0", "often=3", "last=1,last=2", "last=1;"]


@pytest.mark.parametrize("text", NONE_OF_THEM)
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(BadPolicy):
        retention.parse(text)
