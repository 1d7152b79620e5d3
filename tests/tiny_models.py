# SPDX-License-Identifier: Apache-2.0
"""A small WordPiece tokenizer, texts it can read and a BERT of 2 x 32, all made here without a network."""

from __future__ import annotations

import gc
import random

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import BertConfig, PreTrainedTokenizerFast, Trainer

from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.models import families, native_classes, pretraining
from spanbert_ext.models.pretraining import SpanBertForPreTraining

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NOUNS = ["cat", "dog", "bird", "fish", "tree", "house", "river", "stone", "cloud", "child"]
VERBS = ["see", "hear", "follow", "find", "like", "watch"]
WORDS = [*["the", "a", "small", "big", "old", "green", "and", "then", "but", ".", ","], *NOUNS, *VERBS]
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
    return BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=64, **(sizes | dropout | options))


def same(a: dict, b: dict) -> bool:
    """Batches: tensors, and the numbers beside them."""
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) if isinstance(a[name], torch.Tensor) else a[name] == b[name]
        for name in a
    )


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No test leaves a family behind, nor a class made of one. Import it where tests register one."""
    monkeypatch.setattr(native_classes, "_REGISTERED", set())
    kept = (families.FAMILIES, vars(pretraining))
    before = [dict(names) for names in kept]
    yield
    for names, old in zip(kept, before, strict=True):
        for name in names.keys() - old.keys():
            del names[name]
        names.update(old)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small only wait for a second thread. Import it where tests should use it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ended_workers():
    """Ends persistent workers behind a test: the garbage collector waits 5 s for each of them."""
    yield
    for x in gc.get_objects():
        if issubclass(type(x), DataLoader) and x._iterator is not None:
            x._iterator = None


INDICES = ("masked_positions", "left_boundary", "right_boundary")


def make_model(seed: int = 0, **options) -> SpanBertForPreTraining:
    torch.manual_seed(seed)
    return SpanBertForPreTraining(tiny_config(), position_dim=24, **options)


def in_order(trainer: Trainer) -> Trainer:
    """Trains on the rows in their order, which is no option of the first transformers 5."""
    trainer._get_train_sampler = SequentialSampler
    return trainer


def untie(model: SpanBertForPreTraining) -> None:
    """Gives the decoder a matrix and a bias of its own."""
    decoder = model.get_output_embeddings()
    decoder.weight, decoder.bias = (nn.Parameter(p.detach().clone()) for p in (decoder.weight, decoder.bias))


def make_batch(rows: int = 8, seed: int = 0, **options) -> dict[str, torch.Tensor]:
    tokenizer = tiny_tokenizer()
    collator = DataCollatorForSpanMasking(tokenizer, epoch=seed, **options)
    return collator([dict(tokenizer(text)) for text in tiny_texts(rows, seed)])


def skewed_batch(rows: int = 96, **options) -> dict:
    """One row of 52 tokens, the others of 12: a batch that is nearly all padding."""
    tokenizer = tiny_tokenizer()
    texts = [*tiny_texts(1, words=(40, 40)), *tiny_texts(rows - 1, seed=1, words=(1, 8))]
    collator = DataCollatorForSpanMasking(tokenizer, epoch=0, **options)
    return collator([dict(tokenizer(text)) for text in texts])


def full_batch(rows: int = 8, length: int = 40, seed: int = 0, **options) -> dict:
    """Rows of one length, none padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, len(VOCABULARY) - 6, (rows, length), generator=generator)
    ids[:, 0], ids[:, -1] = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]
    return DataCollatorForSpanMasking(tiny_tokenizer(), epoch=0, **options)(list(ids))


def moved(batch: dict, device: str) -> dict:
    return {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}


def encoder_inputs(batch: dict) -> dict:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: batch[name] for name in names if name in batch}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def same_step(
    model: nn.Module,
    compiled: nn.Module,
    batch: dict,
    tolerance: float = 1e-10,
    of_gradients: float | None = None,
) -> None:
    """Asserts that both have the same loss and gradients of a batch. of_gradients: their tolerance, where it is another
    one. `compiled` may be made of `model` by torch.compile."""
    losses, grads = [], []
    for module in (model, compiled):
        module.zero_grad()
        output = module(**batch)
        output.loss.backward()
        losses.append(output.loss.detach())
        grads.append({name.removeprefix("_orig_mod."): x for name, x in gradients(module).items()})
    torch.testing.assert_close(*losses, rtol=tolerance, atol=0)
    assert_close(*grads, tolerance if of_gradients is None else of_gradients)
