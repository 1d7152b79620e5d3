"""A WordPiece tokenizer of 60 tokens, texts it can read and a BERT of 2 x 32: all made here, without a network."""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NOUNS = "cat dog bird fish tree house river stone cloud child".split()
VERBS = "see hear follow find like watch".split()
WORDS = [*"the a small big old green and then but . ,".split(), *NOUNS, *VERBS]
PIECES = ["##s", "##ed", "##ing", "##er", "un", "##un"]
VOCABULARY = {token: index for index, token in enumerate([*SPECIALS, *WORDS, *PIECES])}


def tiny_tokenizer(**options) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **(names | options),
    )


def tiny_texts(count: int, seed: int = 0, words: tuple[int, int] = (6, 24)) -> list[str]:
    """Sentences with some order in them, so that a model can learn something within a few steps."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        clauses, length = [], draw.randint(*words)
        while length > 0:
            noun, verb, other = draw.choice(NOUNS), draw.choice(VERBS), draw.choice(NOUNS)
            clauses += ["the", draw.choice(["small", "old"]), noun + "s", verb + "ed", "a", "big", other, "."]
            length -= 8
        texts.append(" ".join(clauses))
    return texts


def tiny_config(**options) -> BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertConfig(
        vocab_size=len(VOCABULARY), max_position_embeddings=64, **(sizes | dropout | options)
    )


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
