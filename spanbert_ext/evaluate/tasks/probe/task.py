# SPDX-License-Identifier: Apache-2.0
"""Probes: the states of a frozen encoder are computed once, and small classifiers trained on them under many seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.tasks.folds import cross_validation
from spanbert_ext.evaluate.tasks.form import Checkpoint, Conditions, Fold, Outcome, Task
from spanbert_ext.evaluate.tasks.probe.data import ProbeData, find_probes, row_of
from spanbert_ext.evaluate.tasks.probe.features import check_layer, read_states
from spanbert_ext.evaluate.tasks.probe.heads import features_of, train_and_score
from spanbert_ext.evaluate.tasks.probe.items import Item
from spanbert_ext.evaluate.tasks.probe.options import ProbeOptions

_ENCODING_SHARE = 0.8  # of the progress of a job that encodes


class ProbeTask(Task[ProbeData, ProbeOptions]):
    """Each probe on each of the data is a data set of its own."""

    clusters = "texts"
    items = "items"
    method = 2
    seeds_together = True

    def __init__(self) -> None:
        self._kept: tuple[Any, tuple[Tensor, int]] | None = None

    def load(self, path: Path, options: ProbeOptions) -> list[ProbeData]:
        return find_probes(path, options)

    def folds(self, data: ProbeData, options: ProbeOptions) -> list[Fold]:
        if data.split:
            return [Fold("dev", tuple(range(data.split)), tuple(range(data.split, len(data.items))))]
        return cross_validation([item.cluster for item in data.items], options.folds, self.clusters)

    def metrics(self, data: ProbeData) -> dict[str, Metric]:
        return data.metrics()

    def constant_answers(self, data: ProbeData, items: Sequence[int]) -> Iterator[list[ItemRow]]:
        """Where an item may have several, the most frequent ones."""
        asked = [data.items[index] for index in items]
        counts = Counter(answer for item in asked for answer in item.answer)
        order = sorted(counts, key=lambda answer: (-counts[answer], answer))
        for best in [order] if data.several else [[answer] for answer in order]:
            yield [ItemRow(item.cluster, item.id, row_of(data, item, best)) for item in asked]

    def check(
        self,
        checkpoint: Checkpoint,
        data: Sequence[ProbeData],
        folds: Sequence[Sequence[Fold]],
        options: ProbeOptions,
    ) -> None:
        check_layer(checkpoint, options.layer)

    def train_and_predict(
        self,
        checkpoint: Checkpoint,
        data: ProbeData,
        fold: Fold,
        options: ProbeOptions,
        conditions: Conditions,
    ) -> Outcome:
        key = (checkpoint.digest, data.name, data.files, options, conditions.device, conditions.bf16)
        encodes = self._kept is None or self._kept[0] != key
        begun = _ENCODING_SHARE if encodes else 0.0
        if encodes:
            self._kept = None  # before the next is made: there is room for one
            own = replace(conditions, progress=lambda share: conditions.progress(begun * share))
            self._kept = (key, read_states(checkpoint, data.items, options, own))
        states, missing = self._kept[1]
        scores, loss, features = _learn(
            states,
            data,
            fold,
            options,
            conditions.seed,
            lambda share: conditions.progress(begun + (1 - begun) * share),
        )
        most = max(len(item.answer) for item in data.items) if data.several else 1
        best = scores.topk(most, dim=1).indices.tolist()
        rows = [
            ItemRow(data.items[i].cluster, data.items[i].id, row_of(data, data.items[i], own))
            for i, own in zip(fold.test, best, strict=True)
        ]
        facts = {
            "features": features,
            "training_items": len(fold.train),
            "reads_without_a_state": missing,
            "loss": loss,
        }
        if not math.isfinite(loss):
            facts["diverged"] = True
        return Outcome(rows, {}, facts)


def _learn(
    states: Tensor,
    data: ProbeData,
    fold: Fold,
    options: ProbeOptions,
    seed: int,
    progress: Callable[[float], None],
) -> tuple[Tensor, float, int]:
    """Scores [M, C] of the test items, the loss at the end, and how many features a classifier reads. Of alternatives
    each is scored by itself, by one classifier: yes or no; none of them scores 0."""
    count, reads, hidden = states.shape
    number = data.alternatives
    alone = states.reshape(count * number, reads // number, hidden)
    features = features_of(alone, data.pairs).reshape(count, number, -1)
    train, test = (torch.tensor(part, device=states.device) for part in (fold.train, fold.test))
    answers = _answers([data.items[i] for i in fold.train], data)
    scores, loss = train_and_score(
        features[train].flatten(0, 1),
        answers.to(states.device),
        features[test].flatten(0, 1),
        data.classes if number == 1 else 2,
        data.several,
        options,
        seed,
        progress,
    )
    if number > 1:
        margins = (scores[:, 1] - scores[:, 0]).nan_to_num(0.0).reshape(-1, number)
        scores = torch.nn.functional.pad(margins, (0, 1))
    return scores, loss, features.shape[-1]


def _answers(items: Sequence[Item], data: ProbeData) -> Tensor:
    """[N], of alternatives [N * alternatives], or [N, C] where an item may have several."""
    if data.several:
        answers = torch.zeros(len(items), data.classes)
        for place, item in enumerate(items):
            answers[place, list(item.answer)] = 1.0
        return answers
    answers = torch.tensor([item.answer[0] for item in items])
    if data.alternatives == 1:
        return answers
    return torch.nn.functional.one_hot(answers, data.classes)[:, :-1].flatten()
