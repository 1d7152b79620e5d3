# SPDX-License-Identifier: Apache-2.0
"""What show_spans prints, character by character where it is small."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_word_kinds import tokenizer_of
from test_word_marks import trained
from tiny_models import make_batch, one_thread, tiny_texts, tiny_tokenizer  # noqa: F401
from tokenizers import models, pre_tokenizers
from transformers import DataCollatorForLanguageModeling

from spanbert_ext import DataCollatorForSpanMasking, MaskedBatch, SpanMasker, show_spans


def worked_example() -> tuple[MaskedBatch, object]:
    """Two rows by hand: a span of [MASK], one kept, one of other words; then a row whose span has no boundary."""
    tokenizer = tiny_tokenizer()
    rows = [
        "[CLS] the cat ##s see ##ed a big dog . and then [SEP]",
        "[CLS] dog ##s the old tree [SEP] [PAD] [PAD] [PAD] [PAD] [PAD] [PAD]",
    ]
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(row.split()) for row in rows])
    labels = torch.full_like(ids, -100)
    masked = torch.tensor([[2, 3, 4, 7, 9, 10], [1, -1, -1, -1, -1, -1]])
    left = torch.tensor([[1, 1, 1, 6, 8, 8], [-1] * 6])
    right = torch.tensor([[5, 5, 5, 8, 11, 11], [-1] * 6])
    for row, positions in enumerate(masked.tolist()):
        for position in positions:
            if position >= 0:
                labels[row, position] = ids[row, position]
    ids[0, 2:5], ids[0, 9] = 4, tokenizer.convert_tokens_to_ids("##er")
    ids[0, 10], ids[1, 1] = tokenizer.convert_tokens_to_ids("stone"), 4
    return MaskedBatch(ids, labels, masked, left, right), tokenizer


EXPECTED = """\
row 0: 13 tokens, 9 words, 6 masked in 3 spans
  [CLS] the [cats see]ed a [big] dog [. and] then [SEP]
      2:5 2 words, the last one cut: cat·s see -> [MASK] x3 | between 'the' and 'ed'
      7:8 1 word: big -> kept | between 'a' and 'dog'
     9:11 2 words: . and -> er stone (random) | between 'dog' and 'then'
row 1: 7 tokens, 4 words, 1 masked in 1 span
  [CLS] [dog]s the old tree [SEP]
      1:2 1 word, the last one cut: dog -> [MASK] | no boundaries"""


def test_by_hand():
    batch, tokenizer = worked_example()
    assert batch.show(tokenizer) == EXPECTED
    assert show_spans(batch, tokenizer) == show_spans(dict(batch.as_dict()), tokenizer) == EXPECTED
    arrays = MaskedBatch(**{name: x.numpy() for name, x in batch.as_dict().items()})
    assert arrays.show(tokenizer) == EXPECTED


def test_rows_and_color():
    batch, tokenizer = worked_example()
    first, rest = EXPECTED.split("\nrow 1")
    assert batch.show(tokenizer, rows=1) == f"{first}\n... 1 more row"
    assert batch.show(tokenizer, rows=0) == "... 2 more rows"
    assert batch.show(tokenizer, rows=None) == EXPECTED and "\x1b" not in EXPECTED
    colored = batch.show(tokenizer, color=True)
    assert "\x1b[7m[cats see]\x1b[0med" in colored and "\x1b[36m[MASK] x3\x1b[0m" in colored
    for code in ("\x1b[7m", "\x1b[36m", "\x1b[0m"):
        colored = colored.replace(code, "")
    assert colored == EXPECTED


def test_kinds_of_the_rows():
    batch, tokenizer = worked_example()
    kinds = torch.ones(2, 13, dtype=torch.int64)
    kinds[0, 3:6] = 0
    shown = batch.show(tokenizer, token_kinds=kinds)
    assert "2:5 1 word, the last one cut: cat·s·see ->" in shown and "[CLS] the [catssee]ed a" in shown


def test_ids_alone_are_shown_as_words():
    tokenizer = tiny_tokenizer()
    ids = tokenizer("the dogs watched a tree .", return_tensors="pt")["input_ids"]
    expected = "row 0: 10 tokens, 6 words\n  [CLS] the dog·s watch·ed a tree . [SEP]"
    for form in (ids, ids[0], ids.numpy(), ids.tolist(), {"input_ids": ids}):
        assert show_spans(form, tokenizer) == expected


def test_batches_of_collators():
    """Ours: one line a span of the masker's. The stock one's: its labels are spans too, without boundaries."""
    tokenizer = tiny_tokenizer()
    batch = make_batch(rows=6, ratio=0.3)
    shown = show_spans(batch, tokenizer)
    spans = MaskedBatch(**{name: batch[name] for name in MaskedBatch.__dataclass_fields__}).spans()
    lines = [line.split() for line in shown.splitlines() if " -> " in line]
    assert [line[0] for line in lines] == [f"{start}:{end}" for row in spans for start, end in row]
    stock = DataCollatorForLanguageModeling(tokenizer, seed=0)([tokenizer(text) for text in tiny_texts(3)])
    assert "[MASK]" in show_spans(stock, tokenizer) and "bound" not in show_spans(stock, tokenizer)


TEXTS = ["the cat sees naïve 日本 🙂 and a dog", "a dog hears the old tree and the big river"]


@pytest.mark.parametrize("model", ["byte-level", "sentencepiece", "unmarked"])
def test_other_vocabularies(model):
    """Tokens of a part of a character are bytes alone, and characters again where they are together."""
    if model == "byte-level":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer = tokenizer_of([*alphabet, "Ġthe", "Ġ日"], models.BPE, backend)
    elif model == "sentencepiece":
        words = (
            [f"<0x{byte:02X}>" for byte in range(256)] + list("abcdefghijklmnopqrstuvwxyz") + ["▁", "▁the"]
        )
        tokenizer = tokenizer_of(words, models.BPE, pre_tokenizers.Metaspace(), byte_fallback=True)
    else:
        tokenizer = trained("BPE", pre_tokenizers.WhitespaceSplit(), size=60)
    rows = tokenizer(TEXTS, padding=True, return_tensors="pt")
    shown = show_spans(rows, tokenizer)
    if model != "unmarked":
        assert f"{len(TEXTS[0].split())} words" in shown and "日·" not in shown
        labels = rows["input_ids"].where(rows["attention_mask"] == 1, -100)
        spans = show_spans({**rows, "labels": labels}, tokenizer)
        assert f"[{TEXTS[0]}]" in spans and f"[{TEXTS[1]}]" in spans
        assert "n·a·\\xc3·\\xaf·v·e" in spans
    else:
        assert "words" not in shown and "[UNK]" in shown


def test_characters_that_would_move_the_cursor():
    tokens = ["a\nb", "tab\t", "esc\x1b[31m", "\u202eright", "zero\u200bwidth", "全角", "é"]
    tokenizer = tokenizer_of(tokens, models.WordLevel)
    ids = np.arange(5, 12)[None]
    labels = ids.copy()
    labels[:, 3:] = -100
    shown = show_spans({"input_ids": ids, "labels": labels}, tokenizer)
    assert shown.count("\n") == 2 and all(c.isprintable() for c in shown if c != "\n")
    assert r"[a\nb tab\t esc\x1b[31m] \u202eright zero\u200bwidth 全角 é" in shown


def test_empty_batches():
    tokenizer = tiny_tokenizer()
    batch = DataCollatorForSpanMasking(tokenizer)([[], []])
    assert show_spans(batch, tokenizer).startswith("row 0: 0 tokens, 0 words, 0 masked in 0 spans")
    assert show_spans(torch.empty(0, 5, dtype=torch.int64), tokenizer) == ""


@pytest.mark.parametrize(
    ("batch", "options", "error", "message"),
    [
        ("text", {}, TypeError, r"batch is 'text' \(str\); expected a batch, or token ids"),
        ({"ids": [[1]]}, {}, ValueError, r"the batch has no 'input_ids', but \['ids'\]"),
        (torch.ones(1, 2, 3).long(), {}, ValueError, r"input_ids has shape \[1, 2, 3\]; expected \[B, L\]"),
        ({"input_ids": [[5, 6]], "labels": [[5]]}, {}, ValueError, r"labels has shape \[1, 1\]; .*\[1, 2\]"),
        (torch.ones(2, 3), {}, TypeError, "batch is torch.float32"),
        ([[5, 6]], {"rows": -1}, ValueError, "rows is -1"),
        ([[5, 6]], {"color": 1}, TypeError, "color is 1"),
        ([[5, 6]], {"token_kinds": [[1]]}, ValueError, r"token_kinds has shape \[1, 1\]; .*\[1, 2\]"),
    ],
)
def test_bad_arguments(batch, options, error, message):
    with pytest.raises(error, match=message):
        show_spans(batch, tiny_tokenizer(), **options)


def test_what_is_no_tokenizer():
    batch, _ = worked_example()
    with pytest.raises(TypeError, match=r"tokenizer is 'bert' \(str\)"):
        batch.show("bert")


def test_ids_beyond_the_tokenizer_are_shown_too():
    assert "the <500>" in show_spans(torch.tensor([[5, 500]]), tiny_tokenizer())
    masker = SpanMasker([2, 1, 1], 0, 3)
    assert "->" in masker(torch.tensor([[1, 2, 1]])).show(tiny_tokenizer())
