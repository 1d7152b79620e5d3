# SPDX-License-Identifier: Apache-2.0
"""How words are marked, of tokenizers that are trained here on a text with stray marks in it."""

from __future__ import annotations

import pytest
from tiny_models import tiny_texts
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from spanbert_ext import DataCollatorForSpanMasking
from spanbert_ext.masking.masker import SpanMasker
from spanbert_ext.masking.word_kinds import SPECIAL, STARTS, vocabulary_kinds

STRAYS = ["## a heading ##s", "the Ġ sign Ġthe", "the ▁ sign ▁the", "an end</w> and an e@@ nd"]
TEXTS = [text.removesuffix(" .").replace(" . ", " ") for text in tiny_texts(60)]
ROLES = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}

metaspace, byte_level, sequence = pre_tokenizers.Metaspace, pre_tokenizers.ByteLevel, pre_tokenizers.Sequence
whitespace, by_space = pre_tokenizers.Whitespace, pre_tokenizers.WhitespaceSplit


def trained(model: str, pre_tokenizer=None, normalizer=None, decoder=None, size: int = 90, **options):
    """A fast tokenizer with the five special tokens, by the trainer of that model."""
    arguments = {"unk_token": "[UNK]"} if model != "Unigram" else {}
    names = ("continuing_subword_prefix", "end_of_word_suffix")
    arguments |= {name: options[name] for name in names if name in options}
    tokenizer = Tokenizer(getattr(models, model)(**arguments))
    tokenizer.pre_tokenizer, tokenizer.normalizer, tokenizer.decoder = pre_tokenizer, normalizer, decoder
    if model == "Unigram":
        options["unk_token"] = "[UNK]"
    name = {"BPE": "Bpe"}.get(model, model)
    trainer = getattr(trainers, f"{name}Trainer")(
        vocab_size=size, special_tokens=[*ROLES.values()], show_progress=False, **options
    )
    tokenizer.train_from_iterator([*TEXTS, *STRAYS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ROLES)


def without_pre_tokenizer(tokenizer, normalizer):
    """As tokenizers are that were converted from SentencePiece: the model has learned words, but gets whole texts."""
    tokenizer.backend_tokenizer.pre_tokenizer, tokenizer.backend_tokenizer.normalizer = None, normalizer
    return tokenizer


def prepend_and_replace():
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


MARKED = {
    "WordPiece": lambda: trained("WordPiece", pre_tokenizers.BertPreTokenizer()),
    "WordPiece, another prefix": lambda: trained("WordPiece", by_space(), continuing_subword_prefix="~"),
    "BPE with a prefix": lambda: trained("BPE", whitespace(), continuing_subword_prefix="##"),
    "ByteLevel": lambda: trained("BPE", byte_level(), decoder=decoders.ByteLevel()),
    "ByteLevel without a first space": lambda: trained("BPE", byte_level(add_prefix_space=False)),
    "ByteLevel after a pattern": lambda: trained(
        "BPE",
        sequence(
            [
                pre_tokenizers.Split(" ", "merged_with_next"),
                byte_level(add_prefix_space=False, use_regex=False),
            ]
        ),
    ),
    "ByteLevel in every word": lambda: trained("BPE", sequence([whitespace(), byte_level()])),
    "ByteLevel by normalizer": lambda: without_pre_tokenizer(
        trained("BPE", byte_level(add_prefix_space=False)), normalizers.ByteLevel()
    ),
    "Unigram": lambda: trained("Unigram", metaspace()),
    "Unigram, split before": lambda: trained("Unigram", sequence([by_space(), metaspace()])),
    "Metaspace first": lambda: trained(
        "BPE", metaspace(prepend_scheme="first"), decoder=decoders.Metaspace()
    ),
    "Metaspace never": lambda: trained("BPE", metaspace(prepend_scheme="never")),
    "Metaspace, another sign": lambda: trained("Unigram", metaspace(replacement="_")),
    "SentencePiece by normalizer": lambda: without_pre_tokenizer(
        trained("BPE", metaspace()), prepend_and_replace()
    ),
    "characters with spaces": lambda: trained("BPE", pre_tokenizers.Split("", "isolated")),
    "a character a word-level token": lambda: trained("WordLevel", pre_tokenizers.Split("", "isolated")),
    "spaces as they are": lambda: trained("BPE", pre_tokenizers.Split(" ", "merged_with_next")),
    "WordLevel": lambda: trained("WordLevel", by_space()),
}


@pytest.mark.parametrize("name", MARKED)
def test_as_many_words_as_the_text_has(name):
    tokenizer = MARKED[name]()
    kinds = vocabulary_kinds(tokenizer).kinds
    for text in TEXTS[:20]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        starts = kinds[ids] == STARTS
        starts[0] = True
        assert int(starts.sum()) == len(text.split()), tokenizer.convert_ids_to_tokens(ids)
    assert {id for id, kind in enumerate(kinds.tolist()) if kind == SPECIAL} == {0, 2, 3, 4}


@pytest.mark.parametrize("normalizer", [None, prepend_and_replace(), normalizers.ByteLevel()])
def test_tokens_across_words(normalizer):
    tokenizer = trained("BPE", None, normalizer, size=300)
    with pytest.raises(
        ValueError, match="cannot tell where words start: .* at their end.*token_kinds_from"
    ) as e:
        SpanMasker.from_tokenizer(tokenizer)
    assert "kinds='words'" not in str(e.value)  # by its word ids a text is one word


UNMARKED = {
    "Whitespace": lambda: trained("BPE", whitespace()),
    "WhitespaceSplit": lambda: trained("BPE", by_space(), decoder=decoders.WordPiece()),
    "BertPreTokenizer": lambda: trained("BPE", pre_tokenizers.BertPreTokenizer(), decoder=decoders.Fuse()),
    "Unigram": lambda: trained("Unigram", whitespace()),
    "Metaspace on the first word alone": lambda: trained(
        "Unigram", sequence([by_space(), metaspace(prepend_scheme="first")])
    ),
    "ByteLevel after the spaces are gone": lambda: trained(
        "BPE", sequence([whitespace(), byte_level(add_prefix_space=False)])
    ),
    "suffix": lambda: trained("BPE", whitespace(), end_of_word_suffix="</w>", decoder=decoders.BPEDecoder()),
    "spaces that end a word": lambda: trained("BPE", pre_tokenizers.Split(" ", "merged_with_previous")),
}


@pytest.mark.parametrize("name", UNMARKED)
def test_stray_marks_decide_nothing_and_word_ids_help(name):
    tokenizer = UNMARKED[name]()
    ends = name in ("suffix", "spaces that end a word")
    message = "marks the ends of words" if ends else "cannot tell where words start"
    with pytest.raises(ValueError, match=rf"{message}.*kinds='words'.*word_ids"):
        SpanMasker.from_tokenizer(tokenizer)
    assert SpanMasker.from_tokenizer(tokenizer, scheme="tokens")(
        tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    ).spans()
    encoding = tokenizer(TEXTS[0])
    collator = DataCollatorForSpanMasking(tokenizer, kinds="words", scheme="words", mlm_probability=0.02)
    masked = {tuple(collator([encoding])["masked_positions"][0].tolist()) for _ in range(40)}
    words = encoding.word_ids()
    firsts = {i for i, word in enumerate(words) if i == 0 or word != words[i - 1]}
    assert len(masked) > 3 and all(positions[0] in firsts for positions in masked)


def test_a_masker_for_given_words_asks_for_them():
    tokenizer = UNMARKED["Whitespace"]()
    masker = SpanMasker.from_tokenizer(tokenizer, kinds="words")
    ids = tokenizer(TEXTS[:1], return_tensors="pt")["input_ids"]
    with pytest.raises(ValueError, match="token_kinds is None; expected the kinds of this batch"):
        masker(ids)
    assert masker(ids, token_kinds=ids * 0 + 1).spans()
    with pytest.raises(ValueError, match="kinds is 'letters'"):
        SpanMasker.from_tokenizer(tokenizer, kinds="letters")


class SlowTokenizer(PreTrainedTokenizer):
    """A tokenizer in Python, which no pipeline can be asked of."""

    def __init__(self, tokens, **options):
        self.ids = {token: id for id, token in enumerate([*ROLES.values(), *tokens])}
        super().__init__(**(ROLES | options))

    vocab_size = property(lambda self: len(self.ids))

    def get_vocab(self):
        return self.ids | self.added_tokens_encoder

    def _convert_token_to_id(self, token):
        return self.ids.get(token, 1)

    def _convert_id_to_token(self, id):
        return list(self.ids)[id]


WORDS = [f"w{i}" for i in range(90)]


@pytest.mark.parametrize(
    ("marked", "starts"), [("##{}", 90), ("Ġ{}", 10), ("▁{}", 10)], ids=["##", "byte-level", "SentencePiece"]
)
def test_slow_tokenizers_by_shares(marked, starts):
    tokenizer = SlowTokenizer([*WORDS, *(marked.format(f"m{i}") for i in range(10))])
    kinds = SpanMasker.from_tokenizer(tokenizer).kinds
    assert int((kinds == STARTS).sum()) == starts + 1  # and [UNK]


@pytest.mark.parametrize("strays", [[], ["##s", "Ġthe", "▁the", "e@@"]])
def test_strays_of_slow_tokenizers(strays):
    with pytest.raises(
        ValueError, match=r"fewer than 5% of the tokens begin with ##.*token_kinds_from_words"
    ):
        SpanMasker.from_tokenizer(SlowTokenizer([*WORDS, *strays]))


@pytest.mark.parametrize("suffix", ["</w>", "@@"])
def test_slow_tokenizers_with_suffixes(suffix):
    tokenizer = SlowTokenizer([*WORDS, *(f"m{i}{suffix}" for i in range(40)), *(f"##{i}" for i in range(30))])
    with pytest.raises(ValueError, match=f"marks the ends of words .'{suffix}'"):
        SpanMasker.from_tokenizer(tokenizer)
