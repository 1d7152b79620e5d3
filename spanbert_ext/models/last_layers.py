"""Which modules lie behind the last attention of each encoder family of transformers.

A family's finder returns them for a model, or None where the model is built otherwise, as with cross-attention or a
chunked feed-forward network: all rows are computed then. It looks the classes up in the family's own file, which the
model has imported: a class that another version of transformers does not have takes that family's skipping away.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from spanbert_ext.models.known_modules import ROW_WISE, RowWise


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


class Layout(NamedTuple):
    """Where a family keeps these modules: paths from `model.base_model`, in which -1 is the last module of a list.

    Names of classes are those of the file `transformers.models.<file>`; * stands for the family's prefix.
    """

    file: str
    prefix: str
    layer: str
    around: tuple[tuple[str, str], ...]
    behind: tuple[str, ...]
    parts: tuple[tuple[str, tuple[str, ...]], ...]  # row-wise where the modules with these names are
    narrowed: str | None = None
    whole: str | None = None
    padded: bool = False


def find_last_layer(layout: Layout, model: Any) -> RowModules | None:
    """The modules of `layout` in `model`, where those around are exactly of the family's classes."""
    around_classes, row_wise = _classes(layout)
    encoder, around = model.base_model, []
    for (path, _), known in zip(layout.around, around_classes, strict=True):
        module = _at(encoder, path)
        if known is None or type(module) is not known:
            return None
        around.append(module)
    layer = _at(encoder, layout.layer)
    behind = tuple((path, _at(encoder, path)) for path in layout.behind)
    if getattr(layer, "add_cross_attention", False) or any(module is None for _, module in behind):
        return None
    for module in (layer, *(module for _, module in behind)):
        if getattr(module, "chunk_size_feed_forward", 0) > 0:
            return None  # it would cut other chunks out of some rows
    return RowModules(
        layer,
        behind[0][1],
        behind[-1][1],
        behind,
        tuple(around),
        row_wise,
        None if layout.narrowed is None else _at(encoder, layout.narrowed),
        None if layout.whole is None else _at(encoder, layout.whole),
        layout.padded,
    )


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


@torch.compiler.assume_constant_result
def _classes(layout: Layout) -> tuple[tuple[type | None, ...], RowWise]:
    """Those of `layout.around`, and the row-wise ones; without those that this transformers does not have."""
    if layout.file not in _found:
        try:
            home = importlib.import_module(f"transformers.models.{layout.file}")
        except ImportError:
            home = None

        def named(name: str) -> type | None:
            return getattr(home, name.replace("*", layout.prefix), None)

        parts = {named(name): called for name, called in layout.parts}
        _found[layout.file] = (
            tuple(named(name) for _, name in layout.around),
            {**ROW_WISE, **{known: called for known, called in parts.items() if known is not None}},
        )
    return _found[layout.file]


_found: dict[str, tuple[tuple[type | None, ...], RowWise]] = {}

# BERT, and the families that copy it: each residual goes into a module.
_LAST = "encoder.layer.-1"
_ATTENTION, _INTERMEDIATE, _OUTPUT = (
    f"{_LAST}.{name}" for name in ("attention.output", "intermediate", "output")
)
_DENSE = ("dense", "dropout", "LayerNorm")
_FEED = ("*Intermediate", ("dense", "intermediate_act_fn"))
_BERT = Layout(
    "bert.modeling_bert",
    "Bert",
    _LAST,
    (("", "*Model"), ("encoder", "*Encoder"), (_LAST, "*Layer"), (f"{_LAST}.attention", "*Attention")),
    (_ATTENTION, _INTERMEDIATE, _OUTPUT),
    (("*SelfOutput", _DENSE), _FEED, ("*Output", _DENSE)),
)

Finder = Callable[[Any], RowModules | None]


def _as_bert(file: str, prefix: str, **changes: Any) -> Finder:
    return partial(find_last_layer, _BERT._replace(file=file, prefix=prefix, **changes))


bert_last_layer = partial(find_last_layer, _BERT)
roberta_last_layer = _as_bert("roberta.modeling_roberta", "Roberta")
xlm_roberta_last_layer = _as_bert("xlm_roberta.modeling_xlm_roberta", "XLMRoberta")
camembert_last_layer = _as_bert("camembert.modeling_camembert", "Camembert")
data2vec_text_last_layer = _as_bert("data2vec.modeling_data2vec_text", "Data2VecText")
electra_last_layer = _as_bert("electra.modeling_electra", "Electra")
convbert_last_layer = _as_bert("convbert.modeling_convbert", "ConvBert")
ernie_last_layer = _as_bert("ernie.modeling_ernie", "Ernie")
layoutlm_last_layer = _as_bert("layoutlm.modeling_layoutlm", "LayoutLM")
mra_last_layer = _as_bert("mra.modeling_mra", "Mra")
nystromformer_last_layer = _as_bert("nystromformer.modeling_nystromformer", "Nystromformer")
rembert_last_layer = _as_bert("rembert.modeling_rembert", "RemBert")
roc_bert_last_layer = _as_bert("roc_bert.modeling_roc_bert", "RoCBert")
roformer_last_layer = _as_bert("roformer.modeling_roformer", "RoFormer")
yoso_last_layer = _as_bert("yoso.modeling_yoso", "Yoso")
longformer_last_layer = _as_bert("longformer.modeling_longformer", "Longformer", padded=True)
big_bird_last_layer = _as_bert("big_bird.modeling_big_bird", "BigBird", padded=True)
fnet_last_layer = _as_bert(
    "fnet.modeling_fnet",
    "FNet",
    around=(*_BERT.around[:3], (f"{_LAST}.fourier", "*FourierTransform")),
    behind=(f"{_LAST}.fourier.output", _INTERMEDIATE, _OUTPUT),
    parts=(("*BasicOutput", ("LayerNorm",)), _FEED, ("*Output", _DENSE)),
)

# The same with norms in front of the sublayers, and a last one behind the layers.
_UNNORMED = (("*SelfOutput", ("dense", "dropout")), _FEED, ("*Output", ("dense", "dropout")))
megatron_bert_last_layer = _as_bert(
    "megatron_bert.modeling_megatron_bert",
    "MegatronBert",
    behind=(_ATTENTION, f"{_LAST}.ln", _INTERMEDIATE, _OUTPUT, "encoder.ln"),
    parts=_UNNORMED,
)
roberta_prelayernorm_last_layer = _as_bert(
    "roberta_prelayernorm.modeling_roberta_prelayernorm",
    "RobertaPreLayerNorm",
    behind=(_ATTENTION, _INTERMEDIATE, _OUTPUT, "LayerNorm"),
    parts=(_UNNORMED[0], ("*Intermediate", ("LayerNorm", *_FEED[1])), _UNNORMED[2]),
)
xlm_roberta_xl_last_layer = _as_bert(
    "xlm_roberta_xl.modeling_xlm_roberta_xl",
    "XLMRobertaXL",
    behind=(_ATTENTION, f"{_LAST}.LayerNorm", _INTERMEDIATE, _OUTPUT, "encoder.LayerNorm"),
    parts=(_UNNORMED[0], _FEED, ("*Output", ("dense",))),
)

_DEBERTA = _BERT._replace(
    file="deberta.modeling_deberta", prefix="Deberta", parts=(*_BERT.parts, ("*LayerNorm", ()))
)
_DEBERTA_V2 = _BERT._replace(file="deberta_v2.modeling_deberta_v2", prefix="DebertaV2")


def _find_deberta(layout: Layout, model: Any) -> RowModules | None:
    modules = find_last_layer(layout, model)
    if modules is None or getattr(modules.around[0], "z_steps", 0) > 1:  # calls the last layer again
        return None
    convolved = getattr(modules.around[1], "conv", None) is not None  # behind the first layer
    return None if convolved and len(modules.around[1].layer) == 1 else modules


deberta_last_layer = partial(_find_deberta, _DEBERTA)
deberta_v2_last_layer = partial(_find_deberta, _DEBERTA_V2)

_ALBERT_GROUP = "encoder.albert_layer_groups.-1"
_ALBERT_LAYER = f"{_ALBERT_GROUP}.albert_layers.-1"
_ALBERT = Layout(
    "albert.modeling_albert",
    "Albert",
    _ALBERT_LAYER,
    (
        ("", "*Model"),
        ("encoder", "*Transformer"),
        (_ALBERT_GROUP, "*LayerGroup"),
        (_ALBERT_LAYER, "*Layer"),
        (f"{_ALBERT_LAYER}.attention", "*Attention"),
    ),
    # its attention reads and adds its input in one module: the projection keeps all rows
    tuple(
        f"{_ALBERT_LAYER}.{name}"
        for name in ("attention.LayerNorm", "ffn", "activation", "ffn_output", "full_layer_layer_norm")
    ),
    (),
)


def albert_last_layer(model: Any) -> RowModules | None:
    """ALBERT's layers are one, or a few, called again and again."""
    modules = find_last_layer(_ALBERT, model)
    if modules is None:
        return None
    encoder = modules.around[1]
    layers, groups = encoder.config.num_hidden_layers, encoder.config.num_hidden_groups
    called = [int(i / (layers / groups)) for i in range(layers)]  # as the encoder counts
    last = len(encoder.albert_layer_groups) - 1
    return modules._replace(calls=called.count(last)) if called and called[-1] == last else None


# Families whose residuals are sums in the layer itself, or in its attention.
_MPNET = f"{_LAST}.attention"
mpnet_last_layer = _as_bert(
    "mpnet.modeling_mpnet",
    "MPNet",
    around=(*_BERT.around, (f"{_MPNET}.attn", "*SelfAttention")),
    behind=(f"{_MPNET}.attn.o", f"{_MPNET}.dropout", f"{_MPNET}.LayerNorm", _INTERMEDIATE, _OUTPUT),
    parts=(_FEED, ("*Output", _DENSE)),
    narrowed=_MPNET,
    whole=f"{_MPNET}.attn",
)
_DISTILBERT = "transformer.layer.-1"
distilbert_last_layer = partial(
    find_last_layer,
    Layout(
        "distilbert.modeling_distilbert",
        "DistilBert",
        _DISTILBERT,
        (
            ("", "*Model"),
            ("transformer", "Transformer"),
            (_DISTILBERT, "TransformerBlock"),
            (f"{_DISTILBERT}.attention", "*SelfAttention"),
        ),
        tuple(
            f"{_DISTILBERT}.{name}"
            for name in ("attention.out_lin", "sa_layer_norm", "ffn", "output_layer_norm")
        ),
        (("FFN", ("lin1", "activation", "lin2", "dropout")),),
        narrowed=_DISTILBERT,
        whole=f"{_DISTILBERT}.attention",
    ),
)

_LAYER = "layers.-1"
_NOMIC = Layout(
    "nomic_bert.modeling_nomic_bert",
    "NomicBert",
    _LAYER,
    (("", "*Model"), (_LAYER, "*Layer"), (f"{_LAYER}.self_attn", "*Attention")),
    tuple(
        f"{_LAYER}.{name}"
        for name in (
            "self_attn.o_proj",
            "post_attention_dropout",
            "post_attention_layernorm",
            "mlp",
            "post_mlp_dropout",
            "post_mlp_layernorm",
        )
    ),
    (("*MLP", ("gate_proj", "up_proj", "down_proj", "act_fn")),),
    narrowed=_LAYER,
    whole=f"{_LAYER}.self_attn",
)
nomic_bert_last_layer = partial(find_last_layer, _NOMIC)
gte_last_layer = partial(find_last_layer, _NOMIC._replace(file="gte.modeling_gte", prefix="Gte"))
jina_last_layer = partial(
    find_last_layer,
    _NOMIC._replace(
        file="jina_embeddings_v3.modeling_jina_embeddings_v3",
        prefix="JinaEmbeddingsV3",
        parts=(("*MLP", ("fc1", "activation_fn", "fc2")),),
    ),
)
modernbert_last_layer = partial(
    find_last_layer,
    Layout(
        "modernbert.modeling_modernbert",
        "ModernBert",
        _LAYER,
        (("", "*Model"), (_LAYER, "*EncoderLayer"), (f"{_LAYER}.attn", "*Attention")),
        (*(f"{_LAYER}.{name}" for name in ("attn.Wo", "attn.out_drop", "mlp_norm", "mlp")), "final_norm"),
        (("*MLP", ("Wi", "act", "drop", "Wo")),),
        narrowed=_LAYER,
        whole=f"{_LAYER}.attn_norm",
    ),
)
eurobert_last_layer = partial(
    find_last_layer,
    Layout(
        "eurobert.modeling_eurobert",
        "EuroBert",
        _LAYER,
        (("", "*Model"), (_LAYER, "*DecoderLayer"), (f"{_LAYER}.self_attn", "*Attention")),
        (*(f"{_LAYER}.{name}" for name in ("self_attn.o_proj", "post_attention_layernorm", "mlp")), "norm"),
        (("*MLP", ("gate_proj", "up_proj", "down_proj", "act_fn")), ("*RMSNorm", ())),
        narrowed=_LAYER,
        whole=f"{_LAYER}.input_layernorm",
    ),
)
