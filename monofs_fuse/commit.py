"""A commit: a worktree's edits frozen at one moment, turned into blocks, and the worktree told of the outcome.

`freeze` and `settle` (or `undo`) run on the mount's thread and never wait; `write` runs on the writer's thread and
reads nothing but what was frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from monofs_fuse.inodes import Directory, Inode, depth_of, paths_of
from monofs_fuse.worktree import Worktree
from store import directory as directories
from store import draft as drafts
from store import entry as entries
from store import links, version
from store.batch import Batch
from store.chunker import Chunker
from store.cid import Cid
from store.draft import Draft
from store.entry import Entry
from store.errors import Corrupt, NotFound, StoreError
from store.file import File
from store.links import Group
from store.version import Tree


@dataclass(frozen=True, slots=True)
class FrozenFile:
    entry: Entry  # without the edits to its content
    draft: Draft


@dataclass(frozen=True, slots=True)
class FrozenDirectory:
    """An Inode among `names` stands for what `write` will have made of it; None for a name that is gone."""

    entry: Entry
    names: dict[bytes, Entry | Inode | None]


@dataclass(frozen=True, slots=True)
class Frozen:
    root: Directory
    root_entry: Entry
    directories: dict[Directory, FrozenDirectory]  # the deepest first
    files: dict[Inode, FrozenFile]
    links: Cid | None
    groups: dict[Inode, Group]  # the paths that hard-linked files have now
    groups_gone: list[Group]
    orphans: tuple[Inode, ...]  # open files without a name


@dataclass(slots=True)
class Written:
    """What was made of a Frozen. A file in `failed` kept the content it had, because of that error."""

    root: Cid = field(init=False)
    links: Cid | None = None
    entries: dict[Directory, Entry] = field(default_factory=dict)
    files: dict[Inode, File] = field(default_factory=dict)
    failed: dict[Inode, StoreError] = field(default_factory=dict)


def freeze(tree: Worktree) -> Frozen:
    """Take every edit out of the worktree; until `settle` or `undo` no other freeze may follow."""
    files: dict[Inode, FrozenFile] = {}
    frozen: dict[Directory, FrozenDirectory] = {}
    for directory in sorted(tree.dirty_directories, key=depth_of, reverse=True):
        names = {name: _frozen(directory.children.get(name), tree, files) for name in directory.dirty}
        frozen[directory] = FrozenDirectory(directory.entry(), names)
    for directory in frozen:
        directory.committing, directory.dirty = directory.dirty, set()
    for orphan in tree.orphans:
        _frozen(orphan, tree, files)
    groups = {inode: paths_of(inode) for inode in tree.regrouped}
    gone = [inode.linked for inode in groups if inode.linked]
    tree.regrouping, tree.regrouped = tree.regrouped, {}
    tree.dirty_directories, tree.dirty_names, tree.root_is_dirty = {}, 0, False
    tree.unsaved_bytes = tree.unsaved_writes = 0
    return Frozen(tree.root, tree.root.entry(), frozen, files, tree.links, groups, gone, tuple(tree.orphans))


def _frozen(inode: Inode | None, tree: Worktree, files: dict[Inode, FrozenFile]) -> Entry | Inode | None:
    if inode is None:
        return None
    if isinstance(inode, Directory):
        return inode if inode in tree.dirty_directories else inode.entry()
    if inode in files:
        return inode
    if inode.draft is None:
        return inode.entry()
    files[inode] = FrozenFile(inode.entry(), inode.draft)
    inode.draft = Draft(inode.draft)
    return inode


def write(frozen: Frozen, batch: Batch, chunker: Chunker) -> Written:
    """Put the blocks of the new tree into `batch`. Raises NoSpace, Corrupt (of a directory or the links)."""
    written = Written()
    for inode, file in frozen.files.items():
        try:
            written.files[inode] = drafts.seal(file.draft, batch, chunker)
        except (Corrupt, NotFound) as error:
            written.failed[inode] = error
    for directory, what in frozen.directories.items():
        changes = {name: _entry(child, frozen, written, batch) for name, child in what.names.items()}
        written.entries[directory] = directories.with_entries(batch, _packed(what.entry, batch), changes)
    written.links = links.changed(batch, frozen.links, frozen.groups_gone, frozen.groups.values())
    root = written.entries.get(frozen.root) or _packed(frozen.root_entry, batch)
    written.root = version.put_tree(batch, Tree(root, written.links))
    return written


def _entry(child: Entry | Inode | None, frozen: Frozen, written: Written, batch: Batch) -> Entry | None:
    if child is None:
        return None
    if isinstance(child, Directory):
        return written.entries[child]
    if isinstance(child, Inode):
        file, entry = written.files.get(child), frozen.files[child].entry
        if file is not None:
            entry = entry._replace(size=file.size, holes=file.holes, data=file.content)
        return _packed(entry, batch)
    return _packed(child, batch)


def _packed(entry: Entry, batch: Batch) -> Entry:
    if isinstance(entry.xattrs, Cid) or not entry.xattrs:
        return entry
    return entry._replace(xattrs=entries.pack_xattrs(batch, entry.xattrs))


def settle(tree: Worktree, frozen: Frozen, written: Written) -> None:
    """The blocks are stored: what was frozen is the committed tree now."""
    for directory, entry in written.entries.items():
        directory.base, directory.total = entry.tree, entry.total
        directory.committing = set()
    for inode, file in written.files.items():
        inode.file = file
        if inode.draft is not None:
            inode.draft.base = file
            if inode.draft.is_clean:
                inode.draft = None
    for inode in written.failed:
        _fold(tree, inode)
    tree.links = written.links
    for inode, paths in frozen.groups.items():
        inode.linked = paths if len(paths) > 1 else ()
        inode.regrouped = inode in tree.regrouped
    tree.regrouping = {}
    for directory, what in frozen.directories.items():
        for name in what.names:
            if (child := directory.children.get(name)) is not None:
                tree.table.drop(child)
        tree.table.drop(directory)
    for inode in (*frozen.files, *frozen.groups):
        tree.table.drop(inode)


def undo(tree: Worktree, frozen: Frozen) -> None:
    """Nothing was stored: every edit is unsaved again, under those made since."""
    for directory in frozen.directories:
        names, directory.committing = directory.committing, set()
        if directory.names or directory is tree.root:
            for name in names:
                tree.mark_name(directory, name)
    tree.root_is_dirty = True
    for inode in frozen.files:
        _fold(tree, inode)
    tree.regrouped.update(tree.regrouping)
    tree.regrouping = {}


def _fold(tree: Worktree, inode: Inode) -> None:
    if inode.draft is None:
        return  # deleted meanwhile
    tree.unsaved_bytes -= inode.draft.bytes
    inode.draft = inode.draft.folded()
    tree.unsaved_bytes += inode.draft.bytes
    tree.mark(inode)
