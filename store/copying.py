"""Copying a store into another, of any kind: every name and pin with all that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from store import codec, layered_store, lease, limits, staging
from store.blocks import Change, RootChange
from store.cid import Cid
from store.directory import printable
from store.errors import MissingLink, NameTaken, StoreError
from store.ledger import RECORD_CID
from store.progress import SILENT, Progress
from store.repository import NAME, PIN, Repository
from store.staging import Stage

# Roots that end with a process, or are about another store.
_PASSING: Final = (staging.PREFIX, lease.PREFIX, layered_store.PREFIX)


class Copied(NamedTuple):
    """What was not there before; `others` are roots of other kinds, of images for example."""

    names: int
    pins: int
    others: int
    blocks: int


def copy(source: Repository, target: Repository, progress: Progress = SILENT) -> Copied:
    """Give `target` every name, pin and other lasting root of `source`, with all that they hold. What it has stays.

    A name appears once all of it is there, so a copy that was cut off has whole names only; done again, it goes on
    where it was, but for what a gc of the target has taken meanwhile. Raises NameTaken before anything is written
    if a name means something else in the target; NoSpace, Corrupt.
    """
    if source.store.algorithm is not target.store.algorithm:
        raise StoreError(
            f"{target.path} uses {target.store.algorithm.name} and {source.path} {source.store.algorithm.name}: "
            "a tree has other CIDs there; export and import it"
        )
    roots = [(key, record) for key, record in source.store.roots() if not key.startswith(_PASSING)]
    new = [(key, record) for key, record in roots if not _is_there(target, key, record)]
    held = Stage(source.store, "copy")
    held.keep(frozenset(link for _, record in new for link in _links(record)))
    usage = source.store.usage()
    progress.totals(usage.blocks, usage.plain)
    try:
        blocks = sum(_copy_root(source, target, key, record, progress) for key, record in new)
    finally:
        held.release()
    names, pins = (sum(key.startswith(prefix) for key, _ in new) for prefix in (NAME, PIN))
    return Copied(names, pins, len(new) - names - pins, blocks)


def _is_there(target: Repository, key: bytes, record: bytes) -> bool:
    found = target.store.root(key)
    if found not in (None, record):
        raise NameTaken(f"'{printable(key)}' is another one in {target.path}; forget it there first")
    if found is None and key.startswith(NAME):
        target.check_free(key[len(NAME) :].decode())
    return found is not None


def _copy_root(source: Repository, target: Repository, key: bytes, record: bytes, progress: Progress) -> int:
    for _ in range(limits.copy_tries_max):
        stage = Stage(target.store, "copy")
        try:
            _copy_below(source, target, _links(record), stage, progress)
            dropped = stage.drop()
            target.store.apply(Change(roots=(RootChange(key, None, record), *dropped)))
            stage.dropped(dropped)
            return stage.new_blocks
        except MissingLink:  # a gc took something that was in the target already, and held by nothing
            stage.release()
        except BaseException:
            stage.release()
            raise
    raise StoreError(f"garbage is collected in {target.path} all the time; try again")


def _copy_below(source: Repository, target: Repository, tops: frozenset[Cid], stage: Stage, progress: Progress) -> None:
    """Store everything below `tops` that the target does not have, children before parents."""
    pending: dict[Cid, bytes] = {}
    size = 0
    for cid, data in _missing(source, target, tops, pending):
        pending[cid] = data
        size += len(data) + limits.block_overhead_bytes
        progress.file(b"", len(data))
        progress.advance(len(data))
        if size >= limits.batch_bytes_max:
            stage.put(pending)
            pending.clear()
            size = 0
    stage.put(pending)


def _missing(
    source: Repository, target: Repository, tops: frozenset[Cid], pending: dict[Cid, bytes]
) -> Iterator[tuple[Cid, bytes]]:
    """Yield each block that is neither in the target nor pending. What a block in the target refers to is there too."""
    stack: list[tuple[Cid, bytes, Iterator[Cid]]] = [(RECORD_CID, b"", iter(sorted(tops)))]
    while stack:
        cid, data, links = stack[-1]
        for link in links:
            if link not in pending and not target.store.has(link):
                found = source.store.get(link)
                stack.append((link, found, iter(sorted(codec.links(link, found)))))
                break
        else:
            stack.pop()
            if stack:
                yield cid, data


def _links(record: bytes) -> frozenset[Cid]:
    return codec.links_of_record(RECORD_CID, record)
