"""The output folder of a run: its checks, the file that marks it as a run's, and the checkpoints that are whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from spanbert_ext.files.disk import empty, sha256_of, sync, sync_tree, write_synced
from spanbert_ext.pretrain.files.lock import LOCK_FILE
from spanbert_ext.pretrain.files.run_files import HISTORY_FILE, SAMPLES_FILE
from spanbert_ext.pretrain.settings.options import Options, save_options

RUN_FILE = "run.json"  # marks a folder as the output of a run
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
TOKENIZER = "tokenizer"
METRICS_FILE = "metrics.json"
PLOT_FILE = "losses.png"
MANIFEST = "manifest.json"  # of a checkpoint: its files' sizes and hashes
UNFINISHED = "unfinished"  # in `CHECKPOINTS`: what is being written


class RunError(RuntimeError):
    """The output folder cannot be used as asked; the message names it and the remedy."""


# --- The folder ------------------------------------------------------------------------------------------------


def check_output(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises `RunError` unless a run may begin or go on in `folder`, and makes the folder. Deletes nothing."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--output {folder} is a file, expected a folder")
    try:
        holds = {path.name for path in folder.iterdir() if not _is_trace(path)} if folder.is_dir() else set()
        if resume and RUN_FILE not in holds:
            raise RunError(f"--resume: there is no run in {folder} (no {RUN_FILE})")
        if not resume and holds:
            if RUN_FILE not in holds:
                raise RunError(
                    f"--output {folder} is not empty and holds no run of this command: choose another folder"
                )
            if not overwrite:
                raise RunError(
                    f"--output {folder} already holds a run: continue it with --resume, delete it with"
                    " --overwrite, or choose another folder"
                )
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{LOCK_FILE}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"--output {folder} is not writable: {error.strerror or error}") from error


def _is_trace(path: Path) -> bool:
    """Whether it is what a run that was killed before it began may leave: an empty folder, its lock, or the first
    `RUN_FILE` before that has its name."""
    if path.is_dir():
        return not any(path.iterdir())
    return path.name.startswith((LOCK_FILE, f".{RUN_FILE}"))


def delete_run(folder: Path) -> None:
    """Deletes what a run has written into `folder`, but for the file that marks it as a run's."""
    try:
        written = json.loads((folder / RUN_FILE).read_text()).get("files", [])
    except (OSError, ValueError, AttributeError):
        written = []
    for name in (CHECKPOINTS, TENSORBOARD, TOKENIZER):
        empty(folder / name)
    if (folder / TOKENIZER).is_symlink():
        (folder / TOKENIZER).unlink()
    elif (folder / TOKENIZER).is_dir():
        (folder / TOKENIZER).rmdir()  # that of the next run takes its place in one step
    for name in (METRICS_FILE, PLOT_FILE, HISTORY_FILE, SAMPLES_FILE, *written):
        (folder / Path(name).name).unlink(missing_ok=True)


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
    empty(temporary)
    tokenizer.save_pretrained(temporary)
    sync_tree(temporary)
    temporary.rename(folder / TOKENIZER)
    sync(folder)


def finished_steps(folder: Path, begun: dict[str, Any]) -> int | None:
    """The steps of a run that is finished and still has what it gave; None for any other.

    begun: the facts in its run.json."""
    results = [*begun.get("files", []), METRICS_FILE]
    steps = begun.get("finished")
    if not steps or not all((folder / name).is_file() for name in results):
        return None
    try:
        json.loads((folder / METRICS_FILE).read_text())
    except ValueError:
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
    if checkpoint.exists():  # damaged, or of a run that was resumed at an earlier one
        checkpoint.rename(written.parent / "replaced")
    written.rename(checkpoint)
    sync(checkpoint.parent)
    earlier = [other for other in checkpoints_by_step(checkpoint.parent.parent) if other < step]
    kept = {step, *earlier[: keep - 1]}
    for other, path in checkpoints_by_step(checkpoint.parent.parent).items():
        if other not in kept:
            path.rename(written.parent / path.name)  # a half-deleted one must not look like a damaged one
    empty(written.parent)
