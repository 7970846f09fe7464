"""`tools/bench`: which rows to run, how often, and how to print them."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tools.benchmarks import (
    history,
    plot,
    report,
    rows_images,
    rows_projects,
    rows_read,
    rows_scale,
    rows_store,
    rows_versions,
    rows_vm,
    rows_write,
)
from tools.benchmarks.bench import Bench, Row, Scale, path

GROUPS: dict[str, tuple[Row, ...]] = {
    "mount": (*rows_read.ROWS, *rows_write.ROWS),
    "import": rows_store.IMPORT,
    "more": (*rows_read.MORE, *rows_store.MORE),
    "scale": rows_scale.ROWS,
    "versions": rows_versions.ROWS,
    "vm": rows_vm.ROWS,
    "images": rows_images.ROWS,
    "projects": rows_projects.ROWS,
}
_DEFAULT = ("mount", "import", "more")


def main() -> int:
    if sys.argv[1:2] == ["history"]:
        return history.main(sys.argv[2:])
    args = _arguments()
    document = json.loads(args.show.read_text()) if args.show else _measured(args)
    if args.save:
        args.save.write_text(report.to_json(document))
    print({"json": report.to_json, "markdown": report.markdown, "text": report.text}[args.form](document))
    lines = plot.series(document)
    if args.plot:
        print(f"\n{plot.text(lines)}", file=sys.stderr if args.form == "json" else sys.stdout)
    if args.svg and lines:
        title = f"CPU time beside the size of the tree; monofs {document['commit']}, {document['when'][:10]}"
        args.svg.write_text(plot.svg(lines, title))
    return 1 if document["failures"] else 0


def _measured(args: argparse.Namespace) -> report.Doc:
    rows = _chosen(args.rows)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that mounts and files are cleaned up
    with tempfile.TemporaryDirectory(prefix="monofs-bench-", dir=args.work, ignore_cleanup_errors=True) as work:
        end = time.monotonic() + args.minutes * 60
        scale = Scale(args.files, args.sizes, args.gib, args.aged_gib)
        tools = frozenset(args.tools.split(",")) if args.tools else frozenset()
        with Bench(Path(work), args.quick, args.repeat, end, scale, tools=tools, kept=args.keep_stores) as bench:
            bench.run(rows)
            return report.document(bench, _group_of)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description="Measure monofs beside its peers. Peers that are not installed are left out and named.",
        epilog=_rows_explained(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help=f"rows or groups from the list below (default: {' '.join(_DEFAULT)})")
    add("--quick", action="store_true", help="small inputs, once each: does it run, not how fast")
    add("--repeat", type=_count, metavar="N", help="how often each row is measured (default 3, quick 1)")
    add("--tools", metavar="NAME,NAME...", help="measure only these: monofs, plain, floor, bindfs... (default all)")
    add("--minutes", type=float, default=60, metavar="N", help="start nothing more after this time (default 60)")
    add(
        "--work",
        type=path,
        default="/var/tmp",
        metavar="DIR",
        help="where to work: on a disk, 10 GB free (scale: 50 GB)",
    )
    add("--keep-stores", type=path, metavar="DIR", help="of versions: keep the stores there, or take them from there")
    add("--json", dest="form", action="store_const", const="json", help="print JSON, with every single sample")
    add("--markdown", dest="form", action="store_const", const="markdown", help="print tables, as the README has them")
    add("--plot", action="store_true", help="of versions: draw CPU time beside the size of the tree, as text")
    add("--svg", type=path, metavar="FILE", help="of versions: write that as an SVG image, too")
    add("--save", type=path, metavar="FILE", help="write the JSON there, too")
    add("--show", type=path, metavar="FILE", help="measure nothing; print what --save wrote")
    add("--install-peers", action="store_true", help="first install what it is compared with (apt)")
    size = parser.add_argument_group("how large the rows of scale become")
    size.add_argument("--files", type=_count, metavar="N", help="names in one directory (default 1000000)")
    size.add_argument("--sizes", type=_sizes, metavar="N,N...", help="files in the trees (default 1000 to 1000000)")
    size.add_argument("--gib", type=float, metavar="N", help="of the large file (default 20)")
    size.add_argument("--aged-gib", type=float, metavar="N", help="in the store that ages (default 2)")
    args = parser.parse_args()
    args.form = args.form or "text"
    args.repeat = args.repeat or (1 if args.quick else 3)
    sizes = Scale.quick() if args.quick else Scale()
    for field in Scale._fields:
        setattr(args, field, getattr(args, field) or getattr(sizes, field))
    if args.keep_stores:
        args.keep_stores.mkdir(parents=True, exist_ok=True)
    if not os.path.isdir(args.work):
        parser.error(f"no directory {args.work}")
    return args


def _rows_explained() -> str:
    lines = []
    for group, rows in GROUPS.items():
        lines += [f"{group}:", *(f"  {row.name:<10} {row.summary}" for row in rows)]
    lines.append("tools/bench history [REPO]: a git repository, replayed in a mount and compared; it has a --help")
    return "\n".join(lines)


def _group_of(name: str) -> str:
    return next(group for group, rows in GROUPS.items() if name in (row.name for row in rows))


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(_count(one) for one in text.split(","))


def _chosen(names: list[str]) -> list[Row]:
    every = {row.name: row for rows in GROUPS.values() for row in rows}
    chosen: dict[str, Row] = {}
    for name in names or _DEFAULT:
        if name not in GROUPS and name not in every:
            sys.exit(f"bench: no row '{name}'; tools/bench --help lists them")
        chosen.update((row.name, row) for row in GROUPS.get(name) or (every[name],))
    return list(chosen.values())


if __name__ == "__main__":
    sys.exit(main())
