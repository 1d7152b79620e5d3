# SPDX-License-Identifier: Apache-2.0
"""A small checkpoint and small data sets for the evaluation's tests, made here without a network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from spanbert_ext.evaluate.tasks.form import Checkpoint

# (article, context, [(question, answer or None)])
ARTICLES = [
    (
        "Lighthouse",
        "The lighthouse of Skerry was built in 1842 by Anna Grey. Its lamp burned whale oil until 1901, and the"
        " keeper, Tom Hale, lived below it with two dogs.",
        [
            ("When was the lighthouse built?", "1842"),
            ("Who built the lighthouse?", "Anna Grey"),
            ("What did the lamp burn?", "whale oil"),
            ("Who was the keeper?", "Tom Hale"),
            ("How many cats lived there?", None),
        ],
    ),
    (
        "Orchard",
        "In the orchard of Mill Farm grow red plums and yellow pears. The oldest tree was planted by Joan Reed. Every"
        " autumn the village sells cider at the north gate.",
        [
            ("What grows in the orchard?", "red plums and yellow pears"),
            ("Who planted the oldest tree?", "Joan Reed"),
            ("Where is cider sold?", "at the north gate"),
            ("Who bought the farm?", None),
        ],
    ),
    (
        "Railway",
        "The railway to Dunmore has eleven bridges; the longest bridge crosses the river Ash. Trains carried slate"
        " and, from 1920, milk.",
        [
            ("How many bridges has the railway?", "eleven"),
            ("What does the longest bridge cross?", "the river Ash"),
            ("What was carried from 1920?", "milk"),
            ("When was the railway closed?", None),
        ],
    ),
]


def squad(articles: list[tuple[str, str, list[tuple[str, str | None]]]] = ARTICLES) -> dict[str, Any]:
    """In SQuAD 2.0's format."""
    data = []
    for title, context, asked in articles:
        questions = []
        for number, (question, answer) in enumerate(asked):
            answers = [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}]
            questions.append(
                {
                    "id": f"{title}-{number}",
                    "question": question,
                    "answers": answers,
                    "is_impossible": answer is None,
                }
            )
        data.append({"title": title, "paragraphs": [{"context": context, "qas": questions}]})
    return {"version": "v2.0", "data": data}


def write_squad(path: Path, *args: Any) -> Path:
    path.write_text(json.dumps(squad(*args)), encoding="utf-8")
    return path


def tokenizer_of(texts: list[str], **options: Any) -> BertTokenizerFast:
    """Every word of the texts is a token; other words are spelt."""
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    letters = sorted(set("".join(words)))
    pieces = [*dict.fromkeys([*words, *letters]), *(f"##{letter}" for letter in letters)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    return BertTokenizerFast(
        vocab=ids, do_lower_case=True, **options
    )  # the default is another one before 5.3


def squad_tokenizer() -> BertTokenizerFast:
    texts = [
        text for _, context, asked in ARTICLES for text in (context, *(question for question, _ in asked))
    ]
    return tokenizer_of(texts)


def save_checkpoint(
    folder: Path, tokenizer: BertTokenizerFast, seed: int = 0, name: str | None = None, **options: Any
) -> Checkpoint:
    """A masked language model with random weights, as pre-training saves one."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **(sizes | dropout | options))
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Checkpoint(name or folder.name, folder, f"digest of {folder.name}")
