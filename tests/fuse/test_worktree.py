"""The worktree beside a plain model of it: random operations, commits at any moment, fresh looks at what was stored."""

from __future__ import annotations

import errno

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from monofs_fuse.errors import Errno
from store.entry import Entry
from tests.fuse.model import CAPABILITY, FLAGS, Pair
from tests.store.models import examples, runs, tiny

names = st.sampled_from([b"a", b"b", b"c"])
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)
modes = st.sampled_from([0o644, 0o755, 0o7777, 0o4711, 0o2775, 0])
ids = st.sampled_from([0, 1, 1000])
kinds = st.sampled_from(
    [
        Entry("symlink", 0o777, size=5, data=b"a/b/c"),
        Entry("fifo", 0o600),
        Entry("socket", 0o600, uid=7),
        Entry("char", 0o666, rdev=(1, 3)),
        Entry("block", 0o660, rdev=(259, 1_000_000)),
    ]
)
values = st.sampled_from([b"", b"v", b"x" * 600])
xattr_names = st.sampled_from([b"user.a", b"user.b", CAPABILITY])


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.tiny = tiny()
        self.pair = Pair(self.tiny.__enter__())

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        try:
            pair = self.pair
            pair.check_open()
            pair.settle()
            pair.look()
            pair.remount()
            pair.look()
            pair.check_forgotten()
        finally:
            self.tiny.__exit__(None, None, None)

    # Names

    @rule(path=paths, mode=modes)
    def file(self, path: bytes, mode: int) -> None:
        self.pair.create(path, Entry("file", mode))

    @rule(path=paths, mode=st.sampled_from([0o755, 0o2755]))
    def mkdir(self, path: bytes, mode: int) -> None:
        self.pair.create(path, Entry("dir", mode, gid=9))

    @rule(path=paths, entry=kinds)
    def special(self, path: bytes, entry: Entry) -> None:
        self.pair.create(path, entry)

    @rule(old=paths, new=paths)
    def link(self, old: bytes, new: bytes) -> None:
        self.pair.link(old, new)

    @rule(path=paths)
    def unlink(self, path: bytes) -> None:
        self.pair.unlink(path)

    @rule(path=paths)
    def rmdir(self, path: bytes) -> None:
        self.pair.rmdir(path)

    @rule(old=paths, new=paths, flags=st.sampled_from(FLAGS))
    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        self.pair.rename(old, new, flags)

    # Content and attributes

    @rule(path=paths, offset=st.integers(0, 300), data=runs(100, 16))
    def write(self, path: bytes, offset: int, data: bytes) -> None:
        if node := self.pair.find(path):
            self.pair.write(node, self.pair.walk_to(path), offset, data)

    @rule(path=paths, size=st.integers(0, 300))
    def truncate(self, path: bytes, size: int) -> None:
        if node := self.pair.find(path):
            self.pair.truncate(node, self.pair.walk_to(path), size)

    @rule(path=paths | st.just(b""), mode=modes)
    def chmod(self, path: bytes, mode: int) -> None:
        if node := self.pair.find(path):
            self.pair.chmod(node, self.pair.walk_to(path), mode)

    @rule(path=paths, uid=ids | st.none(), gid=ids | st.none())
    def chown(self, path: bytes, uid: int | None, gid: int | None) -> None:
        if node := self.pair.find(path):
            self.pair.chown(node, self.pair.walk_to(path), uid, gid)

    @rule(path=paths | st.just(b""), mtime=st.integers(-(10**9), 2**62))
    def utimes(self, path: bytes, mtime: int) -> None:
        if node := self.pair.find(path):
            self.pair.utimes(node, self.pair.walk_to(path), mtime)

    @rule(path=paths | st.just(b""), name=xattr_names, value=values | st.none())
    def xattr(self, path: bytes, name: bytes, value: bytes | None) -> None:
        if node := self.pair.find(path):
            self.pair.set_xattr(node, self.pair.walk_to(path), name, value)

    # Open files

    @rule(path=paths)
    def open(self, path: bytes) -> None:
        self.pair.open(path)

    @precondition(lambda self: self.pair.opened)
    @rule(index=st.integers(0, 9), offset=st.integers(0, 300), data=runs(100, 16))
    def write_open(self, index: int, offset: int, data: bytes) -> None:
        node = self.pair.opened[index % len(self.pair.opened)]
        self.pair.write(node, self.pair.tree.inode(node.ino), offset, data)

    @precondition(lambda self: self.pair.opened)
    @rule(index=st.integers(0, 9))
    def close(self, index: int) -> None:
        self.pair.close(index)

    # The kernel

    @rule()
    def forget_all(self) -> None:
        self.pair.forget_all()

    @rule(index=st.integers(0, 99))
    def forget(self, index: int) -> None:
        if known := list(self.pair.lookups):
            self.pair.forget(known[index % len(known)])

    @rule(path=paths | st.just(b""))
    def look(self, path: bytes) -> None:
        if self.pair.find(path) is not None:
            self.pair.look(path)
        self.pair.check_open()
        self.pair.check_counts()

    # Commits

    @rule()
    def freeze(self) -> None:
        self.pair.freeze()

    @rule()
    def save(self) -> None:
        self.pair.save()

    @rule()
    def settle(self) -> None:
        self.pair.settle()

    @rule(fail_in=st.integers(1, 3))
    def undo(self, fail_in: int) -> None:
        self.pair.undo(fail_in)

    @rule()
    def commit(self) -> None:
        self.pair.commit()

    @rule()
    def remount(self) -> None:
        self.pair.remount()


TestWorktree = Machine.TestCase
TestWorktree.settings = settings(examples(150), stateful_step_count=40)


@pytest.mark.slow
def test_worktree_is_the_model_at_length() -> None:
    run_state_machine_as_test(Machine, settings=settings(examples(300), stateful_step_count=80))


def test_a_file_that_nobody_had_open_is_gone_with_its_last_name() -> None:
    """Only a descriptor made with O_PATH still leads to it; nothing may come back to life, or stay in memory."""
    with tiny() as chunker:
        pair = Pair(chunker)
        pair.create(b"a", Entry("file", 0o644))
        pair.write_at(b"a", 0, b"saved")
        pair.commit()
        inode = pair.walk_to(b"a")
        pair.write_at(b"a", 0, b"later")
        pair.unlink(b"a")
        for use in (
            lambda: pair.tree.opened(inode),
            lambda: pair.tree.truncate(inode, 100),
            lambda: pair.tree.write(inode, 0, b"x"),
        ):
            with pytest.raises(Errno) as caught:
                use()
            assert caught.value.number == errno.ESTALE
        pair.check_forgotten()
