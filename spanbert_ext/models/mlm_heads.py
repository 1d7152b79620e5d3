# SPDX-License-Identifier: Apache-2.0
"""Where each encoder family of transformers keeps the transform and the decoder of its MLM head, and its NSP head."""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.activations import gelu

from spanbert_ext.models.fused_path import not_row_wise
from spanbert_ext.models.known_modules import ROW_WISE, Known, RowWise, name_stem

Rows = Callable[[Tensor], Tensor]


class MlmHead(NamedTuple):
    """A native MLM head: `whole(x) = decoder(transform(x))`, [..., H] -> [..., V]. A head of the user's may be `whole`
    alone. Beside an NSP head `whole` takes the pooled rows [B, H] too, and gives the logits of both."""

    whole: Callable[..., Any]
    around: tuple[Known, ...]  # the module `whole`, and what else lies around the parts and the decoder
    parts: tuple[
        tuple[str | None, Any], ...
    ]  # of the transform, in order: modules by path; a function has none
    decoder: Known  # [..., D] -> [..., V]
    row_wise: RowWise  # what the parts are made of
    nsp: Rows | None  # the NSP head, [B, H] -> [B, 2]

    def transform(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., D], by calling the parts."""
        for _, part in self.parts:
            x = part(x)
        return x

    def not_row_wise(self) -> tuple[str, str] | None:
        """Which module of the transform may not work on rows one by one, and why."""
        for path, part in self.parts:
            if path is None:
                continue
            if not isinstance(part, nn.Module):
                return path, "is no module: what it computes is not known"
            found = not_row_wise(path, part, self.row_wise)
            if found is not None:
                return found
        return None


class HeadShape(NamedTuple):
    """Where the models of a class keep their MLM head: `find` looks there, as modules may be replaced at any time.

    Attributes:
        around: paths and classes of the modules, outermost first, whose forward is the head's. None of them: the
            model itself calls the parts and the decoder, one after the other.
        parts: of the transform: paths, and functions that have no module.
        decoder: path.
        row_wise: classes of which the parts are made.
        first_of_result: the outermost module returns a tuple, logits first.
        nsp: path of the NSP head, where the outermost module calls one too.

    Classes that are None are those that a model's modules have when it is built (`as_built`).
    """

    around: tuple[tuple[str, type[nn.Module] | None], ...]
    parts: tuple[str | Rows, ...]
    decoder: str
    row_wise: RowWise | None
    first_of_result: bool = False
    nsp: str | None = None

    def as_built(self, model: Any) -> HeadShape:
        """With the classes that the modules of `model` have now."""
        around = tuple((path, exact or type(module_at(model, path))) for path, exact in self.around)
        row_wise = self.row_wise
        if row_wise is None:
            parts = [module_at(model, part) for part in self.parts if isinstance(part, str)]
            row_wise = {}
            for module in (module for part in parts for module in part.modules()):
                called = tuple(name for name, child in module._modules.items() if child is not None)
                before = row_wise.get(type(module), called)
                row_wise[type(module)] = tuple(name for name in called if name in before)
        return self._replace(around=around, row_wise=row_wise)

    def find(self, model: Any) -> MlmHead:
        around = tuple(Known(path, module_at(model, path), exact) for path, exact in self.around)
        parts = tuple(
            (part, module_at(model, part)) if isinstance(part, str) else (None, part) for part in self.parts
        )
        decoder = Known(self.decoder, module_at(model, self.decoder), nn.Linear)
        if not around:
            whole = _chain(*(part for _, part in parts), decoder.module)
        elif self.first_of_result:
            whole = _chain(around[0].module, itemgetter(0))
        else:
            whole = around[0].module
        nsp = None if self.nsp is None else module_at(model, self.nsp)
        return MlmHead(whole, around, parts, decoder, self.row_wise, nsp)


def module_at(model: Any, path: str) -> Any:
    """What stands at a dotted path of `model`, or None."""
    for name in path.split("."):
        model = getattr(model, name, None)
    return model


def _chain(*functions: Callable[[Any], Any]) -> Rows:
    def run(x: Tensor) -> Tensor:
        for function in functions:
            x = function(x)
        return x

    return run


def bert_head(native: type, prefix: str = "", norm: str = "LayerNorm") -> HeadShape:
    """`prefix`: of the classes' names. `norm`: the name of the transform's LayerNorm."""
    stem = prefix + name_stem(native)
    transform = _class(native, f"{stem}PredictionHeadTransform")
    return HeadShape(
        (
            ("cls", _class(native, f"{stem}OnlyMLMHead")),
            ("cls.predictions", _class(native, f"{stem}LMPredictionHead")),
        ),
        ("cls.predictions.transform",),
        "cls.predictions.decoder",
        {**ROW_WISE, transform: ("dense", "transform_act_fn", norm)},
    )


def bert_nsp_head(native: type) -> HeadShape:
    """Of a class that predicts the next sentence too: the MLM head is the masked language model's."""
    shape = bert_head(native)
    both = _class(native, f"{name_stem(native)}PreTrainingHeads")
    return shape._replace(around=(("cls", both), *shape.around[1:]), nsp="cls.seq_relationship")


def roberta_head(native: type) -> HeadShape:
    lm_head = _class(native, f"{name_stem(native)}LMHead")
    return HeadShape(
        (("lm_head", lm_head),), ("lm_head.dense", gelu, "lm_head.layer_norm"), "lm_head.decoder", ROW_WISE
    )


def distilbert_head(native: type) -> HeadShape:
    return HeadShape((), ("vocab_transform", "activation", "vocab_layer_norm"), "vocab_projector", ROW_WISE)


def electra_head(native: type) -> HeadShape:
    transform = _class(native, f"{name_stem(native)}GeneratorPredictions")
    return HeadShape(
        (),
        ("generator_predictions",),
        "generator_lm_head",
        {**ROW_WISE, transform: ("dense", "activation", "LayerNorm")},
    )


def albert_head(native: type) -> HeadShape:
    return _inline_head((("predictions", _class(native, "AlbertMLMHead")),))


def rembert_head(native: type) -> HeadShape:
    head, predictions = _class(native, "RemBertOnlyMLMHead"), _class(native, "RemBertLMPredictionHead")
    return _inline_head((("cls", head), ("cls.predictions", predictions)))


def _inline_head(around: tuple[tuple[str, type[nn.Module]], ...]) -> HeadShape:
    """The innermost module calls Linear, activation, LayerNorm and the decoder itself."""
    path = around[-1][0]
    parts = tuple(f"{path}.{name}" for name in ("dense", "activation", "LayerNorm"))
    return HeadShape(around, parts, f"{path}.decoder", ROW_WISE)


def modernbert_head(native: type) -> HeadShape:
    head = _class(native, f"{name_stem(native)}PredictionHead")
    return HeadShape((), ("head",), "decoder", {**ROW_WISE, head: ("dense", "act", "norm")})


def eurobert_head(native: type) -> HeadShape:
    return HeadShape((), (), "lm_head", ROW_WISE)


def xlm_head(native: type) -> HeadShape:
    layer = _class(native, native.__name__.replace("WithLMHeadModel", "PredLayer"))
    return HeadShape((("pred_layer", layer),), (), "pred_layer.proj", ROW_WISE, first_of_result=True)


def _class(native: type, name: str) -> type[nn.Module]:
    """A class that stands beside `native`.

    Raises:
        AttributeError: there is none.
    """
    return getattr(sys.modules[native.__module__], name)
