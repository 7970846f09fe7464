"""What a person sees of long work: bars on a terminal, nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from monofs_fuse.cli.output import human
from store.progress import SILENT, Progress

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as Bars


@contextmanager
def watched() -> Iterator[Progress]:
    """Yield what the work reports to: shows bytes, files, rates and the time left on stderr while it lasts."""
    if not sys.stderr.isatty():
        yield SILENT
        return
    counts = _Counts()
    with _bars(counts):
        yield counts


class _Counts:
    """Only counts, since it is called for every file; the bars look at it a few times a second."""

    def __init__(self) -> None:
        self.files = self.bytes = 0
        self.files_total: int | None = None  # not known while the tree is being scanned
        self.bytes_total: int | None = None

    def totals(self, files: int, size: int) -> None:
        self.files_total, self.bytes_total = files, size

    def file(self, path: bytes, size: int) -> None:
        self.files += 1

    def advance(self, size: int) -> None:
        self.bytes += size


def _bars(counts: _Counts) -> Bars:
    from rich import progress
    from rich.console import Console

    class Live(progress.Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            for task in self.tasks:
                done, total = (
                    (counts.bytes, counts.bytes_total) if task.id == size else (counts.files, counts.files_total)
                )
                shown = human if task.id == size else str
                speed = shown(int(task.speed)) if task.speed else "-"
                amount = f"{shown(done)}/{'?' if total is None else shown(total)}"
                self.update(task.id, completed=done, total=total, amount=amount, rate=f"{speed}/s")
            return super().get_renderables()

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[amount]}", justify="right"),
        progress.TextColumn("{task.fields[rate]}", justify="right"),
        progress.TimeRemainingColumn(),
    )
    # stdout is the answer's: rich must print neither on it nor in its place
    bars = Live(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    size = bars.add_task("bytes", total=None, amount="", rate="")
    bars.add_task("files", total=None, amount="", rate="")
    return bars
