"""The output folder of a run: its checks, the file that marks it as a run's, and its last usable checkpoint."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

from spanbert_ext.pretrain.run_files import HISTORY_FILE, SAMPLES_FILE

RUN_FILE = "run.json"  # marks a folder as the output of a run
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
TOKENIZER = "tokenizer"
METRICS_FILE = "metrics.json"
PLOT_FILE = "losses.png"
_NEEDED = ("model.safetensors", "config.json", "optimizer.pt", "scheduler.pt", "trainer_state.json")


class RunError(RuntimeError):
    """The output folder cannot be used as asked; the message names it and the remedy."""


def prepare_output(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Makes `folder` ready to be written to. Raises `RunError` when it is not writable, or holds something
    and neither `resume` nor `overwrite` is given; `overwrite` deletes only what a run has written."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--output {folder} is a file, expected a folder")
    try:
        if not resume and folder.is_dir() and any(folder.iterdir()):
            if not (folder / RUN_FILE).is_file():
                raise RunError(
                    f"--output {folder} is not empty and holds no run of this command: choose another folder"
                )
            if not overwrite:
                raise RunError(
                    f"--output {folder} already holds a run: continue it with --resume, delete it with"
                    " --overwrite, or choose another folder"
                )
            for name in (CHECKPOINTS, TENSORBOARD, TOKENIZER):
                shutil.rmtree(folder / name, ignore_errors=True)
            reports = (METRICS_FILE, PLOT_FILE, HISTORY_FILE, SAMPLES_FILE)
            for name in (RUN_FILE, *reports, "model.safetensors", "config.json"):
                (folder / name).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"--output {folder} is not writable: {error.strerror or error}") from error


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run's output `folder`: one that was cut off while being written
    is passed over (Trainer writes trainer_state.json last)."""

    def complete(path: Path) -> bool:
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            return False
        return all((path / name).is_file() for name in _NEEDED)

    steps = {
        int(match[1]): path
        for path in (folder / CHECKPOINTS).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and complete(path)
    }
    return steps[max(steps)] if steps else None
