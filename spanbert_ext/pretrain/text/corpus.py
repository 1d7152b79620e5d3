# SPDX-License-Identifier: Apache-2.0
"""Files, folders, patterns and datasets in, a table of documents out.

`load_documents` streams the corpus once into a memory-mapped Arrow table in the cache of the datasets library; a
second run over the same, unchanged files reads the table."""

from __future__ import annotations

import errno
import glob
import hashlib
import inspect
import os
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from datasets import Dataset, Features, Value

from spanbert_ext.files.messages import reason
from spanbert_ext.files.paths import empty_name, given_path
from spanbert_ext.pretrain.text import (
    builtin_corpus,
    corpus_names,
    file_search,
    records,
    sentences,
    text_files,
)
from spanbert_ext.pretrain.text.corpus_names import (
    DATASET,
    ENDINGS,
    Form,
    form_of,
    given_pattern,
    is_plain_text,
    literal_name,
    shown,
)
from spanbert_ext.pretrain.text.file_search import hidden_below, is_read, matches, walk
from spanbert_ext.pretrain.text.manifest import is_prepared, read_manifest
from spanbert_ext.pretrain.text.records import (
    dataset_state,
    is_saved_dataset,
    read_dataset,
    read_json_lines,
    read_parquet,
)
from spanbert_ext.pretrain.text.table_cache import cache_folder, cached_table
from spanbert_ext.pretrain.text.text_files import CorpusError, read_documents

_FEATURES = Features({"text": Value("large_string"), "source": Value("string"), "digest": Value("int64")})
_NAMED = 3  # files, as examples of many
_SPECIAL = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


def find_files(corpus: Sequence[str]) -> list[Path]:
    """The files that `corpus` names, each once, in the order given (a folder's and a pattern's files sorted).

    `corpus`: files, folders (searched in depth, without what is hidden in them) and glob patterns (`**` allowed; like a
    search in depth it does not enter folders by symbolic links). Raises `CorpusError` for a name that matches nothing,
    for a file whose name has no ending that `form_of` knows, and for files and folders among them that the user may
    not read."""
    return [Path(name) for name in find_sources(corpus)]


def find_sources(corpus: Sequence[str]) -> list[str]:
    """As `find_files`, with datasets (`dataset:...`) by their names. Raises `CorpusError`."""
    found: dict[str, str] = {}  # by what a file is called where no link leads to it
    for name in corpus:
        for source in [name] if name.startswith(DATASET) else map(str, _find_files(name)):
            found.setdefault(source if source.startswith(DATASET) else os.path.realpath(source), source)
    return list(found.values())


def _find_files(name: str) -> list[Path]:
    try:
        return _find(name)
    except CorpusError:
        raise
    except (OSError, ValueError) as error:  # too long, not to be entered, a pattern that is none
        raise CorpusError(f"corpus {shown(name)!r} cannot be looked for: {reason(error)}") from error


def _find(name: str) -> list[Path]:
    if wrong := empty_name({"--corpus": name}):
        raise CorpusError(wrong)
    path = given_path(name)
    if path.is_dir():
        if is_prepared(name):
            read_manifest(path)  # says so when the preparation has not ended
            raise CorpusError(
                f"corpus folder {shown(path)} was prepared by spanbert-prepare: give it alone, and to spanbert-pretrain"
            )
        if is_saved_dataset(path):
            named = shlex.quote(DATASET + shown(name))
            raise CorpusError(
                f"corpus folder {shown(path)} was saved by the datasets library: name it {named}"
            )
        found = sorted(p for p in _files_below(path) if is_read(p.name) and _is_file(p))
        if not found:
            others = _say_others(path)
            raise CorpusError(
                f"corpus folder {shown(path)} holds no file that ends in {ENDINGS}{others and f', but {others}'}"
            )
        return _readable(found)
    if path.is_file():
        if form_of(path.name) is None:
            raise CorpusError(f"corpus file {shown(path)} does not end in {ENDINGS}, nor in .md or .rst")
        return _readable([path])
    kind = _special_kind(path)
    if kind is not None:
        raise CorpusError(
            f"corpus {shown(name)!r} is {kind}, which can be read only once, and a corpus is read several times: write"
            " it to a file. Packed files (.gz, .xz, .bz2, .zst) are read as they are."
        )
    pattern = given_pattern(name)
    found = [] if pattern is None else sorted(filter(_is_file, matches(pattern)))
    if not found:
        only = name if pattern is None else literal_name(name)
        if only is not None:
            raise CorpusError(f"corpus {shown(only)!r} {_absence(given_path(only))}")
        hidden = list(matches(pattern, hidden=True))
        others = f", but {_say_hidden(hidden)}" if hidden else ""
        raise CorpusError(f"corpus {shown(name)!r} matches no file that ends in {ENDINGS}{others}")
    return _readable(found)


def _readable(files: list[Path]) -> list[Path]:
    """`files`, after a look at their permissions: one of them may be read only after hours."""
    for path in files:
        if not os.access(path, os.R_OK):
            raise CorpusError(
                f"corpus file {shown(path)} cannot be read by you: change its permissions, or move it away"
            )
    return files


def _files_below(folder: Path) -> Iterator[Path]:
    return (root / name for root, _, names in walk(folder) for name in names)


def _absence(path: Path) -> str:
    """Why there is neither a file nor a folder."""
    return _not_a_file(path) if path.is_symlink() else "does not exist"


def _is_file(path: Path) -> bool:
    """Whether it is a file, or a link to one. Raises OSError where that cannot be known."""
    return _not_a_file(path) is None


def _not_a_file(path: Path) -> str | None:
    """What stands in the place of a file, as "is a pipe"; None for a file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "is a link that leads nowhere" if path.is_symlink() else "is gone"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return "is a link that leads in a circle"
    if stat.S_ISREG(mode):
        return None
    return f"is {next((kind for is_kind, kind in _SPECIAL.items() if is_kind(mode)), 'no file')}"


def passed_over(corpus: Sequence[str]) -> list[str]:
    """For each folder and pattern in `corpus` with files that are not read, a line that says how many and names
    some."""
    lines = []
    for name in corpus:
        if not name or name.startswith(DATASET):
            continue
        path = given_path(name)
        if path.is_dir():
            others = _say_others(path)
        elif (pattern := given_pattern(name)) is not None:
            hidden = _say_hidden(matches(pattern, hidden=True))
            others = "; ".join(part for part in (hidden, _say_not_files(matches(pattern))) if part)
        else:
            others = ""
        if others:
            lines.append(f"Passed over in {shown(path)}: {others}.")
    return lines


def _say_others(folder: Path) -> str:
    """What is not read in a folder, hidden files of other endings left out; empty where that is nothing."""
    others, links, named = [], [], []
    for root, folders, names in walk(folder):
        links += [root / name for name in folders if (root / name).is_symlink()]
        others += [root / name for name in names if not is_read(name)]
        named += [root / name for name in names if is_read(name)]
    parts = []
    if others:
        said = _counted(others, folder, "file", " of other endings")
        markup = next((path for path in others if is_plain_text(path.name)), None)
        if markup is not None:
            pattern = os.path.join(glob.escape(os.path.abspath(folder)), "**", f"*{markup.suffix}")
            said += f"; a pattern reads such text: --corpus {shlex.quote(shown(pattern))}"
        parts.append(said)
    if links:
        parts.append(_counted(links, folder, "link", " to folders") + ", which are read where they are named")
    parts += [_say_hidden(hidden_below(folder), folder), _say_not_files(named, folder)]
    return "; ".join(part for part in parts if part)


def _say_hidden(paths: Iterable[Path], folder: Path | None = None) -> str:
    found = sorted(paths)
    if not found:
        return ""
    return _counted(found, folder, "hidden file") + ", which are read where they are named"


def _say_not_files(paths: Iterable[Path], folder: Path | None = None) -> str:
    """Those of `paths` that have a name that is read and are no file; empty where there are none."""
    found = [(path, what) for path in sorted(paths) if (what := _not_a_file(path)) is not None]
    found = [
        (path, what) for path, what in found if what != "is no file"
    ]  # a folder of such a name is searched
    return ", ".join(
        [f"{shown(path.relative_to(folder) if folder else path)} {what}" for path, what in found[:_NAMED]]
        + ["..."] * (len(found) > _NAMED)
    )


def _counted(paths: Sequence[Path], folder: Path | None, what: str, which: str = "") -> str:
    some = ", ".join(shown(path.relative_to(folder) if folder else path) for path in paths[:_NAMED])
    more = ", ..." * (len(paths) > _NAMED)
    return f"{len(paths):,} {what}{'s' * (len(paths) > 1)}{which} ({some}{more})"


def _special_kind(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return next((kind for is_kind, kind in _SPECIAL.items() if is_kind(mode)), None)


def read_source(source: str, separator: str | None = None, text_field: str = "text") -> Iterator[str]:
    """The documents of one of `find_sources`. `separator` concerns text files, `text_field` all others.

    Raises `CorpusError` naming it and the reason."""
    if source.startswith(DATASET):
        return read_dataset(source, text_field)
    path = Path(source)
    form = form_of(path.name)
    if form == "parquet":
        return read_parquet(path, text_field)
    if form == "json":
        return read_json_lines(path, text_field)
    return read_documents(path, separator)


def source_state(source: str) -> tuple[str, Form | None, int, int] | tuple[str, str]:
    """What changes when the documents of one of `find_sources` do: a file's name where no link leads to it, the form
    that it has by its own name, size and time; a dataset's own word."""
    if source.startswith(DATASET):
        return source, dataset_state(source)
    path = Path(source)
    real = path.resolve()  # its name may be another's, without an ending: a cache of the hub has such links
    status = real.stat()
    return str(real), form_of(path.name), status.st_size, status.st_mtime_ns


def _absolute_name(source: str) -> str:
    """By which a file is read, and its form is known: no link in it is followed."""
    return source if source.startswith(DATASET) else str(Path(source).absolute())


def check_separator(separator: str | None) -> None:
    """Raises `CorpusError` for one that no line can be."""
    if separator is not None and (not separator.strip() or "\n" in separator.strip()):
        raise CorpusError(f"--document-separator is {separator!r}, expected a line that is not blank")


def digest(text: str) -> int:
    """64-bit content hash as a signed integer: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _generate(
    sources: tuple[tuple, ...], separator: str | None, text_field: str, rules: str
) -> Iterator[dict[str, str | int]]:
    """Rows of the document table. What a source has beyond its name, and `rules`, only keys the cache."""
    if not sources:
        for source, text in builtin_corpus.builtin_documents():
            yield {"text": text, "source": source, "digest": digest(text)}
    for name, *_ in sources:
        for text in read_source(name, separator, text_field):
            yield {"text": text, "source": shown(name), "digest": digest(text)}


def load_documents(
    corpus: Sequence[str],
    cache_dir: str | None = None,
    *,
    separator: str | None = None,
    text_field: str = "text",
) -> Dataset:
    """All documents of `corpus` (empty: the interpreter's own English), memory-mapped.

    separator: a line that ends a document of a text file, in the place of a blank one. text_field: of JSON lines,
    Parquet files and datasets. Columns: `text`, `source` (file or topic), `digest` (int64 content hash). Raises
    `CorpusError`.
    """
    check_separator(separator)
    states = tuple((_absolute_name(source), source_state(source)) for source in find_sources(corpus))
    modules = (
        sys.modules[__name__],
        corpus_names,
        file_search,
        text_files,
        records,
        sentences,
        builtin_corpus,
    )
    rules = "".join(map(inspect.getsource, modules)) + sys.version
    key = {
        "sources": states,
        "separator": separator,
        "text_field": text_field,
        "rules": hashlib.blake2b(rules.encode(), digest_size=8).hexdigest(),
    }
    if states and not any(True for name, *_ in states for _ in read_source(name, separator, text_field)):
        names = [shown(name) for name, *_ in states[:5]]
        raise CorpusError(f"the corpus is empty: no text in {', '.join(names)}")
    for line in passed_over(corpus):
        print(line, flush=True)
    name = hashlib.blake2b(os.fsencode(repr(key)), digest_size=16).hexdigest()
    folder = cache_folder(cache_dir, name)
    return cached_table(
        lambda: Dataset.from_generator(
            _generate,
            features=_FEATURES,
            gen_kwargs=key,
            cache_dir=str(folder),
            writer_batch_size=64,  # documents that are kept until they are written
        ),
        folder,
    )
