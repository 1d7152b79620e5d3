# SPDX-License-Identifier: Apache-2.0
"""What the model's forward takes beside the encoder's own inputs: checks that cost no synchronisation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import ModelOutput

from spanbert_ext.masking.row_bounds import HostNumber
from spanbert_ext.models.families import Family
from spanbert_ext.ops._common import may_read_values

INDEX_NAMES = ("masked_positions", "left_boundary", "right_boundary")


def given_indices(labels: Tensor | None, *indices: Tensor | None) -> tuple[Tensor, ...]:
    """The index tensors that were given, in the order of INDEX_NAMES: none of them, the first, or all three.

    Raises:
        ValueError: any of them without labels, or boundaries that are not a pair beside masked positions.
    """
    given = tuple(index for index in indices if index is not None)
    if not given:
        return ()
    if labels is None:
        raise ValueError(
            "masked_positions, left_boundary or right_boundary came without labels. Trainer takes these away "
            "for label_smoothing_factor or a compute_loss_func: use the model's own label_smoothing option"
        )
    if len(given) == 3 or (len(given) == 1 and indices[0] is not None):
        return given
    missing = [name for name, index in zip(INDEX_NAMES, indices, strict=True) if index is None]
    raise ValueError(
        f"masked_positions come alone or with both boundaries; missing: {', '.join(missing)} (none of the three: "
        "every labelled position is predicted)"
    )


def check_labels(labels: Tensor, text: Tensor | None, vocab_size: int) -> None:
    """Labels as the heads need them; elements are read on the CPU, on CUDA under SPANBERT_EXT_DEBUG=1 only.

    Args:
        text: the input, [B, L] or [B, L, H].

    Raises:
        ValueError: labels are not [B, L].
        TypeError: they are not int64.
        IndexError: one is beyond the vocabulary.
    """
    if labels.dim() != 2 or (text is not None and labels.shape != text.shape[:2]):
        like_text = text is not None and text.dim() >= 2
        expected = f"{list(text.shape[:2])} as the input" if like_text else "[B, L]"
        raise ValueError(f"labels has shape {list(labels.shape)}, expected {expected}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels has dtype {labels.dtype}, expected int64")
    if may_read_values(labels) and labels.numel() and labels.max() >= vocab_size:
        row, position = (labels >= vocab_size).nonzero()[0].tolist()
        raise IndexError(
            f"labels[{row}, {position}] is {int(labels[row, position])}, expected an id below {vocab_size}, the "
            "model's vocabulary, or a negative one for no target"
        )


def plain_bound(name: str, bound: int | HostNumber | None) -> int | None:
    """The bound as an int of Python's own, which torch.compile can trace.

    Args:
        bound: also a collator's `HostNumber`.

    Raises:
        TypeError: it is no integer, as a tensor, which would have to be read.
        ValueError: it is below 0.
    """
    if bound is None:
        return None
    if isinstance(bound, HostNumber):
        bound = bound.number
    if isinstance(bound, bool) or not isinstance(bound, int):
        raise TypeError(f"{name} is a {type(bound).__name__}, expected an int or None")
    if bound < 0:
        raise ValueError(f"{name} is {bound}, expected 0 or more")
    return int(bound)


def encoder_mask(
    config: Any, family: Family, attention_mask: Tensor | None, all_text: bool | HostNumber | None
) -> Tensor | None:
    """The mask that the encoder gets, so that transformers need not read it on the host to see if it is all ones.

    Where every position is text that is None, which means the same. Where some are padding it is, for sdpa, what
    transformers would make of it: bool `[B, 1, L, L]`. Where all_text is None, or the family's encoder takes neither,
    it is `attention_mask`.

    Args:
        config: of the model; its option `assume_all_text` is an `all_text` of every batch.

    Raises:
        TypeError: all_text is no bool.
        ValueError: all_text is True and the mask has zeros, which are looked for on the CPU, on CUDA only under
            SPANBERT_EXT_DEBUG=1.
    """
    if isinstance(all_text, HostNumber):
        all_text = all_text.number != 0
    if all_text is not None and not isinstance(all_text, bool):
        raise TypeError(f"all_text is a {type(all_text).__name__}, expected a bool or None")
    if attention_mask is None:
        return None
    if all_text or config.span_pretraining.get("assume_all_text"):
        source = "all_text" if all_text else "the model's option assume_all_text"
        _check_all_text(source, attention_mask)
        return None if family.ones_are_none else attention_mask
    plain_sdpa = config._attn_implementation == "sdpa" and not getattr(config, "is_decoder", False)
    ready = family.ready_mask and plain_sdpa
    if all_text is None or attention_mask.dim() != 2 or not ready:
        return attention_mask
    return attention_mask.bool()[:, None, None].expand(-1, 1, attention_mask.shape[1], -1).contiguous()


def taken_inputs(encoder: nn.Module) -> frozenset[str] | None:
    """The names that its forward takes; None where it takes any."""
    parameters = inspect.signature(type(encoder).forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return frozenset(parameters)


def with_native_parameters(forward: FunctionType, native: Callable[..., Any], name: str) -> FunctionType:
    """`forward` with a signature that also has what its `**kwargs` hand on to a family's encoder.

    Trainer keeps the columns of a dataset that a model's forward names, and drops all others: `bbox`,
    `global_attention_mask`, `task_type_ids`, ... must stand there. The code is the same object: a call costs no more.

    Args:
        native: the forward of the family's masked language model. Those of its parameters that have "label" in their
            name stay out: Trainer evaluates only batches that have all of these.
        name: the qualified one of what is returned.
    """
    made = FunctionType(
        forward.__code__, forward.__globals__, forward.__name__, forward.__defaults__, forward.__closure__
    )
    for attribute in ("__module__", "__doc__", "__kwdefaults__", "__annotations__"):
        setattr(made, attribute, getattr(forward, attribute))
    made.__qualname__ = name
    signature = inspect.signature(forward)
    *own, others = signature.parameters.values()
    added = [
        parameter.replace(kind=parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(native).parameters.values()
        if parameter.name not in signature.parameters
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and "label" not in parameter.name
    ]
    made.__signature__ = signature.replace(parameters=[*own, *added, others])
    return made


def encode(model: Any, inputs: dict[str, Tensor], options: dict[str, Any]) -> ModelOutput:
    """The encoder's output, whose first field is `[B, L, H]`.

    Args:
        inputs: of the model's forward by name. A tokenizer makes attention_mask and token_type_ids for encoders too
            that have none: those are left out. All of transformers' take them and pass over them.
        options: whatever else is for the encoder.
    """
    taken, returned = model.encoder_takes, {"return_dict": True}
    if taken is not None:
        optional = {"attention_mask", "token_type_ids"} - taken
        inputs = {name: x for name, x in inputs.items() if name not in optional}
        returned = returned if "return_dict" in taken else {}
    encoded = model.base_model(**inputs, **options, **returned)
    return encoded if isinstance(encoded, ModelOutput) else BaseModelOutput(last_hidden_state=encoded[0])


def _check_all_text(source: str, attention_mask: Tensor) -> None:
    if attention_mask.dim() != 2:
        raise ValueError(
            f"{source} is True, but attention_mask has shape {list(attention_mask.shape)}, expected [B, L]"
        )
    if may_read_values(attention_mask) and not attention_mask.all():
        row, position = (attention_mask == 0).nonzero()[0].tolist()
        raise ValueError(
            f"{source} is True, but attention_mask[{row}, {position}] is 0: expected a batch without padding"
        )


def scalar(name: str, count: Tensor | int | None) -> Tensor | int | None:
    """One count. Under nn.DataParallel Trainer's arrives as [1, 1].

    Raises:
        ValueError: a tensor that has not one element; a negative number.
        TypeError: neither a tensor nor a number.
    """
    if count is None:
        return None
    if isinstance(count, Tensor):
        if count.numel() != 1:
            raise ValueError(f"{name} has shape {list(count.shape)}, expected one number")
        return count.reshape(()) if count.dim() else count
    if isinstance(count, (bool, str)) or not hasattr(count, "__float__"):
        raise TypeError(f"{name} is a {type(count).__name__}, expected a number or a tensor of one")
    if count < 0:
        raise ValueError(f"{name} is {count}, expected 0 or more")
    return count


def truth(name: str, value: Any) -> bool:
    """A bool, as it is.

    Raises:
        TypeError: something else, as a tensor, which would have to be read.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is a {type(value).__name__}, expected True or False")
    return value
