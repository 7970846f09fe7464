"""What POSIX and Linux promise of a filesystem: plain functions, each of which takes an empty directory.

They hold on ext4 and tmpfs, which proves the suite, and so they must on a mount. Run as root.
"""

from tests.suites.posix import attributes, content, kinds, memory, names, opening, renaming, xattrs  # noqa: F401  (each adds its cases)
from tests.suites.posix.tools import CAPABILITY, CASES, SLOW_CASES, Case, as_user, fails

__all__ = ["CAPABILITY", "CASES", "SLOW_CASES", "Case", "as_user", "fails"]
