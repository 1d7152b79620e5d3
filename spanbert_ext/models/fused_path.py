# SPDX-License-Identifier: Apache-2.0
"""When parameters may be read, and rows left out, in the place of calling a module: the one rule.

A fused head reads the parameters of modules that it does not call, and the last layer runs on some rows. Both are
right only for a *known* module: of exactly torch's or transformers' own class, without a forward of its own, without
hooks, with ordinary parameters on the input's device. Every other module (LoRA, quantised, offloaded, sharded, pruned,
parametrised, wrapped, subclassed) is called.

The functions return the reason why a module is not known, or None where it is.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# The methods by which torch and transformers call modules.
_CALLED = ("forward", "feed_forward_chunk", "ff_chunk")


def changed(module: nn.Module, own_hooks: Collection[Callable] = ()) -> str | None:
    """Why calling `module` may do something else than its class does; `own_hooks` do not count."""
    for name in _CALLED:
        if name in vars(module) and not _rebound(module, name):
            return f"has a {name} of its own, as offloaded modules do"
    for kind in _HOOKS:
        for hook in (vars(module).get(kind) or {}).values():
            # transformers leaves hooks behind that do nothing but in calls with output_hidden_states.
            home = getattr(hook, "__module__", None) or ""  # a method of a built-in type has None
            if hook not in own_hooks and not home.startswith("transformers.utils."):
                return "has hooks"
    return None


def _rebound(module: nn.Module, name: str) -> bool:
    """Whether the attribute is the class's own method, as transformers 5.0 leaves one behind after recording."""
    method = vars(module)[name]
    own = getattr(type(module), name, None)
    return own is not None and getattr(method, "__func__", None) is own and method.__self__ is module


def not_exact(module: nn.Module | None, exact: type[nn.Module]) -> str | None:
    """Why `module` is not an unchanged instance of the class `exact`."""
    if type(module) is not exact:
        return f"is a {_name(type(module))}, not torch's or transformers' own {exact.__name__}"
    return changed(module)


def not_readable(
    module: nn.Module, exact: type[nn.Module], like: Tensor, needs_bias: bool = True
) -> str | None:
    """Why `module`, an nn.Linear, LayerNorm or Embedding, may compute something else than its parameters give.

    Args:
        like: an input; parameters must be on its device.
        needs_bias: a module without a bias is none that may be read.
    """
    reason = not_exact(module, exact)
    if reason is not None:
        return reason
    if type(like) is not Tensor and type(like) is not nn.Parameter:
        return f"gets an input of the type {_name(type(like))}"  # which may compute by rules of its own
    if exact is nn.Embedding:
        if (
            module.max_norm is not None
            or module.scale_grad_by_freq
            or module.sparse
            or module.padding_idx is not None
        ):
            return "has options of nn.Embedding (max_norm, scale_grad_by_freq, sparse or padding_idx)"
        return not_ordinary("weight", module.weight, like)
    if exact is nn.LayerNorm and len(module.normalized_shape) != 1:
        return f"normalises over {list(module.normalized_shape)}"
    for name in ("weight", "bias"):
        if name == "bias" and module.bias is None and not needs_bias:
            continue
        reason = not_ordinary(name, getattr(module, name), like)
        if reason is not None:
            return reason
    return None


def not_ordinary(name: str, parameter: Tensor | None, like: Tensor) -> str | None:
    """Why a parameter is no plain tensor on the device of `like`."""
    if parameter is None:
        return f"has no {name}"
    # A subclass (DTensor, a quantised weight) computes by rules of its own; DataParallel's replicas hold plain tensors.
    if type(parameter) is not nn.Parameter and type(parameter) is not Tensor:
        return f"has a {name} of the type {_name(type(parameter))}"
    if parameter.layout != torch.strided:
        return f"has a {name} of the layout {parameter.layout}"
    if parameter.device != like.device:
        return f"has its {name} on {parameter.device}, the input is on {like.device}"
    return None


def not_row_wise(
    path: str,
    module: nn.Module,
    classes: Mapping[type[nn.Module], Collection[str]],
    own_hooks: Collection[Callable] = (),
) -> tuple[str, str] | None:
    """Which module at or below `module` may not work on rows [..., H] one by one, and why.

    Args:
        classes: those that do where the modules do that they call, which have these names.
    """
    for name, part in _walk(path, module):
        if type(part) not in classes:
            return name, f"is a {_name(type(part))}, which may not work row by row"
        for called in classes[type(part)]:
            if part._modules.get(called) is None:
                return f"{name}.{called}", "is no module: what it computes is not known"
        if type(part) is nn.LayerNorm and len(part.normalized_shape) != 1:
            return name, f"normalises over {list(part.normalized_shape)}"
        reason = changed(part, own_hooks)
        if reason is not None:
            return name, reason
    return None


def global_hooks() -> str | None:
    """Why no module at all may be passed over: hooks of every module (torch.nn.modules.module.register_module_*)."""
    if torch.compiler.is_compiling():  # they are not traced then
        return None
    return (
        "has hooks, as every module (register_module_forward_hook and its kin)"
        if _has_any_global_hook()
        else None
    )


def warn_once(path: str, reason: str, cost: str) -> None:
    """Warns that `path` is called instead of read; once in a process for each text. Not under torch.compile."""
    if torch.compiler.is_compiling():
        return
    text = f"{path} {reason}: {cost}"
    with _lock:
        known = text in _warned
        _warned.add(text)
    if not known:
        warnings.warn(text, stacklevel=_level_of_caller())


def _level_of_caller() -> int:
    """The stacklevel, for `warn_once`, of the code that called the model: the first that is of no library."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES:
        level, frame = level + 1, frame.f_back
    return level


_LIBRARIES = {"spanbert_ext", "torch", "transformers", "accelerate", "peft"}
_lock = threading.Lock()
_warned: set[str] = set()


def _walk(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(f"{path}.{name}", child)


def _name(cls: type) -> str:
    return (
        cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__.partition('.')[0]} {cls.__name__}"
    )
