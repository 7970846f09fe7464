"""An archive becomes a Layer: entry by entry, as a stream, with every name and link kept inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from store import acl, entry, limits
from store import file as files
from store.batch import Batch
from store.chunker import Chunker, FastCdc, Piece
from store.cid import Cid
from store.directory import printable
from store.entry import Entry
from store.errors import TooLarge
from store.file import EMPTY, File
from store.nodes import good_name
from store.oci import layer
from store.oci import limits as bounds
from store.oci.errors import BadImage
from store.oci.feed import Feed
from store.oci.layer import Below, Folder, Inode, Layer, Steps
from store.oci.tar import Archive, Member
from store.progress import SILENT, Progress

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_META: Final = b".wh..wh."  # what AUFS kept for itself
_HOST_XATTRS: Final = (b"security.selinux", b"security.evm")  # belong to a machine, as store/disk.py has it
_RDEV_MAX: Final = (1 << 12, 1 << 20)


def read_layer(
    batch: Batch, archive: Iterator[bytes], *, chunker: Chunker | None = None, progress: Progress = SILENT
) -> Layer:
    """Put the layer whose tar archive comes in pieces into `batch`. Raises BadImage.

    It is read to its end. Nothing in it reaches outside of the layer: `..` and absolute names and links stay
    below its root.
    """
    reader = Archive(Feed(archive))
    work = _Unpacking(batch, reader, chunker or FastCdc(), progress)
    for member in reader:
        work.add(member)
    return layer.seal(batch, work.root)


class _Unpacking:
    def __init__(self, batch: Batch, archive: Archive, chunker: Chunker, progress: Progress) -> None:
        self.root = Folder()
        self._steps = Steps()
        self._made_up = 0  # bytes in the paths of directories that no entry was about
        self._batch, self._archive, self._chunker, self._progress = batch, archive, chunker, progress

    def add(self, member: Member) -> None:
        self._progress.file(member.name, member.size)
        parts = _parts(member.name)
        if not parts:
            if member.kind != "dir":
                raise BadImage(f"the root of a layer is a {member.kind}")
            self.root.entry = self._entry(member, EMPTY)
            return
        name = parts.pop()
        if name.startswith(_WHITEOUT):
            self._whiteout(parts, name)
            return
        if not good_name(name):
            raise _bad_name(member.name)
        above = self._folder(parts)
        if member.kind == "dir":
            self._directory(above, name, member)
        elif member.kind == "link":
            above.children[name] = self._linked(member)
        else:
            above.children[name] = Inode(self._entry(member, self._content(member)))

    def _directory(self, above: Folder, name: bytes, member: Member) -> None:
        found = above.children.get(name)
        if not isinstance(found, Folder):
            if found is not None:  # what the layers below had here went when this became a file
                above.whiteouts.add(name)
            found = above.children[name] = Folder()
        found.entry = self._entry(member, EMPTY)

    def _whiteout(self, parts: list[bytes], name: bytes) -> None:
        if name == _OPAQUE:
            self._folder(parts).opaque = True
            return
        if name.startswith(_META):
            return
        gone = name[len(_WHITEOUT) :]
        if not good_name(gone):
            raise BadImage(f"a whiteout of no name: '{printable(name)}'")
        self._folder(parts).whiteouts.add(gone)

    # Paths

    def _folder(self, parts: list[bytes]) -> Folder:
        """Return the directory at a path, made if it is missing; links in this layer are followed inside it."""
        way, _ = self._walk(parts, make=True)
        return way[-1][1]

    def _walk(self, parts: list[bytes], *, make: bool) -> tuple[list[tuple[bytes, Folder]], list[bytes]]:
        """Follow a path: returns the directories on it, the root's own first, and the names that lead further.

        With `make` there are none of these: missing directories are made.
        """
        way = [(b"", self.root)]
        todo = parts[::-1]
        followed = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                way = way[:-1] or way
                continue
            here = way[-1][1]
            child = here.children.get(name)
            if isinstance(child, Inode) and child.entry.kind == "symlink":
                target = child.entry.data
                assert isinstance(target, bytes)
                todo += self._steps.follow(target, followed, b"/".join(parts))
                followed += 1
                way = way[:1] if target.startswith(b"/") else way
                continue
            if not isinstance(child, Folder):
                if not make:
                    return way, [name, *todo[::-1]]
                if child is not None:
                    raise BadImage(f"'{printable(b'/'.join(parts))}' is no directory, but has something in it")
                if not good_name(name) or len(way) > bounds.depth_max:
                    raise _bad_name(b"/".join(parts))
                child = here.children[name] = Folder()
                self._made_up += sum(len(part) + 1 for part, _ in way) + len(name)
                if self._made_up > bounds.made_up_bytes_max:
                    raise BadImage("a layer has too many entries in directories that it does not describe")
            way.append((name, child))
        return way, []

    def _linked(self, member: Member) -> Inode | Below:
        parts = _parts(member.target)
        if not parts or not all(map(good_name, parts)):
            raise BadImage(f"a hard link to no file: '{printable(member.target)}'")
        way, further = self._walk(parts[:-1], make=False)
        found = way[-1][1].children.get(parts[-1]) if not further else None
        if isinstance(found, Folder) and found.entry is not None:
            raise BadImage(f"a hard link to a directory: '{printable(member.target)}'")
        if isinstance(found, Inode):
            found.is_linked = True
        if found is not None and not isinstance(found, Folder):
            return found
        path = b"/".join(_parts(b"/".join([*(name for name, _ in way), *further, parts[-1]])))
        if not all(map(good_name, path.split(b"/"))):
            raise _bad_name(path)
        return Below(path)

    # Entries

    def _content(self, member: Member) -> File:
        if member.kind == "symlink":
            if not member.target or len(member.target) > limits.target_bytes_max or b"\0" in member.target:
                raise BadImage(f"the symbolic link '{printable(member.name)}' has no good target")
            return File(len(member.target), 0, member.target)
        if member.kind != "file":
            return EMPTY
        pieces = self._watched(self._archive.content(member))
        if member.size <= limits.read_bytes and member.segments is None:
            data = b"".join(piece for _, piece in pieces if piece is not None)
            return files.from_bytes(self._batch, self._chunker, data)
        return files.from_stream(self._batch, self._chunker, pieces)

    def _watched(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            self._progress.advance(piece[0] if piece[1] is not None else 0)
            yield piece

    def _entry(self, member: Member, content: File) -> Entry:
        if member.rdev[0] not in range(_RDEV_MAX[0]) or member.rdev[1] not in range(_RDEV_MAX[1]):
            raise BadImage(f"the device '{printable(member.name)}' has numbers that no device has")
        return Entry(
            kind=member.kind,
            mode=member.mode,
            uid=member.uid,
            gid=member.gid,
            mtime=member.mtime,
            size=content.size,
            holes=content.holes,
            data=content.content,
            rdev=member.rdev,
            xattrs=self._xattrs(member) if member.xattrs else (),
        )

    def _xattrs(self, member: Member) -> entry.Xattrs | Cid:
        pairs = [(name, value) for name, value in member.xattrs if name not in _HOST_XATTRS]
        for name, value in pairs:
            good = 0 < len(name) <= limits.name_bytes_max and b"\0" not in name
            if not good or len(value) > limits.xattr_value_bytes_max:
                raise BadImage(f"'{printable(member.name)}' has an extended attribute that no file can have")
            if name in acl.KEYWORDS:
                try:
                    acl.decode(value)
                except acl.BadAcl as error:
                    raise BadImage(f"'{printable(member.name)}' has {error}") from None
        try:
            return entry.pack_xattrs(self._batch, pairs)
        except TooLarge as error:
            raise BadImage(f"'{printable(member.name)}': {error}") from None


def _parts(path: bytes) -> list[bytes]:
    """Return the names of a path below the root; `..` leads no higher. Raises BadImage."""
    if len(path) > bounds.path_bytes_max or b"\0" in path:
        raise _bad_name(path)
    parts: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            del parts[-1:]
        elif name not in (b"", b"."):
            parts.append(name)
    if len(parts) > bounds.depth_max:
        raise _bad_name(path)
    return parts


def _bad_name(path: bytes) -> BadImage:
    return BadImage(f"a name in a layer is too long, or none: '{printable(path[:200])}'")
