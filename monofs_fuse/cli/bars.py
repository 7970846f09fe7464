"""What a person sees of layers on their way: a bar for each on a terminal, nothing anywhere else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from store.oci.media import Descriptor
from store.progress import SILENT, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


@contextmanager
def layers() -> Iterator[Watcher]:
    """Yield what a pull reports to."""
    if not sys.stderr.isatty():
        yield Watcher(None)
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    # stdout is the answer's: rich must print neither on it nor in its place
    with progress.Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bars:
        yield Watcher(bars)


class Watcher:
    def __init__(self, bars: Bars | None) -> None:
        self._bars = bars
        self._tasks: dict[int, TaskID] = {}
        self._lock = threading.Lock()

    def begin(self, number: int, layer: Descriptor, is_here: bool) -> Progress:
        if self._bars is not None:
            name = layer.digest.partition(":")[2][:12] + (" is here" if is_here else "")
            done = layer.size if is_here else 0
            with self._lock:
                self._tasks[number] = self._bars.add_task(name, total=layer.size, completed=done)
        return SILENT

    def end(self, number: int) -> None:
        if self._bars is not None:
            self._bars.stop_task(self._tasks[number])

    def fetched(self, number: int, size: int) -> None:
        if self._bars is not None:
            self._bars.advance(self._tasks[number], size)
