"""What a listing remembers of the names it gave out."""

from __future__ import annotations

import random

import pytest

from monofs_fuse import limits, listing
from monofs_fuse.listing import Kept, Trail


def test_cookies_are_positive_and_none_is_that_of_a_dot() -> None:
    for n in range(10_000):
        assert 1 << 62 <= listing.cookie(b"%d" % n) < 1 << 63


def test_a_trail_knows_every_name_once(rng: random.Random) -> None:
    names = sorted({rng.randbytes(rng.randrange(1, 40)).replace(b"/", b"_") for _ in range(3000)})
    trail = Trail()
    assert not trail
    at = 0
    while at < len(names):
        start = max(0, at - rng.randrange(30))  # a reader went back a little
        at = min(len(names), at + rng.randrange(1, 60))
        trail.add(names[start:at])
    assert [name for page in reversed(list(trail._pages())) for name in page] == names
    for name in rng.sample(names, 100):
        assert trail.find(listing.cookie(name)) == name
    assert trail.find(listing.cookie(b"another/")) is None
    assert 0 < trail.bytes < sum(map(len, names)) * 1.2


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "trails_kept_max", 3)
    kept = Kept()
    for n in range(5):
        trail = Trail()
        trail.add([b"%d" % n])
        kept.put(n % 2, trail)
    kept.put(0, Trail())  # of no use to anybody
    assert [trail.find(listing.cookie(b"4")) for trail in kept.of(0)] == [b"4", None]
    assert len(list(kept.of(1))) == 1
    monkeypatch.setattr(limits, "trail_bytes_kept_max", 0)
    large = Trail()
    large.add([b"%09d" % n for n in range(1000)])
    kept.put(7, large)
    assert not list(kept.of(7)) and not list(kept.of(0))
