"""Runs scripts one after the other in one process of several: `in_two_processes.py FOLDER`, under a launcher.

FOLDER/runs.json lists them: [[script, [argument, ...]], ...]. Starting a process takes longer than the scripts do.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from torch import distributed


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    # Destroying a DistributedDataParallel joins gloo's threads while holding the GIL, which one of them may be
    # waiting for (torch 2.13): nothing is destroyed, and the process ends without tearing down.
    gc.disable()
    distributed.destroy_process_group = lambda *args: None  # of the scripts' end
    kept = []
    for script, arguments in json.loads((folder / "runs.json").read_text()):
        AcceleratorState._reset_state(reset_partial_state=True)
        sys.argv = [script, *arguments]
        kept.append(runpy.run_path(script, run_name="__main__"))
    (folder / f"done-{os.environ['RANK']}").touch()
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


main()
