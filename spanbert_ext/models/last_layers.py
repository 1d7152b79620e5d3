# SPDX-License-Identifier: Apache-2.0
"""Which modules lie behind the last attention of each encoder family of transformers.

A function of FAMILIES makes a `LayerShape` of a native class, None where this transformers has not its classes; the
shape then finds the modules in a model, None where the model is built otherwise, as with cross-attention or a chunked
feed-forward network. Without them all rows are computed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from spanbert_ext.models.known_modules import ROW_WISE, RowWise, name_stem


class RowModules(NamedTuple):
    """Of an encoder's last layer, what runs on some rows.

    A residual that the layer adds itself, in no module of its own, has to lose its rows too. Then `narrowed` gets
    some rows of its input, and `whole`, which is called in it before anything else, all of them.
    """

    layer: nn.Module
    first: nn.Module  # behind the attention: some rows go in
    last: nn.Module  # behind it they are spread out again
    behind: tuple[tuple[str, nn.Module], ...]  # with their paths: `first`, `last` and those between them
    around: tuple[nn.Module, ...]  # what calls them, or sees what they return; the encoder comes first
    row_wise: RowWise  # what `behind` is made of
    narrowed: nn.Module | None = None
    whole: nn.Module | None = None
    padded: bool = False  # the encoder lengthens its input at the end and cuts its output back
    calls: int = 1  # of the layer in one of the encoder; only the last may leave rows out


class LayerShape(NamedTuple):
    """Where the models of a class keep these modules: paths below `base_model`, in which -1 is the last of a list.

    Attributes:
        around: paths, and the classes that are expected there.
        check: takes what was found, and may return it changed, or None.
    """

    layer: str
    around: tuple[tuple[str, type[nn.Module]], ...]
    behind: tuple[str, ...]
    row_wise: RowWise
    narrowed: str | None = None
    whole: str | None = None
    padded: bool = False
    check: Callable[[RowModules], RowModules | None] | None = None

    def find(self, model: Any) -> RowModules | None:
        """Modules may be replaced at any time: those of now."""
        encoder, around = model.base_model, []
        for path, exact in self.around:
            module = _at(encoder, path)
            if type(module) is not exact:
                return None
            around.append(module)
        layer = _at(encoder, self.layer)
        behind = tuple((path, _at(encoder, path)) for path in self.behind)
        if getattr(layer, "add_cross_attention", False) or any(module is None for _, module in behind):
            return None
        for module in (layer, *(module for _, module in behind)):
            if getattr(module, "chunk_size_feed_forward", 0) > 0:
                return None  # it would cut other chunks out of some rows
        narrowed, whole = (
            None if path is None else _at(encoder, path) for path in (self.narrowed, self.whole)
        )
        if (narrowed is None, whole is None) != (self.narrowed is None, self.whole is None):
            return None
        first, last = behind[0][1], behind[-1][1]
        found = RowModules(
            layer, first, last, behind, tuple(around), self.row_wise, narrowed, whole, self.padded
        )
        return found if self.check is None else self.check(found)


def _at(module: nn.Module | None, path: str) -> nn.Module | None:
    for name in path.split(".") if path else ():
        if module is None:
            return None
        if name == "-1":
            if type(module) is not nn.ModuleList or len(module) == 0:  # another list may have another order
                return None
            name = str(len(module) - 1)
        module = module._modules.get(name)
    return module


def _shape(
    native: type,
    layer: str,
    around: dict[str, str],
    behind: tuple[str, ...],
    parts: dict[str, tuple[str, ...]],
    **options: Any,
) -> LayerShape | None:
    """Classes by name, from the file of the native class; * stands for the prefix of its own name.

    Args:
        parts: classes that are row-wise where the modules of these names are that they call; one may be missing.
    """
    home, prefix = sys.modules[native.__module__], name_stem(native)

    def named(name: str) -> type | None:
        return getattr(home, name.replace("*", prefix), None)

    classes = tuple((path, named(name)) for path, name in around.items())
    if any(exact is None for _, exact in classes):
        return None
    known = {named(name): called for name, called in parts.items() if named(name) is not None}
    return LayerShape(layer, classes, behind, {**ROW_WISE, **known}, **options)


def _below(path: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for name in names)


# BERT and its copies: each residual goes into a module.
_LAST = "encoder.layer.-1"
_AROUND = {"": "*Model", "encoder": "*Encoder", _LAST: "*Layer", f"{_LAST}.attention": "*Attention"}
_DENSE = ("dense", "dropout", "LayerNorm")
_FEED = ("dense", "intermediate_act_fn")
_PARTS = {"*SelfOutput": _DENSE, "*Intermediate": _FEED, "*Output": _DENSE}


def bert_last_layer(native: type, **options: Any) -> LayerShape | None:
    behind = _below(_LAST, "attention.output", "intermediate", "output")
    return _shape(native, _LAST, _AROUND, behind, _PARTS, **options)


def padded_last_layer(native: type) -> LayerShape | None:
    """As BERT, in an encoder that pads its input to a multiple of a window or block."""
    return bert_last_layer(native, padded=True)


def fnet_last_layer(native: type) -> LayerShape | None:
    around = {"": "*Model", "encoder": "*Encoder", _LAST: "*Layer", f"{_LAST}.fourier": "*FourierTransform"}
    behind = _below(_LAST, "fourier.output", "intermediate", "output")
    return _shape(native, _LAST, around, behind, {**_PARTS, "*BasicOutput": ("LayerNorm",)})


def deberta_last_layer(native: type) -> LayerShape | None:
    behind = _below(_LAST, "attention.output", "intermediate", "output")
    return _shape(native, _LAST, _AROUND, behind, {**_PARTS, "*LayerNorm": ()}, check=_deberta_check)


def _deberta_check(modules: RowModules) -> RowModules | None:
    model, encoder = modules.around[:2]
    if getattr(model, "z_steps", 0) > 1:  # it calls the last layer again
        return None
    convolved = getattr(encoder, "conv", None) is not None  # behind the first layer
    return None if convolved and len(encoder.layer) == 1 else modules


# As BERT with norms in front of the sublayers, and one behind the layers.
_SUMS = {"*SelfOutput": ("dense", "dropout"), "*Intermediate": _FEED, "*Output": ("dense", "dropout")}


def megatron_bert_last_layer(native: type) -> LayerShape | None:
    behind = (*_below(_LAST, "attention.output", "ln", "intermediate", "output"), "encoder.ln")
    return _shape(native, _LAST, _AROUND, behind, _SUMS)


def roberta_prelayernorm_last_layer(native: type) -> LayerShape | None:
    behind = (*_below(_LAST, "attention.output", "intermediate", "output"), "LayerNorm")
    return _shape(native, _LAST, _AROUND, behind, {**_SUMS, "*Intermediate": ("LayerNorm", *_FEED)})


def xlm_roberta_xl_last_layer(native: type) -> LayerShape | None:
    behind = (*_below(_LAST, "attention.output", "LayerNorm", "intermediate", "output"), "encoder.LayerNorm")
    return _shape(native, _LAST, _AROUND, behind, {**_SUMS, "*Output": ("dense",)})


def albert_last_layer(native: type) -> LayerShape | None:
    """Layers are one, or a few, called again and again. An attention reads its input and adds it in one module, so its
    projection keeps all rows."""
    group = "encoder.albert_layer_groups.-1"
    layer = f"{group}.albert_layers.-1"
    around = {
        "": "*Model",
        "encoder": "*Transformer",
        group: "*LayerGroup",
        layer: "*Layer",
        f"{layer}.attention": "*Attention",
    }
    behind = _below(layer, "attention.LayerNorm", "ffn", "activation", "ffn_output", "full_layer_layer_norm")
    return _shape(native, layer, around, behind, {}, check=_albert_check)


def _albert_check(modules: RowModules) -> RowModules | None:
    encoder = modules.around[1]
    layers, groups = encoder.config.num_hidden_layers, encoder.config.num_hidden_groups
    called = [int(i / (layers / groups)) for i in range(layers)]  # as the encoder counts
    last = len(encoder.albert_layer_groups) - 1
    return modules._replace(calls=called.count(last)) if called and called[-1] == last else None


# Layers, or their attention, that add residuals themselves.
def mpnet_last_layer(native: type) -> LayerShape | None:
    attention = f"{_LAST}.attention"
    return _shape(
        native,
        _LAST,
        {**_AROUND, f"{attention}.attn": "*SelfAttention"},
        (*_below(attention, "attn.o", "dropout", "LayerNorm"), *_below(_LAST, "intermediate", "output")),
        _PARTS,
        narrowed=attention,
        whole=f"{attention}.attn",
    )


def distilbert_last_layer(native: type) -> LayerShape | None:
    layer = "transformer.layer.-1"
    return _shape(
        native,
        layer,
        {
            "": "*Model",
            "transformer": "Transformer",
            layer: "TransformerBlock",
            f"{layer}.attention": "*SelfAttention",
        },
        _below(layer, "attention.out_lin", "sa_layer_norm", "ffn", "output_layer_norm"),
        {"FFN": ("lin1", "activation", "lin2", "dropout")},
        narrowed=layer,
        whole=f"{layer}.attention",
    )


_GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")


def nomic_bert_last_layer(native: type, parts: tuple[str, ...] = _GATED) -> LayerShape | None:
    layer = "layers.-1"
    norms = (
        "post_attention_dropout",
        "post_attention_layernorm",
        "mlp",
        "post_mlp_dropout",
        "post_mlp_layernorm",
    )
    return _shape(
        native,
        layer,
        {"": "*Model", layer: "*Layer", f"{layer}.self_attn": "*Attention"},
        _below(layer, "self_attn.o_proj", *norms),
        {"*MLP": parts},
        narrowed=layer,
        whole=f"{layer}.self_attn",
    )


def jina_last_layer(native: type) -> LayerShape | None:
    return nomic_bert_last_layer(native, ("fc1", "activation_fn", "fc2"))


def modernbert_last_layer(native: type) -> LayerShape | None:
    layer = "layers.-1"
    return _shape(
        native,
        layer,
        {"": "*Model", layer: "*EncoderLayer", f"{layer}.attn": "*Attention"},
        (*_below(layer, "attn.Wo", "attn.out_drop", "mlp_norm", "mlp"), "final_norm"),
        {"*MLP": ("Wi", "act", "drop", "Wo")},
        narrowed=layer,
        whole=f"{layer}.attn_norm",
    )


def eurobert_last_layer(native: type) -> LayerShape | None:
    layer = "layers.-1"
    return _shape(
        native,
        layer,
        {"": "*Model", layer: "*DecoderLayer", f"{layer}.self_attn": "*Attention"},
        (*_below(layer, "self_attn.o_proj", "post_attention_layernorm", "mlp"), "norm"),
        {"*MLP": _GATED, "*RMSNorm": ()},
        narrowed=layer,
        whole=f"{layer}.input_layernorm",
    )
