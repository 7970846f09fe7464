"""Reading a tar archive as a stream: ustar, PAX, GNU, star and V7, names as bytes, sparse files, nothing on disk.

What Go's archive/tar makes of an archive, which is what Docker makes of it, is the measure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from store.chunker import Piece
from store.oci import limits
from store.oci.errors import BadImage
from store.oci.feed import Feed

BLOCK: Final = 512
_ZEROS: Final = bytes(BLOCK)
_KINDS: Final = {
    b"0": "file", b"\0": "file", b"7": "file", b"S": "file", b"1": "link", b"2": "symlink",
    b"3": "char", b"4": "block", b"5": "dir", b"D": "dir", b"6": "fifo",
}  # fmt: skip
_EXTRAS: Final = b"LKxXgV"
_TIME: Final = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_DIGITS: Final = re.compile(rb"[0-9]{1,19}")

Records = dict[bytes, bytes]
Segment = tuple[int, int]  # (offset, length) of data between holes


class Member(NamedTuple):
    """One entry. `size` is the file's; `segments` say where in it the data lies, None: all of it is data."""

    name: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: bytes
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    segments: tuple[Segment, ...] | None


class Archive:
    """The members of the archive in `feed`. What `content` was not asked for is passed over."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._left = 0  # data of the last member that was not read yet
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """Yield each member; then read to the end of the stream, so that all of it is hashed. Raises BadImage."""
        count = 0
        while (member := self._next()) is not None:
            count += 1
            if count > limits.layer_entries_max:
                raise BadImage(f"a layer may have {limits.layer_entries_max} entries at most")
            yield member
        self._feed.drain(limits.padding_bytes_max)

    def content(self, member: Member) -> Iterator[Piece]:
        """Yield the data and holes of the member that came last."""
        if member.segments is None:
            yield from self._data(member.size)
            return
        at = 0
        for offset, length in member.segments:
            if offset > at:
                yield offset - at, None
            yield from self._data(length)
            at = offset + length
        if at < member.size:
            yield member.size - at, None

    def _data(self, length: int) -> Iterator[Piece]:
        self._left -= length
        for data in self._feed.pieces(length):
            yield len(data), data

    # Headers

    def _next(self) -> Member | None:
        records: Records = {}
        sparse: list[Segment] = []
        for _ in range(limits.tar_extras_max + 1):
            header = self._header()
            if header is None:
                if records:
                    raise BadImage("the archive ends after an extended header")
                return None
            flag, size = header[156:157], _number(header[124:136])
            if flag not in _EXTRAS:
                return self._member(header, flag, size, records, sparse)
            self._left, self._padding = size, -size % BLOCK
            if flag in b"LKxX":
                extra = self._feed.exactly(self._claim(size))
                if flag in b"LK":
                    records[b"path" if flag == b"L" else b"linkpath"] = extra.partition(b"\0")[0]
                else:
                    _read_records(extra, records, sparse)
        raise BadImage("too many extended headers before one entry of the archive")

    def _header(self) -> bytes | None:
        """Return the next header that is not all zeros; None at the end of the archive."""
        self._feed.skip(self._left + self._padding)
        self._left = self._padding = 0
        header = self._feed.up_to(BLOCK)
        if not header or header == _ZEROS:
            return None
        if len(header) < BLOCK:
            raise BadImage("the archive ends in the middle of a header")
        said = _number(header[148:156])
        plain = header[:148] + b" " * 8 + header[156:]
        if said != sum(plain) and said != sum(byte - 256 if byte > 127 else byte for byte in plain):
            raise BadImage("a header in the archive has a wrong checksum: it is no tar archive, or damaged")
        return header

    def _claim(self, size: int) -> int:
        """Take `size` bytes of the data that follows a header, to be read at once."""
        if size > limits.tar_extra_bytes_max:
            raise BadImage(f"an extended header of {size} bytes is over the limit of {limits.tar_extra_bytes_max}")
        self._left -= size
        return size

    def _member(self, header: bytes, flag: bytes, size: int, records: Records, sparse: list[Segment]) -> Member:
        kind = _KINDS.get(flag)
        if kind is None:
            raise BadImage(f"the archive has an entry of a kind that is not known: {flag!r}")
        if b"size" in records:
            size = _decimal(records[b"size"])
        name = records.get(b"path") or _name(header)
        if kind == "file" and name.endswith(b"/"):
            kind = "dir"  # as V7 wrote them
        if kind != "file":
            size = 0  # some archives say how long the file is that a link leads to
        self._left, self._padding = size, -size % BLOCK
        segments: tuple[Segment, ...] | None = None
        if kind == "file":
            name, size, segments = self._sparse(header, flag, name, size, records, sparse)
        device = (_number(header[329:337]), _number(header[337:345])) if kind in ("char", "block") else (0, 0)
        return Member(
            name=name,
            kind=kind,
            mode=_number(header[100:108]) & 0o7777,
            uid=_id(records, b"uid", header[108:116]),
            gid=_id(records, b"gid", header[116:124]),
            mtime=_time(records[b"mtime"]) if b"mtime" in records else _number(header[136:148]) * 10**9,
            size=size,
            target=(records.get(b"linkpath") or header[157:257].partition(b"\0")[0]) if kind in _TARGETED else b"",
            rdev=device,
            xattrs=_xattrs(records),
            segments=segments,
        )

    # Sparse files: GNU's old form, and its 0.0, 0.1 and 1.0 in PAX records

    def _sparse(
        self, header: bytes, flag: bytes, name: bytes, size: int, records: Records, listed: list[Segment]
    ) -> tuple[bytes, int, tuple[Segment, ...] | None]:
        """Return the name, size and segments of a file; it may be an ordinary one."""
        version = records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")
        before = self._left
        if flag == b"S":
            real, segments = _number(header[483:495]), self._old_map(header)
            before = size
        elif version == (b"1", b"0"):
            real, segments = _decimal(records.get(b"GNU.sparse.realsize", b"")), self._map_in_data()
            name = records.get(b"GNU.sparse.name") or name
        elif b"GNU.sparse.map" in records:
            real, segments = _decimal(records.get(b"GNU.sparse.size", b"")), _pairs(records[b"GNU.sparse.map"])
            name = records.get(b"GNU.sparse.name") or name
        elif listed and b"GNU.sparse.size" in records:
            real, segments = _decimal(records[b"GNU.sparse.size"]), listed
            name = records.get(b"GNU.sparse.name") or name
        elif version != (None, None):
            raise BadImage("the archive has a sparse file of a form that is not known")
        else:
            return name, size, None
        data = before if flag == b"S" else self._left
        return name, real, _checked(segments, real, data)

    def _old_map(self, header: bytes) -> list[Segment]:
        found = _old_segments(header[386:482])
        extended = header[482]
        while extended:
            block = self._feed.exactly(BLOCK)  # these blocks are no part of the entry's size
            found += _old_segments(block[:504])
            extended = block[504]
            if len(found) > limits.sparse_segments_max:
                raise BadImage(f"a sparse file may have {limits.sparse_segments_max} segments at most")
        return found

    def _map_in_data(self) -> list[Segment]:
        """GNU's 1.0: decimal numbers, a line each, before the data and padded to whole blocks."""
        lines: list[bytes] = []
        rest = b""
        wanted = 1
        while len(lines) < wanted:
            if self._left < BLOCK:
                raise BadImage("the map of a sparse file is broken off")
            rest += self._feed.exactly(BLOCK)
            self._left -= BLOCK
            *whole, rest = rest.split(b"\n")
            lines += whole
            if wanted == 1 and lines:
                wanted = 1 + 2 * _decimal(lines[0])
                if wanted > 2 * limits.sparse_segments_max:
                    raise BadImage(f"a sparse file may have {limits.sparse_segments_max} segments at most")
            if len(lines) < wanted and len(rest) > 20:
                raise BadImage("the map of a sparse file is not made of numbers")
        numbers = [_decimal(line) for line in lines[1:wanted]]
        return list(zip(numbers[::2], numbers[1::2]))


_TARGETED: Final = ("link", "symlink")
_SIZE_MAX: Final = (1 << 63) - 1


def _old_segments(data: bytes) -> list[Segment]:
    found = []
    for at in range(0, len(data), 24):
        if not data[at]:
            break
        found.append((_number(data[at : at + 12]), _number(data[at + 12 : at + 24])))
    return found


def _pairs(text: bytes) -> list[Segment]:
    numbers = [_decimal(number) for number in text.split(b",")] if text else []
    if len(numbers) % 2:
        raise BadImage("the map of a sparse file has an odd length")
    return list(zip(numbers[::2], numbers[1::2]))


def _checked(segments: list[Segment], size: int, data: int) -> tuple[Segment, ...]:
    """Return the segments, which must be in order, inside the file, and as long as the data that follows."""
    at = total = 0
    for offset, length in segments:
        if offset < at or offset + length > size:
            raise BadImage("the map of a sparse file does not fit the file")
        at = offset + length
        total += length
    if total != data or size > _SIZE_MAX or len(segments) > limits.sparse_segments_max:
        raise BadImage("the map of a sparse file does not fit its data")
    return tuple(segment for segment in segments if segment[1])


def _read_records(data: bytes, records: Records, sparse: list[Segment]) -> None:
    """Read a PAX header: `<length> <key>=<value>\\n`, where the length counts the whole record."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = _decimal(data[at:space]) if space > 0 else 0
        end = at + length
        equals = data.find(b"=", space, end)
        if space < 0 or end > len(data) or end <= space + 1 or equals < 0 or data[end - 1 : end] != b"\n":
            raise BadImage("an extended header in the archive is damaged")
        key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
        if key == b"GNU.sparse.offset":  # these two are repeated
            sparse.append((_decimal(value), 0))
        elif key == b"GNU.sparse.numbytes" and sparse:
            sparse[-1] = sparse[-1][0], _decimal(value)
        elif value:
            records[key] = value
        elif key.startswith(_SCHILY):
            records[key] = value  # an attribute may be empty; of anything else this means that the header counts
        else:
            records.pop(key, None)
        at = end


_SCHILY: Final = b"SCHILY.xattr."
_LIBARCHIVE: Final = b"LIBARCHIVE.xattr."


def _xattrs(records: Records) -> tuple[tuple[bytes, bytes], ...]:
    if not records:
        return ()
    found: Records = {}
    for key, value in records.items():
        if key.startswith(_LIBARCHIVE):
            found[unquote_to_bytes(key[len(_LIBARCHIVE) :])] = _base64(value)
    for key, value in records.items():
        if key.startswith(_SCHILY):  # the same in both: this one needs no decoding
            name = key[len(_SCHILY) :]
            found[name.replace(b"%3D", b"=").replace(b"%25", b"%")] = value  # as GNU tar writes these two
    return tuple(found.items())


def _base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise BadImage("an extended attribute in the archive is damaged") from None


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0":
        width = 131 if header[508:512] == b"tar\0" else 155  # star keeps times behind its prefix
        prefix = header[345 : 345 + width].partition(b"\0")[0]
        if prefix:
            return prefix + b"/" + name
    return name


def _number(field: bytes) -> int:
    """Read octal digits, or GNU's base 256."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        if not -(1 << 63) <= value < 1 << 63:
            raise BadImage("a number in a header of the archive is too large")
        return value
    text = field.replace(b"\0", b" ").strip()
    if not text:
        return 0
    try:
        if not text.isdigit():
            raise ValueError
        return int(text, 8)
    except ValueError:
        raise BadImage("a number in a header of the archive is none") from None


def _decimal(text: bytes) -> int:
    if not _DIGITS.fullmatch(text) or int(text) > _SIZE_MAX:
        raise BadImage("a number in an extended header is none")
    return int(text)


def _id(records: Records, key: bytes, field: bytes) -> int:
    value = _decimal(records[key]) if key in records else _number(field)
    if not 0 <= value < 1 << 32:
        raise BadImage(f"an owner's number in the archive is {value}")
    return value


def _time(text: bytes) -> int:
    found = _TIME.fullmatch(text)
    if found is None:
        raise BadImage("a time in an extended header is none")
    sign, whole, part = found.groups(b"")
    value = int(whole) * 10**9 + int((part[:9]).ljust(9, b"0"))
    return -value if sign else value
