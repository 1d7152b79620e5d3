# SPDX-License-Identifier: Apache-2.0
"""Options of `spanbert-evaluate probe`."""

from __future__ import annotations

from dataclasses import dataclass

from spanbert_ext.evaluate.tasks.options import TaskOptions, option

PROBES = ("coreference", "relations", "mentions", "length", "words")


@dataclass(frozen=True)
class ProbeOptions(TaskOptions):
    """What is asked of a frozen encoder, and the classifier that is asked."""

    probe: str = option(
        "all",
        "coreference: whether two mentions corefer; relations: which is between two spans; mentions: whether a span is"
        " one; length, words: how many words a span has, and which, from the states of the tokens just outside it, of"
        " a text that the encoder reads whole; all: those that the data has",
        choices=("all", *PROBES),
    )
    max_items: int = option(
        4000, "items of a data set, of training and of development each", metavar="N", least=8
    )
    passage_words: int = option(
        64, "most words of the passages that documents are cut into", metavar="N", least=8, most=10_000
    )
    max_length: int = option(
        256,
        "most tokens of a row; fewer where the encoder has fewer positions",
        metavar="N",
        least=16,
        most=2**20,
    )
    layer: int = option(-1, "whose states are read: 0 the embeddings, -1 the last layer", metavar="N")
    head_size: int = option(
        128, "hidden units of the classifier; 0: a linear one", metavar="N", least=0, most=2**16
    )
    head_dropout: float = option(0.2, "of its hidden units", metavar="P", least=0.0, most=0.9)
    epochs: float = option(10.0, "passes over the training items", metavar="N", above=0.0)
    learning_rate: float = option(1e-3, "peak, after the warm-up, then linear to 0", metavar="LR", above=0.0)
    batch_size: int = option(128, "items of an update", metavar="N", least=1, most=100_000)
    weight_decay: float = option(0.1, "decoupled", metavar="W", least=0, most=100)
