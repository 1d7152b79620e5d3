# SPDX-License-Identifier: Apache-2.0
"""Documents in, shards of tokenised documents out: on every core, in bounded memory, the same bytes each time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spanbert_ext.files.signals import ignore
from spanbert_ext.pretrain.prepare.shards import (
    Progress,
    Shard,
    ShardWriter,
    TokenBatch,
    differences,
    read_lines,
)
from spanbert_ext.pretrain.rows.token_documents import tokenize_batch
from spanbert_ext.pretrain.text.corpus import digest
from spanbert_ext.pretrain.text.corpus_names import shown
from spanbert_ext.pretrain.text.manifest import PROGRESS, PreparedError
from spanbert_ext.pretrain.text.phrases import phrase_finder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOCUMENTS_PER_SHARD = 4_096
_TOGETHER = 1 << 20  # characters of a task
# A document, and where the one after it is: whatever `documents_from` understands and JSON can hold.
Placed = tuple[str, Any]


class _Task(NamedTuple):
    texts: list[str]
    place: Any  # of the document after them
    ends_shard: bool


class _Tokenizing:
    """What turns texts into tokens, in this process or as a worker's own."""

    here: _Tokenizing  # of a worker

    def __init__(self, tokenizer: PreTrainedTokenizerBase, phrases: str | None) -> None:
        self._tokenizer = tokenizer
        self._find = None if phrases is None else phrase_finder(phrases)

    def __call__(self, texts: list[str]) -> TokenBatch:
        batch = {"text": texts, "digest": [digest(text) for text in texts]}
        columns = tokenize_batch(batch, self._tokenizer, self._find)
        return TokenBatch.of(columns, len(texts), sum(len(text.encode()) for text in texts))


def _begin_worker(tokenizer: PreTrainedTokenizerBase, phrases: str | None) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = (
        "false"  # a worker a core; and the threads did not outlive the fork
    )
    ignore(signal.SIGINT, signal.SIGHUP)  # a terminal's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _Tokenizing.here = _Tokenizing(tokenizer, phrases)
    parent = multiprocessing.parent_process().sentinel

    def end_with_parent() -> None:  # which may be killed, and then tells nobody
        wait([parent])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _tokenize_here(texts: list[str]) -> TokenBatch:
    return _Tokenizing.here(texts)


@contextmanager
def _worker_pool(workers: int, tokenizer: PreTrainedTokenizerBase, phrases: str | None) -> Iterator[Any]:
    """Submits texts to `workers` processes, or for one tokenizes them here."""
    tokenize = _Tokenizing(
        tokenizer, phrases
    )  # what is missing for phrases is said here, and not by a worker
    if workers == 1:

        def at_once(texts: list[str]) -> Future[TokenBatch]:
            future: Future[TokenBatch] = Future()
            future.set_result(tokenize(texts))
            return future

        yield at_once
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (tokenizer, phrases))

    def submit(texts: list[str]) -> Future[TokenBatch]:
        with (
            warnings.catch_warnings()
        ):  # of a fork beside threads: those of the tokenizers, which workers do not use
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            return pool.submit(_tokenize_here, texts)

    try:
        yield submit
    finally:
        pool.shutdown(cancel_futures=True)


def _tasks(documents: Iterable[Placed], per_shard: int) -> Iterator[_Task]:
    texts: list[str] = []
    size = in_shard = 0
    place = None
    for text, place in documents:
        texts.append(text)
        size += len(text)
        in_shard += 1
        if size >= _TOGETHER or in_shard == per_shard:
            yield _Task(texts, place, in_shard == per_shard)
            texts, size = [], 0
            in_shard %= per_shard
    if texts:
        yield _Task(texts, place, False)


def _in_order(
    tasks: Iterable[_Task], submit: Callable[[list[str]], Future[TokenBatch]], window: int
) -> Iterator[tuple[_Task, TokenBatch]]:
    """The tasks with their results; at most `window` are begun and not yet taken."""
    begun: deque[tuple[_Task, Future[TokenBatch]]] = deque()
    try:
        for task in tasks:
            begun.append((task, submit(task.texts)))
            if len(begun) == window:
                task, future = begun.popleft()
                yield task, future.result()
        for task, future in begun:
            yield task, future.result()
    except BrokenProcessPool as error:
        raise PreparedError(
            "a worker process was killed, perhaps for want of memory: finished shards are kept; go on with fewer"
            " --workers"
        ) from error


def has_begun(folder: Path, prefix: str, settings: dict[str, Any]) -> bool:
    """Whether there is something to go on with. Raises `PreparedError` where that is of other settings; without a
    shard it is nothing."""
    path = folder / (prefix + PROGRESS)
    lines = read_lines(path) if path.exists() else []
    different = differences(lines, settings)
    if different and len(lines) > 1:
        raise PreparedError(
            f"{shown(folder)} holds an unfinished preparation that differs in {', '.join(different)}: prepare as before"
            " to go on with it, delete it with --overwrite, or choose another folder"
        )
    return not different


def write_shards(
    documents_from: Callable[[Any], Iterable[Placed]],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    settings: dict[str, Any],
    *,
    prefix: str = "",
    phrases: str | None = None,
    per_shard: int = DOCUMENTS_PER_SHARD,
    workers: int = 1,
    report: Callable[[int], object] = lambda size: None,
) -> list[Shard]:
    """Writes, or goes on writing, documents to shards `prefix` + shard-00000.arrow and so on, in their order.

    documents_from: the documents from a place on, each with the place of the next; None is the beginning.
    settings: what the bytes depend on beside the documents, for JSON. phrases: a kind of `phrase_finder`, or None.
    report: is told how many bytes of text were done. The shards do not depend on `workers`.

    Raises `PreparedError` where the folder holds shards of other settings."""
    settings = settings | {"phrases": phrases}  # which a reader of the manifest asks for
    has_begun(folder, prefix, settings)
    progress = Progress(folder, prefix, settings)
    report(sum(shard.text_bytes for shard in progress.shards))
    for part in folder.glob(f"{prefix}shard-*.part"):
        part.unlink()
    documents = documents_from(progress.places[-1] if progress.places else None)
    writer: ShardWriter | None = None
    try:
        with _worker_pool(workers, tokenizer, phrases) as submit:
            for task, batch in _in_order(_tasks(documents, per_shard), submit, 2 * workers):
                if writer is None:
                    path = folder / f"{prefix}shard-{len(progress.shards):05d}.arrow"
                    writer = ShardWriter(path, tokenizer.unk_token_id, phrases is not None)
                writer.write(batch)
                report(batch.size)
                place = task.place
                if task.ends_shard:
                    progress.add(writer.finish(), place)
                    writer = None
        if writer is not None:  # the last one, which need not be full
            progress.add(writer.finish(), place)
            writer = None
    finally:
        if writer is not None:
            writer.abandon()
    progress.end()
    return progress.shards
