# SPDX-License-Identifier: Apache-2.0
"""The output folder of a run: its checks, the file that marks it as a run's, and the checkpoints that are whole."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanbert_ext.files.disk import (
    delete,
    empty,
    make_anew,
    sha256_of,
    sync,
    sync_tree,
    temporaries,
    write_synced,
)
from spanbert_ext.files.lock import LOCK_FILE
from spanbert_ext.files.run_files import HISTORY_FILE, SAMPLES_FILE
from spanbert_ext.models.model_card import CARD, is_our_card
from spanbert_ext.pretrain.settings.options import Options, save_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RUN_FILE = "run.json"  # marks a folder as the output of a run
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
TOKENIZER = "tokenizer"
METRICS_FILE = "metrics.json"
PLOT_FILE = "losses.png"
MANIFEST = "manifest.json"  # of a checkpoint: its files' sizes and hashes
UNFINISHED = "unfinished"  # in `CHECKPOINTS`: the checkpoint that is being written
RESULT = ".unfinished"  # the trained model that is, in the run's folder: `CHECKPOINTS` may be on another disk
FOLDERS = (CHECKPOINTS, TENSORBOARD, TOKENIZER)  # that a run fills, and `delete_run` empties
_FILES = (RUN_FILE, METRICS_FILE, PLOT_FILE, HISTORY_FILE, SAMPLES_FILE, LOCK_FILE)
# Of a trained model, as far as its names are known before it is saved.
_MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_args.bin",
)


class RunError(RuntimeError):
    """The output folder cannot be used as asked; the message names it and the remedy."""


# --- The folder ------------------------------------------------------------------------------------------------


def check_output(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises `RunError` unless a run may begin or go on in `folder`, and makes the folder. Deletes nothing."""
    try:
        if _is_dead_link(folder):
            raise RunError(f"--output {_dead_link(folder)}")
        if folder.exists() and not folder.is_dir():
            raise RunError(f"--output {folder} is a file, expected a folder")
        holds = {path.name for path in folder.iterdir() if not _is_trace(path)} if folder.is_dir() else set()
        if resume and RUN_FILE not in holds:
            raise RunError(f"--resume: there is no run in {folder} (no {RUN_FILE})")
        if not resume and holds:
            if RUN_FILE not in holds:
                if holds <= set(FOLDERS):  # links that lead nowhere; empty folders are no obstacle
                    _check_places(folder)
                raise RunError(
                    f"--output {folder} is not empty and holds no run of this command: choose another folder"
                )
            if not overwrite:
                raise RunError(
                    f"--output {folder} already holds a run: continue it with --resume, delete it with"
                    " --overwrite, or choose another folder"
                )
        _check_places(folder)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{LOCK_FILE}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"--output {folder} is not writable: {error.strerror or error}") from error


def _check_places(folder: Path) -> None:
    """Raises `RunError` for what stands in the place of a folder or a file of the run and is none, or is closed."""
    for name in FOLDERS:
        path = folder / name
        if _is_dead_link(path):
            raise RunError(_dead_link(path))
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file, and a run keeps a folder there: move it away")
        if path.is_dir() and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise RunError(
                f"{path} cannot be read and written by you: change its permissions, or move it away"
            )
    for name in dict.fromkeys((*_FILES, *_MODEL_FILES, *_results_in(folder))):
        path = folder / name
        if _is_dead_link(path):
            raise RunError(_dead_link(path))
        if path.is_dir():
            raise RunError(f"{path} is a folder, and a run writes a file there: move it away")
        if path.exists() and not os.access(path, os.R_OK | (os.W_OK if name == LOCK_FILE else 0)):
            raise RunError(f"{path} cannot be read by you: change its permissions, or move it away")


def _is_dead_link(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _dead_link(path: Path) -> str:
    return f"{path} is a link to {os.readlink(path)}, where nothing is: make that, or delete the link"


def _result_names(facts: Any) -> list[str]:
    """The files of the trained model that a run has written, or was about to, of the content of its run.json."""
    names = facts.get("files") if isinstance(facts, dict) else None
    return [Path(x).name for x in names if isinstance(x, str)] if isinstance(names, list) else []


def _results_in(folder: Path) -> list[str]:
    try:
        return _result_names(json.loads((folder / RUN_FILE).read_text()))
    except (OSError, ValueError):
        return []


def _is_trace(path: Path) -> bool:
    """Whether it is what a run that was killed before it began may leave: an empty folder, its lock, or the first
    `RUN_FILE` before that has its name."""
    if path.is_dir():
        return not any(path.iterdir())
    return path.name.startswith((LOCK_FILE, f".{RUN_FILE}"))


def delete_run(folder: Path) -> None:
    """Deletes what a run has written into `folder`, but for the file that marks it as a run's, which says so from the
    first moment on: half a run is none that can be resumed."""
    written = _results_in(folder)
    if (folder / RUN_FILE).exists():
        write_synced(json.dumps({"deleted": True, "files": written}, indent=2) + "\n", folder / RUN_FILE)
    for name in FOLDERS:
        empty(folder / name)
    if (folder / TOKENIZER).is_symlink():
        (folder / TOKENIZER).unlink()
    elif (folder / TOKENIZER).is_dir():
        (folder / TOKENIZER).rmdir()  # that of the next run takes its place in one step
    for name in (METRICS_FILE, PLOT_FILE, HISTORY_FILE, SAMPLES_FILE, *written):
        (folder / name).unlink(missing_ok=True)
    if is_our_card(folder / CARD):
        (folder / CARD).unlink()


def delete_unfinished_files(folder: Path) -> None:
    """Deletes what a process has left that was killed while it wrote a file of the run. For who holds its lock."""
    for name in (*_FILES, CARD):
        for path in temporaries(folder / name):
            path.unlink(missing_ok=True)
    delete(folder / RESULT)


# --- The file that marks it ------------------------------------------------------------------------------------


def write_run_file(folder: Path, options: Options, **facts: Any) -> None:
    """run.json: the options, and what a resumption compares or needs. Whole at any time."""
    save_options(options, folder / RUN_FILE, **facts)


def add_to_run_file(folder: Path, **facts: Any) -> None:
    content = json.loads((folder / RUN_FILE).read_text())
    write_synced(json.dumps(content | facts, indent=2) + "\n", folder / RUN_FILE)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Puts the tokenizer into the run's folder, whole."""
    temporary = folder / f".{TOKENIZER}"
    make_anew(temporary)
    tokenizer.save_pretrained(temporary)
    sync_tree(temporary)
    temporary.rename(folder / TOKENIZER)
    sync(folder)


def finished_steps(folder: Path, begun: dict[str, Any]) -> int | None:
    """The steps of a run that is finished and still has what it gave; None for any other.

    begun: the facts in its run.json."""
    results = [*_result_names(begun), METRICS_FILE]
    steps = begun.get("finished")
    if not isinstance(steps, int) or not all((folder / name).is_file() for name in results):
        return None
    try:
        json.loads((folder / METRICS_FILE).read_text())
    except (OSError, ValueError):
        return None
    return steps


# --- Checkpoints -----------------------------------------------------------------------------------------------


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step}"


def checkpoints_by_step(folder: Path) -> dict[int, Path]:
    """All folders of checkpoints in a run's output `folder`, whole or not, the newest first."""
    found = {
        int(match[1]): path
        for path in (folder / CHECKPOINTS).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    }
    return dict(sorted(found.items(), reverse=True))


def seal(checkpoint: Path) -> None:
    """Adds the manifest to a checkpoint of which all files are written; returns when all is on the disk."""
    files = {
        path.relative_to(checkpoint).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    (checkpoint / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n")
    sync_tree(checkpoint)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None when all its files are as they were written."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
        expected = [(name, int(file["size"]), str(file["sha256"])) for name, file in files.items()]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    if not expected:
        return f"{MANIFEST} names no file"
    for name, size, sha256 in expected:
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, expected {size:,}"
        try:
            same = sha256_of(path) == sha256
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if not same:
            return f"{name} is not what was written"
    return None


def last_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """Step and folder of the newest whole checkpoint of a run's output `folder`; None when there is none at all.
    Prints which newer ones are damaged. Raises `RunError` when every one is."""
    damages = {}
    for step, path in checkpoints_by_step(folder).items():
        reason = damage(path)
        if reason is None:
            return step, path
        damages[path] = reason
        print(f"Passed over {path}: {reason}.", flush=True)
    if damages:
        listed = "; ".join(f"{path.name}: {reason}" for path, reason in damages.items())
        raise RunError(
            f"--resume: no checkpoint in {folder / CHECKPOINTS} is whole ({listed}): delete them to begin at step"
            " 0, or start anew with --overwrite"
        )
    return None


def publish(written: Path, checkpoint: Path, keep: int) -> None:
    """Puts a sealed checkpoint in its place. Those of later steps, and all but the `keep` newest others, go: a run
    that went on from an earlier checkpoint makes the later ones again."""
    step = int(checkpoint.name.rpartition("-")[2])
    if os.path.lexists(checkpoint):  # damaged, or of a run that was resumed at an earlier one
        checkpoint.rename(written.parent / "replaced")
    written.rename(checkpoint)
    sync(checkpoint.parent)
    earlier = [other for other in checkpoints_by_step(checkpoint.parent.parent) if other < step]
    kept = {step, *earlier[: keep - 1]}
    for other, path in checkpoints_by_step(checkpoint.parent.parent).items():
        if other not in kept:
            path.rename(written.parent / path.name)  # a half-deleted one must not look like a damaged one
    empty(written.parent)
