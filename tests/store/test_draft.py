"""The law: after any edits a file has the CID of the same bytes stored afresh."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import draft as drafts
from store import file as files
from store import limits
from store.batch import Batch
from store.chunker import Chunker, FastCdc, Piece
from store.cid import Cid
from store.draft import Draft
from store.errors import Corrupt, TooLarge
from store.file import EMPTY, File
from tests.store.models import examples, mixed, new_batch, runs, stored, tiny

HOLE, MIB, TIB = limits.hole_bytes_min, limits.MIB, 1 << 40
CDC = FastCdc()


def fresh(batch: Batch, chunker: Chunker, data: bytes) -> File:
    return files.from_bytes(batch, chunker, data)


class Model:
    """A file as plain bytes beside the drafts that should be the same."""

    def __init__(self, chunker: Chunker, data: bytes = b"") -> None:
        self.batch = new_batch()
        self.chunker = chunker
        self.bytes = bytearray(data)
        self.draft = Draft(fresh(self.batch, chunker, data))

    def write(self, offset: int, data: bytes) -> None:
        if not data:
            return
        self.draft.write(offset, data)
        self.bytes.extend(bytes(max(0, offset - len(self.bytes))))
        self.bytes[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        self.draft.truncate(size)
        del self.bytes[size:]
        self.bytes.extend(bytes(size - len(self.bytes)))

    def check_read(self, offset: int, length: int) -> None:
        assert self.draft.size == len(self.bytes)
        assert self.draft.read_at(self.batch, offset, length) == self.bytes[offset : offset + length]

    def seal(self) -> File:
        """Seal, hold the law against it, and go on with a new draft."""
        file = drafts.seal(self.draft, self.batch, self.chunker)
        afresh = new_batch()
        assert file == fresh(afresh, self.chunker, bytes(self.bytes))
        assert file.read_at(self.batch, 0, len(self.bytes)) == self.bytes
        self.draft = Draft(file)
        return file

    def places(self) -> list[int]:
        """Offsets where something begins or ends: pieces of the base, extents, the end."""
        base = self.draft.base
        found = {0, len(self.bytes)}
        if isinstance(base, File):
            found.update(end for end, _ in base.items(self.batch, 0, base.size))
        for start, end in self.draft.touched():
            found.update((start, end))
        return sorted(found)


def draw_offset(data: st.DataObject, model: Model, slack: int) -> int:
    """An offset near a place where something could go wrong, or anywhere."""
    if data.draw(st.booleans(), "near a boundary"):
        place = data.draw(st.sampled_from(model.places()), "place")
        return max(0, place + data.draw(st.integers(-slack, slack), "distance"))
    return data.draw(st.integers(0, len(model.bytes) + 2 * slack), "offset")


def edit(data: st.DataObject, model: Model, longest: int, hole: int) -> None:
    offset = draw_offset(data, model, hole + 2)
    match data.draw(st.sampled_from(["write", "write", "zeros", "truncate", "shift", "read"]), "edit"):
        case "write":
            model.write(offset, data.draw(runs(longest, hole), "bytes"))
        case "zeros":
            model.write(offset, bytes(data.draw(st.integers(1, 3 * hole), "zeros")))
        case "truncate":
            model.truncate(offset)
        case "shift":  # move bytes inside the file, as an insertion or removal does
            moved = bytes(model.bytes[offset : offset + longest])
            model.write(max(0, offset + data.draw(st.integers(-hole, hole), "by")), moved)
        case "read":
            model.check_read(offset, data.draw(st.integers(0, 3 * longest), "length"))


@given(st.data())
@examples(400)
def test_law_in_the_tiny_format(data: st.DataObject) -> None:
    with tiny() as chunker:
        model = Model(chunker, b"".join(data.draw(st.lists(runs(150, 16), max_size=8), "start")))
        for _ in range(data.draw(st.integers(1, 3), "commits")):
            for _ in range(data.draw(st.integers(1, 5), "edits")):
                edit(data, model, 80, 16)
            model.check_read(0, len(model.bytes))
            model.seal()


@given(st.data(), st.sampled_from([2, 3, 5, 40, 64, 65, 130]), st.sampled_from([100, 300, 2000]))
@examples(200)
def test_law_with_other_holes_and_nodes(data: st.DataObject, hole: int, node_bytes: int) -> None:
    """A hole may be smaller than the smallest chunk or larger than the largest: the law does not depend on it."""
    with tiny(hole_bytes_min=hole, node_bytes_soft=node_bytes) as chunker:
        model = Model(chunker, b"".join(data.draw(st.lists(runs(150, hole), max_size=8), "start")))
        for _ in range(data.draw(st.integers(1, 5), "edits")):
            edit(data, model, 80, hole)
        model.seal()


@given(st.data())
@examples(200)
def test_law_in_the_real_format(data: st.DataObject) -> None:
    model = Model(CDC, b"".join(data.draw(st.lists(runs(MIB, HOLE), max_size=4), "start")))
    for _ in range(data.draw(st.integers(1, 4), "edits")):
        edit(data, model, 300_000, HOLE)
    model.seal()


@given(st.data())
@examples(120)
def test_drafts_over_drafts(data: st.DataObject) -> None:
    """A commit seals the lower draft while edits go on in the upper; if it fails, the two become one."""
    with tiny() as chunker:
        model = Model(chunker, b"".join(data.draw(st.lists(runs(150, 16), max_size=6), "start")))
        for _ in range(3):
            edit(data, model, 80, 16)
        lower, below = model.draft, bytes(model.bytes)
        model.draft = Draft(lower)
        for _ in range(3):
            edit(data, model, 80, 16)
            model.check_read(0, len(model.bytes))
        assert lower.read_at(model.batch, 0, lower.size + 1) == below
        if data.draw(st.booleans(), "the commit of the lower one fails"):
            model.draft = model.draft.folded()
            assert model.draft is lower
        else:
            file = drafts.seal(lower, model.batch, chunker)
            assert file == fresh(new_batch(), chunker, below)
            model.draft = model.draft.rebased(file)
        model.check_read(0, len(model.bytes))
        assert model.draft.bytes == sum(map(len, model.draft._extents))
        model.seal()


steps = st.lists(st.one_of(st.integers(0, 200), st.tuples(st.integers(0, 200), runs(60, 16))), max_size=6)


@given(st.lists(runs(60, 16), max_size=4).map(b"".join), steps, steps, st.booleans())
@examples(500)
def test_drafts_over_drafts_in_small_files(
    start: bytes, first: list[int | tuple[int, bytes]], then: list[int | tuple[int, bytes]], fails: bool
) -> None:
    """Three of them, with many truncations: what one draft cut off must not come back through another."""
    with tiny() as chunker:
        model = Model(chunker, start)
        for steps in (first, then):
            upper = model.draft = Draft(model.draft)
            for step in steps:
                model.truncate(step) if isinstance(step, int) else model.write(*step)
        middle = upper.base
        assert isinstance(middle, Draft) and isinstance(middle.base, Draft)
        if fails:
            model.draft = upper.folded().folded()
        else:
            middle.rebased(drafts.seal(middle.base, model.batch, chunker))
            upper.rebased(drafts.seal(middle, model.batch, chunker))
        model.check_read(0, 1000)
        model.seal()


# Sparse files


class Sparse:
    """A huge file, of which the model keeps the pages that were written."""

    PAGE = 1 << 16

    def __init__(self) -> None:
        self.size = 0
        self.pages: dict[int, bytearray] = {}

    def write(self, offset: int, data: bytes) -> None:
        for at in range(offset, offset + len(data)):
            if at == offset or at % self.PAGE == 0:
                stop = min((at // self.PAGE + 1) * self.PAGE, offset + len(data))
                page = self.pages.setdefault(at // self.PAGE, bytearray(self.PAGE))
                page[at % self.PAGE : at % self.PAGE + stop - at] = data[at - offset : stop - offset]
        self.size = max(self.size, offset + len(data))

    def truncate(self, size: int) -> None:
        for number in [n for n in self.pages if n * self.PAGE >= size]:
            del self.pages[number]
        if (last := self.pages.get(size // self.PAGE)) is not None:
            last[size % self.PAGE :] = bytes(self.PAGE - size % self.PAGE)
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        return b"".join(
            bytes(self.pages.get(at // self.PAGE, bytes(self.PAGE)))[
                at % self.PAGE : min(end - at + at % self.PAGE, self.PAGE)
            ]
            for at in (offset, *range((offset // self.PAGE + 1) * self.PAGE, end, self.PAGE))
            if at < end
        )

    def stream(self) -> Iterator[Piece]:
        at = 0
        for number in sorted(self.pages):
            if number * self.PAGE > at:
                yield number * self.PAGE - at, None
            data = bytes(self.pages[number][: self.size - number * self.PAGE])
            yield len(data), data
            at = number * self.PAGE + len(data)
        if at < self.size:
            yield self.size - at, None


@given(st.data())
@examples(100)
def test_sparse_files_of_terabytes(data: st.DataObject) -> None:
    batch, model, draft = new_batch(), Sparse(), Draft()
    where = st.one_of(st.integers(0, 3 * MIB), st.integers(0, 5 * TIB), st.just((1 << 63) - 1 - MIB))
    for _ in range(data.draw(st.integers(1, 3), "commits")):
        for _ in range(data.draw(st.integers(1, 4), "edits")):
            near = [n * model.PAGE for n in model.pages] or [0]
            offset = data.draw(st.one_of(where, st.sampled_from(near), st.just(model.size)), "offset")
            if data.draw(st.integers(0, 3), "edit"):
                written = data.draw(runs(200_000, HOLE), "bytes")
                draft.write(offset, written)
                model.write(offset, written)
            else:
                draft.truncate(offset)
                model.truncate(offset)
            assert draft.size == model.size
            assert draft.read_at(batch, offset - min(offset, 9), 70_000) == model.read(offset - min(offset, 9), 70_000)
        file = drafts.seal(draft, batch, CDC)
        assert file == files.from_stream(new_batch(), CDC, model.stream())
        for offset in [n * model.PAGE - 5 for n in model.pages if n]:
            assert file.read_at(batch, offset, 3 * model.PAGE) == model.read(offset, 3 * model.PAGE)
        draft = Draft(file)
    assert sum(map(len, batch.blocks.values())) < 20 * MIB


def test_a_hole_of_a_terabyte_costs_nothing() -> None:
    batch, draft = new_batch(), Draft()
    draft.truncate(TIB)
    assert drafts.seal(draft, batch, CDC) == File(TIB, TIB, None)
    draft.write(TIB // 2, b"x")
    file = drafts.seal(draft, batch, CDC)
    assert (file.size, file.holes, len(batch.blocks)) == (TIB, TIB - 1, 2)
    assert file.read_at(batch, TIB // 2 - 2, 5) == b"\0\0x\0\0"


# Every way a run of zeros can meet an edge


def base_with_zeros(zeros: int, before: int = 300_000) -> bytes:
    """Random bytes with a run of zeros in the middle, and no other zero next to it."""
    return mixed(1, before) + b"\1" + bytes(zeros) + b"\1" + mixed(2, 300_000)


def ends_of(data: bytes) -> list[int]:
    batch = new_batch()
    file = fresh(batch, CDC, data)
    return [end for end, _ in file.items(batch, 0, file.size)]


AROUND = [HOLE - 1, HOLE, HOLE + 1]


@pytest.mark.parametrize("zeros", [1, *AROUND, 2 * HOLE, 5 * HOLE])
@pytest.mark.parametrize("shift", ["ends at", "across", "begins at", "one before", "one after"])
def test_zeros_written_where_a_chunk_ends(zeros: int, shift: str) -> None:
    data = mixed(1, 700_000)
    for end in ends_of(data)[1:4]:
        model = Model(CDC, data)
        at = {"ends at": -zeros, "across": -zeros // 2, "begins at": 0, "one before": -1, "one after": 1}[shift]
        model.write(max(0, end + at), bytes(zeros))
        model.seal()


@pytest.mark.parametrize("joined", AROUND)
@pytest.mark.parametrize("old", [1, 100, HOLE // 2, HOLE - 1])
@pytest.mark.parametrize("side", ["before", "after", "both", "between"])
def test_zeros_that_join_old_zeros(joined: int, old: int, side: str) -> None:
    start = 300_001
    new = joined - old
    if side == "between":  # two old runs with a gap that is filled
        data = mixed(1, start) + bytes(old) + b"\1" * 10 + bytes(max(1, new - 10)) + b"\1" + mixed(2, 300_000)
        model = Model(CDC, data)
        model.write(start + old, bytes(10))
    else:
        model = Model(CDC, base_with_zeros(old))
        if side in ("before", "both"):
            model.write(start - new, bytes(new))
        if side in ("after", "both"):
            model.write(start + old, bytes(new))
    model.seal()


@pytest.mark.parametrize("zeros", [*AROUND, 2 * HOLE - 1, 2 * HOLE, 2 * HOLE + 1])
def test_a_byte_written_into_a_hole(zeros: int) -> None:
    """The two halves may still be holes, or not any more."""
    for at in {-1, 0, 1, HOLE - 2, HOLE - 1, HOLE, HOLE + 1, zeros // 2, zeros - HOLE, zeros - 2, zeros - 1, zeros}:
        for byte in (b"x", b"\0"):
            model = Model(CDC, base_with_zeros(zeros))
            model.write(300_001 + at, byte)
            model.seal()
            model.write(300_001 + at, b"\0")  # and back
            model.seal()


@pytest.mark.parametrize("zeros", AROUND)
@pytest.mark.parametrize("base", ["tree", "chunk", "inline", "empty", "hole"])
def test_zeros_at_the_end(zeros: int, base: str) -> None:
    data = {"tree": mixed(3, 500_000), "chunk": b"x" * 9999, "inline": b"x", "empty": b"", "hole": bytes(2 * HOLE)}[
        base
    ]
    for kept in {0, len(data) // 2, max(0, len(data) - 1), len(data)}:
        model = Model(CDC, data)
        model.truncate(kept)
        model.truncate(kept + zeros)
        model.seal()
        model.truncate(kept + HOLE)
        model.seal()
        model.write(kept + HOLE - 1, b"\0" * 3)
        model.seal()
        model.truncate(kept)
        model.seal()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 255, 1000, 16384, 16385, 16386, 262143, 262144, 262145, 600_000])
def test_a_tree_cut_down_to_any_size(size: int) -> None:
    """What is left may be a chunk, inline bytes or nothing; the last old chunk must not stay if its end was the end."""
    for data in (mixed(4, 900_000), bytes(HOLE) + mixed(4, 400_000), mixed(4, 300_000) + bytes(HOLE) + b"x" * 400_000):
        model = Model(CDC, data)
        model.truncate(size)
        model.seal()
        model.write(size, b"tail")
        model.seal()


def test_the_end_of_the_file_is_no_content_cut() -> None:
    """Appending must give up the last old chunk: it ended where the file did."""
    data = mixed(5, 2 * MIB)
    for size in (400_000, 400_001, *ends_of(data)[5:8]):
        model = Model(CDC, data[:size])
        for step in (1, 100, 65536, 262144):
            model.write(len(model.bytes), data[len(model.bytes) : len(model.bytes) + step])
            model.seal()


# What an edit costs


class Counted(Batch):
    """A batch that counts what is read and what is new."""

    def __init__(self, under: Batch) -> None:
        super().__init__(stored(under))
        self.read: list[Cid] = []

    def get(self, cid: Cid) -> bytes:
        self.read.append(cid)
        return super().get(cid)

    @property
    def new_chunks(self) -> int:
        return sum(not cid.is_node for cid in self.blocks)


@pytest.fixture(scope="module")
def large() -> tuple[Batch, File, list[int]]:
    batch, data = new_batch(), mixed(7, 50_000_000)
    file = fresh(batch, CDC, data)
    return batch, file, [end for end, _ in file.items(batch, 0, file.size)]


def test_a_small_write_into_a_large_file_touches_few_chunks(large: tuple[Batch, File, list[int]]) -> None:
    under, file, _ = large
    rng, new, read = random.Random(8), list[int](), list[int]()
    for _ in range(30):
        batch, draft = Counted(under), Draft(file)
        draft.write(rng.randrange(file.size), rng.randbytes(4096))
        drafts.seal(draft, batch, CDC)
        new.append(batch.new_chunks)
        read.append(len(set(batch.read)))
    # Cutting goes on until it meets an old cut: mostly the first.
    assert max(new) <= 8 and sum(new) / len(new) < 1.7, new
    assert max(read) <= 8 and sum(read) / len(read) < 1.7, read


def test_two_far_writes_do_not_touch_what_is_between(large: tuple[Batch, File, list[int]]) -> None:
    under, file, _ = large
    batch, draft = Counted(under), Draft(file)
    draft.write(1_000_000, b"x")
    draft.write(49_000_000, b"y")
    sealed = drafts.seal(draft, batch, CDC)
    assert batch.new_chunks <= 4 and len(set(batch.read)) <= 4
    assert sealed.read_at(batch, 49_000_000, 1) == b"y"


def test_appending_to_a_large_file_touches_its_end(large: tuple[Batch, File, list[int]]) -> None:
    under, file, ends = large
    batch, draft = Counted(under), Draft(file)
    draft.write(file.size, b"more")
    drafts.seal(draft, batch, CDC)
    assert batch.new_chunks <= 2 and len(set(batch.read)) == 1
    assert file.span_at(batch, file.size - HOLE).start == ends[bisect_left(ends, file.size - HOLE + 1) - 1]


def test_an_insertion_stores_a_quarter_megabyte_at_most(large: tuple[Batch, File, list[int]]) -> None:
    under = large[0]
    rng, data = random.Random(9), mixed(7, 50_000_000)
    for at in (25_000_000, rng.randrange(len(data)), rng.randrange(len(data))):
        batch = new_batch()
        fresh(batch, CDC, data[:at] + rng.randbytes(4096) + data[at:])
        new = sum(len(block) for cid, block in batch.blocks.items() if cid not in under.blocks)
        assert new <= 250_000, (at, new)


# Bounds


def test_too_large() -> None:
    draft = Draft()
    for attempt in (lambda: draft.truncate(1 << 63), lambda: draft.write((1 << 63) - 1, b"x")):
        with pytest.raises(TooLarge):
            attempt()
    assert draft.is_clean
    draft.truncate((1 << 63) - 1)
    assert drafts.seal(draft, new_batch(), CDC) == File((1 << 63) - 1, (1 << 63) - 1, None)


def test_a_clean_draft_is_its_base() -> None:
    batch = new_batch()
    file = fresh(batch, CDC, mixed(1, 100_000))
    draft = Draft(file)
    draft.write(5, b"")
    draft.truncate(file.size)
    assert draft.is_clean and drafts.seal(draft, batch, CDC) is file
    draft.truncate(0)
    assert not draft.is_clean and drafts.seal(draft, batch, CDC) == EMPTY


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), max_size=30))
@examples(300)
def test_memory_is_counted(edits: list[tuple[int, int]]) -> None:
    with tiny():
        draft = Draft()
        for offset, length in edits:
            draft.write(offset, b"x" * length) if length else draft.truncate(offset)
            assert draft.bytes == sum(map(len, draft._extents))
            ends = [start + len(extent) for start, extent in zip(draft._starts, draft._extents)]
            assert all(end <= start for end, start in zip(ends, draft._starts[1:])), "extents overlap"
            assert not ends or ends[-1] <= draft.size


@pytest.mark.parametrize("size", [1, 200_000, 899_999, 900_001, 5_000_000, TIB])
def test_content_of_another_size_than_its_entry_says_is_refused(size: int) -> None:
    batch = new_batch()
    draft = Draft(fresh(batch, CDC, mixed(1, 900_000))._replace(size=size))
    draft.write(size // 2, b"edit")
    with pytest.raises(Corrupt):
        drafts.seal(draft, batch, CDC)
