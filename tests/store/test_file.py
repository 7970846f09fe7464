"""Stored files, read at any offset."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import codec, limits
from store import file as files
from store.chunker import FastCdc, Fixed, Piece
from store.cid import BLAKE3
from store.entry import Entry
from store.errors import Corrupt, NotFound, WrongKind
from store.file import EMPTY, File
from tests.store.models import examples, mixed, new_batch, runs, tiny

CDC, HOLE = FastCdc(), limits.hole_bytes_min


@given(st.lists(runs(150, 16), max_size=10).map(b"".join), st.data())
@examples(500)
def test_reading_in_the_tiny_format(content: bytes, data: st.DataObject) -> None:
    with tiny() as chunker:
        batch = new_batch()
        file = files.from_bytes(batch, chunker, content)
        assert file.size == len(content) and file.holes <= file.size
        for _ in range(4):
            offset = data.draw(st.integers(0, len(content) + 5), "offset")
            length = data.draw(st.one_of(st.integers(0, 40), st.integers(0, len(content) + 5)), "length")
            wanted = content[offset : offset + length]
            assert file.read_at(batch, offset, length) == wanted
            pieces = list(file.pieces(batch, offset, offset + length))
            assert b"".join(bytes(n) if piece is None else piece for n, piece in pieces) == wanted
            assert all(piece is None or len(piece) == n for n, piece in pieces)
        ends = [end for end, _ in file.items(batch, 0, file.size)]
        for offset in range(0, len(content) if len(ends) > 1 else 0, 7):
            start = max((end for end in ends if end <= offset), default=0)
            span = file.span_at(batch, offset)
            assert (span.start, span.end) == (start, min(end for end in ends if end > offset))
            assert span.cid is None or span.bytes(batch) == content[span.start : span.end]
            assert span.cid is not None or not any(content[span.start : span.end])


@given(st.lists(runs(300_000, HOLE), max_size=5).map(b"".join), st.integers(1, 500_000))
@examples(50)
def test_streaming_gives_the_same_file(content: bytes, feed: int) -> None:
    def stream() -> Iterator[Piece]:
        for at in range(0, len(content), feed):
            piece = content[at : at + feed]
            yield len(piece), None if not any(piece) else piece

    batch = new_batch()
    file = files.from_stream(batch, CDC, stream())
    assert file == files.from_bytes(new_batch(), CDC, content)
    assert file.read_at(batch, 0, len(content) + 1) == content
    if file.content is not None and not isinstance(file.content, bytes) and file.content.is_node:
        assert files.of_cid(batch, file.content) == file


@pytest.mark.parametrize(
    ("content", "file"),
    [
        (b"", EMPTY),
        (b"x", File(1, 0, b"x")),
        (b"x" * 128, File(128, 0, b"x" * 128)),
        (b"x" * 129, File(129, 0, BLAKE3.raw(b"x" * 129))),
        (bytes(128), File(128, 0, bytes(128))),
        (bytes(HOLE - 1), File(HOLE - 1, 0, BLAKE3.raw(bytes(HOLE - 1)))),
        (bytes(HOLE), File(HOLE, HOLE, None)),
        (bytes(5 * HOLE + 1), File(5 * HOLE + 1, 5 * HOLE + 1, None)),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else "",
)
def test_small_forms(content: bytes, file: File) -> None:
    batch = new_batch()
    assert files.from_bytes(batch, CDC, content) == file
    assert file.read_at(batch, 0, len(content)) == content
    assert file.read_at(batch, len(content), 5) == b""
    assert len(batch.blocks) == (1 if isinstance(file.content, bytes) and len(file.content) == 36 else 0)


def test_a_tree_of_chunks_and_holes() -> None:
    batch = new_batch()
    file = files.from_bytes(batch, CDC, b"head" + bytes(HOLE) + b"tail")
    root = batch.get(file.content)  # type: ignore[arg-type]
    head, tail = BLAKE3.raw(b"head"), BLAKE3.raw(b"tail")
    assert codec.decode(BLAKE3.node(root), root) == ["file", 0, [[4, head], [HOLE, None], [4, tail]]]
    assert (file.size, file.holes) == (HOLE + 8, HOLE)


def test_of_what_is_no_file() -> None:
    batch = new_batch()
    with pytest.raises(WrongKind, match="a dir, not a file"):
        File.of(Entry("dir", 0o755))
    with pytest.raises(NotFound):
        files.of_cid(batch, BLAKE3.raw(b"nowhere"))
    with pytest.raises(WrongKind):
        files.of_cid(batch, batch.put_doc(["links", 0, [[b"a", b"b"]]]))
    assert files.of_cid(batch, batch.put_raw(b"bytes")) == File(5, 0, BLAKE3.raw(b"bytes"))


def test_chunks_that_are_not_as_long_as_promised() -> None:
    batch = new_batch()
    chunk = batch.put_raw(b"12345")
    for length in (1, 4, 6, 1 << 60):
        tree = batch.put_doc(["file", 0, [[length, chunk], [9, None]]])
        with pytest.raises(Corrupt) as caught:
            File(length + 9, 9, tree).read_at(batch, 0, 10)
        assert caught.value.cid == chunk
    with pytest.raises(Corrupt):
        File(6, 0, chunk).read_at(batch, 0, 6)
    tree = batch.put_doc(["file", 0, [[5, chunk], [9, None]]])
    with pytest.raises(Corrupt, match="ends at byte 14 of 99"):
        File(99, 9, tree).read_at(batch, 0, 99)


def test_a_missing_chunk_leaves_the_rest_readable() -> None:
    batch = new_batch()
    content = mixed(1, 600_000)
    file = files.from_bytes(batch, Fixed(100_000), content)
    del batch.blocks[BLAKE3.raw(content[200_000:300_000])]
    assert file.read_at(batch, 0, 200_000) == content[:200_000]
    assert file.read_at(batch, 300_000, 300_000) == content[300_000:]
    with pytest.raises(NotFound):
        file.read_at(batch, 199_999, 2)
