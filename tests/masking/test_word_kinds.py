# SPDX-License-Identifier: Apache-2.0
"""Kinds and random ids from a tokenizer's vocabulary."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from spanbert_ext import DataCollatorForSpanMasking, token_kinds_from_words
from spanbert_ext.masking.masker import SpanMasker
from spanbert_ext.masking.word_kinds import vocabulary_kinds

SPECIALS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
ALL_SPECIALS = [*SPECIALS.values(), "[MASK]"]


def tokenizer_of(
    tokens: list[str], model: type, pre_tokenizer: object = None, mask: bool = True, **options: object
) -> PreTrainedTokenizerFast:
    """A tokenizer with the five special tokens as ids 0..4 and `tokens` from 5 on."""
    names = [*ALL_SPECIALS, *tokens] if mask else [*ALL_SPECIALS[:-1], *tokens]
    if model is models.Unigram:
        made = models.Unigram([(name, -float(i)) for i, name in enumerate(names)], unk_id=3, **options)
    else:
        arguments = ({name: i for i, name in enumerate(names)}, *([[]] if model is models.BPE else []))
        made = model(*arguments, unk_token="[UNK]", **options)
    backend = Tokenizer(made)
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    roles = SPECIALS | ({"mask_token": "[MASK]"} if mask else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def wordpiece(extra_special_tokens: tuple = (), **options: object) -> PreTrainedTokenizerFast:
    tokenizer = tokenizer_of(
        ["the", "cat", "##s", "##,", ",", "[unused7]", "##", "run"], models.WordPiece, **options
    )
    if extra_special_tokens:
        tokenizer.add_special_tokens({"extra_special_tokens": list(extra_special_tokens)})
    return tokenizer


def kinds_by_token(tokenizer: object) -> dict[str, int]:
    kinds = vocabulary_kinds(tokenizer).kinds
    return {token: int(kinds[id]) for token, id in tokenizer.get_vocab().items()}


def check_kinds(tokenizer: object, continues: list[str], starts: list[str]) -> None:
    kinds = kinds_by_token(tokenizer)
    assert {token for token, kind in kinds.items() if kind == 2} == set(ALL_SPECIALS) - {"[UNK]"}
    assert {token for token, kind in kinds.items() if kind == 0} == set(continues)
    assert {token for token, kind in kinds.items() if kind == 1} == {*starts, "[UNK]"}


def test_wordpiece_continues_with_its_prefix():
    check_kinds(wordpiece(), continues=["##s", "##,"], starts=["the", "cat", ",", "[unused7]", "##", "run"])


def test_wordpiece_with_another_prefix():
    tokenizer = tokenizer_of(["cat", "@s", "##s"], models.WordPiece, continuing_subword_prefix="@")
    check_kinds(tokenizer, continues=["@s"], starts=["cat", "##s"])


def test_byte_level_bpe_starts_words_with_a_space():
    starts = ["Ġthe", "Ġ", "Ċ", "ĊĊ", "!", "...", "Ġ(", "ĉ", "âĢĶ", "ĠðŁ"]  # âĢĶ is a dash, ðŁ half an emoji
    continues = ["cat", "'s", "ing", "Ã©", "ðŁ", "ĺĢ", "2"]  # Ã© is é, ĺĢ the other half
    for token in starts, continues:
        assert len(set(token)) == len(token)
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    check_kinds(tokenizer_of(starts + continues, models.BPE, pre_tokenizer), continues, starts)


def test_sentencepiece_starts_words_with_its_mark():
    starts = ["▁the", "▁", "▁▁▁", ",", "。", "$", "\n"]
    continues = ["cat", "ing", "<0x41>", "<0x0A>", "é", "日本"]
    check_kinds(
        tokenizer_of(starts + continues, models.Unigram, pre_tokenizers.Metaspace()), continues, starts
    )


def test_every_token_of_a_word_level_vocabulary_is_a_word():
    check_kinds(tokenizer_of(["the", "##s"], models.WordLevel), continues=[], starts=["the", "##s"])


def test_added_tokens_start_a_word():
    tokenizer = wordpiece()
    tokenizer.add_tokens(["##new", AddedToken("<ent>")])
    assert kinds_by_token(tokenizer)["##new"] == kinds_by_token(tokenizer)["<ent>"] == 1
    assert SpanMasker.from_tokenizer(tokenizer).vocab_size == len(tokenizer) == 15


def test_bos_and_eos_are_special():
    tokenizer = wordpiece()
    tokenizer.add_special_tokens(
        {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<e>"]}
    )
    kinds = kinds_by_token(tokenizer)
    assert (kinds["<s>"], kinds["</s>"], kinds["<e>"]) == (2, 2, 2)


def test_special_tokens_without_a_role():
    tokenizer = wordpiece(extra_special_tokens=["[E1]"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[E2]"]})
    tokenizer.add_tokens([AddedToken("[E3]", special=True)], special_tokens=True)
    tokenizer.add_tokens(["[E4]"])
    kinds = kinds_by_token(tokenizer)
    assert [kinds[f"[E{i}]"] for i in (1, 2, 3, 4)] == [2, 2, 2, 1] and kinds["[UNK]"] == 1
    for mask_them in (False, True):
        masker = SpanMasker.from_tokenizer(tokenizer, mask_additional_tokens=mask_them)
        ids = tokenizer.convert_tokens_to_ids(["[E1]", "[E2]", "[E3]"])
        assert masker.kinds[ids].tolist() == ([1, 1, 1] if mask_them else [2, 2, 2])
        assert all((id in masker.random_ids.tolist()) == mask_them for id in ids)
        assert masker.kinds[tokenizer.sep_token_id] == 2
    with pytest.raises(TypeError, match="mask_additional_tokens is 1"):
        SpanMasker.from_tokenizer(tokenizer, mask_additional_tokens=1)


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        (["the</w>", "cat</w>", "ing"], {}),
        (["the", "cat"], {"end_of_word_suffix": "</w>"}),
        (["th@@", "ca@@", "e"], {}),
    ],
)
def test_suffix_tokenizers_are_refused(tokens, options):
    with pytest.raises(ValueError, match=r"marks the ends of words.*token_kinds"):
        SpanMasker.from_tokenizer(tokenizer_of(tokens, models.BPE, **options))


def test_a_vocabulary_without_marks_is_refused():
    with pytest.raises(ValueError, match=r"cannot tell where words start.*kinds"):
        SpanMasker.from_tokenizer(tokenizer_of(["a", "b"], models.BPE))


def test_a_tokenizer_without_a_mask_token_is_refused():
    with pytest.raises(ValueError, match=r"no mask token.*add_special_tokens"):
        SpanMasker.from_tokenizer(wordpiece(mask=False))


def test_a_vocabulary_that_was_not_read_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*ALL_SPECIALS, "the", "cat"]))
    with pytest.raises(ValueError, match=r"5 tokens.*vocab="):
        SpanMasker.from_tokenizer(BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")))
    assert SpanMasker.from_tokenizer(BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))).vocab_size == 7


def test_ids_beyond_the_tokenizer_are_refused():
    masker = SpanMasker.from_tokenizer(wordpiece())
    ids = torch.tensor([[5, 6], [7, 13]])
    for kinds in (None, torch.ones(2, 2, dtype=torch.uint8)):
        with pytest.raises(IndexError, match=r"input_ids\[1, 1\] is 13.*\[0, 13\).*another tokenizer"):
            masker(ids, token_kinds=kinds)


def test_random_ids_are_neither_special_nor_unused():
    tokenizer = tokenizer_of(
        ["[unused1]", "<unused2>", "madeupword0003", "the", "##s", "unused"], models.WordPiece
    )
    assert tokenizer.convert_ids_to_tokens(SpanMasker.from_tokenizer(tokenizer).random_ids.tolist()) == [
        "[UNK]",
        "the",
        "##s",
        "unused",
    ]
    own = SpanMasker.from_tokenizer(tokenizer, random_ids=[8, 8, 9])
    assert own.random_ids.tolist() == [8, 8, 9]


class TestKindsFromWords:
    """A language without spaces: words by a segmenter that knows a list of them."""

    text = "我喜欢自然语言处理。"
    known = ("喜欢", "自然语言", "处理")

    def segment(self, text: str) -> list[tuple[int, int]]:
        """The longest known word at each place, else one character."""
        words, at = [], 0
        while at < len(text):
            length = max([len(word) for word in self.known if text.startswith(word, at)], default=1)
            words.append((at, at + length))
            at += length
        return words

    def test_characters_and_longer_tokens(self):
        tokenizer = tokenizer_of(
            ["我", "喜", "##欢", "##自", "##然语", "##言处", "##理", "##。"], models.WordPiece
        )
        encoding = tokenizer(self.text, return_offsets_mapping=True)
        assert encoding.tokens() == ["[UNK]"]  # the model has no word for it: characters, then
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        characters = tokenizer_of(
            list("我喜欢自然语言处理。"), models.BPE, pre_tokenizers.Split("", "isolated")
        )
        encoding = characters(self.text, return_offsets_mapping=True)
        kinds = token_kinds_from_words(encoding["offset_mapping"], self.segment(self.text))
        assert kinds.tolist() == [1, 1, 0, 1, 0, 0, 0, 1, 0, 1]
        collator = DataCollatorForSpanMasking(characters, kinds="words", scheme="words", ratio=0.1)
        row = {"input_ids": encoding["input_ids"], "token_kinds": kinds}
        firsts = {int(collator([row])["masked_positions"][0, 0]) for _ in range(60)}
        assert firsts == {0, 1, 3, 7, 9}

    def test_by_hand(self):
        words = [(0, 2), (2, 5), (6, 8)]
        cases = {
            "tokens over words": ([(0, 3), (3, 5), (5, 6), (6, 8)], [1, 1, 1, 1]),
            "a space belongs to the token behind it": ([(0, 2), (2, 5), (5, 7), (7, 8)], [1, 1, 1, 0]),
            "bytes of one character": ([(0, 1), (0, 1), (1, 2), (2, 3), (2, 3)], [1, 0, 0, 1, 0]),
            "special tokens": ([(0, 0), (0, 2), (0, 0), (2, 4), (4, 5), (0, 0)], [2, 1, 2, 1, 0, 2]),
            "outside": ([(5, 6), (5, 6), (8, 9), (9, 10)], [1, 1, 1, 1]),
            "nothing": ([], []),
        }
        for name, (offsets, kinds) in cases.items():
            assert token_kinds_from_words(offsets, words).tolist() == kinds, name
        assert token_kinds_from_words([(0, 1), (1, 2)], []).tolist() == [1, 1]
        tensor = token_kinds_from_words(torch.tensor([[0, 1], [1, 2]]), torch.tensor([[0, 2]]))
        assert tensor.dtype == "uint8" and tensor.tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("offsets", "words", "error", "message"),
        [
            ([(0, 1)], [(0, 2), (1, 3)], ValueError, r"words\[1\] is \[1, 3\]; expected a range that begins"),
            ([(0, 1)], [(2, 2)], ValueError, r"words\[0\] is \[2, 2\]"),
            ([(0, 1)], ["ab"], TypeError, r"words\[0\] is 'ab'"),
            ([0, 1], [(0, 1)], ValueError, r"offsets has shape \[2\]; expected ranges"),
            ([(0.5, 1)], [(0, 1)], TypeError, r"offsets\[0, 0\] is 0\.5"),
        ],
    )
    def test_bad_input(self, offsets, words, error, message):
        with pytest.raises(error, match=message):
            token_kinds_from_words(offsets, words)
