# SPDX-License-Identifier: Apache-2.0
"""Options of `spanbert-evaluate glue`."""

from __future__ import annotations

from dataclasses import dataclass

from spanbert_ext.evaluate.tasks.options import TrainingOptions, option


@dataclass(frozen=True)
class GlueOptions(TrainingOptions):
    """Fine-tuning for the classification of sentences and pairs; lengths and epochs are the paper's."""

    epochs: float | None = option(
        None, "passes over the training items (default: 10, of CoLA 4)", metavar="N", above=0.0
    )
    batch_size: int = option(32, "rows of an update", metavar="N", least=1, most=100_000)
    max_length: int = option(128, "most tokens of a row", metavar="N", least=8, most=2**20)
