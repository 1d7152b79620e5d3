# SPDX-License-Identifier: Apache-2.0
"""Options of `spanbert-evaluate coref`."""

from __future__ import annotations

from dataclasses import dataclass

from spanbert_ext.evaluate.tasks.options import TrainingOptions, option

HEAD_RATE = 3e-4


@dataclass(frozen=True)
class CorefOptions(TrainingOptions):
    """Fine-tuning for end-to-end coreference in the start-to-end form."""

    epochs: float | None = option(20.0, "passes over the training documents", metavar="N", above=0.0)
    batch_size: int = option(1, "documents of an update", metavar="N", least=1, most=1000)
    head_learning_rate: float | None = option(
        None,
        f"peak of the weights that are not the encoder's (default: {HEAD_RATE:g}, or the encoder's where that is"
        " higher)",
        metavar="LR",
        above=0.0,
    )
    max_length: int = option(
        256,
        "most tokens of a segment, which the encoder reads by itself; fewer where it has fewer positions",
        metavar="N",
        least=16,
        most=2**20,
    )
    max_segments: int = option(
        12, "segments of a training document at most; a longer one is cut into parts", metavar="N", least=1
    )
    max_width: int = option(10, "most words of a mention", metavar="N", least=1, most=1000)
    kept_spans: float = option(
        0.4,
        "spans kept as possible mentions, by their scores, for each word of a document",
        metavar="SHARE",
        above=0.0,
    )
    head_size: int | None = option(
        None,
        "width of the representations of starts and ends (default: 3 times the encoder's hidden size)",
        metavar="N",
        least=1,
        most=2**16,
    )
    head_dropout: float = option(0.3, "of these representations", metavar="P", least=0.0, most=0.9)

    def head_rate_for(self, hidden_size: int) -> float:
        """The peak learning rate of what is not the encoder."""
        if self.head_learning_rate is not None:
            return self.head_learning_rate
        return max(HEAD_RATE, self.rate_for(hidden_size))
