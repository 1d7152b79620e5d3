# SPDX-License-Identifier: Apache-2.0
"""The transformers Trainer that is at work: it tells neither its callbacks nor the model's forward who it is."""

from __future__ import annotations

import sys
from types import FrameType


def trainer_frame(method: str | None = None) -> FrameType | None:
    """The nearest call, on this thread's stack, of a method of a Trainer, which is `frame.f_locals["self"]`.

    Args:
        method: its name; None: any.
    """
    module = sys.modules.get("transformers.trainer")
    if module is None:  # nobody has a Trainer
        return None
    frame = sys._getframe(1)
    while frame is not None:
        named = method is None or frame.f_code.co_name == method
        if named and isinstance(frame.f_locals.get("self"), module.Trainer):
            return frame
        frame = frame.f_back
    return None
