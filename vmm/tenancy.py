"""The tree that a machine lives in, as seen from here: a directory that somebody else provides and takes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vmm.pids import Pid


@dataclass(frozen=True)
class Returned:
    """What became of a tree: its CID, the name it is kept under, and what a person should know about that."""

    result: str | None
    kept: str | None = None
    note: str | None = None


class Root(Protocol):
    """Where a machine's tree comes from and goes to. Its methods raise VmError."""

    def keeper(self) -> Pid | None:
        """Return the process without which the tree is not there any more."""

    def give_back(self) -> Returned:
        """Save the tree, and take it away again if it was put there. Nothing in the machine uses it any more."""
