# SPDX-License-Identifier: Apache-2.0
"""The next-sentence prediction (NSP): whether the second part of a pair continues the first one or is a random one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spanbert_ext.masking.checks import PAIRS
from spanbert_ext.models.head_loss import Heads
from spanbert_ext.ops._common import accumulation_dtype, check_tensors, may_read_values
from spanbert_ext.ops.head_targets import count_tensor


class NextSentenceOutput(NamedTuple):
    """Only `loss` carries a gradient."""

    loss: Tensor  # [] the part of the model's loss
    nsp_loss: Tensor  # [] mean over the batch's targets, in nats; 0 over none
    nsp_count: Tensor  # [] int64, rows with a target
    nsp_accuracy: Tensor  # []
    nsp_statistics: Tensor  # [B, 4] nll, targets, correct, random: sums over a row's only target
    nsp_prediction: Tensor  # [B] int64, -1 where there is no target


def sentence_logits(heads: Heads, x: Tensor, pooled: Tensor) -> tuple[Heads, Tensor]:
    """The NSP head's logits [B, 2], and the heads as they are for the hidden states x alone.

    The native class has both heads in one module, which stands first in `around`. Where that is known (`fused_path`),
    each head in it is called by itself; else the whole is, once for both.

    Args:
        x: [B, L, H].
        pooled: [B, H].
    """
    mlm = heads.mlm
    if heads.whole_mlm is None:
        return heads._replace(mlm=mlm._replace(whole=mlm.around[1].module)), mlm.nsp(pooled)
    logits, of_pairs = mlm.whole(x, pooled)
    return heads._replace(mlm=mlm._replace(whole=lambda x: logits)), of_pairs


def given_pairs(is_random_next: Tensor | None, others: dict[str, Any]) -> Tensor | None:
    """`is_random_next`, or what stands among `others`, and is taken out, by transformers' name of it.

    No parameter of the model's forward has that name: Trainer takes those with "label" in theirs for what a batch must
    have to be evaluated.

    Raises:
        ValueError: both.
    """
    named = others.pop("next_sentence_label", None)
    if named is not None and is_random_next is not None:
        raise ValueError("is_random_next and next_sentence_label are two names of one tensor: give one")
    return is_random_next if named is None else named


def check_pairs(is_random_next: Tensor | None, labels: Tensor | None, has_head: bool, training: bool) -> None:
    """The targets as the NSP head needs them; elements are read on the CPU, on CUDA under SPANBERT_EXT_DEBUG=1 only.

    Raises:
        ValueError: they came without a head, or without labels; the head is trained without them; they are not [B], or
            not where the labels are.
        TypeError: they are no tensor of int64.
        IndexError: one is above 1.
    """
    if is_random_next is None:
        if has_head and training and labels is not None:
            raise ValueError(
                "the model has an NSP head, but a batch of training has no is_random_next: give the dataset that "
                "column (Trainer drops one named next_sentence_label), negative in rows without a target, or make the "
                "model with nsp=False"
            )
        return
    if not has_head:
        raise ValueError("is_random_next is given, but the model has no NSP head: make it with nsp=True")
    if labels is None:
        raise ValueError("is_random_next came without labels, which the loss needs beside it")
    check_tensors("SpanBertForPreTraining", {"labels": labels, "is_random_next": is_random_next})
    if is_random_next.shape != labels.shape[:1]:
        raise ValueError(
            f"is_random_next has shape {list(is_random_next.shape)}, expected [{labels.shape[0]}], one a row"
        )
    if is_random_next.dtype != torch.int64:
        raise TypeError(f"is_random_next has dtype {is_random_next.dtype}, expected int64")
    if may_read_values(is_random_next) and (is_random_next > 1).any():
        row = int((is_random_next > 1).nonzero()[0])
        raise IndexError(f"is_random_next[{row}] is {int(is_random_next[row])}, expected {PAIRS}")


def next_sentence_loss(
    logits: Tensor,
    is_random_next: Tensor,
    mlm_count: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    num_nsp_items: Tensor | int | None = None,
) -> NextSentenceOutput:
    """Cross-entropy, a mean over rows with a target. NaN where a target is above 1 and no check has seen it.

    Args:
        logits: [B, 2], continues and random.
        is_random_next: [B] int64.
        mlm_count: [] the batch's MLM targets.
        num_items_in_batch, num_nsp_items: as those of `forward`.
    """
    live, beyond = is_random_next >= 0, is_random_next > 1  # [B]
    logits = logits.to(accumulation_dtype(logits.dtype))
    nll = F.cross_entropy(
        logits, is_random_next.where(live & ~beyond, -100), ignore_index=-100, reduction="none"
    ).masked_fill(beyond, torch.nan)  # [B]
    count = live.sum()
    items, nsp_items = (
        None if number is None else count_tensor(number, logits, logits.dtype).clamp_min(1)
        for number in (num_items_in_batch, num_nsp_items)
    )
    if items is None:
        loss = nll.sum() / count.clamp_min(1)
    elif nsp_items is None:
        loss = nll.sum() / count.clamp_min(1) * (mlm_count / items)
    else:
        loss = nll.sum() / nsp_items
    prediction = logits.detach().argmax(1).where(live, -1)
    columns = (nll.detach(), live, live & (prediction == is_random_next), is_random_next == 1)
    statistics = torch.stack([column.to(logits.dtype) for column in columns], dim=1)
    nsp_loss, _, nsp_accuracy, _ = (statistics.sum(0) / count.clamp_min(1)).unbind()
    return NextSentenceOutput(loss, nsp_loss, count, nsp_accuracy, statistics, prediction)
