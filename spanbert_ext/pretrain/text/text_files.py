# SPDX-License-Identifier: Apache-2.0
"""Text files in, documents out: packing and encoding by a file's first bytes, line ends, what ends a document.

A file is read in pieces, and a long document is several: the memory holds no more than `LONGEST_DOCUMENT`, whatever
a file holds. Its name decides nothing."""

from __future__ import annotations

import bz2
import codecs
import gzip
import importlib
import itertools
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from spanbert_ext.pretrain.text.sentences import LONGEST, sentence_spans

LONGEST_DOCUMENT = 1 << 22  # characters; a longer one is several, cut where a sentence ends
_PIECE = 1 << 20  # bytes that are decoded at once
_GZIP, _XZ = b"\x1f\x8b\x08", b"\xfd7zXZ\0"
_ZSTD = re.compile(
    rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"
)  # a frame of text; one to be skipped (pzstd's first)
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")  # "BZh" alone may begin a text
_BYTE_ORDER_MARKS = (  # UTF-32 before UTF-16, whose mark its own begins with
    (codecs.BOM_UTF8, "UTF-8"),
    (codecs.BOM_UTF32_LE, "UTF-32LE"),
    (codecs.BOM_UTF32_BE, "UTF-32BE"),
    (codecs.BOM_UTF16_LE, "UTF-16LE"),
    (codecs.BOM_UTF16_BE, "UTF-16BE"),
)
_DECODERS: dict[str, Callable[[bytes, str, bool], tuple[str, int]]] = {
    "UTF-8": codecs.utf_8_decode,
    "UTF-16LE": codecs.utf_16_le_decode,
    "UTF-16BE": codecs.utf_16_be_decode,
    "UTF-32LE": codecs.utf_32_le_decode,
    "UTF-32BE": codecs.utf_32_be_decode,
}


_MARK = "\ufeff"  # a byte order mark that was decoded
_FIRST = 4096  # bytes that show the encoding
_ADVICE = "; convert it from the encoding that it has, for example with iconv -f LATIN1 -t UTF-8"


class CorpusError(ValueError):
    """The corpus cannot be used; the message names the file and the reason."""


class _Zstandard:
    """What the package zstandard unpacks of a file. Its own reader takes a file without its end for a whole one."""

    _PACKED = 1 << 10  # bytes that are unpacked at once: at most 32 MB become of them

    def __init__(self, file: BinaryIO, decompressor: Any) -> None:
        self._file, self._decompressor = file, decompressor
        self._frame: Any = None  # that has begun
        self._left = b""  # read, but behind the last frame

    def read1(self, size: int) -> bytes:
        """At least `size` bytes, where there are so many; none at the end. Raises EOFError inside a frame."""
        parts: list[bytes] = []
        found = 0
        while found < size:
            packed = self._left or self._file.read(self._PACKED)
            self._left = b""
            if not packed:
                if self._frame is not None and not parts:
                    raise EOFError("the file ends before the packed data does")
                break
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            parts.append(self._frame.decompress(packed))
            found += len(parts[-1])
            if self._frame.eof:
                self._left, self._frame = self._frame.unused_data, None
        return b"".join(parts)


def _unpacked(file: BinaryIO, path: Path) -> BinaryIO | _Zstandard:
    """`file` as bytes of text, unpacked when it begins as a packed file does. Raises `CorpusError` for a packing that
    nothing here can read."""
    first = file.peek(16)[:16]
    if first.startswith(_GZIP):
        return gzip.GzipFile(fileobj=file)
    if first.startswith(_XZ):
        return lzma.LZMAFile(file)
    if _BZIP2.match(first):
        return bz2.BZ2File(file)
    if _ZSTD.match(first):
        try:
            return importlib.import_module("compression.zstd").ZstdFile(file)  # from Python 3.14 on
        except ImportError:
            pass
        try:
            decompressor = importlib.import_module("zstandard").ZstdDecompressor()
        except ImportError:
            raise CorpusError(
                f"{path} is packed by zstd, which this Python cannot read: pip install zstandard, or unpack it"
                " with zstd -d"
            ) from None
        return _Zstandard(file, decompressor)
    for magic, kind in ((b"PK\3\4", "a zip archive"), (b"7z\xbc\xaf", "a 7z archive"), (b"%PDF-", "a PDF")):
        if first.startswith(magic):
            raise CorpusError(f"{path} is {kind}: unpack it, or take the text out of it, first")
    return file


def _is_damage(error: Exception) -> bool:
    """`zstandard` and Python 3.14 each have a `ZstdError` of their own."""
    damages = (OSError, EOFError, lzma.LZMAError, zlib.error)  # gzip.BadGzipFile is an OSError
    return isinstance(error, damages) or type(error).__name__ == "ZstdError"


def _encoding(first: bytes, path: Path) -> tuple[str, int]:
    """The encoding of a file that begins with `first`, and the length of its byte order mark.

    Without one it is UTF-8. Raises `CorpusError` for UTF-16 and UTF-32 without a mark, known by where NUL bytes stand:
    an ASCII character has one, or three, each at the same place."""
    for mark, name in _BYTE_ORDER_MARKS:
        if first.startswith(mark):
            return name, len(mark)
    units = len(first) // 4
    mostly_nul = tuple(2 * first[offset : 4 * units : 4].count(0) > units for offset in range(4))
    patterns = {
        (False, True, True, True): "UTF-32LE",
        (True, True, True, False): "UTF-32BE",
        (False, True, False, True): "UTF-16LE",
        (True, False, True, False): "UTF-16BE",
    }
    if mostly_nul in patterns:
        name = patterns[mostly_nul]
        raise CorpusError(
            f"{path} looks like {name} without a byte order mark; convert it first, for example with"
            f" iconv -f {name} -t UTF-8"
        )
    return "UTF-8", 0


def unix_lines(text: str) -> str:
    """Line ends of Unix, of Windows (also with the carriage return doubled by a conversion) and of old Macs as
    newlines. Other separators (U+0085, U+2028, form feeds) stay: they are white space."""
    for end in ("\r\n", "\r\n", "\r"):
        text = text.replace(end, "\n")
    return text


def read_text(path: Path) -> Iterator[str]:
    """The text of a file, piece by piece, lines ended by newlines. Raises `CorpusError` as `read_documents` does."""
    offset = 0  # bytes of text that are decoded
    line = 1
    try:
        with path.open("rb") as packed:
            file = _unpacked(packed, path)
            data = b""
            while len(data) < _FIRST and (more := file.read1(_PIECE)):
                data += more
            encoding, offset = _encoding(data[:_FIRST], path)
            data = data[offset:]
            held = ""  # carriage returns that a line feed may follow
            last = False
            while not last:
                more = file.read1(_PIECE)
                last = not more
                try:
                    text, used = _DECODERS[encoding](data, "strict", last)
                except UnicodeDecodeError as error:
                    text, used, fault = data[: error.start].decode(encoding), error.start, error
                else:
                    fault = None
                if fault or "\0" in text:
                    before = text.partition("\0")[0]
                    at = offset + len(before.encode(encoding))
                    where = f"at byte offset {at}, line {line + unix_lines(held + before).count(chr(10))}"
                    if before != text:
                        raise CorpusError(f"{path} is not text: NUL {where}")
                    advice = "" if encoding != "UTF-8" else _ADVICE
                    raise CorpusError(
                        f"{path} is not {encoding}: byte 0x{data[used]:02x} {where}{advice}"
                    ) from None
                text = held + text
                held = "" if last else text[len(text.rstrip("\r")) :][-2:]
                text = unix_lines(text.removesuffix(held))
                line += text.count("\n")
                yield text
                data, offset = data[used:] + more, offset + used
    except Exception as error:
        if not _is_damage(error):
            raise
        raise CorpusError(f"cannot read {path} after {offset} bytes of text: {error}") from error


def _place_to_cut(text: str) -> int:
    """Where a document that begins with `text` is cut: before the last sentence that begins in it."""
    first = max(0, len(text) - 2 * LONGEST)
    last = [start for start, _ in sentence_spans(text[first:])][-1:]
    return first + last[0] if last and last[0] else len(text)


def stripped(text: str) -> str:
    """Without white space around it, and without the byte order marks that joined files have inside."""
    text = text.strip()
    while text.startswith(_MARK):
        text = text[1:].lstrip()
    return text


def _cut(text: str) -> tuple[list[str], str]:
    """Of a stripped text the parts that are as long as a document may be, and the rest, which may go on."""
    parts: list[str] = []
    start = 0
    while len(text) - start > LONGEST_DOCUMENT:
        head = text[start : start + LONGEST_DOCUMENT]
        cut = _place_to_cut(head)
        parts.append(head[:cut].rstrip())
        start += cut
        while start < len(text) and (text[start].isspace() or text[start] == _MARK):
            start += 1
    return parts, text[start:]


def limited(text: str) -> Iterator[str]:
    """A stripped text, or its parts of at most `LONGEST_DOCUMENT` characters, which depend on it alone."""
    parts, rest = _cut(text)
    yield from parts
    if rest:
        yield rest


def split_text(pieces: Iterable[str], separator: str | None = None) -> Iterator[str]:
    """The documents of a text that comes in pieces, lines ended by newlines: stripped lines without the blank ones,
    joined by newlines.

    A blank line ends a document, with a `separator` only a line that is the separator, white space around it aside.
    The documents do not depend on where the pieces end. White space of more than `LONGEST_DOCUMENT` characters in a
    line ends the line."""
    if separator is not None:
        separator = separator.strip()
    lines: list[str] = []
    begun: list[str] = []  # of the line that has not ended yet
    size = pending = blank = 0  # of the lines joined, of what has begun, of white space at its end
    shortened = False  # what has begun is the rest of a line that was cut, and so no separator
    for piece in itertools.chain(pieces, (f"\n{separator or ''}\n",)):
        *ended, rest = piece.split("\n")
        for part in ended:
            if begun:
                part = "".join((*begun, part))
                begun, pending = [], 0
            line = stripped(part)
            if line == (separator or "") and not shortened:
                if lines:
                    yield from limited("\n".join(lines))
                    lines, size = [], 0
            elif line:
                lines.append(line)
                size += len(line) + 1
            shortened = False
        if ended:
            blank = 0
        if rest and (begun or not rest.isspace()):
            begun.append(rest)
            pending += len(rest)
            blank = len(rest) - len(rest.rstrip()) + (blank if rest.isspace() else 0)
        if size + pending <= LONGEST_DOCUMENT:
            continue
        if not begun:
            parts, text = _cut("\n".join(lines))
            yield from parts
            lines = text.split("\n") if text else []
        else:
            # What is known of the document: white space at the end may still be the line's.
            line = "".join(begun)
            parts, text = _cut("\n".join((*lines, stripped(line))))
            yield from parts
            *lines, known = text.split("\n")
            shortened = shortened or known != stripped(line)
            begun = [known, line[len(line) - blank :]]
            if blank > LONGEST_DOCUMENT:
                lines.append(known)
                begun, blank, shortened = [], 0, False
        size = sum(map(len, lines)) + len(lines)
        pending = sum(map(len, begun))


def read_documents(path: Path, separator: str | None = None) -> Iterator[str]:
    """Yields the documents of one file, as `split_text` finds them.

    The file is UTF-8, or UTF-16 or UTF-32 with a byte order mark; plain, or packed by gzip, xz, bzip2 or, where Python
    or the package zstandard can unpack it, zstd. Raises `CorpusError` naming the file, and for a wrong encoding the
    line and the byte offset (of the unpacked text), for a damaged or unreadable file."""
    return split_text(read_text(path), separator)
