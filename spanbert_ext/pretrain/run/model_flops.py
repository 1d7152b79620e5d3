# SPDX-License-Identifier: Apache-2.0
"""What a step computes, counted from the model's shapes, and the most that a GPU can: for the utilisation (MFU)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

# TFLOP/s of dense bfloat16 products with float32 sums, from the makers' data sheets; the first name that fits counts.
PEAK_BF16 = (
    ("GB200", 2500.0),
    ("B200", 2250.0),
    ("GH200", 989.0),
    ("H200 NVL", 835.0),
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("A30", 165.0),
    ("A40", 149.7),
    ("A6000", 154.8),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("4090", 165.2),
    ("3090", 71.0),
)
_READS_EVERY_TOKEN = re.compile(r"query|key|value|[._](W?[qkv]+|in)(_lin|_proj)?(\.|$)")


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of a forward pass: `per_token`, `per_pair` of tokens of a row (attention), and for each target of a
    head. The last layer behind its attention counts for the MLM's targets alone, a little less than the rows that are
    computed there. Attention counts as full, also where an encoder's is sparse."""

    per_token: float
    per_pair: float
    per_mlm_target: float
    per_sbo_target: float

    def training(self, tokens: float, pairs: float, mlm_targets: float, sbo_targets: float) -> float:
        """FLOPs of forward and backward, which is twice a forward. `pairs`: the sum of squared row lengths."""
        forward = self.per_token * tokens + self.per_pair * pairs
        return 3 * (forward + self.per_mlm_target * mlm_targets + self.per_sbo_target * sbo_targets)


def encoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList] | None:
    """The list of the encoder's layers with its path in the base model; None where there is not one of
    `num_hidden_layers`, as in ALBERT."""
    number = getattr(model.config, "num_hidden_layers", None)
    lists = (
        (path, module)
        for path, module in model.base_model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == number
    )
    return next(lists, None)


def count_flops(model: PreTrainedModel) -> ModelFlops | None:
    """Of a `SpanBertForPreTraining`; None where its layers are not one list (`encoder_layers`), or do not multiply by
    torch's Linear, as in I-BERT."""
    found = encoder_layers(model)
    if found is None:
        return None
    layers = len(found[1])
    last = f"{found[0]}.{layers - 1}."
    everywhere = in_rows_read = 0
    for path, module in model.base_model.named_modules():
        if not isinstance(module, nn.Linear) or "pooler" in path:
            continue
        if path.startswith(last) and not _READS_EVERY_TOKEN.search(path.removeprefix(last)):
            in_rows_read += module.weight.numel()
        else:
            everywhere += module.weight.numel()
    if everywhere == 0:
        return None
    decoder = model.get_output_embeddings().weight.numel()
    inside = {id(parameter) for parameter in (*model.base_model.parameters(), *model.sbo.parameters())}
    transform = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear)
        and id(module.weight) not in inside
        and module is not model.get_output_embeddings()
        and module.out_features > 2  # what NSP's head has
    )
    sbo = sum(module.weight.numel() for module in model.sbo.modules() if isinstance(module, nn.Linear))
    return ModelFlops(
        per_token=2.0 * everywhere,
        per_pair=4.0 * model.config.hidden_size * layers,  # scores, and the sum of values that they weight
        per_mlm_target=2.0 * (in_rows_read + transform + decoder),
        per_sbo_target=2.0 * (sbo + decoder),
    )


def peak_flops(device: torch.device, bf16: bool) -> float | None:
    """FLOP/s of the device's matrix units at the run's precision, or None where that is not known."""
    if device.type != "cuda" or not bf16:
        return None
    name = torch.cuda.get_device_name(device)
    if "Laptop" in name:  # other chips under the names of those that are not
        return None
    # as a word of its own: an RTX A4000 is no A40
    found = (rate for part, rate in PEAK_BF16 if re.search(rf"(?<![A-Z\d]){part}(?!\d)", name))
    return next((1e12 * rate for rate in found), None)
