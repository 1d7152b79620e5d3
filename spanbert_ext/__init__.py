"""SpanBERT pre-training (Joshi et al., TACL 2020) as fused PyTorch operators."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

from spanbert_ext._library import build_info

if TYPE_CHECKING:
    from spanbert_ext import ops, reference
    from spanbert_ext.collator import DataCollatorForSpanMasking, SpanMaskingCallback
    from spanbert_ext.heads import SpanBoundaryHead
    from spanbert_ext.masking import MaskedBatch, SpanMasker
    from spanbert_ext.modeling import SpanBertForPreTraining, span_metrics

# Importing the package needs torch alone: a name's module is imported when the name is first used.
_MODULES = {
    "DataCollatorForSpanMasking": "collator",
    "MaskedBatch": "masking",
    "SpanBertForPreTraining": "modeling",
    "SpanBoundaryHead": "heads",
    "SpanMasker": "masking",
    "SpanMaskingCallback": "collator",
    "span_metrics": "modeling",
}

__all__ = [
    "DataCollatorForSpanMasking",
    "MaskedBatch",
    "SpanBertForPreTraining",
    "SpanBoundaryHead",
    "SpanMasker",
    "SpanMaskingCallback",
    "build_info",
    "ops",
    "reference",
    "span_metrics",
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
