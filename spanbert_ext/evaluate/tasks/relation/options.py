# SPDX-License-Identifier: Apache-2.0
"""Options of `spanbert-evaluate relation`."""

from __future__ import annotations

from dataclasses import dataclass

from spanbert_ext.evaluate.tasks.options import TrainingOptions, option


@dataclass(frozen=True)
class RelationOptions(TrainingOptions):
    """Fine-tuning for the classification of relations."""

    epochs: float | None = option(10.0, "passes over the training items", metavar="N", above=0.0)
    batch_size: int = option(32, "rows of an update", metavar="N", least=1, most=100_000)
    max_length: int = option(
        128, "most tokens of a row; the two spans stay in it", metavar="N", least=16, most=2**20
    )
    spans: str = option(
        "auto",
        "how a row shows its two spans: markers around them, or their types in their place; auto: types where the data"
        " has them",
        choices=("auto", "markers", "types"),
    )
    read: str = option(
        "auto",
        "what is classified: the states where the two spans start (their opening markers, or types), or [CLS] behind"
        " the encoder's pooler; auto: starts of markers, [CLS] of types",
        choices=("auto", "starts", "cls"),
    )
