"""Opening and making stores; names, pins and leases, also when several processes want the same one."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from store import codec, version
from store.batch import Batch
from store.blocks import Change, RootChange
from store.cid import BLAKE3, SHA2_256, Cid
from store.entry import Entry
from store.errors import (
    BadCid,
    BadName,
    FutureStore,
    Held,
    NameTaken,
    NoSpace,
    NotAStore,
    NotFound,
    RootMoved,
    StoreError,
    WrongKind,
)
from store.names import Name
from store.owner import Owner
from store.repository import Lease, Repository
from store.staging import Stage
from store.version import Tree, Version
from tests.store.children import child
from tests.store.test_lmdb_store import fill, small_disk
from tests.suites.blocks import State, drain, node, put, raw

CONFIG = "monofs-store.json"


def tree(target: Repository | Batch, mode: int = 0o755) -> Cid:
    """Return a tree that differs from others by its mode; stored if `target` is a repository."""
    batch = target.batch("tree")[0] if isinstance(target, Repository) else target
    cid = version.put_tree(batch, Tree(Entry("dir", mode)))
    if isinstance(target, Repository):
        target.store.apply(Change(batch.blocks))
    return cid


def name(target: Repository, text: str, mode: int = 0o755, old: Name | None = None) -> Name:
    """Publish a tree under a name; returns the name's record."""
    batch, stage = target.batch("test")
    cid = tree(batch, mode)
    return Name(target.publish(text, cid, batch, stage, old=old))


def pin(target: Repository, mode: int = 0o755) -> Cid:
    batch, stage = target.batch("test")
    cid = tree(batch, mode)
    target.pin(cid, batch, stage)
    return cid


def line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


# Opening


def test_a_store_is_made_on_first_use_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "yet"
    first = Repository.open(path)
    cid = pin(first)
    first.close()
    assert json.loads((path / CONFIG).read_text()) == {"format": 1, "hash": "blake3", "backend": "lmdb"}
    assert path.stat().st_mode & 0o777 == 0o700
    again = Repository.open(path, create=False)
    assert again.pins() == [cid]
    again.close()


def test_the_hash_is_chosen_once(tmp_path: Path) -> None:
    made = Repository.init(tmp_path, SHA2_256)
    assert made.cache.algorithm is SHA2_256
    made.close()
    again = Repository.open(tmp_path)
    assert again.store.algorithm is SHA2_256
    again.close()
    with pytest.raises(NameTaken, match="is a store already"):
        Repository.init(tmp_path, BLAKE3)


def test_no_store_is_not_made_unless_asked(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotFound) as error:
            Repository.open(path, create=False)
        assert "monofs init" in line(error)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("create", [True, False])
def test_a_directory_with_other_things_is_no_store(tmp_path: Path, create: bool) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(NotAStore) as error:
        Repository.open(tmp_path, create=create)
    assert "--store" in line(error)
    assert os.listdir(tmp_path) == ["precious"]


@pytest.mark.parametrize("create", [True, False])
def test_a_file_is_no_store(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_text("data")
    with pytest.raises(StoreError) as error:
        Repository.open(tmp_path / "file", create=create)
    assert str(tmp_path / "file") in line(error)
    assert (tmp_path / "file").read_text() == "data"


@pytest.mark.parametrize(
    "change",
    [{"format": 3}, {"format": 0}, {"format": "1"}, {"format": True}, {"hash": "md5"}, {"hash": []}, {"backend": "s3"}],
    ids=str,
)
def test_a_store_from_the_future_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    Repository.init(tmp_path).close()
    doc = json.loads((tmp_path / CONFIG).read_text()) | change
    (tmp_path / CONFIG).write_text(json.dumps(doc))
    with pytest.raises(FutureStore) as error:
        Repository.open(tmp_path)
    assert "newer monofs" in line(error)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"format": 1}', b"\xff\xfe", b"null"])
def test_a_damaged_config_is_refused(tmp_path: Path, text: bytes) -> None:
    Repository.init(tmp_path).close()
    (tmp_path / CONFIG).write_bytes(text)
    with pytest.raises(NotAStore) as error:
        Repository.open(tmp_path)
    assert CONFIG in line(error)


def test_a_lost_database_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    Repository.init(tmp_path).close()
    (tmp_path / "lmdb" / "data.mdb").unlink()
    with pytest.raises(NotAStore, match="database is missing"):
        Repository.open(tmp_path)
    assert not (tmp_path / "lmdb" / "data.mdb").exists()


def test_a_store_half_made_is_finished(tmp_path: Path) -> None:
    (tmp_path / "lmdb").mkdir()
    (tmp_path / "monofs-store.new").write_text('{"form')
    Repository.open(tmp_path).close()
    Repository.open(tmp_path, create=False).close()


def open_and_pin(pipe: Connection, path: Path, mode: int) -> None:
    pipe.send("ready")
    pipe.recv()
    target = Repository.open(path)
    pin(target, mode)
    target.close()


def test_several_processes_may_make_the_same_store(tmp_path: Path) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(child(open_and_pin, tmp_path / "store", mode)) for mode in range(4)]
        for other in others:
            other.pipe.recv()
        for other in others:
            other.pipe.send("go")
        for other in others:
            other.finish()
    target = Repository.open(tmp_path / "store", create=False)
    assert len(target.pins()) == 4
    assert sorted(os.listdir(target.path)) == ["lmdb", CONFIG]
    target.close()


def open_as_nobody(pipe: Connection, path: Path) -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    for attempt in (Repository.open, Repository.init):
        try:
            attempt(path)
        except StoreError as error:
            pipe.send(str(error))
        except BaseException as error:
            pipe.send(repr(error))


@pytest.mark.parametrize("where", ["store", "above", "config", "parent"])
def test_a_store_without_permission_is_a_clear_error(tmp_path: Path, where: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    above = tmp_path / "above"
    above.mkdir()
    path = above / "store"
    if where != "parent":
        Repository.init(path).close()
    for directory in (tmp_path, *tmp_path.parents[:3], above):
        directory.chmod(directory.stat().st_mode | 0o011)
    {
        "store": lambda: path.chmod(0o700),
        "above": lambda: above.chmod(0o700),
        "config": lambda: (path.chmod(0o755), (path / CONFIG).chmod(0o600)),
        "parent": lambda: None,
    }[where]()
    with child(open_as_nobody, path) as other:
        for _ in range(2):
            text = other.pipe.recv()
            assert "\n" not in text and str(above) in text
            assert "Permission denied" in text or "is a store already" in text
        other.finish()


def test_a_store_on_a_full_disk_can_be_opened_and_read(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        target = Repository.init(disk / "store")
        cid = pin(target)
        stale = Owner(1, 1, "00000000-0000-0000-0000-000000000000")
        batch = Stage(target.store, "x")
        batch._prefix = f"stage/{stale}/x/".encode()
        batch.put(dict(raw(os.urandom(1000)) for _ in range(100)))
        target.close()
        fill(disk / "filler")
        target = Repository.open(disk / "store")
        assert target.pins() == [cid] and target.resolve(str(cid)).tree == cid
        target.close()
        with pytest.raises(NoSpace):
            Repository.init(disk / "another")


# Names


def test_a_name_is_resolved_with_a_path(repository: Repository) -> None:
    found = name(repository, "work/linux")
    cid = repository.head(found)
    assert repository.resolve("work/linux")[:3] == (cid, "work/linux", b"")
    assert repository.resolve("work/linux/a/b\udcff")[:3] == (cid, "work/linux", b"a/b\xff")
    assert repository.resolve("work/linux/" + "long/" * 1000)[:2] == (cid, "work/linux")


@pytest.mark.parametrize("text", ["", "/", "work", "work/linu", "Linux", "../x", "\udcff", "a\nb", "x" * 2000])
def test_an_unknown_name_is_not_found(repository: Repository, text: str) -> None:
    name(repository, "work/linux")
    with pytest.raises(NotFound) as error:
        repository.resolve(text)
    assert "monofs names" in line(error)


def test_a_cid_is_resolved_to_its_tree(repository: Repository) -> None:
    found = name(repository, "one")
    cid = repository.head(found)
    assert repository.resolve(str(cid))[:3] == (cid, None, b"")
    assert repository.resolve(f"{found.version}/some/path") == (cid, None, b"some/path", found.version)


def test_a_bad_cid_is_refused(repository: Repository) -> None:
    put(repository.store, raw(b"bytes"), node())
    for text in ("b" + "a" * 60, "z" + "1" * 50, str(BLAKE3.raw(b""))[:-1] + "b"):
        with pytest.raises(BadCid):
            repository.resolve(text)
    for block in (raw(b"bytes"), node()):
        with pytest.raises(WrongKind):
            repository.resolve(str(block.cid))
    with pytest.raises(NotFound):
        repository.resolve(str(BLAKE3.node(b"nowhere")))


def test_names_are_listed_in_order(repository: Repository) -> None:
    made = {text: name(repository, text) for text in ("b", "a/2", "a/10", "c")}
    assert list(repository.names()) == [(text, made[text]) for text in ("a/10", "a/2", "b", "c")]


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a", "a/b"), ("a", "a/b/c"), ("a/b", "a"), ("a/b/c", "a")])
def test_no_name_hides_a_path_of_another(repository: Repository, first: str, second: str) -> None:
    name(repository, first)
    before = State.of(repository.store)
    batch, stage = repository.batch("test")
    cid = tree(batch)
    with pytest.raises(NameTaken) as error:
        repository.publish(second, cid, batch, stage)
    assert second in line(error)
    with pytest.raises(NameTaken):
        repository.set_name(second, None, repository.name(first), batch, stage)
    assert State.of(repository.store) == before


def test_names_that_only_begin_alike_are_free(repository: Repository) -> None:
    for text in ("a", "ab", "b/a", "b/ab", "a.b"):
        name(repository, text)


def test_a_bad_name_is_refused(repository: Repository) -> None:
    batch, stage = repository.batch("test")
    cid = tree(batch)
    for text in ("", "a//b", "../x", str(cid)):
        with pytest.raises(BadName):
            repository.publish(text, cid, batch, stage)


def test_a_name_goes_on_from_version_to_version(repository: Repository) -> None:
    first = name(repository, "one", 0o700)
    second = name(repository, "one", 0o755, old=first)
    assert repository.name("one") == second
    assert repository.version(second).previous == {first.version}
    assert repository.head(second) != repository.head(first)
    with pytest.raises(RootMoved):
        name(repository, "one", 0o711, old=first)
    assert repository.name("one") == second
    drain(repository.store)
    assert isinstance(version.load(repository.cache, first.version), Version)


def test_a_head_goes_ahead_of_its_version(repository: Repository) -> None:
    first = name(repository, "one", 0o700)
    batch, stage = repository.batch("test")
    head = tree(batch, 0o755)
    repository.set_name("one", first, first._replace(head=head), batch, stage)
    found = repository.name("one")
    assert found == Name(first.version, head)
    assert repository.resolve("one").tree == head
    assert repository.version(found).tree != head
    drain(repository.store)
    assert repository.store.has(head)


def test_forgetting_frees_what_only_the_name_held(repository: Repository) -> None:
    name(repository, "one", 0o700)
    kept = name(repository, "two", 0o755)
    repository.forget_name("one")
    assert [text for text, _ in repository.names()] == ["two"]
    drain(repository.store)
    assert State.of(repository.store).blocks.keys() == {kept.version, repository.head(kept)}
    with pytest.raises(NotFound) as error:
        repository.forget_name("one")
    assert "monofs names" in line(error)
    name(repository, "one/again")


def publish_when_told(pipe: Connection, path: Path, text: str) -> None:
    target = Repository.open(path)
    pipe.send("ready")
    pipe.recv()
    try:
        name(target, text)
        pipe.send("made")
    except NameTaken:
        pipe.send("taken")
    target.close()


@pytest.mark.parametrize("wanted", [["a", "a", "a"], ["a", "a/b", "a/b/c"]])
def test_of_several_processes_one_gets_the_name(repository: Repository, wanted: list[str]) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(child(publish_when_told, repository.path, text)) for text in wanted]
        for other in others:
            other.pipe.recv()
        for other in others:
            other.pipe.send("go")
        outcomes = [other.pipe.recv() for other in others]
        for other in others:
            other.finish()
    assert sorted(outcomes) == ["made", "taken", "taken"]
    assert len(list(repository.names())) == 1
    State.of(repository.store).check()


def test_names_are_given_one_at_a_time(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or, between the check that 'a' is free and its making, somebody could make 'a/b'."""
    record = name(repository, "zzz")
    check_free = Repository.check_free
    checks = 0

    def watched(self: Repository, text: str) -> None:
        nonlocal checks
        checks += 1
        directory = os.open(self.path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(directory)
        check_free(self, text)

    monkeypatch.setattr(Repository, "check_free", watched)
    batch, stage = repository.batch("test")
    repository.set_name("a", None, record, batch, stage)
    assert checks == 1


# Publishing


def test_publishing_takes_the_staged_blocks_along(repository: Repository) -> None:
    batch, stage = repository.batch("test")
    cid = tree(batch)
    stage.put(batch.blocks)
    batch.clear()
    extra = raw(b"not part of it")
    stage.put(dict([extra]))
    repository.publish("one", cid, batch, stage)
    assert repository.store.roots(b"stage/") == []
    assert stage.new_blocks == 3
    assert drain(repository.store) == 1
    assert not repository.store.has(extra.cid) and batch.blocks == {}


def test_a_refused_publication_keeps_the_staged_blocks(repository: Repository) -> None:
    name(repository, "one", 0o700)
    batch, stage = repository.batch("test")
    cid = tree(batch, 0o711)
    stage.put(batch.blocks)
    with pytest.raises(NameTaken):
        repository.publish("one", cid, batch, stage)
    drain(repository.store)
    assert repository.store.has(cid)
    repository.publish("two", cid, batch, stage)
    drain(repository.store)
    assert repository.resolve("two").tree == cid


# Pins


def test_a_pin_holds_a_tree_until_it_is_forgotten(repository: Repository) -> None:
    cid = pin(repository)
    assert pin(repository) == cid  # once more changes nothing
    assert repository.pins() == [cid]
    assert drain(repository.store) == 0
    repository.forget_pin(cid)
    assert repository.pins() == []
    assert drain(repository.store) == 1
    with pytest.raises(NotFound) as error:
        repository.forget_pin(cid)
    assert "monofs names" in line(error)


@pytest.mark.parametrize("pinned", [True, False])
def test_a_pin_that_another_process_makes_or_forgets_meanwhile(
    repository: Repository, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = pin(repository)
    if not pinned:
        repository.forget_pin(cid)
    root = repository.store.root

    def late(key: bytes) -> bytes | None:
        found = root(key)
        monkeypatch.undo()
        if pinned:
            repository.forget_pin(cid)
        else:
            pin(repository)
        return found

    monkeypatch.setattr(repository.store, "root", late)
    assert pin(repository) == cid
    assert repository.pins() == [cid] and repository.store.count(cid) == 1


# Leases


def take(target: Repository, text: str | None, where: str = "/mnt") -> Lease:
    cid = tree(target) if text is None else target.resolve(text).tree
    return target.lease(text, cid, where, "/run/socket")


def test_a_name_has_one_writer(repository: Repository) -> None:
    name(repository, "one")
    lease = take(repository, "one", "/mnt/a")
    assert repository.leases() == [lease]
    assert lease.owner == Owner.current() and not lease.read_only
    for attempt in (
        lambda: take(repository, "one"),
        lambda: repository.check_unheld("one"),
        lambda: repository.forget_name("one"),
    ):
        with pytest.raises(Held) as error:
            attempt()
        assert all(text in line(error) for text in ("'one'", "/mnt/a", str(os.getpid()), "monofs umount"))
    repository.release(lease)
    repository.check_unheld("one")
    repository.release(take(repository, "one"))
    repository.forget_name("one")
    assert repository.leases() == []


def test_leases_of_other_names_do_not_matter(repository: Repository) -> None:
    for text in ("one", "two", "a/b"):
        name(repository, text)
        take(repository, text)
    assert sorted(lease.name or "" for lease in repository.leases()) == ["a/b", "one", "two"]


def test_a_tree_has_any_number_of_readers(repository: Repository) -> None:
    leases = [take(repository, None), take(repository, None)]
    assert repository.leases() == leases
    assert all(lease.read_only and lease.name is None for lease in leases)
    assert drain(repository.store) == 0  # its lease holds a tree that has no name
    for lease in leases:
        repository.release(lease)
    assert drain(repository.store) == 1


def take_and_wait(pipe: Connection, path: Path) -> None:
    target = Repository.open(path)
    take(target, "one", "/mnt/child")
    take(target, None, "/mnt/readers")
    pipe.send(os.getpid())
    pipe.recv()


@pytest.fixture
def dead(repository: Repository) -> Iterator[Repository]:
    """A repository with the leases of a dead process."""
    name(repository, "one")
    with child(take_and_wait, repository.path) as other:
        pid = other.pipe.recv()
        with pytest.raises(Held, match=f"/mnt/child by process {pid}"):
            take(repository, "one")
        assert len(repository.leases()) == 2
        other.kill()
    assert repository.leases() == [] and len(repository.store.roots(b"lease/")) == 2
    yield repository


def test_a_dead_holders_lease_is_taken_over(dead: Repository) -> None:
    lease = take(dead, "one", "/mnt/new")
    assert dead.leases() == [lease]
    dead.release(lease)


def test_a_name_whose_holder_died_can_be_forgotten(dead: Repository) -> None:
    dead.forget_name("one")
    assert [key for key, _ in dead.store.roots(b"lease/w/")] == []


def test_leases_of_the_dead_are_swept_on_opening(dead: Repository) -> None:
    dead.close()
    again = Repository.open(dead.path)
    assert again.store.roots(b"lease/") == []
    again.close()


def test_a_lease_that_cannot_be_read_does_not_stop_opening(repository: Repository) -> None:
    record = codec.encode({"owner": "?"})
    repository.store.apply(Change(roots=(RootChange(b"lease/w/one", None, record),)))
    repository.close()
    again = Repository.open(repository.path)
    assert again.store.root(b"lease/w/one") == record
    again.close()


def take_once_asked(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another mount 'one' right after somebody has looked whether it is mounted."""
    root = repository.store.root

    def late(key: bytes) -> bytes | None:
        found = root(key)
        if key.startswith(b"lease/"):
            monkeypatch.undo()
            take(repository, "one")
        return found

    monkeypatch.setattr(repository.store, "root", late)


def test_a_lease_taken_at_the_same_moment_is_held(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    name(repository, "one")
    take_once_asked(repository, monkeypatch)
    with pytest.raises(Held, match="just been mounted"):
        take(repository, "one")
    assert len(repository.leases()) == 1


def test_a_name_mounted_while_it_is_forgotten_stays(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    name(repository, "one")
    take_once_asked(repository, monkeypatch)
    with pytest.raises(RootMoved):
        repository.forget_name("one")
    assert repository.name("one") is not None and len(repository.leases()) == 1


def test_sockets_lie_in_a_private_directory(repository: Repository) -> None:
    assert repository.run_directory.stat().st_mode & 0o777 == 0o700
    assert repository.run_directory == repository.path / "run"
