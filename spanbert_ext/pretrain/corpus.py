"""Text files in, documents out: finding, reading, checking and splitting the corpus.
 A document is a run of non-blank lines. `load_documents` streams the files once into a memory-mapped Arrow
table in the cache of the datasets library; a second run over the same, unchanged files reads the table."""

from __future__ import annotations

import glob
import gzip
import hashlib
import inspect
import lzma
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Value

from spanbert_ext.pretrain import builtin_corpus

SUFFIXES = (".txt", ".txt.gz", ".txt.xz")
_FEATURES = Features({"text": Value("large_string"), "source": Value("string"), "digest": Value("int64")})


class CorpusError(ValueError):
    """The corpus cannot be used; the message names the file and the reason."""


def find_files(corpus: Sequence[str]) -> list[Path]:
    """The text files that `corpus` names, each once, in the order given (a folder's and a pattern's files
    sorted).

    `corpus`: files, folders (searched in depth) and glob patterns (`**` allowed). Raises `CorpusError` for
    a name that matches nothing and for a file whose name does not end in .txt, .txt.gz or .txt.xz."""
    found: dict[Path, None] = {}
    for name in corpus:
        path = Path(name).expanduser()
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.name.endswith(SUFFIXES) and p.is_file())
            if not matches:
                raise CorpusError(f"corpus folder {path} holds no file that ends in {', '.join(SUFFIXES)}")
        elif path.is_file():
            if not path.name.endswith(SUFFIXES):
                raise CorpusError(f"corpus file {path} does not end in {', '.join(SUFFIXES)}")
            matches = [path]
        else:
            hits = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(name) else []
            matches = [Path(p) for p in hits if p.endswith(SUFFIXES) and Path(p).is_file()]
            if not matches:
                reason = "matches no text file" if glob.has_magic(name) else "does not exist"
                raise CorpusError(f"corpus {name!r} {reason}")
        found.update(dict.fromkeys(matches))
    return list(found)


def read_documents(path: Path) -> Iterator[str]:
    """Yields the documents of one UTF-8 file, lines stripped and joined by newlines.

    Raises `CorpusError` naming the file, and for a wrong encoding the line and the byte offset (of the
    decompressed text), for a damaged or unreadable file."""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    offset, lines = 0, []
    try:
        with opener(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode().removeprefix("\ufeff").strip()
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at byte offset"
                        f" {offset + error.start}, line {number}; convert it first, for example with"
                        " iconv -f LATIN1 -t UTF-8"
                    ) from None
                if "\0" in line:
                    raise CorpusError(
                        f"{path} is not text: NUL byte at byte offset {offset + raw.index(0)}, line {number}"
                    )
                offset += len(raw)
                if line:
                    lines.append(line)
                elif lines:
                    yield "\n".join(lines)
                    lines = []
    except (OSError, EOFError, lzma.LZMAError) as error:  # gzip.BadGzipFile is an OSError
        raise CorpusError(f"cannot read {path} after {offset} bytes of text: {error}") from error
    if lines:
        yield "\n".join(lines)


def _digest(text: str) -> int:
    """64-bit content hash as a signed integer: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _generate(files: tuple[tuple[str, int, int], ...], rules: str) -> Iterator[dict[str, str | int]]:
    """Rows of the document table. `files` (path, size, modification time) and `rules` only key the cache."""
    if not files:
        for source, text in builtin_corpus.builtin_documents():
            yield {"text": text, "source": source, "digest": _digest(text)}
    for name, _, _ in files:
        for text in read_documents(Path(name)):
            yield {"text": text, "source": name, "digest": _digest(text)}


def load_documents(corpus: Sequence[str], cache_dir: str | None = None) -> Dataset:
    """All documents of `corpus` (empty: the interpreter's own English), memory-mapped.

    Columns: `text`, `source` (file or topic), `digest` (int64 content hash). Raises `CorpusError`.
    """
    files = [path.resolve() for path in find_files(corpus)]
    rules = "".join(map(inspect.getsource, (sys.modules[__name__], builtin_corpus))) + sys.version
    key = {
        "files": tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files),
        "rules": hashlib.blake2b(rules.encode(), digest_size=8).hexdigest(),
    }
    if files and not any(True for path in files for _ in read_documents(path)):
        raise CorpusError(f"the corpus is empty: no text in {', '.join(map(str, files[:5]))}")
    try:
        return Dataset.from_generator(_generate, features=_FEATURES, gen_kwargs=key, cache_dir=cache_dir)
    except Exception as error:  # the datasets library wraps what its generator raises
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, CorpusError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def split_documents(documents: Dataset, held_out: float) -> tuple[Dataset, Dataset]:
    """Splits whole documents into training and held-out ones: those with the smallest content hashes are
    held out.

    The choice depends on the texts alone, not on file order or seed, and equal documents stay together.
    `held_out` is a share of the documents (at least one). Raises `CorpusError` when nothing would be left
    on one side."""
    digests = np.asarray(documents.data.column("digest"))
    count = math.ceil(held_out * len(digests))
    threshold = np.sort(digests)[min(count, len(digests)) - 1]
    chosen = digests <= threshold
    if chosen.all():
        raise CorpusError(
            f"the corpus has {len(digests)} document(s), {len(set(digests.tolist()))} of them different:"
            f" holding out a share of {held_out} leaves none for training. A blank line"
            " ends a document; give at least two different ones."
        )
    return documents.select(np.flatnonzero(~chosen)), documents.select(np.flatnonzero(chosen))
