# SPDX-License-Identifier: Apache-2.0
"""Files of a data set: plain, .gz or .xz, alone or in a folder; CoNLL documents also inside a .tar.xz."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError

PACKED = (".xz", ".gz")
_OTHER_PACKERS = {
    "zip": re.compile(rb"PK\x03\x04"),
    "bzip2": re.compile(rb"BZh[1-9]1AY&SY"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "7z": re.compile(rb"7z\xbc\xaf\x27\x1c"),
}
_DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError)  # gzip.BadGzipFile is an OSError


def _unpacked_xz(content: bytes) -> bytes:
    """All streams of an .xz file, with zeros between them or not. (lzma.decompress ends before a damaged one.)"""
    parts = []
    while content:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        parts.append(stream.decompress(content))
        if not stream.eof:
            raise EOFError("the file ends inside a stream")
        content = stream.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _unpacked(content: bytes, name: Path | str) -> bytes:
    """What a file holds, whose first bytes tell how it is packed. Raises `DataError` where it is damaged, or packed by
    something else than xz or gzip."""
    try:
        if content.startswith(b"\xfd7zXZ\0"):
            return _unpacked_xz(content)
        if content.startswith(b"\x1f\x8b\x08"):
            return gzip.decompress(content)
    except _DAMAGE as error:
        raise DataError(name, f"cannot be unpacked: {error}") from None
    for packer, begin in _OTHER_PACKERS.items():
        if begin.match(content):
            raise DataError(name, f"is packed by {packer}; unpack it, or pack it by xz or gzip")
    return content


def _decoded(content: bytes, name: Path | str) -> str:
    """UTF-8 without a byte order mark, lines ended by newlines. A carriage return alone ends lines only where nothing
    else does (old Macs): elsewhere it is a character of a text."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1  # the object is the content without its mark
        message = (
            f"is not UTF-8 (byte {error.object[error.start]:#04x}); convert it first, for example with iconv"
        )
        raise DataError(name, message, line=line) from None
    return text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")


def read_bytes(path: Path | str) -> bytes:
    """What a file holds, unpacked. Raises `DataError` where it is missing or damaged."""
    path = Path(path)
    if path.is_dir():
        raise DataError(path, "is a folder; expected a file")
    try:
        return _unpacked(path.read_bytes(), path)
    except FileNotFoundError:
        raise DataError(path, "there is no such file") from None
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror or error}") from None


def read_text(path: Path | str) -> str:
    """The text of a file (UTF-8, plain or packed by gzip or xz), without a byte order mark, lines ended by newlines.
    Raises `DataError` where it is missing, damaged or not UTF-8."""
    return _decoded(read_bytes(path), path)


def read_lines(path: Path | str) -> list[str]:
    """The lines of a file's text, without empty ones at its end. Only newlines end them: a text may hold other
    separators (U+0085, U+2028)."""
    lines = read_text(path).split("\n")
    while lines and not lines[-1]:
        lines.pop()
    return lines


def parse_json(text: str, path: Path | str, line: int | None = None) -> object:
    """The value that a JSON text of a file holds, its line `line` or all of it. Raises `DataError` with the line where
    it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(path, f"is not JSON: {error.msg}", line=line or error.lineno) from None
    except RecursionError:
        raise DataError(path, "is JSON that nests too deeply to be read", line=line) from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(path, f"is JSON that cannot be read: {error}", line=line) from None


def read_json(path: Path | str) -> object:
    """The value that a JSON file holds. Raises `DataError` with the line where it is none."""
    return parse_json(read_text(path), path)


def read_members(path: Path, suffixes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name (`archive.tar.xz/folder/file.conll`) and text of every file of a tar archive with one of `suffixes`, packed
    or not, sorted by name. Raises `DataError` where the archive is damaged or cut, or such a member is a link."""
    content = read_bytes(path)
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                if not _fits(Path(member.name), suffixes):
                    continue
                if member.islnk() or member.issym():
                    message = f"is a link to {member.linkname}; pack files themselves (tar --dereference"
                    raise DataError(f"{path}/{member.name}", f"{message} --hard-dereference)")
                if member.isfile():
                    contents[member.name] = archive.extractfile(member).read()
            end = content[archive.offset : archive.offset + tarfile.BLOCKSIZE]
    except _DAMAGE as error:
        raise DataError(path, f"cannot be unpacked: {error}") from None
    if end != bytes(tarfile.BLOCKSIZE):  # tarfile takes a header that it cannot read for the archive's end
        raise DataError(
            path, f"is damaged or cut: what follows its first {archive.offset} bytes is no member"
        )
    if not contents:
        raise DataError(path, f"holds no file *{' or *'.join(suffixes)}")
    for name, content in sorted(contents.items()):
        full = f"{path}/{name}"
        yield full, _decoded(_unpacked(content, full), full)


def plain_name(path: Path | str) -> str:
    """The name of a file without the ending of its packing."""
    name = Path(path).name
    return name[:-3] if name.lower().endswith(PACKED) else name


def _hidden(name: str) -> bool:
    return name.startswith(".") and name != ".."


def _fits(path: Path, suffixes: Sequence[str]) -> bool:
    """path: below a folder or an archive; what lies in a hidden folder (.ipynb_checkpoints) is hidden too."""
    return plain_name(path).lower().endswith(tuple(suffixes)) and not any(map(_hidden, path.parts))


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(folder, f"cannot be read: {error.strerror or error}") from None


def _there(paths: Iterable[Path]) -> list[Path]:
    """Those that are files. A link to nothing is an error: a data set would be smaller, or lack its split."""
    files = []
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise DataError(path, f"is a link to {path.readlink()}, which is not there")
        if path.is_file():
            files.append(path)
    return files


def _files_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """What is below a folder and no folder, but for hidden ones, through links; a folder that several links lead to is
    read once, and is in `seen` then."""
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    for path in _inside(folder):
        if _hidden(path.name):
            continue
        if path.is_dir():
            yield from _files_below(path, seen)
        else:
            yield path


def _existing_folder(folder: Path | str) -> Path:
    if not Path(folder).is_dir():
        raise DataError(folder, "there is no such folder" if not Path(folder).exists() else "is not a folder")
    return Path(folder)


def find_file(folder: Path | str, stems: Sequence[str], suffixes: Sequence[str]) -> Path | None:
    """The file of `folder` that is called one of `stems` (case is ignored) with one of `suffixes` (".tsv"), packed
    (".xz", ".gz") or not; None where there is none. Raises `DataError` where the folder is missing or two files
    fit, or one is a link to nothing."""
    names = {stem.lower() + suffix for stem in stems for suffix in suffixes}
    found = _there(path for path in _inside(_existing_folder(folder)) if plain_name(path).lower() in names)
    if len(found) > 1:
        raise DataError(folder, f"both {found[0].name} and {found[1].name} could be meant; leave one of them")
    return found[0] if found else None


def files_below(folder: Path | str, suffixes: Sequence[str]) -> list[Path]:
    """The files below a folder with one of `suffixes`, packed or not, sorted; none where there are none. Raises
    `DataError` where the folder is missing, or a file is a link to nothing."""
    folder = Path(folder)
    if not folder.exists():
        raise DataError(folder, "there is no such file or folder")
    below = (file for file in _files_below(folder, set()) if _fits(file.relative_to(folder), suffixes))
    return _there(sorted(below))


def find_files(path: Path | str, suffixes: Sequence[str]) -> list[Path]:
    """`path` itself if it is a file; else `files_below`. Raises `DataError` where there are none."""
    path = Path(path)
    if path.is_file():
        return [path]
    found = files_below(path, suffixes)
    if not found:
        raise DataError(path, f"holds no file *{' or *'.join(suffixes)}, packed by xz or gzip or not")
    return found
