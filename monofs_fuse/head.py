"""The head: what the mounted name points at in the store, and how it moves on."""

from __future__ import annotations

from monofs_fuse import commit, limits
from monofs_fuse.commit import Frozen, Written
from store import version
from store.batch import Batch
from store.blocks import Freed
from store.chunker import Chunker, FastCdc
from store.cid import Cid
from store.errors import RootMoved, StoreError
from store.names import Name
from store.repository import Repository
from store.retention import Policy
from store.staging import Stage
from store.version import Tree


class Head:
    """Only the holder of the name's lease may have one. Its methods are called by one thread at a time."""

    def __init__(self, repository: Repository, name: str) -> None:
        record = repository.name(name)
        if record is None:
            raise StoreError(f"no name '{name}'")
        self.name = name
        self.tree: Cid = repository.head(record)
        self._repository = repository
        self._record: Name = record
        self._began = record.version
        self._versioned: Cid = repository.version(record).tree
        self._stage = Stage(repository.store, "commit")
        self._open_files = Stage(repository.store, "open")
        self._chunker: Chunker | None = None

    @property
    def version(self) -> Cid:
        """The version that the name is at; the tree may be newer."""
        return self._record.version

    @property
    def record(self) -> Name:
        return self._record

    @property
    def is_ahead(self) -> bool:
        """True if the tree is not that of the last version."""
        return self.tree != self._versioned

    def load(self) -> Tree:
        return version.load_tree(self._repository.cache, self.tree)

    def save(self, frozen: Frozen) -> Written:
        """Store a frozen worktree and move the head to it, in one transaction that is on disk on return.

        Raises NoSpace and other StoreErrors; then the head is where it was.
        """
        self._chunker = self._chunker or FastCdc()
        batch = self._repository.batch_on(self._stage)
        written = commit.write(frozen, batch, self._chunker)
        self._hold_orphans(frozen, written, batch)
        if written.root == self.tree:
            self._stage.release()
            return written
        moved = Name(
            self._record.version, None if written.root == self._versioned else written.root, self._record.made_up
        )
        self._repository.set_name(self.name, self._record, moved, batch, self._stage, leased=True)
        self._record, self.tree = moved, written.root
        return written

    def checkpoint(self, message: str = "") -> Cid:
        """Make the last commit a Version, if it is none yet or there is a message. Returns the tree."""
        if self.tree != self._versioned or message:
            batch = self._repository.batch_on(self._stage)
            version_cid = self._repository.publish(
                self.name, self.tree, batch, self._stage, message=message, old=self._record, leased=True
            )
            self._record, self._versioned = Name(version_cid), self.tree
        return self.tree

    def move(self, old: Name, new: Name) -> None:
        """Let the name be `new`, which somebody else has made of `old`. The worktree must follow.

        Raises RootMoved if the name is not `old` any more, MissingLink, NoSpace and so on; then nothing has changed.
        """
        if old != self._record:
            raise RootMoved(f"'{self.name}' has changed meanwhile; try again")
        versioned = version.load_version(self._repository.cache, new.version).tree
        tree = new.head or versioned
        version.load_tree(self._repository.cache, tree)
        batch = self._repository.batch_on(self._stage)
        self._repository.set_name(self.name, old, new, batch, self._stage, leased=True)
        self._record, self._versioned, self.tree = new, versioned, tree

    def prune(self, policy: Policy) -> None:
        """Let go of the versions that `policy` does not keep."""
        from store import prune

        plan = prune.plan(self._repository, self.name, policy)
        if plan.dropped:
            prune.apply(self._repository, plan, leased=True)
            self._record = plan.new

    def drop_if_needless(self) -> None:
        """Remove a made-up name whose tree never changed and is held by something else too."""
        record = self._record
        if not record.made_up or record.head is not None or record.version != self._began:
            return
        shared = max(self._repository.store.count(cid) or 0 for cid in (self.tree, record.version))
        if shared > 1:
            batch = self._repository.batch_on(self._stage)
            self._repository.set_name(self.name, record, None, batch, self._stage, leased=True)

    def collect(self) -> Freed:
        """Delete some of what nothing refers to any more."""
        return self._repository.store.gc(limits.gc_blocks_per_step)

    def _hold_orphans(self, frozen: Frozen, written: Written, batch: Batch) -> None:
        """Content of open files without a name is in no tree: hold it as long as they are open.

        What they had before is held too: if this commit fails, their edits lie over that again.
        """
        files = [file for inode in frozen.orphans for file in (written.files.get(inode), inode.file)]
        wanted = frozenset(file.content for file in files if file is not None and isinstance(file.content, Cid))
        if any(inode in frozen.files for inode in frozen.orphans):
            batch.flush()
        self._open_files.keep(wanted)
