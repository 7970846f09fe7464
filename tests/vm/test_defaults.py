"""What an image says and what a person says, and the command that comes of both: Docker's rules, as tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from monofs_fuse.cli.vm_image import defaults_of
from store.oci import config
from vmm import defaults, limits
from vmm.defaults import Defaults, Wishes
from vmm.errors import BadSpec
from vmm.project.manifest import Health

BOTH = Defaults(entrypoint=("/entry", "-e"), cmd=("serve", "-c"))
ENTRY, CMD, NEITHER = Defaults(entrypoint=("/entry",)), Defaults(cmd=("bash",)), Defaults()

# image, what is written after --, --entrypoint: what runs
ARGV: list[tuple[Defaults, tuple[str, ...] | None, tuple[str, ...] | None, tuple[str, ...]]] = [
    (BOTH, None, None, ("/entry", "-e", "serve", "-c")),
    (BOTH, ("x", "y"), None, ("/entry", "-e", "x", "y")),
    (BOTH, (), None, ("/entry", "-e")),
    (BOTH, None, ("sh",), ("sh",)),  # the CMD was meant for another program
    (BOTH, ("-c", "x"), ("sh",), ("sh", "-c", "x")),
    (BOTH, ("ls",), (), ("ls",)),
    (BOTH, None, (), ()),
    (ENTRY, None, None, ("/entry",)),
    (ENTRY, ("a",), None, ("/entry", "a")),
    (CMD, None, None, ("bash",)),
    (CMD, ("ls", "-l"), None, ("ls", "-l")),
    (CMD, None, ("sh", "-x"), ("sh", "-x")),
    (NEITHER, ("ls",), None, ("ls",)),
    (NEITHER, None, None, ()),
    (defaults.SHELL, None, None, ("/bin/sh",)),
]


@pytest.mark.parametrize(("image", "args", "entrypoint", "wanted"), ARGV)
def test_what_runs(
    image: Defaults, args: tuple[str, ...] | None, entrypoint: tuple[str, ...] | None, wanted: tuple[str, ...]
) -> None:
    wishes = Wishes(args, entrypoint)
    assert defaults.argv(image, wishes) == wanted
    if wanted:
        assert defaults.command(image, wishes).argv == wanted
    else:
        with pytest.raises(BadSpec, match="say what to run"):
            defaults.command(image, wishes)


def made(image: Defaults, **wishes: Any) -> defaults.Command:
    return defaults.command(image, Wishes(("x",), **wishes))


def test_variables() -> None:
    image = Defaults(env=("PATH=/bin", "A=1", "EMPTY=", "A=2", "E==x"))
    assert made(image).env == (("PATH", "/bin"), ("A", "2"), ("EMPTY", ""), ("E", "=x"))
    assert dict(made(image, env=(("A", "3"), ("B", "4"))).env) == {
        "PATH": "/bin", "A": "3", "EMPTY": "", "E": "=x", "B": "4",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wish", "wanted"),
    [
        ("", None, "/"),
        ("/", None, "/"),
        ("/srv/app", None, "/srv/app"),
        ("app", None, "/app"),
        ("//app//x/", None, "/app/x"),
        ("/../../etc", None, "/etc"),
        ("a/../../..", None, "/"),
        ("/srv", "/", "/"),
        ("\0", "/tmp", "/tmp"),
    ],
)
def test_where_it_runs(text: str, wish: str | None, wanted: str) -> None:
    assert made(Defaults(workdir=text), workdir=wish).workdir == wanted


@pytest.mark.parametrize(
    ("text", "wish", "wanted"),
    [
        ("", None, None),
        (":", None, None),
        ("app", None, "app"),
        ("1000", None, "1000"),
        ("1000:33", None, "1000:33"),
        ("app:www", None, "app:www"),
        ("app:", None, "app"),
        (":33", None, "0:33"),
        ("app", "root", "root"),
        ("a:b:c", "0:0", "0:0"),
    ],
)
def test_who_runs_it(text: str, wish: str | None, wanted: str | None) -> None:
    assert made(Defaults(user=text), user=wish).user == wanted


@pytest.mark.parametrize(
    "image",
    [
        Defaults(user="a:b:c"),
        Defaults(user="a\0b"),
        Defaults(user="x" * limits.command_bytes_max),
        Defaults(workdir="/a\0b"),
        Defaults(workdir="/x" * limits.path_bytes_max),
        Defaults(env=("A=\0",)),
        Defaults(env=("=x",)),
        Defaults(env=("A=" + "x" * limits.command_bytes_max,)),
        Defaults(env=tuple(f"A{number}=" for number in range(limits.command_strings_max + 1))),
        Defaults(entrypoint=("",)),
        Defaults(entrypoint=("a\0",)),
    ],
)
def test_what_an_image_cannot_ask_for(image: Defaults) -> None:
    with pytest.raises(BadSpec) as caught:
        made(image)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "wish", [{"workdir": "rel"}, {"workdir": ""}, {"workdir": "/a/.."}, {"user": ""}, {"user": "a:"}]
)
def test_people_write_it_in_full(wish: dict[str, str]) -> None:
    with pytest.raises(BadSpec):
        made(Defaults(workdir="/srv", user="app"), **wish)


def test_what_a_machine_that_waits_has() -> None:
    image = Defaults(env=("A=1",), entrypoint=("x",), cmd=("y",), user="u", workdir="w")
    found = defaults.surroundings(image, Wishes(env=(("B", "2"),), entrypoint=()))
    assert (found.env, found.user, found.workdir) == ((("A", "1"), ("B", "2")), "u", "/w")


@pytest.mark.parametrize(
    ("ports", "taken", "wanted", "others"),
    [
        ((), (), [], []),
        (("443/tcp", "80/tcp"), (), [443, 80], []),
        (("80/tcp", "53/udp", "9/sctp"), (), [80], ["53/udp", "9/sctp"]),
        (("80/tcp", "81/tcp"), (80,), [81], []),
        (("8000-8003/tcp", "8002/tcp"), (8001,), [8000, 8002, 8003], []),
        (("9-8/tcp",), (), [], []),
    ],
)
def test_ports(ports: tuple[str, ...], taken: tuple[int, ...], wanted: list[int], others: list[str]) -> None:
    assert defaults.published(Defaults(ports=ports), taken) == (wanted, others)


def test_too_many_ports() -> None:
    for ports in (("1-65535/tcp",), tuple(f"{number}/tcp" for number in range(1, limits.publish_max + 2))):
        with pytest.raises(BadSpec, match="--publish"):
            defaults.published(Defaults(ports=ports))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ()),
        ("sh", ("sh",)),
        ("/bin/a b", ("/bin/a b",)),  # one word, as Docker has it
        ('["sh", "-c"]', ("sh", "-c")),
        ("[]", ()),
        ("[", ("[",)),  # there is such a program
        ("[x", ("[x",)),
    ],
)
def test_entrypoints(text: str, wanted: tuple[str, ...]) -> None:
    assert defaults.parse_entrypoint(text) == wanted


def test_bad_entrypoints() -> None:
    for text in ("[1]", '["a", null]', "[[]]"):
        with pytest.raises(BadSpec):
            defaults.parse_entrypoint(text)


def test_from_a_configuration_and_back_from_json() -> None:
    run = {
        "Env": ["A=1"],
        "Entrypoint": "/old image's",
        "Cmd": ["c"],
        "User": "u",
        "WorkingDir": "w",
        "ExposedPorts": {"80": {}},
        "StopSignal": "SIGQUIT",
        "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Retries": 2, "StartPeriod": 10**8},
    }
    found = defaults_of(config.parse(json.dumps({"config": run}).encode()))
    health = Health(("/bin/sh", "-c", "true"), 5.0, 30.0, 2, 0.1)
    assert found == Defaults(("A=1",), ("/old image's",), ("c",), "u", "w", ("80/tcp",), "SIGQUIT", health)
    assert Defaults.of_doc(json.loads(json.dumps(found.doc()))) == found
    assert Defaults.of_doc(Defaults().doc()) == Defaults()


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 15), ("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMIN", 34), ("0", 15), ("999", 15),
     ("SIGNOSUCH", 15), ("SIG_IGN", 15), ("_DFL", 15), ("RTMAX+9", 15), ("١", 15), ("rtmax-2", 62), ("USR1", 10)],
)  # fmt: skip
def test_stop_signals(text: str, number: int) -> None:
    assert defaults.stop_signal(text) == number
