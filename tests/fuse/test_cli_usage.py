"""The command line as a whole: help, wrong usage, where the store is, streams, signals, and what gets loaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from monofs_fuse.cli import verbs
from monofs_fuse.cli.arguments import Parser
from tests.fuse.cli_command import PROGRAM, SECONDS_MAX, Monofs, damage, plant

NAMES = [verb.name for verb in verbs.ALL]
PATH_OF_THE_ISSUE = (
    "import mount status checkpoint umount ls cat stat du export names name forget gc check store-info init"
)


@pytest.fixture
def monofs(tmp_path: Path) -> Monofs:
    return Monofs(tmp_path)


@pytest.fixture
def named(monofs: Monofs) -> Monofs:
    """A store with a tree named t."""
    monofs.ok("import", str(plant(monofs.directory / "tree", {"a": b"1\n", "sub/b": b"2\n"})), "--name", "t")
    return monofs


# Help


def test_every_command_of_the_issue_is_there() -> None:
    assert set(PATH_OF_THE_ISSUE.split()) <= set(NAMES)


def test_help_names_every_command_on_a_line_of_its_own(monofs: Monofs) -> None:
    for option in ("--help", "-h"):
        lines = monofs.ok(option).lines
        for name in NAMES:
            assert [line for line in lines if line.startswith(f"  {name} ")], name
    assert max(map(len, lines)) <= 80
    assert any("Exit codes" in line for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(monofs: Monofs, name: str) -> None:
    text = monofs.ok(*name.split(), "--help").text
    assert max(map(len, text.splitlines())) <= 80
    assert "Examples:" in text and f"monofs {name}" in text
    assert "Exit codes:" in text
    assert "--store" in text
    assert not monofs.store.exists()


def test_version(monofs: Monofs) -> None:
    assert monofs.ok("--version").text.split()[0] == "monofs"


@pytest.mark.parametrize("command", ["--version", "ls t", "ls nope", "ls", "import tree", "names --json", "gc"])
def test_the_program_itself_does_what_the_other_tests_see(named: Monofs, command: str) -> None:
    """Those take a process that has everything loaded."""
    named.ok("import", "tree")
    assert named.program(*command.split()) == named.run(*command.split())


# Wrong usage


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--store"],
        ["--nonsense"],
        ["nonsense"],
        ["ls"],
        ["ls", "a", "b"],
        ["ls", "--nonsense", "a"],
        ["ls", "--js", "a"],  # no abbreviations: a new option must not change what a script means
        ["import"],
        ["import", ".", "--update"],
        ["import", ".", "-m", "text"],
        ["mount", "t"],
        ["umount", "--lazy", "--force", "d"],
        ["init", "--hash", "md5"],
        ["export", "t", "-", "--json"],
        ["name", "new"],
        ["forget"],
        ["completion"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_in_one_line(monofs: Monofs, args: list[str]) -> None:
    line = monofs.fails(*args, code=2)
    assert "--help" in line
    assert not monofs.store.exists()


def test_a_mistyped_command_gets_a_guess(monofs: Monofs) -> None:
    assert "did you mean 'umount'" in monofs.fails("unmount", code=2)


# Options stand anywhere

EVERYWHERE = [
    ["import", "-m", "text with spaces", "--name", "u", "tree"],
    ["import", "--message=-m", "--name=u", "tree"],
    ["export", "--no-owner", "--json", "t", "copy"],
    ["status", "--json"],
    ["ls", "-lR", "--json", "t/sub"],
    ["cat", "t/a", "t/sub/b", "--store", "store"],
    ["stat", "--json", "t/a"],
    ["du", "-s", "-h", "t/sub"],
    ["diff", "t", "t", "sub", "--stat", "--json"],
    ["merge", "t", "t", "--dry-run", "--strategy", "ours", "-m", "text"],
    ["conflicts", "--json", "t"],
    ["tombstones", "--json", "t"],
    ["log", "t", "a", "-n", "2", "--json"],
    ["log", "t", "a", "-n2", "--graph"],
    ["show", "--json", "t/sub"],
    ["restore", "t", "a", "sub/b", "--json", "-m", "back"],
    ["undelete", "t", "nothing", "--json"],
    ["prune", "--keep", "last=1", "--dry-run", "t"],
    ["names", "--json"],
    ["name", "-m", "text", "other", "t/sub"],
    ["forget", "t", "nobody", "--store", "store"],
    ["image", "inspect", "none", "--json"],
    ["store", "layers", "--json"],
]


def ways(words: list[str]) -> list[list[str]]:
    """The same words in other orders: each option with its value between any two of the others."""
    with_value = {"-m", "-n", "--name", "--strategy", "--keep", "--store", "--backend"}
    options: list[list[str]] = []
    others: list[str] = []
    left = words[1:]
    while left:
        count = 1 + (left[0] in with_value)
        if left[0].startswith("-"):
            options.append(left[:count])
        else:
            others.append(left[0])
            count = 1
        left = left[count:]
    flat = [word for option in options for word in option]
    found = [[*others[:at], *flat, *others[at:]] for at in range(len(others) + 1)]
    found.append([*flat, "--", *others])
    if others:
        found.append([*(options[0] if options else []), *others, *(word for one in options[1:] for word in one)])
    return [[words[0], *one] for one in found]


def parsed(words: list[str]) -> dict[str, object]:
    verb = verbs.find(words[0])
    assert verb is not None
    parser = Parser(verb.name, "Text.\nExamples:\n")
    verb.load_options()(parser)
    found = vars(parser.parse_args(words[1:]))
    return {key: value for key, value in found.items() if key != "refuse"}


@pytest.mark.parametrize("words", EVERYWHERE, ids=" ".join)
def test_options_may_stand_anywhere(words: list[str]) -> None:
    first, *rest = map(parsed, ways(words))
    assert all(one == first for one in rest), words
    assert any(value not in (None, False, [], "") for value in first.values())


def test_every_command_takes_options_behind_its_arguments() -> None:
    """All have --store, and none mistakes its value for an argument."""
    words = {1: ["a"], 2: ["a", "b"], 3: ["a", "b", "c"]}
    for verb in verbs.ALL:
        parser = Parser(verb.name, "Text.\nExamples:\n")
        verb.load_options()(parser)
        for count in (1, 2, 3):
            try:
                before = parser.parse_args(["--store", "S", *words[count]])
            except SystemExit:
                continue
            behind = parser.parse_args([*words[count], "--store", "S"])
            between = parser.parse_args([words[count][0], "--store=S", *words[count][1:]])
            assert vars(before) == vars(behind) == vars(between), verb.name


def test_what_looks_like_an_option(named: Monofs) -> None:
    assert "-1" in named.fails("name", "--", "-1", "t")  # no good name, but a name
    assert parsed(["log", "t", "-n", "-1"])["count"] == -1
    assert parsed(["log", "-n", "2", "t", "--", "-n"])["path"] == "-n"
    assert parsed(["conflicts", "t", "--resolved", "a", "b"])["resolved"] == ["a", "b"]
    assert parsed(["conflicts", "--resolved", "a", "b", "--json", "t"])["resolved"] == ["a", "b"]
    assert parsed(["export", "t", "-"])["destination"] == "-"
    for wrong in ("log t --name", "log t -n", "log t a b --json", "log --json=1 t", "log -n t a", "ls --store t"):
        assert named.run(*wrong.split()).code == 2, wrong


# Where the store is


def test_store_option_goes_before_and_after_the_command(named: Monofs) -> None:
    store = str(named.directory / "other")
    named.ok("--store", store, "import", "tree", "--name", "here")
    for args in (
        ["--store", store, "ls", "here"],
        [f"--store={store}", "ls", "here"],
        ["ls", "here", "--store", store],
    ):
        assert named.ok(*args).lines == ["a", "sub"]
    assert "here" in named.fails("ls", "here")
    assert named.ok("--store", "/nowhere", "ls", "here", "--store", store).lines == ["a", "sub"]


def test_without_option_and_variable_the_xdg_directory_holds_it(named: Monofs) -> None:
    data = named.directory / "data"
    named.ok("import", "tree", MONOFS_STORE="", XDG_DATA_HOME=str(data))
    assert (data / "monofs" / "monofs-store.json").exists()
    named.ok("import", "tree", MONOFS_STORE="", XDG_DATA_HOME="relative")
    assert (named.directory / ".local/share/monofs/monofs-store.json").exists()
    assert not (named.directory / "relative").exists()


def test_an_empty_store_option_is_no_default(named: Monofs) -> None:
    assert "empty" in named.fails("ls", "t", "--store", "")


@pytest.mark.parametrize(
    "args", [["ls", "t"], ["names"], ["gc"], ["check"], ["store-info"], ["forget", "t"], ["name", "a", "b"]]
)
def test_looking_makes_no_store(monofs: Monofs, args: list[str]) -> None:
    assert "no store at" in monofs.fails(*args)
    assert not monofs.store.exists()


def test_a_directory_that_is_no_store(monofs: Monofs) -> None:
    plant(monofs.store, {"letter": b"to a friend"})
    for args in (["ls", "t"], ["import", "."], ["init"]):
        assert "store" in monofs.fails(*args)
    assert os.listdir(monofs.store) == ["letter"]


def test_a_file_is_no_store(monofs: Monofs) -> None:
    monofs.store.write_bytes(b"")
    for args in (["ls", "t"], ["import", "."], ["init"]):
        assert str(monofs.store) in monofs.fails(*args)


def test_a_store_from_the_future(named: Monofs) -> None:
    config = named.store / "monofs-store.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "format": 99}))
    for args in (["ls", "t"], ["import", "tree"], ["gc"]):
        line = named.fails(*args)
        assert "99" in line and "newer monofs" in line


def test_a_damaged_configuration(named: Monofs) -> None:
    (named.store / "monofs-store.json").write_text("{")
    assert "damaged" in named.fails("ls", "t")


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")
def test_a_store_of_another_user(named: Monofs) -> None:
    for directory in (named.directory, *list(named.directory.parents)[:2]):
        directory.chmod(0o755)
    line = named.fails("ls", "t", user=65534)
    assert str(named.store) in line and "ermission denied" in line


# Streams


def test_a_reader_that_goes_away_is_no_error(named: Monofs) -> None:
    big = named.directory / "many"
    plant(big, {f"{number:05}": b"" for number in range(5000)})
    named.ok("import", "many", "--name", "many")
    for args in (["ls", "many"], ["ls", "-l", "many"], ["ls", "--json", "many"], ["ls", "--help"]):
        process = named.start(*args)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(SECONDS_MAX) in (0, 141)  # 0 if all went into the pipe before it was closed
        assert process.stderr.read() == b""


def test_an_error_after_the_reader_has_gone_is_told_without_noise(named: Monofs) -> None:
    """What `ls` has not written yet must not raise once more when Python exits."""
    damage(named, named.ok("stat", "--json", "t/sub").json["cid"])
    process = named.start("ls", "-R", "t")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.wait(SECONDS_MAX)
    (line,) = process.stderr.read().splitlines()
    assert b"corrupt" in line


def test_a_full_disk_for_stdout_is_an_error(named: Monofs) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([PROGRAM, "ls", "t"], stdout=full, stderr=subprocess.PIPE, env=named.env)
    assert done.returncode == 1
    assert done.stderr.startswith(b"monofs: ") and b"No space left" in done.stderr and done.stderr.count(b"\n") == 1


def test_closed_streams_harm_nothing(named: Monofs) -> None:
    """Without stdout the database would get its descriptor, and the output."""
    for redirections in (">&-", "2>&-", "<&- >&- 2>&-"):
        subprocess.run(
            ["sh", "-c", f'"$0" ls t {redirections}; "$0" import sub {redirections}', PROGRAM], env=named.env
        )
    assert named.ok("ls", "t").lines == ["a", "sub"]
    assert named.ok("check").code == 0


def test_ctrl_c_ends_quietly(named: Monofs) -> None:
    """`cat` waits for the reader of its pipe when it gets the signal."""
    (named.directory / "tree" / "big").write_bytes(os.urandom(1 << 20))
    named.ok("import", "tree", "--name", "big")
    process = named.start("cat", "big/big")
    assert process.stdout is not None and process.stderr is not None
    assert len(process.stdout.read(1)) == 1  # it is writing
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS_MAX) == 130
    assert process.stderr.read() == b""


# What gets loaded

HEAVY = {"trio", "pyfuse3", "multiformats", "dag_cbor", "fastcdc", "rich", "click", "asyncio"}


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["ls", "t"],
        ["ls", "-l", "--json", "t"],
        ["cat", "t/a"],
        ["stat", "t"],
        ["du", "t"],
        ["diff", "t", "t"],
        ["names"],
        ["store-info"],
        ["status"],
        ["__complete", "target", "t/"],
    ],
    ids=" ".join,
)
def test_quick_commands_load_nothing_heavy(named: Monofs, args: list[str]) -> None:
    loaded = {module.partition(".")[0] for module in named.modules(*args)}
    assert not loaded & HEAVY


def test_help_does_not_even_load_the_store(named: Monofs) -> None:
    assert not {"lmdb", "store.repository", "argparse"} & named.modules("--help")


def test_import_off_a_terminal_loads_no_bars(named: Monofs) -> None:
    loaded = named.modules("import", str(named.directory / "tree"))
    assert "fastcdc" in loaded
    assert not {"trio", "pyfuse3", "multiformats", "rich"} & loaded
