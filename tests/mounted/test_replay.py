"""A git history replayed in a mount: every stored version is what git says, and what is not is found."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from store import directory, edits, version
from store import file as files
from store.batch import Batch
from store.chunker import FastCdc
from store.entry import Entry
from store.names import Name
from store.repository import Repository
from store.version import Tree
from tests.mounted.test_bench import bench as run_bench
from tools.benchmarks import history, replay, sample_repository
from tools.benchmarks.bench import Bench
from tools.benchmarks.git import Git, run

pytestmark = pytest.mark.mounted

BYTES = b"no\xe9 text \xff"
NASTY = b'a "quoted" \\name\n with\ttabs'


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "bench").mkdir()
    with Bench(tmp_path / "bench", quick=True, repeat=1, end=math.inf) as made:
        yield made


class Work:
    """A git repository and its working tree on plain disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "core.protectNTFS", "false")
        self.count = 0

    def git(self, *words: str) -> str:
        return run(["-C", self.path, *words], self.path.parent).decode()

    def file(self, name: str | bytes) -> bytes:
        path = os.path.join(os.fsencode(self.path), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def write(self, name: str | bytes, data: bytes) -> None:
        with open(self.file(name), "wb") as file:
            file.write(data)

    def commit(self) -> None:
        self.count += 1
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "-m", f"commit {self.count}")


def make_nasty(work: Work, noise: bytes) -> None:
    """About twenty commits: everything that git can say about a tree, and what would change bytes on their way."""
    work.write(".gitattributes", b"*.txt text eol=crlf ident\n*.bin filter=lfs\n")
    work.write("a.txt", b"$Id$\nlines\nwith\nends\n")
    work.write("b.bin", noise[:300_000])
    work.write(BYTES, b"a name\n")
    work.write(NASTY, b"another\n")
    work.write("deep/er/and/deeper/file", b"x" * 129)
    work.commit()
    os.chmod(work.file("a.txt"), 0o755)
    os.symlink(b"a.txt", work.file("link"))
    os.symlink(b"nowhere/" + BYTES, work.file("deep/dangling"))
    work.write("empty", b"")
    work.commit()
    os.rename(work.file("deep/er"), work.file("renamed"))
    os.rename(work.file(BYTES), work.file(BYTES + b"2"))
    work.commit()
    work.write("b.bin", noise[:150_000] + b"put in" + noise[150_000:300_000])
    os.chmod(work.file("a.txt"), 0o644)
    work.commit()
    os.unlink(work.file("link"))  # a link becomes a directory, and a directory a file
    work.write("link/inside", b"now a directory\n")
    subprocess.run(["rm", "-r", work.file("renamed")], check=True)
    work.write("renamed", b"now a file\n")
    work.commit()
    work.commit()  # in which nothing changed
    os.unlink(work.file("renamed"))
    os.symlink(b"link", work.file("renamed"))  # a file becomes a link
    os.unlink(work.file(NASTY))
    work.commit()
    work.git("update-index", "--add", "--cacheinfo", "160000", "1" * 40, "module/here")
    work.git("commit", "--quiet", "-m", "a submodule")
    work.git("rm", "--quiet", "--cached", "module/here")
    subprocess.run(["rm", "-rf", work.file("module")], check=True)
    work.commit()
    work.git("checkout", "--quiet", "-b", "side")
    work.write("only/aside", b"1\n")
    work.commit()
    work.git("checkout", "--quiet", "main")
    for number in range(8):
        work.write(f"many/{number % 3}/{number}", noise[number : number + 100 * number])
        if number > 3:
            os.unlink(work.file(f"many/{(number - 3) % 3}/{number - 3}"))
        work.commit()
    work.git("merge", "--quiet", "--no-ff", "-m", "merge", "side")
    subprocess.run(["rm", "-r", *(work.file(name) for name in os.listdir(work.path) if name != ".git")], check=True)
    work.commit()  # in which there is nothing at all
    work.write("again", b"and something\n")
    work.commit()


def replayed(bench: Bench, source: Path) -> tuple[Git, list[str], Repository]:
    git = Git.clone(source, bench.work / "clone.git", bench.work / "home")
    commits = git.line("HEAD")
    steps = list(replay.steps(bench, git, commits, bench.work / "store"))
    assert [step.commit for step in steps] == commits and sum(step.changed for step in steps) > 30
    return git, commits, Repository.open(bench.work / "store")


def test_a_history_of_everything(bench: Bench, tmp_path: Path, rng: random.Random) -> None:
    work = Work(tmp_path / "work")
    make_nasty(work, rng.randbytes(300_000))
    git, commits, repository = replayed(bench, work.path)
    try:
        assert len(commits) >= 19
        assert replay.differences(repository, git, commits, lambda _: None) == []
        stored = replay.stored(repository)
        assert len(stored.versions) == len(commits) and min(stored.versions) > 0
        assert sum(stored.versions) == stored.stored < 2_000_000, "and nothing else is in the store"
        tampered_with(repository, git, commits)
    finally:
        repository.close()


def tampered_with(repository: Repository, git: Git, commits: list[str]) -> None:
    """Whatever is not as git has it in a version, it is told."""
    batch = Batch(repository.cache)

    def put(data: bytes) -> Entry:
        made = files.from_bytes(batch, FastCdc(), data)
        return Entry("file", 0o644, size=made.size, data=made.content)

    script = put(b"and something\n")
    changes: list[tuple[Mapping[bytes, Entry | None], str]] = [
        ({b"again": put(b"and somethinG\n")}, "its content is not git's"),
        ({b"again": script._replace(mode=0o755)}, "its mode is 755"),
        ({b"again": Entry("symlink", 0o777, size=14, data=b"and something\n")}, "it is a symlink and not a file"),
        ({b"again": None}, "is missing"),
        ({b"more": script}, "is no file of the commit"),
        ({b"more": Entry("dir", 0o755)}, "is no file of the commit"),
        ({b"again": None, b"agaim": script}, "is no file of the commit"),
    ]
    old = repository.name(replay.NAME)
    assert old is not None
    last = version.load_version(batch, old.version)
    root = version.load_tree(batch, last.tree).root
    assert directory.find(batch, root, b"again") is not None
    for change, told in changes:
        stage = repository.batch("tamper")[1]
        tree = version.put_tree(batch, Tree(edits.made(batch, root, change)))
        new = Name(version.put_version(batch, last._replace(tree=tree)))
        repository.set_name(replay.NAME, old, new, batch, stage)
        found = replay.differences(repository, git, commits, lambda _: None)
        assert found and all(commits[-1][:12] in one for one in found) and told in found[0], found
        repository.set_name(replay.NAME, new, old, *repository.batch("tamper"))
    assert replay.differences(repository, git, commits, lambda _: None) == []
    assert "other commits" in replay.differences(repository, git, commits[:-1], lambda _: None)[0]


def test_what_somebody_else_wrote_into_the_mount_is_found(bench: Bench, tmp_path: Path) -> None:
    sample_repository.make(tmp_path / "sample.git", files=5, commits=3)
    git = Git.clone(tmp_path / "sample.git", bench.work / "clone.git", bench.work / "home")
    commits = git.line("HEAD")
    for number, _ in enumerate(replay.steps(bench, git, commits, bench.work / "store")):
        if number == 0:
            (bench.work / "mnt" / "intruder").write_bytes(b"")
    repository = Repository.open(bench.work / "store")
    try:
        found = replay.differences(repository, git, commits, lambda _: None)
        assert [one[:12] for one in found] == [commit[:12] for commit in commits[1:]], found
        assert all("intruder" in one for one in found)
    finally:
        repository.close()


def test_the_command(tmp_path: Path) -> None:
    words = ["history", "--generated", "--files=20", "--commits=7", "--every=2", "--work", tmp_path]
    saved = tmp_path / "saved"
    assert "every version is git's" in run_bench(*words, "--save", saved)
    doc = json.loads(saved.read_text())
    assert doc["versions"] == len(doc["steps"]) == 4 and doc["differences"] == []
    assert 0 < doc["stored_bytes"] < doc["bytes"] and doc["git_pack_bytes"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["saved"], "it cleans up"
    assert "bench: git: " in run_bench("history", tmp_path, "--work", tmp_path, code=1)


def test_a_shallow_clone_is_refused(tmp_path: Path) -> None:
    sample_repository.make(tmp_path / "sample.git", files=2, commits=3)
    run(["clone", "--quiet", "--depth=1", f"file://{tmp_path}/sample.git", tmp_path / "shallow"], tmp_path)
    assert "is a shallow clone" in run_bench("history", tmp_path / "shallow", "--work", tmp_path, code=1)


def test_every_nth_is_counted_back_from_the_newest() -> None:
    line = [str(number) for number in range(10)]
    assert history.chosen(line, 1, None) == line
    assert history.chosen(line, 4, None) == ["1", "5", "9"]
    assert history.chosen(line, 4, 2) == ["5", "9"]
    assert history.chosen(line, 100, 5) == ["9"]
