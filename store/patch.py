"""A patch: changes as text that patch(1) and `git apply` understand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Final, NamedTuple

from store import text
from store.batch import Nodes
from store.changes import Change
from store.directory import printable
from store.entry import Entry
from store.file import File
from store.text import Lines

CONTEXT: Final = 3
_NO_NEWLINE: Final = b"\n\\ No newline at end of file\n"


class Counts(NamedTuple):
    """Lines that came and went; None if it is no text."""

    added: int
    removed: int


Opcode = tuple[str, int, int, int, int]


def counted(source: Nodes, change: Change) -> Counts | None:
    """Return how many lines differ; None for what is no text."""
    old, new = _lines(source, change.old), _lines(source, change.new)
    if old is None or new is None:
        return None
    codes = [code for code in opcodes(old, new) if code[0] != "equal"]
    return Counts(sum(code[4] - code[3] for code in codes), sum(code[2] - code[1] for code in codes))


def written(source: Nodes, change: Change) -> Iterator[bytes]:
    """Yield the patch of one change. What no patch can say is said in a line that patch(1) skips."""
    old, new = change.old, change.new
    if change.status == "T":  # one goes, the other comes
        yield from written(source, change._replace(status="D", new=None, fields=()))
        yield from written(source, change._replace(status="A", old=None, fields=()))
        return
    known = [side for side in (old, new) if side is not None]
    if any(side.kind not in ("file", "symlink") for side in known):
        if not all(side.is_dir for side in known):
            yield _aside(change, known[-1].kind)
        return
    was, now = change.was_at or change.path, change.path
    before, after = _lines(source, old), _lines(source, new)
    if "content" in change.fields or change.status in "AD":
        if before is None or after is None:
            yield b"Binary files %s and %s differ\n" % (
                b"/dev/null" if old is None else quoted(b"a/" + was),
                b"/dev/null" if new is None else quoted(b"b/" + now),
            )
            return
    else:
        before = after = []
    if extended := list(_extended(change, old, new)):
        yield b"diff --git %s %s\n" % (_header(b"a/" + was), _header(b"b/" + now)) + b"".join(extended)
    if before != after:
        yield b"--- " + (b"/dev/null" if old is None else _named(b"a/" + was)) + b"\n"
        yield b"+++ " + (b"/dev/null" if new is None else _named(b"b/" + now)) + b"\n"
        yield from _hunks(before, after)


def _extended(change: Change, old: Entry | None, new: Entry | None) -> Iterator[bytes]:
    if old is None and new is not None:
        yield b"new file mode %o\n" % _mode(new)
    elif new is None and old is not None:
        yield b"deleted file mode %o\n" % _mode(old)
    elif old is not None and new is not None:
        if _mode(old) != _mode(new):
            yield b"old mode %o\nnew mode %o\n" % (_mode(old), _mode(new))
        elif new.kind == "symlink":  # only here both are told that they are links
            yield b"index 1111111..2222222 %o\n" % _mode(new)
        if change.was_at is not None:
            yield b"similarity index 100%\n"
            yield b"rename from %s\nrename to %s\n" % (quoted(change.was_at), quoted(change.path))


def _mode(entry: Entry) -> int:
    """As git has it: a link's permissions mean nothing."""
    return entry.st_mode if entry.kind == "file" else 0o120000


def _aside(change: Change, kind: str) -> bytes:
    done = {"A": "is new", "D": "is gone", "R": "was renamed"}.get(change.status, "was changed")
    was = f", was '{printable(change.was_at)}'" if change.was_at is not None else ""
    return f"# not in this patch: {kind} '{printable(change.path)}' {done}{was}\n".encode()


def _lines(source: Nodes, entry: Entry | None) -> Lines | None:
    if entry is None:
        return []
    if entry.kind == "symlink" and isinstance(entry.data, bytes):
        return text.split(entry.data)
    return text.lines(source, File.of(entry)) if entry.kind == "file" else None


# Hunks


def _hunks(old: Lines, new: Lines) -> Iterator[bytes]:
    for group in _Matcher(old, new).get_grouped_opcodes(CONTEXT):
        first, last = group[0], group[-1]
        yield b"@@ -%s +%s @@\n" % (_range(first[1], last[2]), _range(first[3], last[4]))
        for tag, old_from, old_to, new_from, new_to in group:
            if tag == "equal":
                yield from (_line(b" ", line) for line in old[old_from:old_to])
                continue
            yield from (_line(b"-", line) for line in old[old_from:old_to])
            yield from (_line(b"+", line) for line in new[new_from:new_to])


def opcodes(old: Lines, new: Lines) -> list[Opcode]:
    """Return how to make the new from the old, as difflib has it: exact, not always the shortest."""
    return [tuple(code) for code in _Matcher(old, new).get_opcodes()]  # type: ignore[misc]


class _Matcher(SequenceMatcher[bytes]):
    """Compares only what lies between the first and the last difference."""

    def __init__(self, old: Lines, new: Lines) -> None:
        self._all = old, new
        shorter = min(len(old), len(new))
        self._head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
        left = shorter - self._head
        self._tail = next((i for i in range(left) if old[-1 - i] != new[-1 - i]), left)
        a, b = (side[self._head : len(side) - self._tail] for side in (old, new))
        self._costly = text.is_costly(a, b)
        super().__init__(None, [] if self._costly else a, [] if self._costly else b)

    def get_opcodes(self) -> list[Opcode]:  # type: ignore[override]
        old, new = self._all
        head, tail = self._head, self._tail
        if self._costly:
            middle: Sequence[Opcode] = [("replace", head, len(old) - tail, head, len(new) - tail)]
        else:
            middle = [(tag, a + head, b + head, c + head, d + head) for tag, a, b, c, d in super().get_opcodes()]
        codes: list[Opcode] = [("equal", 0, head, 0, head)] if head else []
        codes += middle
        if tail:
            codes.append(("equal", len(old) - tail, len(old), len(new) - tail, len(new)))
        return _joined(codes)


def _joined(codes: Sequence[Opcode]) -> list[Opcode]:
    """Make one of equal stretches that follow each other."""
    found: list[Opcode] = []
    for code in codes:
        if found and found[-1][0] == code[0] == "equal":
            found[-1] = ("equal", found[-1][1], code[2], found[-1][3], code[4])
        else:
            found.append(code)
    return found


def _range(start: int, stop: int) -> bytes:
    length = stop - start
    if length == 1:
        return b"%d" % (start + 1)
    return b"%d,%d" % (start + 1 if length else start, length)


def _line(sign: bytes, line: bytes) -> bytes:
    return sign + (line if line.endswith(b"\n") else line + _NO_NEWLINE)


# Names


def quoted(path: bytes) -> bytes:
    """Return a path as git writes it: as it is, or in quotes with escapes."""
    if all(0x20 <= byte < 0x7F and byte not in b'"\\' for byte in path):
        return path
    return b'"' + b"".join(_ESCAPES.get(byte) or _escaped(byte) for byte in path) + b'"'


_ESCAPES: Final = {
    7: b"\\a", 8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 12: b"\\f", 13: b"\\r", 34: b'\\"', 92: b"\\\\",
}  # fmt: skip


def _escaped(byte: int) -> bytes:
    return bytes((byte,)) if 0x20 <= byte < 0x7F else b"\\%03o" % byte


def _header(path: bytes) -> bytes:
    shown = quoted(path)
    return b'"' + shown + b'"' if b" " in shown and not shown.startswith(b'"') else shown


def _named(path: bytes) -> bytes:
    """A tab tells where a name with a space in it ends."""
    shown = quoted(path)
    return shown + b"\t" if b" " in shown and not shown.startswith(b'"') else shown
