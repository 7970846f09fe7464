"""Completion: the scripts in the real shells, and what they ask."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
from pathlib import Path

import pytest

from monofs_fuse.cli import verbs
from tests.fuse.cli_command import SECONDS_MAX, Monofs, plant
from vmm.state import Row, State

SHELLS = ("bash", "zsh", "fish")
ALL = "\x1b*"  # bash: put in all that could follow


@pytest.fixture(scope="module")
def monofs(tmp_path_factory: pytest.TempPathFactory) -> Monofs:
    """A store with the names docs, docs-old, v:1, v:22 (with /deep/ and 'a b') and a pin."""
    monofs = Monofs(tmp_path_factory.mktemp("completion"))
    tree = plant(monofs.directory / "tree", {"deep/er/x": b"x", "deep/y": b"y", "a b": b"z"})
    for name in ("docs", "docs-old", "v:1", "v:22"):
        monofs.ok("import", str(tree), "--name", name)
    plant(tree, {"one more": b"1"})
    monofs.ok("import", str(tree))
    with State(monofs.store / "vm") as state:
        state.add(Row("0123456789ab", "docs", "/nowhere", {}, {}, name="web"))
    return monofs


def installed(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    return found


# What the scripts ask


def test_names_and_pins_are_offered(monofs: Monofs) -> None:
    pin = monofs.ok("names", "--json").json["pins"][0]["tree"]
    assert monofs.ok("__complete", "target", "").lines == sorted([pin, "docs", "docs-old", "v:1", "v:22"])
    assert monofs.ok("__complete", "kept", "docs-").lines == ["docs-old"]
    assert monofs.ok("__complete", "target", pin[:9]).lines == [pin]


def test_paths_in_a_tree_are_offered(monofs: Monofs) -> None:
    assert monofs.ok("__complete", "target", "docs/").lines == ["docs/a b", "docs/deep/"]
    assert monofs.ok("__complete", "target", "docs/deep/").lines == ["docs/deep/er/", "docs/deep/y"]
    assert monofs.ok("__complete", "target", "docs/deep/e").lines == ["docs/deep/er/"]
    assert monofs.ok("__complete", "target", "docs/nope/e").lines == []
    assert monofs.ok("__complete", "target", "docs/deep/y/").lines == []


def test_asking_needs_no_store_and_makes_none(tmp_path: Path) -> None:
    monofs = Monofs(tmp_path)
    for kind in ("target", "kept", "mountpoint"):
        assert monofs.ok("__complete", kind, "").out == b""
    assert not monofs.store.exists()


# The scripts


@pytest.mark.parametrize("shell", SHELLS)
def test_script_parses(monofs: Monofs, shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(monofs.ok("completion", shell).out)
    done = subprocess.run([installed(shell), "-n", script], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("shell", SHELLS)
def test_script_knows_every_verb_and_option(monofs: Monofs, shell: str) -> None:
    script = monofs.ok("completion", shell).text
    assert "@" not in script.replace("$@", "").replace("[@]", "").replace("(@", "").replace("{@", "")
    for verb in verbs.ALL:
        assert all(word in script for word in verb.name.split())
    for option in ("read-only", "foreground", "lazy", "force", "repair", "update", "strict"):
        assert option in script


def test_unknown_shell_is_wrong_usage(monofs: Monofs) -> None:
    assert "tcsh" in monofs.fails("completion", "tcsh", code=2)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("monofs umo\t", "monofs umount"),
        ("monofs store-\t", "monofs store-info"),
        ("monofs mount --read\t", "monofs mount --read-only"),
        ("monofs init --hash sh\t", "monofs init --hash sha2-256"),
        ("monofs completion f\t", "monofs completion fish"),
        ("monofs ls docs-\t", "monofs ls docs-old"),
        ("monofs ls -l docs-\t", "monofs ls -l docs-old"),
        (f"monofs ls docs{ALL}", "monofs ls docs docs-old"),
        ("monofs ls v:2\t", "monofs ls v:22"),
        ("monofs cat v:1/dee\ter\tx\t", "monofs cat v:1/deep/er/x"),
        ("monofs cat docs/a\\ \t", "monofs cat docs/a b"),
        ("monofs diff v:1 docs-\t", "monofs diff v:1 docs-old"),
        ("monofs cat v:1/x v:2/x docs-\t", "monofs cat v:1/x v:2/x docs-old"),
        ("monofs name -m 'two words' new docs-\t", "monofs name -m two words new docs-old"),
        ("monofs mount docs --name here tre\t", "monofs mount docs --name here tree/"),
        ("monofs --store={directory}/none ls docs-\t", "monofs --store={directory}/none ls docs-"),
        ("monofs --store {directory}/store forget docs-\t", "monofs --store {directory}/store forget docs-old"),
        ("monofs name ne\t", "monofs name ne"),
        ("monofs vm ru\t", "monofs vm run"),
        ("monofs vm run --det\t", "monofs vm run --detach"),
        ("monofs vm run --net us\t docs-\t", "monofs vm run --net user docs-old"),
        ("monofs vm stop we\t", "monofs vm stop web"),
    ],
)
def test_bash_completes(monofs: Monofs, typed: str, completed: str) -> None:
    done = in_bash(monofs, typed.format(directory=monofs.directory))
    assert done == completed.format(directory=monofs.directory)


def test_bash_completes_mount_points_of_this_store(monofs: Monofs) -> None:
    """The mount points are those that living processes hold a lease for."""
    from store.repository import Repository

    repository = Repository.open(monofs.store)
    tree = repository.resolve("docs").tree
    lease = repository.lease(None, tree, str(monofs.directory / "here"), "")
    try:
        assert in_bash(monofs, "monofs umount \t") == f"monofs umount {monofs.directory}/here"
    finally:
        repository.release(lease)
        repository.close()


def test_fish_completes(monofs: Monofs, tmp_path: Path) -> None:
    fish = installed("fish")
    script = tmp_path / "monofs.fish"
    script.write_bytes(monofs.ok("completion", "fish").out)

    def offered(line: str) -> list[str]:
        command = f"source {script}; complete -C {line!r}"
        done = subprocess.run([fish, "--no-config", "-c", command], capture_output=True, env=monofs.env, check=True)
        assert done.stderr == b""
        return [row.partition("\t")[0] for row in done.stdout.decode().splitlines()]

    assert offered("monofs umo") == ["umount"]
    assert offered("monofs mount --read") == ["--read-only"]
    assert offered("monofs ls docs-") == ["docs-old"]
    assert offered("monofs cat docs docs-") == ["docs-old"]
    assert offered("monofs ls docs/deep/") == ["docs/deep/er/", "docs/deep/y"]
    assert offered("monofs diff docs docs-") == ["docs-old"]
    assert offered("monofs init --hash sh") == ["sha2-256"]
    assert offered("monofs v") == ["vm"]
    assert offered("monofs vm ru") == ["run"]
    assert offered("monofs vm run --det") == ["--detach"]
    assert offered("monofs vm run --net user docs-") == ["docs-old"]
    assert offered("monofs vm stop we") == ["web"]
    assert offered("monofs --store /nowhere ls doc") == []


def test_zsh_completes(monofs: Monofs) -> None:
    def completed(typed: str) -> str:
        setup = "autoload -U compinit; compinit -u -D; source =(monofs completion zsh); bindkey -e"
        return on_terminal(monofs, [installed("zsh"), "-f", "-i"], "PS1='> '; PROMPT_SP=; " + setup, typed)

    assert completed("monofs umo\t") == "monofs umount"
    assert completed("monofs ls docs-\t") == "monofs ls docs-old"
    assert completed("monofs ls -l docs/dee\t") == "monofs ls -l docs/deep/"
    assert completed("monofs mount --read\t") == "monofs mount --read-only"
    assert completed("monofs diff docs docs-\t") == "monofs diff docs docs-old"
    assert completed("monofs vm ru\t") == "monofs vm run"
    assert completed("monofs vm run --det\t") == "monofs vm run --detach"
    assert completed("monofs vm stop we\t") == "monofs vm stop web"


# A shell on a terminal


def in_bash(monofs: Monofs, typed: str) -> str:
    setup = "PS1='> '; bind 'set enable-bracketed-paste off'; source <(monofs completion bash)"
    return on_terminal(monofs, [installed("bash"), "--norc", "-i"], setup, typed)


def on_terminal(monofs: Monofs, shell: list[str], setup: str, typed: str) -> str:
    """Type into a shell, then make it `echo` the line it has; returns what that line says."""
    result = monofs.directory / "line"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(monofs.directory)
        os.execve(shell[0], shell, {**monofs.env, "TERM": "dumb"})
    try:
        wait_for(terminal, setup + "; echo rea''dy\n", b"ready")
        # ctrl-A goes to the beginning of the line; the typed keys end before that, with nothing to wait for
        wait_for(terminal, typed + f"\x01printf '%s\\n' \x05 | tr '\\n' ' ' > {result}; echo do''ne\n", b"done")
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    return result.read_text().strip()


def wait_for(terminal: int, keys: str, word: bytes) -> None:
    os.write(terminal, keys.encode())
    seen = b""
    while word not in seen:
        assert select.select([terminal], [], [], SECONDS_MAX)[0], f"waited in vain for {word!r} in {seen!r}"
        seen += os.read(terminal, 65536)
