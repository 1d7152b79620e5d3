"""What the model's forward takes beside the encoder's own inputs: checks that cost no synchronisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spanbert_ext.masking.row_bounds import HostNumber
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


def plain_bound(name: str, bound: int | None) -> int | None:
    """The bound as an int of Python's own, which torch.compile knows.

    Raises:
        TypeError: it is no integer, as a tensor, which would have to be read.
        ValueError: it is below 0.
    """
    if bound is None:
        return None
    if isinstance(bound, bool) or not isinstance(bound, int):
        raise TypeError(f"{name} is a {type(bound).__name__}, expected an int or None")
    if bound < 0:
        raise ValueError(f"{name} is {bound}, expected 0 or more")
    return int(bound)


def encoder_mask(config: Any, attention_mask: Tensor | None, all_text: bool | None) -> Tensor | None:
    """The mask that the encoder gets, so that transformers need not read it on the host to see if it is all ones.

    Where every position is text that is None, which means the same. Where some are padding it is, for sdpa, what
    transformers would make of it: bool `[B, 1, L, L]`. Where nobody has said, it is `attention_mask`.

    Args:
        config: of the model; its option `assume_all_text` is an `all_text` of every batch.

    Raises:
        TypeError: all_text is no bool.
        ValueError: the mask says otherwise. Elements are read on the CPU, on CUDA under SPANBERT_EXT_DEBUG=1 only.
    """
    if all_text is not None and not isinstance(all_text, (bool, HostNumber)):
        raise TypeError(f"all_text is a {type(all_text).__name__}, expected a bool or None")
    if attention_mask is None:
        return None
    if all_text or config.span_pretraining.get("assume_all_text"):
        source = "all_text" if all_text else "the model's option assume_all_text"
        _check_all_text(source, attention_mask)
        return None
    plain_sdpa = config._attn_implementation == "sdpa" and not getattr(config, "is_decoder", False)
    if all_text is None or attention_mask.dim() != 2 or not plain_sdpa:
        return attention_mask
    return attention_mask.bool()[:, None, None].expand(-1, 1, attention_mask.shape[1], -1).contiguous()


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


def scalar(count: Tensor | int | None) -> Tensor | int | None:
    """Under nn.DataParallel Trainer's count arrives as [1, 1]."""
    return count.flatten()[0] if isinstance(count, Tensor) and count.dim() else count
