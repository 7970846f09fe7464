"""What monofs wants to reach, as issues 2 and 3 set it down."""

from __future__ import annotations

from typing import Final, NamedTuple


class Aim(NamedTuple):
    value: float
    at_most: bool = False  # otherwise: at least

    def is_reached(self, value: float) -> bool:
        return value <= self.value if self.at_most else value >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:,g}"


# (row, what was measured) -> aim
AIMS: Final = {
    ("import", "import of the tree"): Aim(3_500),
    ("big", "import of one large binary"): Aim(160),
    ("changed", "import again with 1 % of the files changed, new"): Aim(2.5, at_most=True),
    ("insert", "import again with 4 KiB inserted, new"): Aim(0.25, at_most=True),
    ("start", "from command to usable mount, 10 files"): Aim(0.4, at_most=True),
    ("start", "from command to usable mount, the tree"): Aim(0.4, at_most=True),
    ("find", "find, cold"): Aim(0.25, at_most=True),
    ("find", "find, warm"): Aim(0.18, at_most=True),
    ("ls", "ls -lR, cold"): Aim(0.40, at_most=True),
    ("ls", "ls -lR, warm"): Aim(0.28, at_most=True),
    ("lstat", "random lstat, cold"): Aim(18_000),
    ("tar", "tar of the tree, cold"): Aim(8_000),
    ("tar", "tar of the tree, warm"): Aim(12_000),
    ("dd", "dd of a large file, cold"): Aim(900),
    ("dd", "dd of a large file, warm"): Aim(3_500),
    ("randread", "random read 4 KiB, 1 job, cold"): Aim(12_000),
    ("randread", "random read 4 KiB, 4 jobs, cold"): Aim(18_000),
    ("untar", "untar of the tree"): Aim(3_000),
    ("write", "write a large file, fsync"): Aim(450),
    ("randwrite", "random write 4 KiB, fsync at the end"): Aim(25_000),
    ("randwrite", "random write 4 KiB, fsync after each"): Aim(5_000),
    ("git", "git clone"): Aim(15, at_most=True),
    ("git", "git status"): Aim(0.4, at_most=True),
    ("create", "create 1 KiB"): Aim(4_000),
    ("create", "rename"): Aim(7_000),
    ("create", "unlink"): Aim(7_000),
}
