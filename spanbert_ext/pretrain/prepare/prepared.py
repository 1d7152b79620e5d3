# SPDX-License-Identifier: Apache-2.0
"""A prepared corpus: shards of tokenised documents, their tokenizer, and the manifest that names and checks them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset, IterableDataset, concatenate_datasets, load_dataset

from spanbert_ext.files.paths import given_path
from spanbert_ext.pretrain.prepare.shards import Shard, fault
from spanbert_ext.pretrain.rows.tokenizer import tokenizer_sha256
from spanbert_ext.pretrain.text.corpus_names import shown
from spanbert_ext.pretrain.text.manifest import PreparedError, read_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER = "tokenizer"


def check_tokenizer(name: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `PreparedError` for another tokenizer than the one that made the tokens of a prepared corpus."""
    folder = given_path(name)
    if tokenizer_sha256(tokenizer) != read_manifest(folder)["tokenizer"]["sha256"]:
        raise PreparedError(
            f"the corpus in {shown(folder)} was prepared with another tokenizer, which is in"
            f" {shown(folder / TOKENIZER)}: leave --tokenizer out, or prepare the corpus again"
        )


def shard_paths(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    return [folder / shard["file"] for shard in manifest["shards"]]


def verify(folder: Path, manifest: dict[str, Any]) -> None:
    """Raises `PreparedError` naming the first shard that is not as it was written. Reads them all."""
    for entry in manifest["shards"]:
        shard = Shard(**entry, sentence_lengths=[], document_lengths=[])
        wrong = fault(folder, shard)
        if wrong is not None:
            raise PreparedError(
                f"shard {shown(folder / shard.file)} {wrong}: copy the folder again, or make it again by"
                " spanbert-prepare --overwrite"
            )


def load_prepared(name: str | Path) -> Dataset:
    """The tokenised documents of the prepared corpus in a folder, in its order, memory-mapped; every shard is checked.

    Columns: `tokens` (int32 list), `sentence_lengths` (int32 list), `digest` (int64), and `candidates` (int32 list)
    where phrases were looked for. Raises `PreparedError`."""
    folder = given_path(name)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    try:
        shards = [Dataset.from_file(str(path)) for path in shard_paths(folder, manifest)]
    except (pa.ArrowException, OSError) as error:
        raise PreparedError(f"cannot read the shards in {shown(folder)}: {error}") from error
    documents = concatenate_datasets(shards)
    documents._fingerprint = manifest["fingerprint"]  # the same content has the same name, wherever it lies
    return documents


def stream_prepared(name: str | Path) -> IterableDataset:
    """The documents of a prepared corpus as a stream of its shards, for `datasets.distributed.split_dataset_by_node`.

    The shards are checked for presence and size alone. Raises `PreparedError`."""
    folder = given_path(name)
    manifest = read_manifest(folder)
    paths = shard_paths(folder, manifest)
    for path, shard in zip(paths, manifest["shards"], strict=True):
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            raise PreparedError(f"shard {shown(path)} is missing or not of {shard['bytes']:,} bytes")
    return load_dataset("arrow", data_files=[str(path) for path in paths], split="train", streaming=True)
