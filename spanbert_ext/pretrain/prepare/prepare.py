# SPDX-License-Identifier: Apache-2.0
"""`spanbert-prepare` from the top to the bottom: sources, tokenizer, shards, manifest, report."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from spanbert_ext._version import __version__
from spanbert_ext.files.bars import bars_shown
from spanbert_ext.files.disk import explained, removed_where_empty, sync, sync_tree, write_synced
from spanbert_ext.files.lock import LOCK_FILE, run_lock
from spanbert_ext.files.messages import reason
from spanbert_ext.files.paths import empty_name, given_path
from spanbert_ext.pretrain.prepare.prepared import TOKENIZER, verify
from spanbert_ext.pretrain.prepare.shards import Progress, Shard, differences, read_lines
from spanbert_ext.pretrain.prepare.summary import HISTOGRAM, REPORT, draw_lengths, report_text
from spanbert_ext.pretrain.prepare.write_shards import DOCUMENTS_PER_SHARD, Placed, has_begun, write_shards
from spanbert_ext.pretrain.rows.tokenizer import (
    SPECIAL_TOKENS,
    TokenizerError,
    load_tokenizer,
    tokenizer_sha256,
    train_tokenizer,
)
from spanbert_ext.pretrain.settings.bars import library_bars
from spanbert_ext.pretrain.text.corpus import (
    check_separator,
    find_sources,
    passed_over,
    read_source,
    source_state,
)
from spanbert_ext.pretrain.text.corpus_names import DATASET, is_plain_text, shown, typed
from spanbert_ext.pretrain.text.manifest import (
    FORMAT,
    MANIFEST,
    PROGRESS,
    PreparedError,
    is_prepared,
    read_manifest,
)
from spanbert_ext.pretrain.text.phrases import phrase_finder
from spanbert_ext.pretrain.text.text_files import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NOT_IN_MANIFEST = ("sentence_lengths", "document_lengths")
_VERSIONS = ("datasets", "pyarrow", "tokenizers", "transformers")


@dataclass
class PrepareOptions:
    """One preparation. Only the first group decides what the shards hold."""

    corpus: list[str] = field(default_factory=list)
    document_separator: str | None = (
        None  # a line that ends a document of a text file, in the place of a blank one
    )
    text_field: str = "text"  # of JSON lines, Parquet and datasets
    tokenizer: str | None = None  # None: trained on the corpus
    vocab_size: int = 28_996  # of one that is trained
    unused_ids: int = 100  # of these, [unused0] and on, reserved for later use
    phrases: str | None = None  # "entities" or "noun-phrases": their token spans are kept as candidates
    documents_per_shard: int = DOCUMENTS_PER_SHARD

    output: str = "prepared"
    workers: int = 0  # 0: one a core
    overwrite: bool = False
    progress: bool = True

    def check(self) -> None:
        """Raises `PreparedError` or `CorpusError` naming the option, and ImportError for phrases that nothing installed
        can find."""
        for name, least in {"vocab_size": 100, "documents_per_shard": 1, "workers": 0}.items():
            if not least <= getattr(self, name) < 2**31:
                value = getattr(self, name)
                raise PreparedError(
                    f"--{name.replace('_', '-')} is {value}, expected an integer of at least {least}"
                )
        if not 0 <= self.unused_ids < self.vocab_size - len(SPECIAL_TOKENS):
            raise PreparedError(
                f"--unused-ids is {self.unused_ids}, expected less than --vocab-size {self.vocab_size} without"
                f" {len(SPECIAL_TOKENS)} special tokens, and at least 0"
            )
        names = {"--text-field": self.text_field, "--tokenizer": self.tokenizer, "--output": self.output}
        if wrong := empty_name(names):
            raise PreparedError(wrong)
        if not self.corpus:
            raise PreparedError("--corpus names nothing to prepare")
        check_separator(self.document_separator)
        if self.phrases is not None:
            phrase_finder(self.phrases)  # says what is missing before anything is done


def prepare(options: PrepareOptions) -> dict[str, Any]:
    """Prepares a corpus, goes on with a preparation that was stopped, or does nothing for a finished one; returns the
    manifest.

    Writes into `options.output`: shards, the folder tokenizer, manifest.json, report.md and lengths.png. The shards
    are the same bytes for the same documents, whatever the number of processes. Raises `CorpusError`,
    `TokenizerError`, `PreparedError`, `InUse` and `DiskError`, each naming what is wrong and where."""
    options.check()
    with contextlib.ExitStack() as during:
        during.enter_context(library_bars(options.progress))
        sources = find_sources(options.corpus)
        settings = _settings(options, sources)
        folder = given_path(options.output)
        if _is_finished(folder, settings, options.overwrite):
            return read_manifest(folder)
        if next(_documents_from(sources, options, None), None) is None:
            raise CorpusError(f"the corpus is empty: no text in {', '.join(map(shown, sources[:5]))}")
        for line in passed_over(options.corpus):
            print(line, flush=True)
        during.enter_context(removed_where_empty(folder))
        with explained("The prepared corpus", folder):
            folder.mkdir(parents=True, exist_ok=True)
            during.enter_context(run_lock(folder))
        # once more: another preparation may have ended before the lock was ours
        if _is_finished(folder, settings, options.overwrite):
            return read_manifest(folder)
        begun = not options.overwrite and has_begun(folder, "", settings)
        tokenizer = _tokenizer(options, sources, folder if begun else None)
        with explained("The prepared corpus", folder):
            if not begun:
                delete_prepared(folder)
                Progress(folder, "", settings)  # marks the folder as a preparation's
            return _write(options, sources, settings, folder, tokenizer)


def _settings(options: PrepareOptions, sources: list[str]) -> dict[str, Any]:
    """What the shards depend on, for JSON: two preparations that are equal in it may be parts of one."""
    names = ("document_separator", "text_field", "vocab_size", "unused_ids", "phrases", "documents_per_shard")
    if options.tokenizer is not None:
        names = tuple(name for name in names if name not in ("vocab_size", "unused_ids"))
    tokenizer = options.tokenizer
    if tokenizer is not None and os.path.isdir(given_path(tokenizer)):  # of any name, reached or not
        tokenizer = os.path.abspath(given_path(tokenizer))
    return {
        "sources": [list(source_state(source)) for source in sources],
        "tokenizer": tokenizer,
        **{name: getattr(options, name) for name in names},
        "versions": {
            "spanbert_ext": __version__,
            **{name: importlib.metadata.version(name) for name in _VERSIONS},
        },
    }


def _is_finished(folder: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether there is nothing to do. Raises `PreparedError` where the folder holds anything else than the beginning
    of a preparation, and where that cannot be known."""
    try:
        return _holds_it(folder, settings, overwrite)
    except OSError as error:  # another user's, a name too long, a disk that is gone
        raise PreparedError(f"--output {shown(folder)} cannot be looked into: {reason(error)}") from error


def _holds_it(folder: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    if folder.exists() and not folder.is_dir():
        raise PreparedError(f"--output {shown(folder)} is a file, expected a folder")
    if not folder.is_dir() or not any(path.name != LOCK_FILE for path in folder.iterdir()):
        return False
    if not is_prepared(str(folder)):
        raise PreparedError(
            f"--output {shown(folder)} is not empty and holds no prepared corpus: choose another folder"
        )
    if os.path.lexists(folder / TOKENIZER) and not (folder / TOKENIZER).is_dir():
        raise PreparedError(
            f"{shown(folder / TOKENIZER)} is no folder, and a tokenizer goes there: move it away"
        )
    if overwrite or not (folder / MANIFEST).is_file():
        return False
    manifest = read_manifest(folder)
    if different := differences([manifest["settings"]], settings):
        raise PreparedError(
            f"--output {shown(folder)} already holds a prepared corpus that differs in {', '.join(different)}: delete"
            " it with --overwrite, or choose another folder"
        )
    verify(folder, manifest)
    return True


def delete_prepared(folder: Path) -> None:
    """Deletes what a preparation has written, and nothing else; last of all what marks the folder as one's."""
    for name in (TOKENIZER, f"{TOKENIZER}.part"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for pattern in ("*shard-*.arrow", "*shard-*.arrow.part", REPORT, HISTOGRAM, f"*{PROGRESS}", MANIFEST):
        for path in folder.glob(pattern):
            path.unlink()


def _documents_from(sources: list[str], options: PrepareOptions, place: list[int] | None) -> Iterator[Placed]:
    """Documents from a place on: [number of the source, documents of it that come before]."""
    first, passed = place or (0, 0)
    for number in range(first, len(sources)):
        documents = read_source(sources[number], options.document_separator, options.text_field)
        for count, text in enumerate(documents, 1):
            if number > first or count > passed:
                yield text, [number, count]


def _tokenizer(options: PrepareOptions, sources: list[str], begun: Path | None) -> PreTrainedTokenizerBase:
    """The one that is named, or one trained on the corpus: that of the unfinished preparation in the folder `begun`."""
    saved = None
    if begun is not None and (begun / TOKENIZER).is_dir():
        saved = _begun_tokenizer(begun / TOKENIZER, trained=options.tokenizer is None)
    if options.tokenizer is not None:
        tokenizer = load_tokenizer(options.tokenizer)
        if saved is not None and tokenizer_sha256(tokenizer) != tokenizer_sha256(saved):
            raise PreparedError(
                f"the preparation in {shown(begun)} began with another tokenizer of the name {options.tokenizer!r}:"
                " delete it with --overwrite, or choose another folder"
            )
        return tokenizer
    if saved is not None:
        return saved
    print(f"Training a vocabulary of {options.vocab_size:,} pieces.", flush=True)
    return train_tokenizer(
        lambda: (text for text, _ in _documents_from(sources, options, None)),
        options.vocab_size,
        options.unused_ids,
    )


def _begun_tokenizer(folder: Path, *, trained: bool) -> PreTrainedTokenizerBase:
    """That of an unfinished preparation. Raises `TokenizerError` with the remedy."""
    try:
        return load_tokenizer(str(folder))
    except TokenizerError as error:
        remedy = (
            f"delete the folder (rm -r {typed(folder)}), and the same one is trained again on the same text"
            if trained
            else "begin anew with --overwrite"
        )
        raise TokenizerError(f"{error}. The preparation began with it: {remedy}") from error


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Whole or not at all."""
    if (folder / TOKENIZER).is_dir():
        return
    part = folder / f"{TOKENIZER}.part"
    shutil.rmtree(part, ignore_errors=True)
    tokenizer.save_pretrained(part)
    sync_tree(part)
    os.replace(part, folder / TOKENIZER)
    sync(folder)


def _write(
    options: PrepareOptions,
    sources: list[str],
    settings: dict[str, Any],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    _save_tokenizer(tokenizer, folder)
    with tqdm(
        total=_total_bytes(sources),
        desc="Text",
        unit="B",
        unit_scale=True,
        disable=not bars_shown(options.progress),
    ) as bar:
        write_shards(
            lambda place: _documents_from(sources, options, place),
            folder,
            tokenizer,
            settings,
            phrases=options.phrases,
            per_shard=options.documents_per_shard,
            workers=options.workers or available_cores(),
            report=bar.update,
        )
    return finish(folder, tokenizer)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _total_bytes(sources: list[str]) -> int | None:
    """Of the text, where that is known before it is read."""
    if any(source.startswith(DATASET) or not is_plain_text(source) for source in sources):
        return None
    return sum(Path(source).stat().st_size for source in sources)


def finish(folder: Path, tokenizer: PreTrainedTokenizerBase, parts: int = 1) -> dict[str, Any]:
    """Writes the manifest and the report of `parts` series of shards that have ended, each with its own file of
    progress, in the order of their prefixes; returns the manifest. Nothing is left to do where there is one of these
    shards. Raises `PreparedError` when a series has not ended."""
    files = sorted(folder.glob(f"*{PROGRESS}"))
    series = [read_lines(path) for path in files]
    ended = [lines for lines in series if lines and "end" in lines[-1]]
    if len(ended) != len(series) or len(ended) != parts:
        if (folder / MANIFEST).is_file() and _is_manifest_of(series, manifest := read_manifest(folder)):
            _delete(files)
            return manifest
        raise PreparedError(f"{shown(folder)}: {len(ended)} of {parts} parts of the preparation have ended")
    shards = [Shard(**line["shard"]) for lines in series for line in lines[1:-1]]
    if not sum(shard.tokens for shard in shards):
        raise CorpusError("the tokenizer finds no token in the corpus")
    entries = [
        {name: value for name, value in shard._asdict().items() if name not in _NOT_IN_MANIFEST}
        for shard in shards
    ]
    checksums = "\n".join(shard.sha256 for shard in shards)
    sums = ("documents", "sentences", "tokens", "unknown", "candidates", "text_bytes")
    manifest = {
        "format": FORMAT,
        "settings": series[0][0],
        "tokenizer": {"sha256": tokenizer_sha256(tokenizer), "vocab_size": len(tokenizer)},
        "counts": {name: sum(getattr(shard, name) for shard in shards) for name in sums},
        "fingerprint": hashlib.sha256(checksums.encode()).hexdigest()[:32],
        "shards": entries,
    }
    lengths = [
        [sum(column) for column in zip(*(getattr(shard, name) for shard in shards), strict=True)]
        for name in _NOT_IN_MANIFEST
    ]
    _save_tokenizer(tokenizer, folder)
    (folder / REPORT).write_text(report_text(manifest["counts"], len(shards), *lengths))
    draw_lengths(folder / HISTOGRAM, *lengths)
    write_synced(json.dumps(manifest, indent=1) + "\n", folder / MANIFEST)
    _delete(files)
    return manifest


def _is_manifest_of(series: list[list[dict[str, Any]]], manifest: dict[str, Any]) -> bool:
    """Whether it lists all shards of the files of progress that are left: it was written, and these not yet deleted."""
    listed = {(entry["file"], entry["sha256"]) for entry in manifest["shards"]}
    shards = (line["shard"] for lines in series for line in lines[1:] if "shard" in line)
    return all((shard["file"], shard["sha256"]) in listed for shard in shards)


def _delete(files: list[Path]) -> None:
    for path in files:
        path.unlink()
