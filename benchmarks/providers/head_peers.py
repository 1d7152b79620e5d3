# SPDX-License-Identifier: Apache-2.0
"""Other projects' fused decoder and cross-entropy as contestants of bench_sbo.py.

Each is a function of one head's rows, decoder matrix, bias and targets, called once a head. Their autograd
functions ignore autocast: everything is cast to the run's dtype first, the matrix once for both heads,
and gradients are accumulated in float32 where there is a choice, as the fused operator does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from support.errors import Unavailable
from support.head_problem import Batch, Heads
from support.head_setting import Builder, Provider, Setting, boundary_rows

HeadLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Mean loss of one head from rows [N, D], decoder matrix [V, D], bias [V] and targets [N]."""


def _provider(name: str, setting: Setting, head_loss: HeadLoss, notes: dict[str, Any]) -> Provider:
    def loss(heads: Heads, hidden: Tensor, batch: Batch) -> Tensor:
        flat = hidden.flatten(0, 1)  # [B*L, H]
        mlm, sbo = heads.transform(flat[batch.mlm_rows]), boundary_rows(heads, flat, batch)
        weight, mlm_bias, sbo_bias, mlm, sbo = (
            tensor.to(setting.dtype)
            for tensor in (heads.decoder_weight, heads.mlm_bias, heads.sbo.bias, mlm, sbo)
        )
        mlm_loss = head_loss(mlm, weight, mlm_bias, batch.mlm_targets)
        return mlm_loss.float() + head_loss(sbo, weight, sbo_bias, batch.sbo_targets).float()

    return Provider(name, setting.precision, loss, notes=notes, foreign=True)


def _fastest(candidates: list[Provider], setting: Setting) -> Provider:
    return min(candidates, key=setting.full_ms)


# ---- torch.nn.functional.linear_cross_entropy ----


def _torch_linear_ce(name: str, setting: Setting, **options: Any) -> Provider:
    if not hasattr(F, "linear_cross_entropy") or not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise Unavailable(f"torch {torch.__version__} has no chunked F.linear_cross_entropy (2.13 has)")
    setting.require_speed()
    chosen = torch.nn.LinearCrossEntropyOptions(**options)

    def head_loss(rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        return F.linear_cross_entropy(rows, weight, targets, linear_bias=bias, options=chosen)

    return _provider(name, setting, head_loss, dict(options))


def torch_linear_ce_default(setting: Setting) -> Provider:
    """torch.nn.functional.linear_cross_entropy with the chunk that it chooses itself."""
    provider = _torch_linear_ce("torch_linear_ce_default", setting)
    resolved = torch.nn.LinearCrossEntropyOptions()._adjust(
        setting.rows[0], setting.shape.hidden, setting.shape.vocab, setting.dtype, setting.device
    )
    provider.notes.update(batch_chunk_size=resolved.batch_chunk_size, acc_policy=resolved.acc_policy)
    return provider


def torch_linear_ce_best(setting: Setting) -> Provider:
    """The same with the fastest chunk of a sweep, then the fastest accumulation policy at that chunk."""
    name = "torch_linear_ce_best"
    if name in setting.tuned:
        return _torch_linear_ce(name, setting, **setting.tuned[name])
    rows = max(setting.rows)
    doubling = [128 << step for step in range(12)]
    chunks = [chunk for chunk in doubling if chunk < rows] + [rows]
    best = _fastest([_torch_linear_ce(name, setting, batch_chunk_size=chunk) for chunk in chunks], setting)
    chunk = best.notes["batch_chunk_size"]
    policies = ("accurate", "balanced", "compact")
    return _fastest(
        [_torch_linear_ce(name, setting, batch_chunk_size=chunk, acc_policy=policy) for policy in policies],
        setting,
    )


# ---- Triton libraries ----


def _require_cuda(package: str, setting: Setting) -> None:
    if setting.device.type != "cuda":
        raise Unavailable(f"{package} has CUDA kernels alone, this run is on the {setting.device.type}")


def _not_importable(package: str, error: Exception) -> Unavailable:
    return Unavailable(f"needs {package}, which cannot be imported: {type(error).__name__}: {error}")


def _warmed(provider: Provider, setting: Setting) -> Provider:
    """Compiles the kernels; Unavailable where that fails, so that it does not end the run of the others."""
    try:
        setting.full_ms(provider)
    except Exception as error:  # whatever a foreign compiler raises
        first_line = (str(error).splitlines() or [""])[0]
        raise Unavailable(f"fails here: {type(error).__name__}: {first_line}") from error
    return provider


def _liger(name: str, setting: Setting, chunk_mem_const: int) -> Provider:
    """Liger's chunk is the power of two near rows * chunk_mem_const * D / V."""
    _require_cuda("liger-kernel", setting)
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Liger
    except Exception as error:
        raise _not_importable("liger-kernel", error) from error
    known = inspect.signature(Liger.forward).parameters
    given = {"accum_dtype": torch.float32}
    if chunk_mem_const != 1:
        if "chunk_mem_const" not in known:
            raise Unavailable(f"liger-kernel {metadata.version('liger-kernel')} has no choice of the chunk")
        given["chunk_mem_const"] = chunk_mem_const
    # autograd functions take positions alone
    names = list(known)[5:]  # after the context, rows, matrix, targets and bias
    last = max(names.index(option) for option in given)
    options = [given.get(option, known[option].default) for option in names[: last + 1]]

    def head_loss(rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(setting.device.type, enabled=False):  # everything has its dtype already
            found = Liger.apply(rows, weight, targets, bias, *options)
        return found[0] if isinstance(found, tuple) else found

    return _provider(name, setting, head_loss, {"chunk_mem_const": chunk_mem_const})


def liger_default(setting: Setting) -> Provider:
    """Liger-Kernel with the chunk that it chooses itself."""
    return _warmed(_liger("liger_default", setting, 1), setting)


def liger_best(setting: Setting) -> Provider:
    """The same with the fastest chunk of a sweep, up to all rows at once."""
    name = "liger_best"
    if name in setting.tuned:
        return _liger(name, setting, **setting.tuned[name])
    whole = -(-setting.shape.vocab // setting.shape.hidden)  # at V / D one chunk holds all rows
    sweep = [1 << step for step in range(whole.bit_length() + 1)]
    return _fastest([_warmed(_liger(name, setting, const), setting) for const in sweep], setting)


def cce(setting: Setting) -> Provider:
    """Apple's cut cross-entropy, exact: no filtering of gradients. It has no chunk to choose.

    A version without a bias gets it as one more column of the matrix, beside a column of ones in the rows.
    """
    _require_cuda("cut-cross-entropy", setting)
    try:
        from cut_cross_entropy import linear_cross_entropy
    except Exception as error:
        raise _not_importable("cut-cross-entropy", error) from error
    if "bias" in inspect.signature(linear_cross_entropy).parameters:
        impl = "cce_kahan_full_c"

        def head_loss(rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
            return linear_cross_entropy(rows, weight, targets, bias=bias, impl=impl)

        notes = {"impl": impl}
    else:
        exact = functools.partial(linear_cross_entropy, filter_eps=None)
        columns = 16  # the kernels take widths that are multiples of 16

        def head_loss(rows: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
            ones = F.pad(rows.new_ones(len(rows), 1), (0, columns - 1))  # [N, columns]
            column = F.pad(bias[:, None], (0, columns - 1))  # [V, columns]
            return exact(torch.cat([rows, ones], 1), torch.cat([weight, column], 1), targets)

        notes = {"impl": "cce, filter_eps=None", "bias": f"{columns} columns more: this version takes none"}
    return _warmed(_provider("cce", setting, head_loss, notes), setting)


PEERS: dict[str, Builder] = {
    "torch_linear_ce_default": torch_linear_ce_default,
    "torch_linear_ce_best": torch_linear_ce_best,
    "liger_default": liger_default,
    "liger_best": liger_best,
    "cce": cce,
}
