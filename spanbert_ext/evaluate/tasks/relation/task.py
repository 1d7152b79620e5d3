# SPDX-License-Identifier: Apache-2.0
"""Relation classification: fine-tuning and predictions of one fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification

from spanbert_ext.evaluate.scores.classes import class_row
from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.tasks.fine_tuning import collate_tokens, fine_tune, predict
from spanbert_ext.evaluate.tasks.folds import cross_validation
from spanbert_ext.evaluate.tasks.form import Checkpoint, Conditions, EvaluationError, Fold, Outcome, Task
from spanbert_ext.evaluate.tasks.loading import load_model, load_tokenizer, longest_row
from spanbert_ext.evaluate.tasks.relation.files import RelationData, find_relations, relation_metrics
from spanbert_ext.evaluate.tasks.relation.model import StartsClassifier, give_ids
from spanbert_ext.evaluate.tasks.relation.options import RelationOptions
from spanbert_ext.evaluate.tasks.relation.rows import make_rows, symbol_ids, symbols_of


class RelationTask(Task[RelationData, RelationOptions]):
    """One sentence with two spans: which relation, if any, is between them."""

    clusters = "texts"
    items = "relations"
    method = 2

    def load(self, path: Path, options: RelationOptions) -> list[RelationData]:
        found = find_relations(path)
        for data in found:
            if options.spans == "types" and not data.has_types:
                raise EvaluationError(f"--spans is types, but {data.name} has none: expected auto or markers")
        return found

    def folds(self, data: RelationData, options: RelationOptions) -> list[Fold]:
        if data.split:
            return [Fold("dev", tuple(range(data.split)), tuple(range(data.split, len(data.relations))))]
        return cross_validation([relation.group for relation in data.relations], options.folds, self.clusters)

    def metrics(self, data: RelationData) -> dict[str, Metric]:
        return relation_metrics(data.labels)

    def constant_answers(self, data: RelationData, items: Sequence[int]) -> Iterator[list[ItemRow]]:
        relations = [data.relations[index] for index in items]
        number = {label: place for place, label in enumerate(data.labels)}
        for answer in sorted({number[relation.label] for relation in relations}):
            yield [ItemRow(r.group, r.id, class_row(answer, number[r.label])) for r in relations]

    def check(
        self,
        checkpoint: Checkpoint,
        data: Sequence[RelationData],
        folds: Sequence[Sequence[Fold]],
        options: RelationOptions,
    ) -> None:
        """Also that the tokenizer makes tokens of every span, and that the encoder takes ids for markers or types."""
        tokenizer = load_tokenizer(checkpoint)
        longest = longest_row(checkpoint, options.max_length)
        for one, own in zip(data, folds, strict=True):
            types, starts = _form(one, options)
            used = sorted({index for fold in own for index in (*fold.train, *fold.test)})
            make_rows(one, used, tokenizer, types, longest)
            ids = symbol_ids(len(symbols_of(one, types)), tokenizer)
            _model(checkpoint, starts, len(one.labels), ids, seed=0)

    def train_and_predict(
        self,
        checkpoint: Checkpoint,
        data: RelationData,
        fold: Fold,
        options: RelationOptions,
        conditions: Conditions,
    ) -> Outcome:
        tokenizer = load_tokenizer(checkpoint)
        longest = longest_row(checkpoint, options.max_length)
        types, starts = _form(data, options)
        train, test = (make_rows(data, part, tokenizer, types, longest) for part in (fold.train, fold.test))
        number = {label: place for place, label in enumerate(data.labels)}
        for row, index in zip(train, fold.train, strict=True):
            row["labels"] = number[data.relations[index].label]
        ids = symbol_ids(len(symbols_of(data, types)), tokenizer)
        model, hidden = _model(checkpoint, starts, len(data.labels), ids, conditions.seed)
        collate = partial(_collate, pad_token_id=tokenizer.pad_token_id, longest=longest, starts=starts)
        facts = fine_tune(model, train, collate, options, conditions, rates=[("", options.rate_for(hidden))])

        found: dict[int, int] = {}
        for places, _, output in predict(model, test, collate, conditions):
            classes = output["logits"].float().nan_to_num(0.0).argmax(-1)
            found.update(zip(places, classes.tolist(), strict=True))
        rows, predictions = [], {}
        for place, index in enumerate(fold.test):
            relation = data.relations[index]
            rows.append(ItemRow(relation.group, relation.id, class_row(found[place], number[relation.label])))
            predictions[relation.id] = data.labels[found[place]]
        facts |= {
            "spans": "types" if types else "markers",
            "read": "starts" if starts else "cls",
            "tokens_of_a_row": longest,
        }
        return Outcome(rows, predictions, facts)


def _form(data: RelationData, options: RelationOptions) -> tuple[bool, bool]:
    """Whether types stand in the place of spans, and whether the states where spans start are classified."""
    types = options.spans == "types" or (options.spans == "auto" and data.has_types)
    return types, options.read == "starts" or (options.read == "auto" and not types)


def _model(
    checkpoint: Checkpoint, starts: bool, classes: int, ids: list[int], seed: int
) -> tuple[nn.Module, int]:
    """The classifier, and the encoder's hidden size."""
    if starts:
        encoder = load_model(AutoModel, checkpoint, seed)
        give_ids(encoder, ids, seed)
        return StartsClassifier(encoder, classes, seed), encoder.config.hidden_size
    model = load_model(AutoModelForSequenceClassification, checkpoint, seed, num_labels=classes)
    give_ids(model, ids, seed)
    return model, model.config.hidden_size


def _collate(
    rows: Sequence[dict[str, Any]], pad_token_id: int, longest: int, starts: bool
) -> dict[str, Tensor]:
    batch = collate_tokens(rows, pad_token_id, longest)
    if starts:
        batch["starts"] = torch.tensor([row["starts"] for row in rows])
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch
