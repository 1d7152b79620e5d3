# SPDX-License-Identifier: Apache-2.0
"""Kills pre-training runs at random moments, resumes them, and compares them with one that was left alone.

    python tools/kill_test.py --runs 20

Every run is started, killed by SIGKILL at a moment drawn from the whole time that it takes, and resumed; with `--kills`
so many times. It must end with the same weights, optimizer, log, metrics and picture to the last bit, but for times.
The runs are forked from this process, which has loaded the libraries and computes nothing. Exit status: 0 when all are
equal, else 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.trainer_pt_utils import safe_globals

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import train  # noqa: F401  (loaded here, so that no run has to)
from spanbert_ext.pretrain.run.checkpoints import METRICS_FILE, PLOT_FILE, last_checkpoint
from spanbert_ext.pretrain.run.run_progress import MEASURED
from spanbert_ext.pretrain.text.builtin_corpus import builtin_documents

STEPS = 24
TEXT = "text.txt"


def write_corpus(folder: Path) -> None:
    texts = [text[:1500] for _, text in itertools.islice(builtin_documents(), 12)]
    (folder / TEXT).write_text("\n\n".join(texts), encoding="utf-8")


def command(folder: Path, output: Path) -> list[str]:
    """A run of a second or two, in whose middle there are epochs, evaluations, logs and checkpoints."""
    return [
        *("--corpus", str(folder / TEXT), "--output", str(output), "--cache-dir", str(folder / "cache")),
        *("--max-steps", str(STEPS), "--eval-steps", "10", "--save-steps", "4", "--logging-steps", "3"),
        *("--batch-size", "4", "--block-size", "32", "--vocab-size", "300", "--held-out", "0.2"),
        *("--dropout", "0.1", "--samples", "4", "--device", "cpu", "--no-progress"),
    ]


def go_on(folder: Path, output: Path) -> list[str]:
    begun = (output / "run.json").is_file()
    return ["--output", str(output), "--resume"] if begun else command(folder, output)


def fork_run(arguments: Sequence[str], log: Path) -> int:
    """The number of a process that runs the command; what it prints goes to the end of `log`."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        torch.set_num_threads(1)
        status = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(number: int, log: Path) -> None:
    check_status(os.waitpid(number, 0)[1], log)


def check_status(status: int, log: Path) -> None:
    """Raises RuntimeError unless a run has ended well."""
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise RuntimeError(f"a run ended with status {code}:\n{log.read_text()}")


def kill_after(number: int, seconds: float, log: Path) -> bool:
    """Kills a process then; False when it had ended before, well."""
    time.sleep(seconds)
    ended, status = os.waitpid(number, os.WNOHANG)
    if ended:
        check_status(status, log)
        return False
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return True


TIMES = MEASURED | {"train_seconds", "elapsed"}


def unmeasured(value: Any) -> Any:
    """`value` without what says how fast this machine was."""
    if isinstance(value, dict):
        return {name: unmeasured(x) for name, x in value.items() if name not in TIMES}
    return [unmeasured(x) for x in value] if isinstance(value, list) else value


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _json(path: Path, output: Path) -> Any:
    return unmeasured(json.loads(path.read_text().replace(str(output), "OUTPUT")))


def differences(expected: Path, output: Path) -> list[str]:
    """Which results of two runs in these folders differ, but for times and the folders' names."""
    folders = (expected, output)
    found = []
    for name in ("model.safetensors", PLOT_FILE, "samples.json", "tokenizer.json"):
        if len({(folder / name).read_bytes() for folder in folders}) > 1:
            found.append(name)
    for name in (METRICS_FILE, "history.json"):
        if not equal(*(_json(folder / name, folder) for folder in folders)):
            found.append(name)
    checkpoints = [last_checkpoint(folder) for folder in folders]
    if None in checkpoints or checkpoints[0][0] != checkpoints[1][0]:
        return [*found, "the last checkpoint's step"]
    last = [path for _, path in checkpoints]
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with safe_globals():
            states = [torch.load(path / name, weights_only=True) for path in last]
        if not equal(*states):
            found.append(name)
    if not equal(
        *(_json(path / "trainer_state.json", folder) for path, folder in zip(last, folders, strict=True))
    ):
        found.append("trainer_state.json")
    return found


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=1, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(given)
    draw = random.Random(options.seed)
    bad = 0
    with tempfile.TemporaryDirectory(prefix="kill-test-") as name:
        folder = Path(name)
        write_corpus(folder)
        left_alone, log = folder / "left_alone", folder / "log"
        finish(fork_run(command(folder, left_alone), log), log)  # fills the cache of documents
        shutil.rmtree(left_alone)
        begin = time.perf_counter()
        finish(fork_run(command(folder, left_alone), log), log)
        seconds = time.perf_counter() - begin
        print(f"{STEPS} steps take {seconds:.1f} s when left alone", flush=True)
        for run in range(1, options.runs + 1):
            output, log = folder / f"run{run}", folder / f"log{run}"
            kills: list[str] = []
            while len(kills) < options.kills:
                moment = draw.uniform(0, seconds)
                if kill_after(fork_run(go_on(folder, output), log), moment, log):
                    kills.append(f"{moment:.2f} s")
                else:  # it was quicker, and is not killed any more
                    shutil.rmtree(output)
                    kills, seconds = [], moment
            finish(fork_run(go_on(folder, output), log), log)
            found = differences(left_alone, output)
            bad += bool(found)
            outcome = f"DIFFERENT: {', '.join(found)}" if found else "equal"
            print(f"run {run}, killed after {', '.join(kills)}: {outcome}", flush=True)
            if found:
                print(log.read_text())
            shutil.rmtree(output)
    print(f"{options.runs - bad} of {options.runs} equal")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
