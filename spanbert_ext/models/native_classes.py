# SPDX-License-Identifier: Apache-2.0
"""Which native class belongs to a configuration: transformers' own, and those that a user registers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_PRETRAINING_MAPPING,
    MODEL_FOR_PRETRAINING_MAPPING_NAMES,
)

from spanbert_ext.models.families import FAMILIES, REFUSED, Family, all_rows
from spanbert_ext.models.mlm_heads import HeadShape, MlmHead, module_at

_OURS = frozenset(FAMILIES)


class Native(NamedTuple):
    """A native class, its family, where it keeps its heads, and the name of the class that is made of it."""

    native: type
    family: Family
    head: HeadShape
    name: str


def register_family(
    model: type[PreTrainedModel] | type[PreTrainedConfig] | str,
    *,
    decoder: str,
    transform: str | Sequence[str] = (),
    head: str | None = None,
    eps: str | float = "layer_norm_eps",
    row_wise: bool = True,
    exist_ok: bool = False,
) -> None:
    """Makes `SpanBertForPreTraining` know one more masked language model, by the places of its head's modules.

    `decoder(transform(x))` must be the logits of the encoder's output x, as the model's own forward computes them. The
    first loss of a model compares them with what `head` makes of x; without a head compare
    `SpanBertForPreTraining(config)(input_ids).logits` with the native class's once. A process that unpickles a model
    registers first.

    The classes that the modules have when the model is built are taken at your word. What is done to a module later
    (LoRA, hooks, another class) is seen, and the module then called on whole sequences, as for every family. The
    encoder's last layer computes all rows.

    Args:
        model: the native class, or the model type or configuration class of one that `AutoModelForMaskedLM` knows.
        decoder: dotted path of the Linear D -> V that `get_output_embeddings()` returns.
        transform: paths of the modules between the encoder and the decoder, in the order in which they are called; none
            of them: the decoder reads the encoder's output.
        head: path of the module whose forward is transform and decoder, where there is one.
        eps: of the SBO's LayerNorms: the name of the configuration's attribute, or a number.
        row_wise: the transform works on positions one by one. False, as with a convolution along them: it runs on
            whole sequences.
        exist_ok: replaces what is registered for the model type, and transformers' own class of that type.

    Raises:
        TypeError, ValueError: an argument of another kind; a model type that is supported already; a class without a
            model type. Whether the paths lead to such modules is checked when a model is built.
    """
    native_class, model_type = _native_and_type(model)
    if not isinstance(transform, (str, list, tuple)):
        raise TypeError(f"register_family: transform is {transform!r}, expected a path or a list of paths")
    transform = (transform,) if isinstance(transform, str) else tuple(transform)
    for name, path in (("decoder", decoder), ("head", head), *(("transform", part) for part in transform)):
        if path is None and name == "head":
            continue
        if not isinstance(path, str) or not all(
            part.isidentifier() or part.isdigit() for part in path.split(".")
        ):
            raise TypeError(
                f"register_family: {name} is {path!r}, expected a dotted path as 'cls.predictions'"
            )
        if head is not None and name != "head" and not path.startswith(f"{head}."):
            raise ValueError(f"register_family: {name} is {path!r}, expected a path below head, {head!r}")
    if isinstance(eps, bool) or not isinstance(eps, (str, float, int)):
        raise TypeError(f"register_family: eps is {eps!r}, expected a number or the name of an attribute")
    if model_type in FAMILIES and not exist_ok:
        raise ValueError(
            f"register_family: model type {model_type!r} is supported already; exist_ok=True replaces it"
        )

    def mlm_head(native: type) -> HeadShape:
        around = () if head is None else tuple((path, None) for path in _upto(head, decoder))
        return HeadShape(around, transform, decoder, None if row_wise else {})

    FAMILIES[model_type] = Family(mlm_head, all_rows, eps=eps, native_class=native_class, registered=True)
    _REGISTERED.add(model_type)


_REGISTERED: set[str] = set()


def find_native(config_class: type, nsp: bool = False) -> Native:
    """What belongs to one type of configuration; its modeling file is imported.

    Args:
        nsp: the native class shall have an NSP head.

    Raises:
        ValueError: no model of that type is supported, or none with an NSP head.
    """
    model_type = getattr(config_class, "model_type", None)
    family = FAMILIES.get(model_type)
    if family is not None and family.native_class is not None:
        native = family.native_class
        if not issubclass(config_class, native.config_class):
            raise ValueError(
                f"SpanBertForPreTraining does not support {config_class.__name__}: register_family gave "
                f"{native.__name__} for the model type {model_type!r}, whose configuration is a "
                f"{native.config_class.__name__}"
            )
    elif family is None or config_class not in MODEL_FOR_MASKED_LM_MAPPING:
        reason = f" because {REFUSED[model_type]}" if model_type in REFUSED else ""
        raise ValueError(
            f"SpanBertForPreTraining does not support {config_class.__name__} (model type {model_type!r}){reason}; "
            f"supported: {', '.join(supported_types())}. Another masked language model can be given by "
            "spanbert_ext.register_family"
        )
    else:
        native = MODEL_FOR_MASKED_LM_MAPPING[config_class]
    find_head = family.mlm_head
    if nsp:
        if family.nsp_head is None or config_class not in MODEL_FOR_PRETRAINING_MAPPING:
            raise ValueError(
                f"SpanBertForPreTraining: nsp is True, but models of {config_class.__name__} (model type "
                f"{model_type!r}) have no head for the next-sentence prediction; with one: {', '.join(_nsp_types())}"
            )
        native, find_head = MODEL_FOR_PRETRAINING_MAPPING[config_class], family.nsp_head
    try:
        head = find_head(native)
    except AttributeError as error:
        raise ValueError(
            f"SpanBertForPreTraining does not support {config_class.__name__} of transformers "
            f"{transformers.__version__}: {error}"
        ) from error
    return Native(native, family, head, _class_name(model_type, native.__name__, nsp))


def supported_types() -> list[str]:
    """The model types for which there are a family and, in this transformers, a native class."""
    return sorted(
        name
        for name, family in FAMILIES.items()
        if name in _REGISTERED or name in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def _nsp_types() -> list[str]:
    """The model types with an NSP head."""
    return [
        name
        for name in supported_types()
        if FAMILIES[name].nsp_head is not None and name in MODEL_FOR_PRETRAINING_MAPPING_NAMES
    ]


def registered_configs() -> dict[str, type]:
    """By model type, the configuration classes of registered native classes."""
    return {
        model_type: FAMILIES[model_type].native_class.config_class
        for model_type in _REGISTERED
        if FAMILIES[model_type].native_class is not None
    }


def config_of_class_named(name: str) -> tuple[type, bool] | None:
    """The configuration class whose model class has this name, and whether that has an NSP head.

    No modeling file is imported.
    """
    for model_type in _nsp_types():
        if _class_name(model_type, MODEL_FOR_PRETRAINING_MAPPING_NAMES[model_type], nsp=True) == name:
            return CONFIG_MAPPING[model_type], True
    for model_type in supported_types():
        family = FAMILIES[model_type]
        if family.native_class is not None:
            config_class, native = family.native_class.config_class, family.native_class.__name__
        else:
            native = MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(model_type)
            config_class = None
            if native is None:  # AutoModelForMaskedLM.register
                config_class = CONFIG_MAPPING[model_type]
                native = MODEL_FOR_MASKED_LM_MAPPING[config_class].__name__
        if _class_name(model_type, native) == name:
            return config_class or CONFIG_MAPPING[model_type], False
    return None


def _class_name(model_type: str, native: str, nsp: bool = False) -> str:
    if nsp:
        return native.removesuffix("ForPreTraining") + "ForSpanSentencePreTraining"
    name = native.removesuffix("ForMaskedLM").removesuffix("WithLMHeadModel") + "ForSpanPreTraining"
    if model_type in _OURS:
        return name
    # A class of the user's may be named as one of transformers, or as another one of the user's.
    return f"{name.removesuffix('ForSpanPreTraining')}_{model_type.replace('-', '_')}_ForSpanPreTraining"


def check_head(model: Any, shape: HeadShape) -> None:
    """Whether the logits can come from the decoder's matrix and bias alone, as far as modules show it.

    Raises:
        ValueError: naming the module.
    """
    named = f"{model.native_class.__name__} (model type {model.config.model_type!r})"
    advice = "; spanbert_ext.register_family gives the paths of another head"
    if model.base_model is model:
        raise ValueError(
            f"{named} has no encoder: its base_model_prefix {model.base_model_prefix!r} leads nowhere"
        )
    for name in ("vocab_size", "hidden_size"):
        if not isinstance(getattr(model.config, name, None), int):
            raise ValueError(
                f"{named}: its configuration has no {name}; attribute_map can name another attribute"
            )
    paths = (*(path for path, _ in shape.around), *(part for part in shape.parts if isinstance(part, str)))
    for path in (*paths, shape.decoder, *(() if shape.nsp is None else (shape.nsp,))):
        if not isinstance(module_at(model, path), nn.Module):
            head = "NSP" if path == shape.nsp else "MLM"
            raise ValueError(f"{named} has no module {path}, which its {head} head is said to have{advice}")
    decoder, vocab_size = module_at(model, shape.decoder), model.config.vocab_size
    if model.get_output_embeddings() is not decoder:
        raise ValueError(f"{named}: get_output_embeddings() is not {shape.decoder}{advice}")
    weight, bias = getattr(decoder, "weight", None), getattr(decoder, "bias", None)
    if getattr(weight, "ndim", None) != 2 or weight.shape[0] != vocab_size:
        found = f"shape {list(weight.shape)}" if hasattr(weight, "shape") else f"{type(weight).__name__}"
        raise ValueError(
            f"{named}: the weight of {shape.decoder} has {found}, expected [V, D] with V = {vocab_size}: its logits "
            f"do not come from that matrix{advice}"
        )
    if bias is not None and bias.shape != (vocab_size,):
        raise ValueError(
            f"{named}: the bias of {shape.decoder} has shape {list(bias.shape)}, expected [{vocab_size}]"
        )
    stray = _stray_parameter(model, shape)
    if stray is not None:
        raise ValueError(
            f"{named}: {stray} has an element for each word and is not the decoder's own, so its logits may not come "
            f"from {shape.decoder} alone{advice}"
        )
    eps = model.family.eps
    if isinstance(eps, str) and not hasattr(model.config, eps):
        raise ValueError(
            f"{named}: its configuration has no {eps}, which is said to be that of LayerNorms: "
            "register_family(..., eps=1e-12) gives a number"
        )


@torch.no_grad()
def compare_head(model: Any, head: MlmHead, x: Tensor) -> None:
    """Whether the parts of a registered head make of hidden states what the whole does, up to rounding.

    Args:
        x: [B, L, H], of which one row of the batch is tried.

    Raises:
        ValueError: they do not.
    """
    modules = [known.module for known in head.around] + [part for _, part in head.parts]
    modules = [module for module in modules if isinstance(module, nn.Module)]
    training = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for part, _ in training:
            part.training = False  # dropout would differ
        row = x[:1]
        whole, parts = head.whole(row).double(), head.decoder.module(head.transform(row)).double()
    finally:
        for part, mode in training:
            part.training = mode
    difference, size = (parts - whole).abs().max().item(), whole.abs().max().item()
    if whole.shape != parts.shape or not difference <= 32 * torch.finfo(x.dtype).eps * max(size, 1):
        raise ValueError(
            f"{model.native_class.__name__}: {head.around[0].path} makes other logits of the encoder's output than "
            f"{head.decoder.path} behind {[path for path, _ in head.parts]}, which register_family was given: they "
            f"differ by {difference:.3g}, and the largest is {size:.3g}"
        )


def _stray_parameter(model: Any, shape: HeadShape) -> str | None:
    """A parameter of the head with a dimension of V beside the decoder's: logits may depend on it."""
    vocab_size, width = module_at(model, shape.decoder).weight.shape
    if vocab_size in (width, model.config.hidden_size):
        return None  # then a dimension says nothing
    tied = model._tied_weights_keys or {}
    patterns = [*tied, *(tied.values() if isinstance(tied, dict) else ())]
    own = {f"{shape.decoder}.weight", f"{shape.decoder}.bias"}
    roots = [shape.around[0][0]] if shape.around else [*shape.parts, shape.decoder]
    for root in roots:
        if not isinstance(root, str):
            continue
        for name, parameter in module_at(model, root).named_parameters():
            path = f"{root}.{name}"
            if vocab_size not in parameter.shape or path in own:
                continue
            if not any(re.fullmatch(pattern, path) for pattern in patterns):
                return path
    return None


def _native_and_type(model: Any) -> tuple[type | None, str]:
    if isinstance(model, str):
        native_class, config_class, model_type = None, None, model
    elif isinstance(model, type) and issubclass(model, PreTrainedModel):
        native_class, config_class = model, model.config_class
        model_type = getattr(config_class, "model_type", "")
    elif isinstance(model, type) and issubclass(model, PreTrainedConfig):
        native_class, config_class, model_type = None, model, model.model_type
    else:
        raise TypeError(
            f"register_family: model is {model!r}, expected a PreTrainedModel's class, its configuration's class or a "
            "model type"
        )
    if not model_type:
        raise ValueError(
            f"register_family: {model!r} has no model type: give its configuration class a model_type"
            + ("" if config_class is not None else ", and the model class that as config_class")
        )
    if native_class is None:
        known = model_type in CONFIG_MAPPING
        if not known or CONFIG_MAPPING[model_type] not in MODEL_FOR_MASKED_LM_MAPPING:
            raise ValueError(
                f"register_family: AutoModelForMaskedLM knows no model type {model_type!r}: give the native class"
            )
    return native_class, model_type


def _upto(head: str, decoder: str) -> list[str]:
    """The paths from `head` down to the module that holds `decoder`."""
    names = decoder.split(".")
    return [".".join(names[:depth]) for depth in range(head.count(".") + 1, len(names))]
