"""The engine: what the probe says, what is done with it, and how long it is believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmm import engine, kvm
from vmm.engine import Verdict
from vmm.errors import NoEngine


def test_the_probe_answers_in_one_line() -> None:
    """Whatever this host is: None, or why not."""
    why_not = kvm.probe()
    assert why_not is None or (why_not and "\n" not in why_not)
    assert os.access(kvm.DEVICE, os.R_OK | os.W_OK) or why_not


def test_out_and_hlt_alone_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device opens, a guest without the telling instruction passes at least as often as one with it."""
    honest = kvm.probe()
    monkeypatch.setattr(kvm, "_CODE", kvm._CODE[3:])
    easy = kvm.probe()
    assert easy is None or honest is not None


def test_a_guest_that_says_something_else_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "_CODE", b"\xb0\x4e" + kvm._CODE[5:])
    assert kvm.probe() is not None


def test_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kvm, "DEVICE", str(tmp_path / "kvm"))
    assert kvm.probe() == f"there is no {tmp_path}/kvm"
    assert engine.verdict(tmp_path).why_not == f"there is no {tmp_path}/kvm"


def test_a_device_that_is_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "DEVICE", "/dev/null")
    assert (kvm.probe() or "").startswith("/dev/null: ")


def test_what_follows_from_the_verdict(tmp_path: Path) -> None:
    engine.remember(tmp_path, Verdict(engine.this_boot(), None))
    assert engine.choose("auto", tmp_path) == ("kvm", None)
    assert engine.choose("kvm", tmp_path) == ("kvm", None)
    assert engine.choose("tcg", tmp_path) == ("tcg", None)
    engine.remember(tmp_path, Verdict(engine.this_boot(), "no luck"))
    assert engine.choose("auto", tmp_path) == ("tcg", "no luck; the machine is emulated, which is slower")
    with pytest.raises(NoEngine, match="no luck"):
        engine.choose("kvm", tmp_path)


def test_the_verdict_of_another_boot_is_not_believed(tmp_path: Path) -> None:
    engine.remember(tmp_path, Verdict("another", "made up"))
    found = engine.verdict(tmp_path)
    assert found.boot == engine.this_boot() and found.why_not != "made up"
    engine.remember(tmp_path, Verdict(engine.this_boot(), "made up"))
    assert engine.verdict(tmp_path).why_not == "made up"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"boot": 1, "why_not": 2}', '{"boot": "x"}', "\xff"])
def test_a_damaged_verdict_is_no_verdict(tmp_path: Path, text: str) -> None:
    (tmp_path / "engine.json").write_bytes(text.encode("latin-1"))
    assert engine.verdict(tmp_path).boot == engine.this_boot()


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert engine.verdict(tmp_path / "file").boot == engine.this_boot()
