# SPDX-License-Identifier: Apache-2.0
"""GLUE: fine-tuning a classifier of sentences, or of pairs, on one of its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.glue import GLUE_TASKS, GlueExample, GlueTask, read_glue
from spanbert_ext.evaluate.data.sources import find_file
from spanbert_ext.evaluate.scores.glue import GLUE_METRICS, glue_row
from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.tasks.fine_tuning import collate_tokens, fine_tune, predict
from spanbert_ext.evaluate.tasks.folds import cross_validation
from spanbert_ext.evaluate.tasks.form import Checkpoint, Conditions, DataSet, Fold, Outcome, Task
from spanbert_ext.evaluate.tasks.glue.options import GlueOptions
from spanbert_ext.evaluate.tasks.loading import check_first_token, load_model, load_tokenizer, longest_row

_EPOCHS = {"cola": 4.0}
_OTHER_EPOCHS = 10.0


@dataclass(frozen=True)
class GlueData(DataSet):
    """Examples of a task; the first `split` are those to train on where the data has a split, 0 where it has none."""

    task: GlueTask
    examples: tuple[GlueExample, ...]
    split: int


class GlueBenchmark(Task[GlueData, GlueOptions]):
    """Each of GLUE's tasks is a data set. Trained on its training file and tested on its development file; where only
    one is there, by cross-validation."""

    clusters = "examples"
    items = "examples"
    method = 2

    def load(self, path: Path, options: GlueOptions) -> list[GlueData]:
        """`path`: a task's folder, or one that holds folders of several."""
        if not path.is_dir():
            found = "is a file" if path.exists() else "is not there"
            raise DataError(path, f"{found}, expected a folder of GLUE's files")
        folders = {task.folder.lower(): task for task in GLUE_TASKS.values()}
        own = folders.get(path.resolve().name.lower())
        if own is not None:
            return [_read(path, own)]
        inside = [
            (folder, folders[folder.name.lower()])
            for folder in sorted(path.iterdir())
            if folder.name.lower() in folders
        ]
        if not inside:
            raise DataError(
                path,
                "is no folder of a task of GLUE and holds none: expected one called "
                + ", ".join(task.folder for task in GLUE_TASKS.values()),
            )
        return [_read(folder, task) for folder, task in inside]

    def folds(self, data: GlueData, options: GlueOptions) -> list[Fold]:
        count = len(data.examples)
        if data.split:
            return [Fold("dev", tuple(range(data.split)), tuple(range(data.split, count)))]
        return cross_validation([example.id for example in data.examples], options.folds, self.clusters)

    def metrics(self, data: GlueData) -> dict[str, Metric]:
        return {name: GLUE_METRICS[name] for name in data.task.metrics}

    def constant_answers(self, data: GlueData, items: Sequence[int]) -> Iterator[list[ItemRow]]:
        examples = [data.examples[index] for index in items]
        for answer in range(len(data.task.labels) or 1):
            yield [ItemRow(example.id, example.id, glue_row(answer, example.label)) for example in examples]

    def check(
        self,
        checkpoint: Checkpoint,
        data: Sequence[GlueData],
        folds: Sequence[Sequence[Fold]],
        options: GlueOptions,
    ) -> None:
        check_first_token(checkpoint, "from which its class is read")
        _model(checkpoint, data[0], seed=0)

    def train_and_predict(
        self, checkpoint: Checkpoint, data: GlueData, fold: Fold, options: GlueOptions, conditions: Conditions
    ) -> Outcome:
        tokenizer = load_tokenizer(checkpoint)
        longest = longest_row(checkpoint, options.max_length)
        train, test = ([data.examples[i] for i in part] for part in (fold.train, fold.test))
        rows = _rows(train, tokenizer, longest)
        labels = data.task.labels
        for row, example in zip(rows, train, strict=True):
            row["labels"] = example.label if labels else float(example.label)
        collate = partial(_collate, pad_token_id=tokenizer.pad_token_id, longest=longest)
        model = _model(checkpoint, data, conditions.seed)
        epochs = options.epochs or _EPOCHS.get(data.task.name, _OTHER_EPOCHS)
        rates = [("", options.rate_for(model.config.hidden_size))]
        facts = fine_tune(model, rows, collate, options, conditions, rates=rates, epochs=epochs)

        found: dict[int, float] = {}
        for indices, _, output in predict(model, _rows(test, tokenizer, longest), collate, conditions):
            logits = output["logits"].float().nan_to_num(0.0)
            values = logits.argmax(-1) if labels else logits[:, 0]
            found.update(zip(indices, values.tolist(), strict=True))
        item_rows, predictions = [], {}
        for index, example in enumerate(test):
            item_rows.append(ItemRow(example.id, example.id, glue_row(found[index], example.label)))
            predictions[example.id] = labels[int(found[index])] if labels else round(found[index], 4)
        return Outcome(item_rows, predictions, facts | {"tokens_of_a_row": longest})


def _model(checkpoint: Checkpoint, data: GlueData, seed: int) -> PreTrainedModel:
    classes = len(data.task.labels) or 1
    return load_model(AutoModelForSequenceClassification, checkpoint, seed, num_labels=classes)


def _read(folder: Path, task: GlueTask) -> GlueData:
    train, dev = (find_file(folder, [name], [".tsv"]) for name in (task.train, task.dev))
    if train is None and dev is None:
        raise DataError(
            folder, f"holds neither {task.train}.tsv nor {task.dev}.tsv, packed by xz or gzip or not"
        )
    files = tuple(file for file in (train, dev) if file is not None)
    parts = [read_glue(task.name, file) for file in files]
    if len(parts) == 1:
        return GlueData(task.folder, files, task, tuple(parts[0]), 0)
    return GlueData(task.folder, files, task, (*parts[0], *parts[1]), len(parts[0]))


def _rows(examples: Sequence[GlueExample], tokenizer: Any, longest: int) -> list[dict[str, Any]]:
    first = [example.text_a for example in examples]
    second = None if examples[0].text_b is None else [example.text_b for example in examples]
    encoded = tokenizer(first, second, truncation=True, max_length=longest)
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    return [{name: encoded[name][i] for name in names} for i in range(len(examples))]


def _collate(rows: Sequence[dict[str, Any]], pad_token_id: int, longest: int) -> dict[str, Tensor]:
    batch = collate_tokens(rows, pad_token_id, longest)
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch
