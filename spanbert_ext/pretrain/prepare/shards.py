# SPDX-License-Identifier: Apache-2.0
"""Tokenised documents on disk: Arrow files that are written whole or not at all, and the record of what is in each."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Features

from spanbert_ext.files.disk import sha256_of, sync, write_synced
from spanbert_ext.pretrain.rows.token_documents import CANDIDATES, COLUMNS
from spanbert_ext.pretrain.text.manifest import PROGRESS

_BATCH_DOCUMENTS, _BATCH_TOKENS = (
    1_000,
    1 << 20,
)  # a record batch ends with the document that reaches one of them
SENTENCE_BINS = 257  # lengths 0 ... 255, and longer
DOCUMENT_BINS = 128  # document lengths by quarters of a power of two


class TokenBatch(NamedTuple):
    """Some tokenised documents, in order, as few arrays."""

    texts: int  # documents before those without a token were left out
    size: int  # bytes of their text
    digests: np.ndarray  # int64 [D]
    tokens: np.ndarray  # int32 [all tokens]
    token_counts: np.ndarray  # int64 [D]
    sentence_lengths: np.ndarray  # int32 [all sentences]
    sentence_counts: np.ndarray  # int64 [D]
    candidates: np.ndarray | None  # int32 [all entries]
    candidate_counts: np.ndarray | None  # int64 [D]

    @classmethod
    def of(cls, columns: dict[str, list], texts: int, size: int) -> TokenBatch:
        """The batch with the columns that `tokenize_batch` returns."""

        def flat(name: str) -> tuple[np.ndarray, np.ndarray]:
            lists = columns[name]
            counts = np.array([len(one) for one in lists], dtype=np.int64)
            return np.concatenate(lists) if lists else np.zeros(0, dtype=np.int32), counts

        candidates = flat("candidates") if "candidates" in columns else (None, None)
        digests = np.array(columns["digest"], dtype=np.int64)
        return cls(texts, size, digests, *flat("tokens"), *flat("sentence_lengths"), *candidates)


class Shard(NamedTuple):
    """A finished shard."""

    file: str
    bytes: int
    sha256: str
    documents: int
    sentences: int
    tokens: int
    unknown: int  # tokens that are the unknown token
    candidates: int
    text_bytes: int
    sentence_lengths: list[int]  # how many sentences have 0, 1, ... tokens; the last: longer ones
    document_lengths: list[int]  # by `document_bin`


def document_bin(lengths: np.ndarray) -> np.ndarray:
    """The bin of each number of tokens, at least 1: bin b begins at 2 ** (b / 4)."""
    return np.floor(4 * np.log2(lengths)).astype(np.int64)


class _Checksummed:
    """A file that is written from the beginning to the end."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.digest = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()


class ShardWriter:
    """Writes one shard to a temporary name. `finish` puts it in place; without it nothing of that name appears.

    The bytes depend on the documents alone, not on the batches that they come in."""

    def __init__(self, path: Path, unknown_id: int | None, has_candidates: bool) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._unknown_id = unknown_id
        features = Features(COLUMNS | (CANDIDATES if has_candidates else {}))
        self._schema = features.arrow_schema
        self._file = _Checksummed(self._part)
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._file, "w"), self._schema)
        self._pending: dict[str, list[np.ndarray]] = {name: [] for name in self._schema.names}
        self._documents = self._tokens = 0  # pending
        self._sums = {
            "documents": 0,
            "sentences": 0,
            "tokens": 0,
            "unknown": 0,
            "candidates": 0,
            "text_bytes": 0,
        }
        self._sentence_lengths = np.zeros(SENTENCE_BINS, dtype=np.int64)
        self._document_lengths = np.zeros(DOCUMENT_BINS, dtype=np.int64)

    def write(self, batch: TokenBatch) -> None:
        self._count(batch)
        columns = {"tokens": (batch.tokens, batch.token_counts)}
        columns["sentence_lengths"] = batch.sentence_lengths, batch.sentence_counts
        if "candidates" in self._schema.names:
            columns["candidates"] = batch.candidates, batch.candidate_counts
        ends = {name: np.cumsum(counts) for name, (_, counts) in columns.items()}
        for document, value in enumerate(batch.digests):
            for name, (values, counts) in columns.items():
                end = ends[name][document]
                self._pending[name].append(values[end - counts[document] : end])
            self._pending["digest"].append(value)
            self._documents += 1
            self._tokens += int(batch.token_counts[document])
            if self._documents >= _BATCH_DOCUMENTS or self._tokens >= _BATCH_TOKENS:
                self._write_pending()

    def _count(self, batch: TokenBatch) -> None:
        self._sums["documents"] += len(batch.digests)
        self._sums["sentences"] += len(batch.sentence_lengths)
        self._sums["tokens"] += len(batch.tokens)
        self._sums["text_bytes"] += batch.size
        if self._unknown_id is not None:
            self._sums["unknown"] += int((batch.tokens == self._unknown_id).sum())
        if batch.candidates is not None:
            self._sums["candidates"] += len(batch.candidates) // 2
        lengths = np.minimum(batch.sentence_lengths, SENTENCE_BINS - 1)
        self._sentence_lengths += np.bincount(lengths, minlength=SENTENCE_BINS)
        self._document_lengths += np.bincount(document_bin(batch.token_counts), minlength=DOCUMENT_BINS)

    def _write_pending(self) -> None:
        arrays = []
        for field in self._schema:
            parts = self._pending[field.name]
            if pa.types.is_list(field.type):
                offsets = np.zeros(len(parts) + 1, dtype=np.int32)
                np.cumsum([len(part) for part in parts], out=offsets[1:])
                values = pa.array(np.concatenate(parts), type=field.type.value_type)
                arrays.append(pa.ListArray.from_arrays(pa.array(offsets), values, type=field.type))
            else:
                arrays.append(pa.array(np.array(parts), type=field.type))
            parts.clear()
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._documents = self._tokens = 0

    def finish(self) -> Shard:
        """Puts the shard in place, on the disk, and returns what is in it."""
        if self._documents:
            self._write_pending()
        self._writer.close()
        size = self._file.tell()
        self._file.close()
        os.replace(self._part, self._path)
        sync(self._path.parent)
        return Shard(
            file=self._path.name,
            bytes=size,
            sha256=self._file.digest.hexdigest(),
            sentence_lengths=self._sentence_lengths.tolist(),
            document_lengths=self._document_lengths.tolist(),
            **self._sums,
        )

    def abandon(self) -> None:
        """Leaves nothing behind."""
        self._file.file.close()
        self._part.unlink(missing_ok=True)


class Progress:
    """The shards of a folder that are finished: what a preparation that was stopped goes on from.

    Each line of the file is on the disk before the next shard begins; a last line that is not whole does not count."""

    def __init__(self, folder: Path, prefix: str, settings: dict[str, Any]) -> None:
        """Begins, or reads what a preparation of the same `settings` has finished.

        prefix: of the names of the shards and of the file, for several processes with a file each."""
        self.path = folder / (prefix + PROGRESS)
        self.shards: list[Shard] = []
        self.places: list[Any] = []  # where the shard after each begins
        lines = read_lines(self.path) if self.path.exists() else []
        for line in lines[1:] if not differences(lines, settings) else ():
            if "end" in line or fault(folder, Shard(**line["shard"])):
                break  # a damaged shard and what follows are made again
            self.shards.append(Shard(**line["shard"]))
            self.places.append(line["next"])
        rows = map(_line_of, self.shards, self.places)
        write_synced("".join(f"{line}\n" for line in (json.dumps(settings), *rows)), self.path)

    def add(self, shard: Shard, place: Any) -> None:
        """Records a shard that is in its place; the next one begins at `place`."""
        self._append(_line_of(shard, place))
        self.shards.append(shard)
        self.places.append(place)

    def end(self) -> None:
        """Records that there are no more."""
        self._append(json.dumps({"end": True}))

    def _append(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())


def _line_of(shard: Shard, place: Any) -> str:
    return json.dumps({"shard": shard._asdict(), "next": place})


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of progress."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def fault(folder: Path, shard: Shard) -> str | None:
    """What is wrong with a shard on the disk; None for one that is as it was written."""
    path = folder / shard.file
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != shard.bytes:
        return f"has {path.stat().st_size:,} bytes instead of {shard.bytes:,}"
    return None if sha256_of(path) == shard.sha256 else "has changed since it was written"


def differences(lines: list[dict[str, Any]], settings: dict[str, Any]) -> list[str]:
    """Which of the settings a file of progress, or one with no line, does not begin with; of a setting with names in it
    these too, as "versions (datasets, pyarrow)"."""
    found, wanted = (lines or [{}])[0], json.loads(json.dumps(settings))
    different = []
    for name, value in wanted.items():
        was = found.get(name)
        if was != value:
            within = differences([was], value) if isinstance(was, dict) and isinstance(value, dict) else []
            different.append(f"{name} ({', '.join(within)})" if within else name)
    return different
