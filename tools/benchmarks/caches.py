"""The kernel's caches, dropped: what is read next comes from the disk, and a mount must be asked again."""

from __future__ import annotations

import os
from pathlib import Path

can_drop = os.access("/proc/sys/vm/drop_caches", os.W_OK)  # root may


def drop() -> None:
    """Forget what is clean; whoever has written something that must be forgotten calls `os.sync` first."""
    if can_drop:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
