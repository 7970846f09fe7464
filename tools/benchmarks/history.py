"""`tools/bench history`: replay a git repository in a monofs mount, and hold every version to git's own tree."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

from store.repository import Repository
from tools.benchmarks import peers, replay, report, sample_repository
from tools.benchmarks.bench import Bench, CommandFailed, path
from tools.benchmarks.git import Git, run
from tools.benchmarks.inputs import MB
from tools.benchmarks.replay import Step, Stored

_ROOT: Final = Path(__file__).parents[2]
_NOTES: Final = 10  # while it goes on
PEER: Final = "157 versions of 4.94 GB in 80 MB, 0.93 s each, slowing 1.7-2.8x along the chain"

Doc = dict[str, Any]


def main(words: list[str]) -> int:
    args = _arguments(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the mount and the files are cleaned up
    try:
        with (
            tempfile.TemporaryDirectory(prefix="monofs-bench-", dir=args.work, ignore_cleanup_errors=True) as work,
            Bench(Path(work), quick=False, repeat=1, end=math.inf) as bench,
        ):
            document = _measured(bench, args)
    except CommandFailed as error:
        sys.exit(f"bench: {error}")
    if args.save:
        args.save.write_text(report.to_json(document))
    print(json.dumps(document, indent=2) if args.json else _text(document))
    return 1 if document["differences"] else 0


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/bench history",
        description="Check the first-parent history of a git repository out into a mounted fork, make a version of"
        " each commit, and compare every stored version with git's own tree, byte for byte. REPO is only read.",
        epilog=f"A peer's figures on such a run: {PEER}. Exit code 1: a version differs.",
    )
    add = parser.add_argument
    add("repository", nargs="?", type=path, metavar="REPO", help="a full clone on disk (default: monofs itself)")
    add("--generated", action="store_true", help="a repository made for this: the same everywhere, large, 200 commits")
    add("--files", type=int, default=sample_repository.FILES, metavar="N", help="of the generated one (default 6000)")
    add("--commits", type=int, default=sample_repository.COMMITS, metavar="N", help="of it (default 200)")
    add("--every", type=int, default=1, metavar="N", help="take every n-th commit; the newest is always one of them")
    add("--versions", type=int, metavar="N", help="of these only the newest N")
    add("--work", type=path, default="/var/tmp", metavar="DIR", help="where to work, on a disk")
    add("--json", action="store_true", help="print JSON, with every single version")
    add("--save", type=path, metavar="FILE", help="write the JSON there, too")
    args = parser.parse_args(words)
    if args.repository and args.generated:
        parser.error("REPO or --generated, not both")
    if min(args.every, args.files, args.commits, 1 if args.versions is None else args.versions) < 1:
        parser.error("numbers begin at 1")
    return args


def chosen(line: list[str], every: int, versions: int | None) -> list[str]:
    """Return every n-th commit, counted back from the newest; of these the newest `versions`. The oldest is first."""
    found = line[::-1][::every][::-1]
    return found if versions is None else found[-versions:]


def _measured(bench: Bench, args: argparse.Namespace) -> Doc:
    home = bench.work / "home"
    source = args.repository or _ROOT
    if args.generated:
        source = bench.work / "generated.git"
        bench.say("making a repository")
        sample_repository.make(source, args.files, args.commits)
    tip = run(["-C", source, "rev-parse", "--verify", "HEAD^{commit}"], home).decode().strip()
    git = Git.clone(source, bench.work / "clone.git", home)
    commits = chosen(git.line(tip), args.every, args.versions)
    store = bench.work / "store"
    steps = []
    for step in replay.steps(bench, git, commits, store):
        steps.append(step)
        if len(steps) * _NOTES // len(commits) > (len(steps) - 1) * _NOTES // len(commits):
            bench.say(f"{len(steps)} of {len(commits)} versions")
    repository = Repository.open(store)
    try:
        found = replay.differences(repository, git, commits, lambda _: None)
        bench.say(f"compared; {len(found)} differences")
        stored = replay.stored(repository)
    finally:
        repository.close()
    bench.command("monofs", "--store", store, "store", "compact")
    return {
        **_where(bench),
        "repository": "generated" if args.generated else os.fspath(source.resolve()),
        "versions": len(commits),
        **_held(git, commits),
        "git_pack_bytes": git.packed(commits, bench.work / "packed.git", home),
        "stored_bytes": stored.stored,
        "file_bytes": stored.file,
        "compact_bytes": peers.disk_bytes(store),
        "differences": found,
        "steps": _listed(steps, stored),
    }


def _where(bench: Bench) -> Doc:
    whole = report.document(bench, str)
    return {key: whole[key] for key in ("when", "commit", "machine")}


def _held(git: Git, commits: list[str]) -> Doc:
    """Return what all commits hold together, and what their unique blobs do."""
    lists = [[item.blob for item in git.items(commit).values() if item.mode != 0o160000] for commit in commits]
    size_of = git.sizes_of(set[str]().union(*lists))
    return {
        "files": sum(map(len, lists)),
        "bytes": sum(size_of[blob] for one in lists for blob in one),
        "blobs": len(size_of),
        "blob_bytes": sum(size_of.values()),
    }


def _listed(steps: list[Step], stored: Stored) -> list[Doc]:
    sizes = [*stored.versions, *[None] * len(steps)][: len(steps)]
    return [{**step._asdict(), "stored_bytes": size} for step, size in zip(steps, sizes, strict=True)]


# As text


def _text(doc: Doc) -> str:
    later = doc["steps"][1:]  # the first version is the whole tree
    tenth = max(1, len(later) // 10)
    ends = {"first": later[:tenth], "last": later[-tenth:]}
    lines = [f"monofs {doc['commit']}, {doc['when']}"]
    lines += [f"  {key}: {value}" for key, value in doc["machine"].items()]
    lines += [
        f"{doc['repository']}: {doc['versions']} versions, {doc['files']:,} files, {doc['bytes'] / MB:,.1f} MB in all",
        f"  unique blobs        {doc['blob_bytes'] / MB:>10,.2f} MB in {doc['blobs']:,} blobs",
        f"  monofs              {doc['stored_bytes'] / MB:>10,.2f} MB; the database {doc['file_bytes'] / MB:,.1f} MB,"
        f" compacted {doc['compact_bytes'] / MB:,.1f} MB",
        f"  git's pack          {doc['git_pack_bytes'] / MB:>10,.2f} MB",
        f"  a version           {_per_version(later):>10,.0f} bytes (median, without the first)",
    ]
    if later:
        lines += [f"                       {'first tenth':>20}{'last tenth':>20}"]
        for what, key, scale in (
            ("checkpoint, ms", "checkpoint_seconds", 1000),
            ("  CPU, ms", "checkpoint_cpu", 1000),
            ("checkout, ms", "checkout_seconds", 1000),
            ("  CPU of the mount, ms", "checkout_cpu", 1000),
            ("files changed", "changed", 1),
        ):
            cells = (_cell([step[key] * scale for step in some]) for some in ends.values())
            lines.append(f"  {what:<21}{''.join(f'{cell:>20}' for cell in cells)}")
        lines.append("  (median, and in brackets the mean)")
    lines.append(f"  a peer: {PEER}")
    lines += [f"DIFFERENT {found}" for found in doc["differences"]]
    lines.append(f"{len(doc['differences'])} differences from git" if doc["differences"] else "every version is git's")
    return "\n".join(lines)


def _per_version(steps: list[Doc]) -> float:
    return median([step["stored_bytes"] or 0 for step in steps] or [0])


def _cell(values: list[float]) -> str:
    return f"{median(values):.1f} ({mean(values):.1f})"
