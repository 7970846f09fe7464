"""Specs: what is accepted, what is refused, and that the refusal is one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vmm import limits
from vmm.errors import BadSpec
from vmm.spec import Command, MachineSpec, Publish, Volume, format_memory, parse_env, parse_memory

GOOD = MachineSpec(Path("/srv/tree"))


@pytest.mark.parametrize(
    ("text", "count"),
    [("512M", 512 << 20), ("2g", 2 << 30), ("1GiB", 1 << 30), ("256MB", 256 << 20), ("134217728", 128 << 20)],
)
def test_memory_is_read(text: str, count: int) -> None:
    assert parse_memory(text) == count
    assert parse_memory(format_memory(count)) == count


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1M", "1X", "1 0M", "9" * 30, "１M"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(BadSpec, match="not an amount of memory"):
        parse_memory(text)


@pytest.mark.parametrize(
    "change",
    [
        {"root": Path("srv")},
        {"root": Path("/")},
        {"root": Path("/srv/..")},
        {"root": Path("/a\0b")},
        {"root": Path("/" + "x" * 5000)},
        {"memory_bytes": limits.memory_bytes_min - limits.MIB},
        {"memory_bytes": limits.memory_bytes_max + limits.MIB},
        {"memory_bytes": limits.memory_bytes_min + 1},
        {"cpus": 0},
        {"cpus": limits.cpus_max + 1},
        {"net": "bridge"},
        {"publish": (Publish(8080, 80),)},
        {"net": "user", "publish": (Publish(8080, 80), Publish(8080, 81))},
        {"kernel": Path("vmlinuz")},
        {"engine": "xen"},
        {"hostname": ""},
        {"hostname": "-x"},
        {"hostname": "a.b"},
        {"hostname": "x" * 64},
        {"volumes": (Volume(Path("/a"), "/m"), Volume(Path("/b"), "/m"))},
        {"volumes": tuple(Volume(Path("/a"), f"/m{n}") for n in range(limits.volumes_max + 1))},
    ],
)
def test_a_bad_machine_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadSpec) as caught:
        replace(GOOD, **change)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 6000


def test_volumes_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Volume.parse("/srv/data:/data") == Volume(Path("/srv/data"), "/data")
    assert Volume.parse("data:/mnt//x/:ro") == Volume(tmp_path / "data", "/mnt/x", read_only=True)
    assert Volume.parse("/a:/b:rw").read_only is False


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/a",
        ":/a",
        "/a:",
        "/a:b",
        "/a:/b:rx",
        "/a:/b:ro:ro",
        "/a:/",
        "/a:/proc",
        "/a:/dev/shm",
        "/a:/x/../..",
        "/a:/x\0",
    ],
)
def test_what_is_no_volume(text: str) -> None:
    with pytest.raises(BadSpec):
        Volume.parse(text)


def test_ports_are_read() -> None:
    assert Publish.parse("8080:80") == Publish(8080, 80)
    assert Publish.parse("0.0.0.0:8080:80") == Publish(8080, 80, "0.0.0.0")


@pytest.mark.parametrize(
    "text", ["", "80", "80:", ":80", "a:80", "0:80", "80:65536", "x:80:80", "::1:80:80", "80:80,x=1", "８0:80"]
)
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(BadSpec):
        Publish.parse(text)


@pytest.mark.parametrize(
    "change",
    [
        {"argv": ()},
        {"argv": ("",)},
        {"argv": ("a\0b",)},
        {"argv": ("x" * (limits.command_bytes_max + 1),)},
        {"argv": ("x",) * (limits.command_strings_max + 1)},
        {"env": (("A=B", "c"),)},
        {"env": (("", "c"),)},
        {"env": (("A", "\0"),)},
        {"workdir": "tmp"},
        {"workdir": "/a/../b"},
        {"user": ""},
        {"user": "a:"},
        {"user": "a:b:c"},
        {"rows": 0},
        {"columns": limits.rows_max + 1},
    ],
)
def test_a_bad_command_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadSpec):
        replace(Command(("true",)), **change)


def test_a_command_may_hold_bytes_that_are_no_text() -> None:
    assert Command(("x\udcff",), env=(("A", "\udc80"),)).strings() == [b"x\xff", b"A=\x80", b"/", b""]


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOFS_HERE", "1=2")
    assert parse_env("A=b=c") == ("A", "b=c")
    assert parse_env("A=") == ("A", "")
    assert parse_env("MONOFS_HERE") == ("MONOFS_HERE", "1=2")
    for text in ("", "=x", "MONOFS_NOT_HERE"):
        with pytest.raises(BadSpec):
            parse_env(text)
