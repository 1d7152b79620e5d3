# SPDX-License-Identifier: Apache-2.0
"""Marks in a text, and the row of tokens that a model reads."""

from __future__ import annotations

import pytest
from fill_samples import byte_level_tokenizer, family_model, sentencepiece_tokenizer
from tiny_models import make_model, tiny_config, tiny_tokenizer
from tokenizers import normalizers

from spanbert_ext import SpanBertForPreTraining
from spanbert_ext.fill.filling import Filler
from spanbert_ext.fill.masked_text import read_marks

READ = {
    "a [MASK] b": (("a ", " b"), (1,)),
    "a <mask> b": (("a ", " b"), (1,)),
    "{3}": (("", ""), (3,)),
    "{ 3 } b": (("", " b"), (3,)),
    "a{2}b": (("a", "b"), (2,)),
    "[MASK] [MASK]\t[MASK][MASK]": (("", ""), (4,)),
    "[MASK] {2} <mask>": (("", ""), (4,)),
    "{2} and {007}.": (("", " and ", "."), (2, 7)),
    "{{3}} {1} {{{2}}}": (("{3} ", " {", "}"), (1, 2)),
    "[MASK] {{}} [MASK]": (("", " {} ", ""), (1, 1)),
}


@pytest.mark.parametrize("text", READ)
def test_marks(text):
    masked = read_marks(text, "<mask>", 100)
    assert (masked.pieces, masked.counts, masked.text) == (*READ[text], text)


WRONG = {
    "[MASK] \udce9": "the text is not UTF-8 at character 8",
    "a plain text": "no masked span: write [MASK], or {3}",
    "": "no masked span",
    "{{3}}": "no masked span",
    "[mask]": "no masked span",
    "a {0}": "'{0}' at character 3: expected a span of 1 token or more",
    "{-1} a": "'{-1}' at character 1: expected a span of 1 token or more",
    "{x}": "'{x}' at character 1 is no span",
    "{}": "'{}' at character 1 is no span",
    "{1.5}": "no span",
    "{1_0}": "no span",
    "{٣}": "no span",
    "a { b [MASK]": "'{' at character 3 is no span",
    "[MASK] } b": "'}' at character 8 is no span",
    "{2": "'{' at character 1 is no span",
    "{99999}": "99,999 masked tokens; the model reads at most 100",
    "{99999999999999999999999}": "the model reads at most 100",
    "{60} and {60}": "120 masked tokens",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_marks(text):
    with pytest.raises(ValueError) as error:
        read_marks(text, "<mask>", 100)
    assert WRONG[text] in str(error.value)


@pytest.mark.parametrize("text", [None, 3, b"[MASK]", ["[MASK]"]])
def test_what_is_no_text(text):
    with pytest.raises(TypeError, match="expected a text"):
        read_marks(text, "[MASK]", 100)


@pytest.fixture(scope="module")
def filler() -> Filler:
    return Filler(make_model(), tiny_tokenizer(), heads=("mlm",))


def test_spans_are_where_the_masks_are(filler):
    row = filler.read("the old {2} seeed a [MASK] .")
    tokens = filler.vocabulary.tokenizer.convert_ids_to_tokens(row.ids)
    assert tokens == "[CLS] the old [MASK] [MASK] see ##ed a [MASK] . [SEP]".split()
    assert row.spans == (range(3, 5), range(8, 9)) and row.bounded == (True, True)


@pytest.mark.parametrize(
    ("text", "bounded"),
    [
        ("[MASK] cat", [False]),
        ("the [MASK]", [False]),
        ("the [MASK] cat", [True]),
        ("the {2} [SEP] cat {1} dog", [False, True]),
        ("[PAD] {2} cat", [False]),
        ("[UNK] {2} cat", [True]),
        ("the xyzzy {2} cat", [True]),
    ],
)
def test_a_boundary_is_an_ordinary_token(filler, text, bounded):
    assert list(filler.read(text).bounded) == bounded


def test_what_is_too_long_says_how_long(filler):
    assert len(filler.read("the " * 61 + "[MASK]").ids) == 64
    with pytest.raises(ValueError, match="the text makes 65 tokens; the model reads at most 64"):
        filler.read("the " * 62 + "[MASK]")
    with pytest.raises(ValueError, match="99,999 masked tokens; the model reads at most 64"):
        filler.read("{99999}")


def test_nothing_between_two_spans_is_an_error():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")  # as BERT's cleaning of text
    filler = Filler(make_model(), tokenizer, heads=("mlm",))
    with pytest.raises(ValueError, match=r"spans of \[3\] masked tokens where the text has \[1, 2\]"):
        filler.read("the [MASK]\u200b{2} cat")


def test_positions_behind_the_padding_are_counted_off():
    model = family_model("roberta")  # 80 positions, of which the padding's and those before it are not used
    tokenizer = tiny_tokenizer()
    filler = Filler(model, tokenizer, heads=("mlm",))
    most = 80 - model.config.pad_token_id - 1
    row = filler.read("the " * (most - 3) + "[MASK]")
    assert len(filler.fill([row])[0].spans) == 1
    with pytest.raises(ValueError, match=f"at most {most}"):
        filler.read("the " * (most - 2) + "[MASK]")


@pytest.mark.parametrize("make", [byte_level_tokenizer, sentencepiece_tokenizer])
@pytest.mark.parametrize(
    "text", ["the old [MASK] [MASK] a", "the old{2} a", "the old <mask><mask> a", "the old  {2} a"]
)
def test_spaces_before_a_mask_are_its_own(make, text):
    """A byte-level tokenizer writes a word's space into the word: none is left over beside the masks."""
    tokenizer = make()
    config = tiny_config()
    config.vocab_size = len(tokenizer)
    row = Filler(SpanBertForPreTraining(config), tokenizer, heads=("mlm",)).read(text)
    (span,) = row.spans
    mask = tokenizer.mask_token_id
    before, after = (
        tokenizer("the old")["input_ids"][:-1],
        tokenizer(f"{tokenizer.mask_token} a")["input_ids"][2:],
    )
    assert row.ids == [*before, mask, mask, *after]
    assert list(span) == [len(before), len(before) + 1]
