# SPDX-License-Identifier: Apache-2.0
"""Where a run is logged to: TensorBoard in its folder, and whatever else transformers' Trainer can report to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks
from transformers.integrations.integration_utils import get_available_reporting_integrations

from spanbert_ext.pretrain.settings.options import OptionError


class _RunTensorBoard(TensorBoardCallback):
    """Writes nothing before training begins."""

    def __init__(self, folder: Path, first_step: int) -> None:
        super().__init__()
        self._folder, self._first_step = folder, first_step

    def _init_summary_writer(self, *args: Any) -> None:
        # a run that begins at step 0 logs that one again
        first_logged = self._first_step + 1 if self._first_step else 0
        self.tb_writer = self._SummaryWriter(str(self._folder), purge_step=first_logged)


def reporting_callbacks(
    report_to: Sequence[str], tensorboard: Path, first_step: int = 0
) -> list[TrainerCallback]:
    """The callbacks for the names in `report_to`, as of `TrainingArguments.report_to`; none but on the first rank.

    tensorboard: folder of TensorBoard's files. first_step: what they hold of later steps, or where it is 0 of any, is
    not shown any more, since a resumed run takes these again. Raises `OptionError` for a name that is unknown, or whose
    package is not there."""
    callbacks: list[TrainerCallback] = []
    if int(os.environ.get("RANK", "0")) != 0:
        return callbacks
    if "all" in report_to:
        report_to = get_available_reporting_integrations()
    for name in dict.fromkeys(report_to):
        if name == "none":
            continue
        if name == "tensorboard":
            callbacks.append(_RunTensorBoard(tensorboard, first_step))
            continue
        try:
            callbacks += [callback() for callback in get_reporting_integration_callbacks(name)]
        except (ValueError, RuntimeError, ImportError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise OptionError(f"--report-to {name}: {reason}") from error
    return callbacks
