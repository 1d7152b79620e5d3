# SPDX-License-Identifier: Apache-2.0
"""The processes of a run: which one this is, waiting for the first, and what it tells the others."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from accelerate import PartialState

_PATIENCE = datetime.timedelta(days=30)  # the first process may prepare a corpus for long


class FirstFailed(Exception):
    """The first process of the run could not begin, and has said why."""


class Ranks:
    """This process among those that torchrun or accelerate launch started; alone where none did."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self._group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    @contextlib.contextmanager
    def joined(self, *, cpu: bool) -> Iterator[None]:
        """The processes can talk to each other. cpu: whether they train on CPUs."""
        if self.count == 1:
            yield
            return
        begun_here = not dist.is_initialized()
        PartialState(cpu=cpu)
        # a group of its own: those of the training give up after minutes, as they should
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        try:
            yield
        finally:
            self._group = None
            if begun_here:
                dist.destroy_process_group()

    def share(self, value: Any) -> Any:
        """The first process's `value`, in every process; the others wait for it."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    @contextlib.contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """What is inside is done by the first process, and by the others after it. Raises `FirstFailed` in these
        when it failed there."""
        if not self.first and not self.share(None):
            raise FirstFailed("the first process of the run could not begin")
        try:
            yield
        except BaseException:
            if self.first:
                self.share(False)
            raise
        if self.first:
            self.share(True)

    @contextlib.contextmanager
    def only_first_prints(self) -> Iterator[None]:
        """Standard output of the other processes is dropped; their errors are not."""
        if self.first:
            yield
            return
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
        sys.stdout.flush()
