# SPDX-License-Identifier: Apache-2.0
"""Who reads the output of an evaluation: logits, as of the native class, or statistics of a few numbers a row.

Trainer keeps what the model returns until the evaluation ends: logits of all rows, `[N, L, V]`, are gigabytes where
`row_statistics`, `[N, 6]`, are nothing. Which of them its `compute_metrics` reads stands in no argument of a model's
forward, nor in its configuration, so it is looked up where it does stand: in the Trainer that runs the evaluation,
which is found on the call stack. No such Trainer (a loop of one's own, a thread of nn.DataParallel, torch.compile):
logits.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import partial
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

import torch

from spanbert_ext.masking.trainer_frames import trainer_frame

MARK = "reads_row_statistics"  # true of a compute_metrics that reads `row_statistics`, false of one that reads logits


def logits_are_read(option: bool | str, return_dict: bool) -> bool:
    """Whether a batch that is evaluated shall give logits beside its loss.

    Args:
        option: the model's `evaluation_logits`; what follows is for "auto".
        return_dict: a tuple has the native class's outputs: logits.
    """
    if isinstance(option, bool):
        return option
    if not return_dict or torch.compiler.is_compiling():  # which cannot trace a look at the stack
        return True
    frame = trainer_frame("prediction_step")
    if frame is None:
        return True
    trainer = frame.f_locals["self"]
    if not _calls_the_model_alone(trainer, frame):  # a compute_loss of the user's may read logits
        return True
    if frame.f_locals.get("prediction_loss_only") is True:
        return False
    return not reads_statistics(trainer.compute_metrics)


def _calls_the_model_alone(trainer: Any, frame: FrameType) -> bool:
    """Whether only transformers' own code stands between the evaluation and the model: it reads no logits."""
    own = sys.modules["transformers.trainer"].Trainer
    return frame.f_code is own.prediction_step.__code__ and type(trainer).compute_loss is own.compute_loss


def reads_statistics(compute_metrics: Any) -> bool:
    """Whether it is `span_metrics`, wraps it, or is a function that names it; `MARK` on any of these decides."""
    for callee in _layers(compute_metrics):
        mark = getattr(callee, MARK, None)
        if isinstance(mark, bool):
            return mark
        if isinstance(callee, FunctionType) and any(
            _marked(callee, code) for code in _codes(callee.__code__)
        ):
            return True
    return False


def _layers(function: Any) -> Iterator[Any]:
    """A callable and what it stands for: the function of a partial or a method, of an object's call, of a wrapper."""
    while function is not None:
        yield function
        if isinstance(function, partial):
            function = function.func
        elif isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, FunctionType):
            function = getattr(function, "__wrapped__", None)
        else:
            call = inspect.getattr_static(type(function), "__call__", None)
            function = call if isinstance(call, FunctionType) else None


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _marked(function: FunctionType, code: CodeType) -> bool:
    """Whether the code names something with the mark: a global, an import, an attribute of a module, a closure's."""
    named = [function.__globals__.get(name) for name in code.co_names]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            named.append(cell.cell_contents if name in code.co_freevars else None)
        except ValueError:  # not bound yet
            continue
    modules = [x for x in named if isinstance(x, ModuleType)]
    named += [getattr(module, name, None) for module in modules for name in code.co_names]
    imported = {"spanbert_ext", "span_metrics"} <= {*code.co_names}  # within the function
    return imported or any(getattr(x, MARK, None) is True for x in named)
