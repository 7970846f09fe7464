"""monofs.lock: the same text for the same lock, nothing but good locks, and two people's changes merge."""

from __future__ import annotations

import os
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from vmm.errors import BadProject
from vmm.project import lock, reading
from vmm.project.lock import Locked
from vmm.project.manifest import Source
from vmm.project.writing import write

AT = Path("/x/monofs.lock")
TREE, OTHER = "b" + "a" * 58, "b" + "c" * 58
DIGEST = "sha256:" + "0" * 64
IMAGE = Locked("web", Source("image", "debian"), TREE, "docker.io/library/debian:latest", DIGEST, "linux/amd64")
DIRECTORY = Locked("d.b", Source("directory", 'odd "\\\t\u2028 é'), OTHER)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are said as seen from here."""
    monkeypatch.chdir(tmp_path)


def test_a_lock_is_read_as_it_was_written() -> None:
    made = {one.machine: one for one in (IMAGE, DIRECTORY)}
    text = lock.text(made)
    assert lock.parse(text, AT) == made
    assert text == lock.text(dict(reversed(made.items())))
    assert text == (
        "# Made by monofs from monofs.toml ('monofs install', 'monofs update'). Keep it in version control.\n"
        "format = 1\n"
        "\n"
        '[machines."d.b"]\n'
        'directory = "odd \\"\\\\\\u0009\\u2028 é"\n'
        f'tree = "{OTHER}"\n'
        "\n"
        "[machines.web]\n"
        'image = "debian"\n'
        'reference = "docker.io/library/debian:latest"\n'
        f'digest = "{DIGEST}"\n'
        'platform = "linux/amd64"\n'
        f'tree = "{TREE}"\n'
    )
    assert tomllib.loads(lock.text({})) == {"format": 1}
    assert lock.parse(lock.text({}), AT) == {}


def test_pulled_by_digest() -> None:
    for reference, name in [
        ("docker.io/library/debian:latest", "docker.io/library/debian"),
        ("localhost:5000/a/b:t", "localhost:5000/a/b"),
        (f"localhost:5000/a@{DIGEST}", "localhost:5000/a"),
    ]:
        one = Locked("m", Source("image", "x"), TREE, reference, DIGEST, "linux/amd64")
        assert one.pulled_as == f"{name}@{DIGEST}"


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "1: 'format' is missing"),
        ("format = 2", " was written by a newer monofs (format 2); use that"),
        ("format = 1\n<<<<<<< HEAD\n", "2: Invalid statement"),
        (f"format = 1\n[machines.a]\ntree='{TREE}'", "2: machines.a: one of image, name, cid, directory must be there"),
        ("format = 1\n[machines.a]\nname='x'\ntree='b'", "4: machines.a.tree: 'b' is not a CID"),
        (
            f"format = 1\n[machines.a]\nimage='x'\ntree='{TREE}'",
            "2: machines.a: reference, digest and platform go with",
        ),
        (f"format = 1\n[machines.a]\nname='x'\nx=1\ntree='{TREE}'", "4: machines.a.x: no such key"),
        ("format = 1\n[machines.'../a']\n", "2: machines.'../a'"),
        ("format = 1\nmachines = 1", "2: machines: 1 is not a table"),
    ],
)
def test_what_is_no_lock_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadProject) as caught:
        lock.parse(text, AT)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{AT}{'' if said.startswith(' ') else ':'}{said}")


def test_where_lock_and_project_differ() -> None:
    text = '[machines.web]\nimage="debian"\n[machines.new]\nname="n"\n[machines.moved]\nname="m"'
    project = reading.parse(text, Path("/x/monofs.toml"))
    locked = {
        "web": IMAGE,
        "moved": Locked("moved", Source("cid", TREE), TREE),
        "gone": Locked("gone", Source("name", "g"), TREE),
    }
    assert lock.differences(project, locked) == [
        "'new' is not in it",
        f"'moved' is cid '{TREE}' in it, and name 'm' in monofs.toml",
        "'gone' is in it, and not in monofs.toml",
    ]
    assert lock.differences(reading.parse("", AT), {}) == []


def test_two_peoples_machines_merge_without_a_conflict(tmp_path: Path) -> None:
    """Each of them adds one or updates another, in a branch of their own."""

    def git(*args: str) -> str:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@x", *args]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    def commit(*machines: Locked) -> None:
        (tmp_path / "monofs.lock").write_text(lock.text({one.machine: one for one in machines}))
        git("add", ".")
        git("commit", "-qm", "x")

    def named(name: str, tree: str = TREE) -> Locked:
        return Locked(name, Source("name", name), tree)

    git("init", "-qb", "main")
    commit(named("b"), named("h"), named("m"))
    git("checkout", "-qb", "other")
    commit(named("b"), named("d"), named("h"), named("m", OTHER))
    git("checkout", "-q", "main")
    commit(named("b", OTHER), named("h"), named("k"), named("m"))
    git("merge", "-q", "other")
    merged = lock.read(tmp_path / "monofs.lock")
    assert merged == {one.machine: one for one in map(named, "dhk")} | {
        one.machine: one for one in (named("b", OTHER), named("m", OTHER))
    }
    assert lock.text(merged) == (tmp_path / "monofs.lock").read_text()


# Writing


def test_a_file_is_written_at_once_and_stays_what_it_was(tmp_path: Path) -> None:
    file, link = tmp_path / "real", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to("real")
    (tmp_path / ".real.new").write_text("left by one that was killed")
    reader = file.open()
    write(link, "new\n")
    assert (file.read_text(), reader.read(), link.is_symlink()) == ("new\n", "old", True)
    reader.close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    with pytest.raises(BadProject, match=r"^cannot write .*gone/x: No such file or directory$"):
        write(tmp_path / "gone" / "x", "")
