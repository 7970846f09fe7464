"""What the environment says: where the store is."""

from __future__ import annotations

import os
from pathlib import Path

from store.errors import MonofsError


def store_path(option: str | None) -> Path:
    """Return the store's directory: `--store`, else MONOFS_STORE, else monofs in the XDG data directory."""
    if option == "":  # an unset variable in a script must not lead to the default store
        raise MonofsError("--store needs a directory, but the text given is empty")
    chosen = option or os.environ.get("MONOFS_STORE")
    return Path(chosen).absolute() if chosen else _data_home() / "monofs"


def _data_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(data):  # the XDG specification has relative paths ignored
        return Path(data)
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise MonofsError("there is no home directory; say where the store is with --store or MONOFS_STORE")
    return Path(home) / ".local" / "share"
