# SPDX-License-Identifier: Apache-2.0
"""Text files: packing and encoding are known by the first bytes; what cannot be read is named, with the place."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("datasets")

from spanbert_ext.pretrain.text import text_files
from spanbert_ext.pretrain.text.text_files import CorpusError, read_documents

TEXT = "One line.\nAnother line.\n\n \t\nSecond document. It goes on.\r\nStill it.\n\n\n\nThird, na\u00efve \U0001f600"
DOCUMENTS = [
    "One line.\nAnother line.",
    "Second document. It goes on.\nStill it.",
    "Third, na\u00efve \U0001f600",
]
PACKERS = {"plain": bytes, "gzip": gzip.compress, "xz": lzma.compress, "bzip2": bz2.compress}


def read(folder: Path, data: bytes, name: str = "a.txt") -> list[str]:
    (folder / name).write_bytes(data)
    return list(read_documents(folder / name))


def message(folder: Path, data: bytes, name: str = "a.txt") -> str:
    with pytest.raises(CorpusError) as error:
        read(folder, data, name)
    assert str(folder / name) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("packer", PACKERS)
def test_packing_is_seen_whatever_the_name(tmp_path, packer):
    for name in ("a.txt", "a.txt.gz", "a.txt.xz"):
        assert read(tmp_path, PACKERS[packer](TEXT.encode()), name) == DOCUMENTS


def test_members_of_one_packed_file_are_one_text(tmp_path):
    data = TEXT.encode()
    assert read(tmp_path, gzip.compress(data[:20]) + gzip.compress(data[20:])) == DOCUMENTS
    assert read(tmp_path, b"".join(gzip.compress(bytes([byte])) for byte in data)) == DOCUMENTS


def test_text_that_begins_like_a_packed_file(tmp_path):
    assert read(tmp_path, b"BZh9 is how bzip2 files begin.") == ["BZh9 is how bzip2 files begin."]
    assert read(tmp_path, b"", "empty.txt.gz") == []


def zstd_frame(data: bytes) -> bytes:
    """One block without compression."""
    assert len(data) < 256
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(data)]) + (1 | len(data) << 3).to_bytes(3, "little") + data


def test_zstd_is_read_where_python_can_and_named_elsewhere(tmp_path, monkeypatch):
    try:
        text_files._unpacked(_peekable(tmp_path, zstd_frame(b"x")), tmp_path)
    except CorpusError:
        pass
    else:
        assert read(tmp_path, zstd_frame(TEXT.encode())) == DOCUMENTS
    for module in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "packed by zstd" in message(tmp_path, zstd_frame(b"x"), "a.txt.zst")


def test_zstd_members_are_one_text_and_a_missing_end_is_named(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    text = "".join(f"{number * 7919} bottles\n" for number in range(40_000)).encode()
    whole, second = zstandard.compress(text), zstandard.compress(text[:1000])
    note = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"  # a frame without text
    (tmp_path / "a.txt.zst").write_bytes(whole + note + second)
    assert "".join(text_files.read_text(tmp_path / "a.txt.zst")).encode() == text + text[:1000]
    for data in (whole[: len(whole) // 2], whole[:-1], whole + second[:-1], whole + whole[:3]):
        said = message(tmp_path, data, "a.txt.zst")
        assert "cannot read" in said and int(said.split(" bytes of text")[0].split()[-1]) <= len(text)
    assert "cannot read" in message(tmp_path, whole + b"no frame", "a.txt.zst")


def skipped(data: bytes, kind: int = 0) -> bytes:
    """A frame that holds no text."""
    return bytes([0x50 + kind]) + b"\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


@pytest.mark.parametrize("kind", range(16))
def test_zstd_frames_without_text_are_skipped_wherever_they_stand(tmp_path, kind):
    pytest.importorskip("zstandard")
    data = TEXT.encode()
    frames = [zstd_frame(data[:20]), zstd_frame(b""), zstd_frame(data[20:])]
    note = skipped(b"notes", kind)
    for begin, middle, end in ((1, 0, 0), (3, 0, 0), (0, 1, 0), (0, 2, 2), (1, 1, 1)):
        packed = note * begin + frames[0] + note * middle + frames[1] + note * middle + frames[2] + note * end
        assert read(tmp_path, packed, "a.txt.zst") == DOCUMENTS
    long, empty = skipped(b"\0" * 5_000, kind), skipped(b"", kind)  # longer than what is unpacked at once
    assert read(tmp_path, long + empty + frames[0] + long + frames[2] + empty, "a.txt") == DOCUMENTS
    assert read(tmp_path, note + empty, "a.txt.zst") == []
    for cut in (note[:-1], note[:6], long[:-1], frames[0] + note[:-1], note + zstd_frame(data)[:-1]):
        assert "cannot read" in message(tmp_path, cut, "a.txt.zst")
    for rubbish in (note + data, note + frames[0] + b"no frame"):
        assert "cannot read" in message(tmp_path, rubbish, "a.txt.zst")


def test_zstd_of_any_beginning_is_named_where_nothing_reads_it(tmp_path, monkeypatch):
    for module in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    for data in (zstd_frame(b"x"), skipped(b"notes") + zstd_frame(b"x"), skipped(b"", 15)):
        assert "packed by zstd" in message(tmp_path, data, "a.txt.zst")


def _peekable(folder: Path, data: bytes):
    (folder / "peek").write_bytes(data)
    return (folder / "peek").open("rb")


@pytest.mark.parametrize("data, kind", [(b"PK\3\4....", "a zip archive"), (b"%PDF-1.7 \n\xff", "a PDF")])
def test_other_containers_are_named(tmp_path, data, kind):
    assert kind in message(tmp_path, data)


@pytest.mark.parametrize("packer", ["gzip", "xz", "bzip2"])
def test_a_cut_off_or_damaged_file_names_how_far_it_was_read(tmp_path, packer):
    text = b"".join(b"%d bottles\n" % number for number in range(40_000))
    packed = PACKERS[packer](text)
    said = message(tmp_path, packed[: len(packed) * 3 // 4], "a.txt")
    assert "cannot read" in said and 0 <= int(said.split(" bytes of text")[0].split()[-1]) < len(text)
    middle = len(packed) // 2
    damaged = (
        packed[:middle] + bytes(byte ^ 255 for byte in packed[middle : middle + 64]) + packed[middle + 64 :]
    )
    assert "cannot read" in message(tmp_path, damaged)


MARKS = {"utf-8": b"\xef\xbb\xbf", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
MARKS |= {"utf-32-le": b"\xff\xfe\0\0", "utf-32-be": b"\0\0\xfe\xff"}


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("packer", ["plain", "gzip"])
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding, packer):
    data = MARKS[encoding] + TEXT.encode(encoding)
    assert read(tmp_path, PACKERS[packer](data)) == DOCUMENTS
    assert read(tmp_path, MARKS[encoding]) == []


def test_marks_inside_joined_files_are_no_text(tmp_path):
    assert read(tmp_path, "\ufeffFirst\n\n\ufeffSecond\n".encode()) == ["First", "Second"]


@pytest.mark.parametrize("encoding", [name for name in MARKS if name != "utf-8"])
def test_without_a_mark_the_advice_names_the_encoding(tmp_path, encoding):
    name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    for text in ("a\n", TEXT):
        said = message(tmp_path, text.encode(encoding))
        assert f"looks like {name} without a byte order mark" in said and f"iconv -f {name} -t UTF-8" in said


@pytest.mark.parametrize("lead", [0, 10_000, 2**20 - 3, 2**20 - 8, 3 * 2**20])
def test_a_wrong_byte_is_named_with_line_and_offset(tmp_path, lead):
    before = b"x\r\n" * (lead // 3)
    said = message(tmp_path, before + "gut\n\nsch\u00f6n\n".encode("latin-1"))
    assert f"byte 0xf6 at byte offset {len(before) + 8}, line {lead // 3 + 3}" in said and "LATIN1" in said
    said = message(tmp_path, before + b"a\n\0b")
    assert f"not text: NUL at byte offset {len(before) + 2}, line {lead // 3 + 2}" in said


def test_a_wrong_unit_of_utf16_gets_no_advice_for_other_encodings(tmp_path):
    said = message(tmp_path, MARKS["utf-16-le"] + "ab\n".encode("utf-16-le") + b"\x00\xdc")
    assert "not UTF-16LE" in said and "byte offset 8, line 2" in said and "iconv" not in said
    assert "byte offset 4" in message(tmp_path, MARKS["utf-16-be"] + "a".encode("utf-16-be") + b"b")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_line_ends_of_every_system(tmp_path, end):
    text = "One\nTwo\n\nThree\n\n\n\nFour\n".replace("\n", end)
    assert read(tmp_path, text.encode()) == ["One\nTwo", "Three", "Four"]
    assert read(tmp_path, text.removesuffix(end).encode()) == ["One\nTwo", "Three", "Four"]


def test_other_separators_are_white_space_in_a_line(tmp_path):
    line = "One.\x85Two.\u2028Three.\u2029Four.\x0bFive.\x0cSix."
    assert read(tmp_path, f"{line}\n\x0c\nNext\u2028".encode()) == [line, "Next"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["\r", "\n", "a", "\u20ac", " "]), max_size=12).map("".join), st.integers(1, 5)
)
def test_pieces_of_any_size_make_the_same_text(tmp_path_factory, text, piece):
    """Characters and line ends that two pieces share."""
    folder = tmp_path_factory.getbasetemp()
    whole = text.replace("\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n")
    documents = [part.strip() for part in whole.replace(" ", "").split("\n\n") if part.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_PIECE", piece)
        patch.setattr(text_files, "_FIRST", 1)
        got = read(folder, text.encode(), "pieces.txt")
    assert [document.replace(" ", "") for document in got] == documents


def test_a_line_of_many_pieces_costs_a_few_times_its_size(tmp_path):
    size = 2**22  # of the longest document
    (tmp_path / "a.txt").write_bytes(gzip.compress(b"a" * size))
    tracemalloc.start()
    try:
        (text,) = read_documents(tmp_path / "a.txt")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert text == "a" * size and peak < 4 * size
