# SPDX-License-Identifier: Apache-2.0
"""Records in, documents out: JSON lines, Parquet files and datasets, each record with a text in a field of a name.

A document is the text of a record without its blank lines: the same text gives the same document from any kind of
file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spanbert_ext.files.paths import given_path
from spanbert_ext.pretrain.text.corpus_names import DatasetName, shown
from spanbert_ext.pretrain.text.text_files import (
    LONGEST_DOCUMENT,
    CorpusError,
    limited,
    read_text,
    stripped,
    unix_lines,
)

_LONGEST_RECORD = 16 * LONGEST_DOCUMENT  # characters of a line of JSON
_ROWS = 64  # of a Parquet file that are read at once


def record_documents(text: Any, where: str, field: str = "text") -> Iterator[str]:
    """The documents of one record: none for an empty or missing text, several for a very long one."""
    if text is None:
        return
    if not isinstance(text, str):
        raise CorpusError(f"{where}: field {field!r} is of type {type(text).__name__}, expected a text")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may escape it
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    lines = map(stripped, unix_lines(text).split("\n"))
    text = "\n".join(line for line in lines if line)
    if text:
        yield from limited(text)


def _no_field(where: str, field: str, fields: Iterable[str]) -> CorpusError:
    return CorpusError(
        f"{where} has no field {field!r}, but {', '.join(map(repr, fields)) or 'none at all'}: name the one that holds"
        " the text with --text-field"
    )


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file. Raises `CorpusError` for one that would fill the memory."""
    begun: list[str] = []
    size = number = 0
    for piece in read_text(path):
        *ended, rest = piece.split("\n")
        for part in ended:
            yield "".join((*begun, part)) if begun else part
            begun, size = [], 0
        number += len(ended)
        begun.append(rest)
        size += len(rest)
        if size > _LONGEST_RECORD:
            raise CorpusError(
                f"{shown(path)}, line {number + 1} has more than {_LONGEST_RECORD:,} characters, expected a record of"
                " JSON a line"
            )
    yield "".join(begun)


def read_json_lines(path: Path, field: str) -> Iterator[str]:
    """The documents of a file with a JSON object a line, packed and encoded as `read_documents` allows.

    Blank lines are passed over. Raises `CorpusError` naming the file and the line."""
    for number, line in enumerate(_lines(path), 1):
        if not line or line.isspace():
            continue
        where = f"{shown(path)}, line {number}"
        try:
            record = json.loads(line.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where} is not JSON: {error or 'nested too deep'}") from None
        if not isinstance(record, dict):
            raise CorpusError(f"{where} is a JSON {type(record).__name__}, expected an object with fields")
        if field not in record:
            raise _no_field(where, field, record)
        yield from record_documents(record[field], where, field)


def read_parquet(path: Path, field: str) -> Iterator[str]:
    """The documents of a Parquet file. Raises `CorpusError` naming the file."""
    where = shown(path)
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise _no_field(where, field, names)
            for batch in file.iter_batches(batch_size=_ROWS, columns=[field], use_threads=False):
                for text in batch.column(0).to_pylist():
                    yield from record_documents(text, where, field)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {where}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` of the datasets library made it."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _open_dataset(name: str) -> Any:
    """A split of a dataset in a folder or on the hub: rows that are read one after another, or at their places."""
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    path, configuration, split = DatasetName.parse(name)
    folder = given_path(path)
    try:
        if is_saved_dataset(folder):
            found = load_from_disk(str(folder))
            if isinstance(found, Dataset):
                return found
            if split not in found:
                raise CorpusError(f"corpus {name!r} has no split {split!r}, but {', '.join(found)}")
            assert isinstance(found, DatasetDict)
            return found[split]
        return load_dataset(
            str(folder) if folder.is_dir() else path, configuration, split=split, streaming=True
        )
    except CorpusError:
        raise
    except Exception as error:  # no such name, no network, no such configuration: many types
        raise CorpusError(
            f"corpus {name!r} cannot be opened ({type(error).__name__}: {_first_line(error)}); expected"
            " dataset:NAME[@CONFIGURATION][:SPLIT], a folder or a name on the Hugging Face hub"
        ) from error


def read_dataset(name: str, field: str) -> Iterator[str]:
    """The documents of a dataset, `dataset:PATH[@CONFIGURATION][:SPLIT]`. Raises `CorpusError` naming it."""
    rows = _open_dataset(name)
    columns = rows.column_names
    if columns is not None:  # a stream may not know them
        if field not in columns:
            raise _no_field(f"corpus {name!r}", field, columns)
        rows = rows.select_columns([field])
    try:
        for row in rows:
            if field not in row:
                raise _no_field(f"corpus {name!r}", field, row)
            yield from record_documents(row[field], f"corpus {name!r}", field)
    except CorpusError:
        raise
    except Exception as error:  # of the network or of a file's content
        raise CorpusError(
            f"cannot read corpus {name!r}: {type(error).__name__}: {_first_line(error)}"
        ) from error


def dataset_state(name: str) -> str:
    """What changes when the content of a dataset does: its fingerprint, or the versions of its files."""
    from datasets import Dataset, load_dataset_builder

    rows = _open_dataset(name)
    if isinstance(rows, Dataset):
        return rows._fingerprint
    path, configuration, _ = DatasetName.parse(name)
    folder = given_path(path)
    return str(load_dataset_builder(str(folder) if folder.is_dir() else path, configuration).cache_dir)
