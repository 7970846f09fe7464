"""What commands wrote: in order, apart, bounded, and read while it is written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vmm import limits
from vmm.logs import LogReader, LogWriter


def test_what_was_written_is_read(tmp_path: Path) -> None:
    writer, reader = LogWriter(tmp_path), LogReader(tmp_path)
    assert list(reader.read()) == []
    writer.write(1, b"out\n")
    writer.write(2, b"err\n")
    assert list(reader.read()) == [(1, b"out\n"), (2, b"err\n")]
    assert list(reader.read()) == []
    writer.write(1, b"more")
    assert list(reader.read()) == [(1, b"more")]
    assert list(LogReader(tmp_path).read()) == [(1, b"out\n"), (2, b"err\n"), (1, b"more")]
    assert (tmp_path / "output").stat().st_mode & 0o777 == 0o600


def test_a_reader_before_the_writer(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    assert list(reader.read()) == []
    LogWriter(tmp_path).write(2, b"x")
    assert list(reader.read()) == [(2, b"x")]


@pytest.mark.parametrize("every", [1, 3, 10_000])
def test_readers_follow_through_rotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: random.Random, every: int
) -> None:
    """One that keeps up sees all; one that does not sees the newest, in order, with no half record."""
    monkeypatch.setattr(limits, "log_segment_bytes_max", 500)
    writer, reader = LogWriter(tmp_path), LogReader(tmp_path)
    written, seen = [], []
    for number in range(300):
        record = (rng.choice((1, 2)), b"%d " % number + bytes(rng.randrange(60)))
        writer.write(*record)
        written.append(record)
        if number % every == 0:
            seen += list(reader.read())
    seen += list(reader.read())
    if every < 10:
        assert seen == written
    else:
        ways = (written[:cut] + written[cut - len(seen) :] for cut in range(1, len(seen)))
        assert any(seen == way for way in ways), "the segment it had open, and then the newest ones"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * (500 + 70)
    last = list(LogReader(tmp_path).read())
    assert last == written[-len(last) :] and len(last) > 5


def test_a_torn_end_is_left_out(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.write(1, b"whole")
    writer.write(1, b"torn off")
    writer.close()
    data = (tmp_path / "output").read_bytes()
    for cut in range(1, 12):
        (tmp_path / "output").write_bytes(data[:-cut])
        assert list(LogReader(tmp_path).read()) == [(1, b"whole")]
    (tmp_path / "output").write_bytes(b"\x07garbage that is no record")
    assert list(LogReader(tmp_path).read()) == []
