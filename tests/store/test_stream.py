"""Readers and writers against BytesIO."""

from __future__ import annotations

import io
import os
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import file as files
from store.chunker import FastCdc
from store.cid import BLAKE3, Cid
from store.errors import NotFound, TooLarge, WrongKind
from store.stream import Reader, Writer, open_reader, open_writer
from tests.store.models import examples, mixed, new_batch, runs, tiny

TIB = 1 << 40
calls = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 60)),
    st.tuples(st.just("seek"), st.integers(0, 400)),
    st.tuples(st.just("seek from end"), st.integers(-20, 20)),
    st.tuples(st.just("seek from here"), st.integers(-20, 60)),
    st.tuples(st.just("write"), runs(60, 16)),
    st.tuples(st.just("truncate"), st.one_of(st.none(), st.integers(0, 400))),
    st.tuples(st.just("readinto"), st.integers(0, 60)),
    st.tuples(st.just("seal"), st.none()),
)


def call(file: io.RawIOBase | io.BytesIO, name: str, value: object) -> object:
    try:
        match name:
            case "seek":
                return file.seek(value)  # type: ignore[arg-type]
            case "seek from end":
                return file.seek(value, os.SEEK_END)  # type: ignore[arg-type]
            case "seek from here":
                return file.seek(value, os.SEEK_CUR)  # type: ignore[arg-type]
            case "readinto":
                buffer = bytearray(b"-" * value)  # type: ignore[operator]
                return file.readinto(buffer), buffer
            case "truncate" if isinstance(file, io.BytesIO):  # which does not grow, as files do
                at, size = file.tell(), file.tell() if value is None else value
                file.truncate(size)  # type: ignore[arg-type]
                file.seek(0, os.SEEK_END)
                file.write(bytes(size - file.tell()))  # type: ignore[operator]
                file.seek(at)
                return size
            case "seal":
                return file.seal() and None if isinstance(file, Writer) else None
        return getattr(file, name)(value)
    except ValueError:
        return "ValueError"


@given(st.binary(max_size=300), st.lists(calls, max_size=20))
@examples(400)
def test_a_writer_is_a_file(content: bytes, todo: list[tuple[str, object]]) -> None:
    with tiny() as chunker:
        batch = new_batch()
        base = files.from_bytes(batch, chunker, content)
        ours, model = Writer(batch, base, chunker), io.BytesIO(content)
        for name, value in todo:
            if name == "seek from end" and value + len(model.getvalue()) < 0:  # type: ignore[operator]
                value = 0  # BytesIO stops at the beginning, files refuse
            if name == "seek from here" and value + model.tell() < 0:  # type: ignore[operator]
                value = 0
            assert call(ours, name, value) == call(model, name, value), name
            assert ours.tell() == model.tell()
        assert ours.seal() == files.from_bytes(new_batch(), chunker, model.getvalue())


def written(data: bytes) -> tuple[Writer, Cid]:
    batch = new_batch()
    writer = open_writer(batch, None)
    writer.write(data)
    content = writer.seal().content
    assert isinstance(content, Cid)
    return writer, content


def test_open_by_cid() -> None:
    for data in (b"one chunk of more than a hundred and twenty-eight bytes" * 3, mixed(1, 900_000)):
        batch = new_batch()
        writer = open_writer(batch, None)
        assert writer.write(data) == len(data)
        cid = writer.seal().content
        assert isinstance(cid, Cid)
        with open_reader(batch, cid) as reader:
            assert reader.read() == data and reader.read(1) == b""
            assert reader.seek(-5, os.SEEK_END) == len(data) - 5 and reader.read(99) == data[-5:]
            assert io.BufferedReader(reader).read(3) == b""
        again = open_writer(batch, cid)
        again.seek(10)
        again.write(b"-")
        assert again.seal() == files.from_bytes(new_batch(), FastCdc(), data[:10] + b"-" + data[11:])


def test_buffered_and_text_io_lie_on_top() -> None:
    batch = new_batch()
    writer = open_writer(batch, None)
    text = io.TextIOWrapper(io.BufferedRandom(writer), encoding="utf-8")
    text.write("lines\nof text\n" * 20)
    text.flush()
    cid = writer.seal().content
    assert isinstance(cid, Cid)
    assert list(io.TextIOWrapper(io.BufferedReader(open_reader(batch, cid)), encoding="utf-8"))[:2] == [
        "lines\n",
        "of text\n",
    ]


def test_holes_cost_nothing() -> None:
    batch = new_batch()
    writer = open_writer(batch, None)
    writer.seek(TIB)
    writer.write(b"end")
    file = writer.seal()
    assert (file.size, file.holes) == (TIB + 3, TIB) and len(batch.blocks) == 2
    assert isinstance(file.content, Cid)
    reader = open_reader(batch, file.content)
    reader.seek(TIB - 2)
    assert reader.read() == b"\0\0end"


def test_buffers_of_larger_items() -> None:
    batch = new_batch()
    writer = open_writer(batch, None)
    assert writer.write(array("I", [1, 2, 3])) == 12 and writer.tell() == 12
    writer.seek(0)
    numbers = array("I", [0] * 5)
    assert writer.readinto(numbers) == 12
    assert list(numbers) == [1, 2, 3, 0, 0]


def test_misuse() -> None:
    writer, cid = written(b"x" * 500)
    reader = open_reader(writer._batch, cid)
    for bad in (lambda: reader.seek(-1), lambda: reader.seek(0, 9), lambda: writer.truncate(-1)):
        with pytest.raises(ValueError):
            bad()
    for refused in (lambda: reader.write(b"x"), lambda: reader.truncate(0)):
        with pytest.raises(io.UnsupportedOperation):
            refused()
    assert reader.readable() and reader.seekable() and not reader.writable() and writer.writable()
    writer.seek((1 << 63) - 1)
    with pytest.raises(TooLarge):
        writer.write(b"x")
    writer.close()
    reader.close()
    for closed in (
        lambda: writer.write(b"x"), lambda: writer.truncate(0), writer.seal, writer.tell,
        lambda: reader.read(1), reader.read, lambda: reader.seek(0), lambda: reader.readinto(bytearray(1)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="closed"):
            closed()


def test_open_what_is_no_content() -> None:
    batch = new_batch()
    for opened in (open_reader, open_writer):
        with pytest.raises(NotFound):
            opened(batch, BLAKE3.raw(b"nowhere"))
        with pytest.raises(WrongKind):
            opened(batch, batch.put_doc(["links", 0, [[b"a", b"b"]]]))
    assert isinstance(open_reader(batch, batch.put_raw(b"")), Reader)
