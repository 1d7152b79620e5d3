# SPDX-License-Identifier: Apache-2.0
"""Coreference: fine-tuning and clusters of one fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from transformers import AutoModel

from spanbert_ext.evaluate.data.conll import Mention
from spanbert_ext.evaluate.scores.coref import COREF_METRICS, coref_row
from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.tasks.coref.clusters import clusters_of
from spanbert_ext.evaluate.tasks.coref.files import CorefData, find_coref
from spanbert_ext.evaluate.tasks.coref.model import StartToEndCoreference
from spanbert_ext.evaluate.tasks.coref.options import CorefOptions
from spanbert_ext.evaluate.tasks.coref.segments import collate_documents, encode_document, parts_of, tokens_of
from spanbert_ext.evaluate.tasks.fine_tuning import fine_tune, predict
from spanbert_ext.evaluate.tasks.folds import cross_validation
from spanbert_ext.evaluate.tasks.form import Checkpoint, Conditions, Fold, Outcome, Task
from spanbert_ext.evaluate.tasks.loading import load_model, load_tokenizer, longest_row


class CorefTask(Task[CorefData, CorefOptions]):
    """Mentions and their antecedents are scored by their first and last tokens. The segments of a document are encoded
    one by one; antecedents are sought in all of it. Singletons count neither in training nor in the scores."""

    clusters = "documents"
    items = "texts"  # documents, or parts of them
    method = 2

    def load(self, path: Path, options: CorefOptions) -> list[CorefData]:
        return find_coref(path)

    def folds(self, data: CorefData, options: CorefOptions) -> list[Fold]:
        groups = [document.group for document in data.documents]
        if data.split:
            return [Fold("dev", tuple(range(data.split)), tuple(range(data.split, len(groups))))]
        return cross_validation(groups, options.folds, self.clusters)

    def metrics(self, data: CorefData) -> dict[str, Metric]:
        return dict(COREF_METRICS)

    def constant_answers(self, data: CorefData, items: Sequence[int]) -> Iterator[list[ItemRow]]:
        """No cluster."""
        documents = [data.documents[index] for index in items]
        yield [ItemRow(d.group, d.name, coref_row(d.clusters, [])) for d in documents]

    def check(
        self,
        checkpoint: Checkpoint,
        data: Sequence[CorefData],
        folds: Sequence[Sequence[Fold]],
        options: CorefOptions,
    ) -> None:
        load_model(AutoModel, checkpoint, seed=0)

    def train_and_predict(
        self,
        checkpoint: Checkpoint,
        data: CorefData,
        fold: Fold,
        options: CorefOptions,
        conditions: Conditions,
    ) -> Outcome:
        tokenizer = load_tokenizer(checkpoint)
        longest = longest_row(checkpoint, options.max_length)
        encoded = {
            index: row
            for index in (*fold.train, *fold.test)
            if (row := encode_document(data.documents[index], tokenizer, longest)) is not None
        }
        train = [
            part for i in fold.train if i in encoded for part in parts_of(encoded[i], options.max_segments)
        ]
        collate = partial(collate_documents, pad_token_id=tokenizer.pad_token_id, longest=longest)
        encoder = load_model(AutoModel, checkpoint, conditions.seed)
        model = StartToEndCoreference(encoder, options, conditions.seed)
        hidden = encoder.config.hidden_size
        rates = [("encoder.", options.rate_for(hidden)), ("", options.head_rate_for(hidden))]
        facts = fine_tune(
            model, train, collate, options, conditions, rates=rates, lengths=[tokens_of(row) for row in train]
        )

        tested = [index for index in fold.test if index in encoded]
        found: dict[int, list[list[Mention]]] = {index: [] for index in fold.test}
        kept: dict[int, set[Mention]] = {index: set() for index in fold.test}
        rows_of = [encoded[index] for index in tested]
        lengths = [tokens_of(row) for row in rows_of]
        for places, _, output in predict(model, rows_of, collate, conditions, lengths=lengths):
            for place, spans, antecedents in zip(places, output["spans"], output["antecedents"], strict=True):
                index = tested[place]
                words = encoded[index]["words"]
                mentions = [(words[a], words[b]) for a, b in spans.tolist()]
                found[index] = clusters_of(mentions, antecedents.tolist())
                kept[index] = set(mentions)
        rows, predictions, right, total = [], {}, 0, 0
        for index in fold.test:
            document = data.documents[index]
            rows.append(ItemRow(document.group, document.name, coref_row(document.clusters, found[index])))
            predictions[document.name] = [
                [[a, b, " ".join(document.words[a : b + 1])] for a, b in cluster] for cluster in found[index]
            ]
            gold = {mention for cluster in document.clusters for mention in cluster}
            right, total = right + len(gold & kept[index]), total + len(gold)
        facts |= {
            "tokens_of_a_segment": longest,
            "segments": sum(len(row["segments"]) for row in train),
            "gold_mentions_among_kept_spans": round(right / total, 4) if total else None,
        }
        return Outcome(rows, predictions, facts)
