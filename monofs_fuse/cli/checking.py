"""`monofs check`: whether the store is whole, and what to do if it is not."""

from __future__ import annotations

from typing import Any

from monofs_fuse import progress
from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser, opened
from store import bookmark
from store import check as checks
from store.check import Problem, Repaired, Report
from store.repository import Repository


def check_options(parser: Parser) -> None:
    parser.add_argument("--repair", action="store_true", help="take out what is corrupt, and count everything anew")
    parser.add_argument("--resume", action="store_true", help="go on where the last check was interrupted")
    parser.json()


def check(args: Args) -> int:
    """Read every block, compare it with its CID, and recount all references.

    Each problem is a line, with the names and paths that need the block. Imports and mounts may go on
    meanwhile. It uses all cores. Interrupted by Ctrl-C, or killed, it leaves run/check.json in the store, and --resume
    goes on from there: bytes that were read are not read again, so those stored meanwhile may be left out; nodes
    and counts are looked at anew. Of a layer only its own blocks are read: check its base too.

    With --repair corrupt blocks are taken out, so that storing the same content again
    brings them back, and counts are set right; then everything is read once more.

    JSON: blocks, bytes (as read), clean (how the store is now), problems (what was found: kind, cid or null, text,
    places with root and path) and repaired (null, or counts, lost and rescued: trees pinned because
    only a corrupt block led to them).

    Examples:
      monofs check
      monofs check --repair
      monofs check --resume

    Exit codes: 0 the store is clean (now); 1 it is not, or an error; 2 wrong usage; 130 interrupted.
    """
    with opened(args) as repository:
        found = now = _examined(repository, args.resume)
        repaired = None
        if args.repair and not found.is_clean:
            repaired = checks.repair(repository, found)
            now = _examined(repository)
    if args.json:
        output.document(_report(found, repaired, now))
    else:
        _tell(found, repaired, now)
    return 0 if now.is_clean else 1


def _examined(repository: Repository, resume: bool = False) -> Report:
    path = bookmark.path_of(repository.run_directory)
    begin = bookmark.load(path) if resume else None
    if resume and begin is None:
        output.note("no check was interrupted; this one begins at the start")
    try:
        with progress.watched() as watcher:
            report = checks.examine(repository.store, watcher, begin, lambda mark: bookmark.save(path, mark))
    except KeyboardInterrupt:
        output.note("'monofs check --resume' goes on from here")
        raise
    bookmark.clear(path)
    return report


def _tell(found: Report, repaired: Repaired | None, now: Report) -> None:
    for problem in found.problems:
        output.line(str(problem))
    output.line(f"read {_count(found.blocks, 'block')}, {output.human(found.bytes)} bytes: {_state(found)}")
    if repaired is not None:
        lost, counts = _count(repaired.lost, "corrupt block"), _count(repaired.counts, "count")
        output.line(f"took out {lost}, set {counts} right: {_state(now)}")
        for cid in repaired.rescued:
            output.line(f"pinned {cid}: only a corrupt block led to this tree")
        if not now.is_clean:
            output.note("what is missing comes back when the same files are imported again")
    elif not now.is_clean:
        output.note("'monofs check --repair' mends what can be mended")


def _state(report: Report) -> str:
    return "clean" if report.is_clean else _count(len(report.problems), "problem")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _report(found: Report, repaired: Repaired | None, now: Report) -> dict[str, Any]:
    mended = repaired and {
        "counts": repaired.counts,
        "lost": repaired.lost,
        "rescued": [str(cid) for cid in repaired.rescued],
    }
    return {
        "blocks": found.blocks,
        "bytes": found.bytes,
        "clean": now.is_clean,
        "problems": list(map(_problem, found.problems)),
        "repaired": mended,
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind,
        "cid": None if problem.cid is None else str(problem.cid),
        "text": problem.text,
        "places": [{"root": place.root, "path": output.text(place.path)} for place in problem.places],
    }
