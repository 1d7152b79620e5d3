# SPDX-License-Identifier: Apache-2.0
"""`spanbert-pretrain` sharded by FSDP on CPUs, where accelerate itself shards nothing:

    accelerate launch --use_fsdp --fsdp_version 2 ... sharded_on_cpus.py ARGUMENTS

accelerate is told that these processes have accelerators of a kind that it knows, and their device is the CPU.
"""

from __future__ import annotations

import os
import sys

import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType

if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    dist.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_XPU)

    from spanbert_ext.pretrain import cli

    status = cli.main(sys.argv[1:])
    dist.destroy_process_group()
    sys.exit(status)
