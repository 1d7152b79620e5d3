# SPDX-License-Identifier: Apache-2.0
"""The contestants of bench_span_mask.py. To add one: write a builder and name it in BUILDERS."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from providers.published_span_masking import PublishedSpanMasker
from support.errors import Unavailable
from support.mask_problem import RATIO, Builder, Provider, Setting, Text
from support.text import FIRST_WORD, MASK, PAD, token_kinds


def span_mask(setting: Setting) -> Provider:
    from spanbert_ext.ops import span_mask as operator

    kinds = token_kinds(setting.vocab).to(setting.device)
    random_ids = setting.random_ids.to(setting.device)
    seed = torch.tensor(1, device=setting.device)
    epochs = list(torch.arange(256, device=setting.device))  # 0-dim tensors, as a model counts steps

    def work(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        epoch = epochs[call % len(epochs)]
        masked = operator(
            ids, kinds, random_ids, seed=seed, epoch=epoch, mask_token_id=MASK, pad_token_id=PAD, ratio=RATIO
        )
        return masked.masked_ids, masked.labels

    try:
        work(torch.full((1, 8), FIRST_WORD, device=setting.device), 0)
    except (RuntimeError, NotImplementedError) as error:
        raise Unavailable(str(error).splitlines()[0]) from error
    return Provider(work, lambda text: text.on_device, on_device=True, exact=True)


def span_masker(setting: Setting) -> Provider:
    from spanbert_ext import SpanMasker

    span_mask(setting)  # Unavailable if there are no kernels
    masker = SpanMasker.from_tokenizer(setting.tokenizer, ratio=RATIO)

    def work(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        masked = masker(ids, seed=1, epoch=call)
        return masked.input_ids, masked.labels

    return Provider(work, lambda text: text.on_device, on_device=True, exact=True)


def _span_collator(setting: Setting, prepare: Callable[[Text], Any]) -> Provider:
    from spanbert_ext import DataCollatorForSpanMasking

    collator = DataCollatorForSpanMasking(setting.tokenizer, ratio=RATIO)

    def work(rows: Any, _: int) -> tuple[Tensor, Tensor]:
        batch = collator(rows)
        return batch["input_ids"], batch["labels"]

    return Provider(work, prepare, exact=True)


def collator_tensors(setting: Setting) -> Provider:
    return _span_collator(setting, lambda text: text.tensor_rows)


def collator_lists(setting: Setting) -> Provider:
    return _span_collator(setting, lambda text: text.list_rows)


def padding_tensors(setting: Setting) -> Provider:
    def work(rows: list[Tensor], _: int) -> tuple[Tensor, None]:
        ids = torch.stack(rows)
        torch.ones_like(ids)  # the attention mask
        return ids, None

    return Provider(work, lambda text: text.tensor_rows, masks=False)


def padding_lists(setting: Setting) -> Provider:
    from transformers.data.data_collator import pad_without_fast_tokenizer_warning

    def work(rows: list[dict[str, list[int]]], _: int) -> tuple[Tensor, None]:
        padded = pad_without_fast_tokenizer_warning(setting.tokenizer, rows, return_tensors="pt")
        return padded["input_ids"], None

    return Provider(work, lambda text: text.list_rows, masks=False)


def _stock_collator(setting: Setting, **options: Any) -> Any:
    from transformers import DataCollatorForLanguageModeling

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whole words are always [MASK] there, as it says
        return DataCollatorForLanguageModeling(setting.tokenizer, mlm_probability=RATIO, **options)


def hf_token_masking(setting: Setting) -> Provider:
    collator = _stock_collator(setting)

    def work(inputs: tuple[Tensor, Tensor], _: int) -> tuple[Tensor, Tensor]:
        return collator.torch_mask_tokens(inputs[0], special_tokens_mask=inputs[1])

    return Provider(work, lambda text: (text.ids.clone(), text.special))  # it masks in place


def hf_whole_word(setting: Setting) -> Provider:
    collator = _stock_collator(setting, whole_word_mask=True)

    def work(inputs: tuple[Tensor, Tensor, Tensor], _: int) -> tuple[Tensor, Tensor]:
        ids, special, offsets = inputs
        return collator.torch_mask_tokens(ids, special_tokens_mask=special, offset_mapping=offsets)

    return Provider(work, lambda text: (text.ids.clone(), text.special, text.offsets))


def hf_collator_lists(setting: Setting) -> Provider:
    collator = _stock_collator(setting)

    def work(rows: list[dict[str, list[int]]], _: int) -> tuple[Tensor, Tensor]:
        batch = collator(rows)
        return batch["input_ids"], batch["labels"]

    return Provider(work, lambda text: text.list_rows)


def published_numpy(setting: Setting) -> Provider:
    kinds = token_kinds(setting.vocab).numpy()
    masker = PublishedSpanMasker(kinds, MASK, setting.random_ids.numpy(), seed=1, ratio=RATIO)

    def work(ids: Any, _: int) -> tuple[Any, Any]:
        batch = masker(ids)
        return batch.input_ids, batch.labels

    return Provider(work, lambda text: text.ids.numpy(), exact=True)


BUILDERS: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        span_mask,
        span_masker,
        collator_tensors,
        collator_lists,
        padding_tensors,
        padding_lists,
        hf_token_masking,
        hf_whole_word,
        hf_collator_lists,
        published_numpy,
    )
}
