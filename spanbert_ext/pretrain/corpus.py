"""Files, folders and patterns in, a table of documents out.
 A document is a run of non-blank lines. `load_documents` streams the files once into a memory-mapped Arrow
table in the cache of the datasets library; a second run over the same, unchanged files reads the table."""

from __future__ import annotations

import glob
import hashlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets import Dataset, Features, Value

from spanbert_ext.pretrain import builtin_corpus, text_files
from spanbert_ext.pretrain.text_files import CorpusError, read_documents

SUFFIXES = (".txt", ".txt.gz", ".txt.xz", ".txt.bz2", ".txt.zst")
_FEATURES = Features({"text": Value("large_string"), "source": Value("string"), "digest": Value("int64")})


def find_files(corpus: Sequence[str]) -> list[Path]:
    """The text files that `corpus` names, each once, in the order given (a folder's and a pattern's files
    sorted).

    `corpus`: files, folders (searched in depth) and glob patterns (`**` allowed; like a search in depth it does not
    enter folders by symbolic links). Raises `CorpusError` for a name that matches nothing and for a file whose name
    does not end as one of `SUFFIXES`."""
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
            matches = sorted(_matches(path)) if glob.has_magic(name) else []
            if not matches:
                reason = "matches no text file" if glob.has_magic(name) else "does not exist"
                raise CorpusError(f"corpus {name!r} {reason}")
        found.update(dict.fromkeys(matches))
    return list(found)


def _matches(pattern: Path) -> Iterator[Path]:
    root = Path(pattern.anchor)
    for path in root.glob(str(pattern.relative_to(root))):
        if path.name.endswith(SUFFIXES) and path.is_file():
            yield path


def digest(text: str) -> int:
    """64-bit content hash as a signed integer: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _generate(files: tuple[tuple[str, int, int], ...], rules: str) -> Iterator[dict[str, str | int]]:
    """Rows of the document table. `files` (path, size, modification time) and `rules` only key the cache."""
    if not files:
        for source, text in builtin_corpus.builtin_documents():
            yield {"text": text, "source": source, "digest": digest(text)}
    for name, _, _ in files:
        for text in read_documents(Path(name)):
            yield {"text": text, "source": name, "digest": digest(text)}


def load_documents(corpus: Sequence[str], cache_dir: str | None = None) -> Dataset:
    """All documents of `corpus` (empty: the interpreter's own English), memory-mapped.

    Columns: `text`, `source` (file or topic), `digest` (int64 content hash). Raises `CorpusError`.
    """
    files = list(dict.fromkeys(path.resolve() for path in find_files(corpus)))
    modules = (sys.modules[__name__], text_files, builtin_corpus)
    rules = "".join(map(inspect.getsource, modules)) + sys.version
    key = {
        "files": tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files),
        "rules": hashlib.blake2b(rules.encode(), digest_size=8).hexdigest(),
    }
    if files and not any(True for path in files for _ in read_documents(path)):
        raise CorpusError(f"the corpus is empty: no text in {', '.join(map(str, files[:5]))}")
    try:
        return Dataset.from_generator(
            _generate,
            features=_FEATURES,
            gen_kwargs=key,
            cache_dir=cache_dir,
            writer_batch_size=64,  # documents that are kept until they are written
        )
    except Exception as error:  # the datasets library wraps what its generator raises
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, CorpusError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None
