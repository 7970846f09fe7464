"""`tools/bench`: which rows to run, how often, and how to print them."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tools.benchmarks import report, rows_mount, rows_store
from tools.benchmarks.bench import Bench, Row

ROWS: tuple[Row, ...] = (*rows_store.ROWS, *rows_mount.ROWS)
GROUPS = {"all": ROWS, "store": rows_store.ROWS, "mount": rows_mount.ROWS}


def main() -> int:
    args = _arguments()
    rows = _chosen(args.rows)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that mounts and files are cleaned up
    with tempfile.TemporaryDirectory(prefix="monofs-bench-", dir=args.work, ignore_cleanup_errors=True) as work:
        bench = Bench(Path(work), quick=args.quick, repeat=args.repeat, end=time.monotonic() + args.minutes * 60)
        with bench:
            for row in rows:
                bench.run(row)
    document = report.document(bench)
    if args.json:
        report.print_json(document)
    else:
        report.print_text(document)
    return 1 if bench.failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description="Measure monofs beside its peers. Peers that are not installed are left out and named.",
        epilog="rows:\n" + "\n".join(f"  {row.name:<10} {row.summary}" for row in ROWS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="rows from the list below; or store, mount, all (default)"
    )
    parser.add_argument("--quick", action="store_true", help="small inputs, once each: does it run, not how fast")
    parser.add_argument("--repeat", type=int, metavar="N", help="how often each row is measured (default 3, quick 1)")
    parser.add_argument("--minutes", type=float, default=25, help="start nothing more after this time (default 25)")
    parser.add_argument("--work", default="/var/tmp", metavar="DIR", help="where to work: on a disk, 6 GB free")
    parser.add_argument("--json", action="store_true", help="print JSON, with every single sample")
    parser.add_argument("--install-peers", action="store_true", help="first install what it is compared with (apt)")
    args = parser.parse_args()
    args.repeat = args.repeat or (1 if args.quick else 3)
    if not os.path.isdir(args.work):
        parser.error(f"no directory {args.work}")
    return args


def _chosen(names: list[str]) -> list[Row]:
    chosen: dict[str, Row] = {}
    for name in names or ["all"]:
        found = GROUPS.get(name) or [row for row in ROWS if row.name == name]
        if not found:
            sys.exit(f"bench: no row '{name}'; tools/bench --help lists them")
        chosen.update((row.name, row) for row in found)
    return list(chosen.values())


if __name__ == "__main__":
    sys.exit(main())
