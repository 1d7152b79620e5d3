"""SpanBERT pre-training (Joshi et al., TACL 2020) as fused PyTorch operators."""

from spanbert_ext._library import build_info

__all__ = ["build_info"]
