"""Writing a project's file: at once, so that whoever reads it finds the old text or the new."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vmm.errors import BadProject
from vmm.project.reading import shown


def write(file: Path, text: str) -> None:
    """Make `text` be what is in a file. A link stays one: the file that it leads to is written. Raises BadProject.

    Two that write the same file at once must not; what one leaves that was killed, the next takes away.
    """
    target = os.path.realpath(file)
    partial = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.new")
    try:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(fd, "w", encoding="utf-8", newline="") as out:
                with suppress(FileNotFoundError):
                    os.fchmod(fd, os.stat(target).st_mode & 0o777)
                out.write(text)
                out.flush()
                os.fsync(fd)
            os.rename(partial, target)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise BadProject(f"cannot write {shown(file)}: {error.strerror}") from None
