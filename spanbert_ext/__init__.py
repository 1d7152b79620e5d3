# SPDX-License-Identifier: Apache-2.0
"""SpanBERT pre-training (Joshi et al., TACL 2020) as fused PyTorch operators."""

from importlib import import_module
from typing import TYPE_CHECKING

from spanbert_ext._library import build_info
from spanbert_ext._version import __version__ as __version__

if TYPE_CHECKING:
    from spanbert_ext import ops, reference
    from spanbert_ext.convert.fairseq import load_fairseq_checkpoint
    from spanbert_ext.fill.filling import fill_spans
    from spanbert_ext.fill.results import FilledSpan, FilledText, Guess, HeadFillings, SpanFilling
    from spanbert_ext.masking.callback import SpanMaskingCallback
    from spanbert_ext.masking.collator import DataCollatorForSpanMasking
    from spanbert_ext.masking.masker import MaskedBatch, SpanMasker
    from spanbert_ext.masking.show import show_spans
    from spanbert_ext.masking.word_kinds import token_kinds_from_word_ids, token_kinds_from_words
    from spanbert_ext.models.native_classes import register_family
    from spanbert_ext.models.output import span_metrics
    from spanbert_ext.models.pretraining import SpanBertForPreTraining
    from spanbert_ext.models.span_boundary_head import SpanBoundaryHead

# Importing the package needs torch alone: a name's module is imported when the name is first used.
_MODULES = {
    "DataCollatorForSpanMasking": "masking.collator",
    "FilledSpan": "fill.results",
    "FilledText": "fill.results",
    "Guess": "fill.results",
    "HeadFillings": "fill.results",
    "MaskedBatch": "masking.masker",
    "SpanBertForPreTraining": "models.pretraining",
    "SpanBoundaryHead": "models.span_boundary_head",
    "SpanFilling": "fill.results",
    "SpanMasker": "masking.masker",
    "SpanMaskingCallback": "masking.callback",
    "fill_spans": "fill.filling",
    "load_fairseq_checkpoint": "convert.fairseq",
    "register_family": "models.native_classes",
    "show_spans": "masking.show",
    "span_metrics": "models.output",
    "token_kinds_from_word_ids": "masking.word_kinds",
    "token_kinds_from_words": "masking.word_kinds",
}

__all__ = [
    "DataCollatorForSpanMasking",
    "FilledSpan",
    "FilledText",
    "Guess",
    "HeadFillings",
    "MaskedBatch",
    "SpanBertForPreTraining",
    "SpanBoundaryHead",
    "SpanFilling",
    "SpanMasker",
    "SpanMaskingCallback",
    "build_info",
    "fill_spans",
    "load_fairseq_checkpoint",
    "ops",
    "reference",
    "register_family",
    "show_spans",
    "span_metrics",
    "token_kinds_from_word_ids",
    "token_kinds_from_words",
]


def __getattr__(name: str) -> object:
    if name in ("ops", "reference"):
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
