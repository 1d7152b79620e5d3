# SPDX-License-Identifier: Apache-2.0
"""A folder that is written whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from spanbert_ext.convert.checkpoint_file import CheckpointError
from spanbert_ext.files.disk import explained, sync, sync_tree
from spanbert_ext.models.model_card import CARD, is_our_card

# What conversions write. A folder with anything else in it is nobody's to delete.
_OURS = (
    *("config.json", "bert_config.json", "generation_config.json", "model.pt", "dict.txt", "*.safetensors"),
    *(
        "*.safetensors.index.json",
        "pytorch_model*.bin",
        "pytorch_model.bin.index.json",
        "vocab.txt",
        "vocab.json",
    ),
    *("merges.txt", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "spiece.model"),
    *("sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja"),
)
# Folders beside the output, `.NAME.PROCESS.KIND`: the new one until it is whole, and the old one until then.
_BESIDE = _UNFINISHED, _REPLACED = ("unfinished", "replaced")


def check_output(folder: Path, overwrite: bool, sources: Iterable[Path]) -> None:
    """Whether a conversion may write to `folder`. Nothing is changed.

    Args:
        sources: files and folders that are read, which must not go away.

    Raises:
        CheckpointError: it may not.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise CheckpointError(f"--output {folder} is a file; expected a folder")
    place = Path(os.path.realpath(folder))
    for source in sources:
        links = [path for path in source.iterdir() if path.is_symlink()] if source.is_dir() else []
        for path in (source, *links):
            if _holds(place, path.resolve()):
                raise CheckpointError(
                    f"--output {folder} holds what is to be read, {path}: choose another folder"
                )
    if _holds(place, Path.cwd()) or os.path.ismount(place):
        what = "a mount point" if os.path.ismount(place) else "the working directory, or around it"
        raise CheckpointError(
            f"--output {folder} is {what}, and a new folder takes its place: choose another folder"
        )
    check_replaceable(folder, overwrite)


def _holds(folder: Path, path: Path) -> bool:
    return path == folder or folder in path.parents


def check_replaceable(folder: Path, overwrite: bool) -> None:
    """Raises `CheckpointError` where `folder` holds what no conversion wrote, or, without `overwrite`, anything."""
    names = sorted(path.name for path in folder.iterdir()) if os.path.isdir(folder) else []
    if names and not overwrite:
        raise CheckpointError(
            f"--output {folder} exists and is not empty: choose another folder, or give --overwrite"
        )
    for name in names:
        if name == CARD and is_our_card(folder / name):
            continue
        if (folder / name).is_dir() or not any(fnmatch(name, pattern) for pattern in _OURS):
            raise CheckpointError(
                f"--output {folder} holds {name}, which no conversion wrote: --overwrite deletes only what one wrote"
            )


@contextmanager
def whole_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block has ended without an exception.

    Raises:
        CheckpointError: as `check_replaceable`, of what came into `folder` meanwhile.
        DiskError: it cannot be written; the message says why. What was there before is still there.
    """
    folder = Path(os.path.realpath(folder))
    staging, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in _BESIDE)
    try:
        with explained("the converted model", folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _settle_leftovers(folder)
            staging.mkdir()
            yield staging
            sync_tree(staging)
            check_replaceable(folder, overwrite)
            if folder.exists():
                os.rename(folder, old)
            os.rename(staging, folder)
            sync(folder.parent)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _settle_leftovers(folder: Path) -> None:
    """Of conversions to `folder` whose process was killed: what was there before goes back, unless the new folder is
    there; the rest is deleted."""
    for kind in _BESIDE:
        for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.{kind}"):
            number = path.name.split(".")[-2]
            if not number.isdigit() or _is_running(int(number)):
                continue
            if kind == _REPLACED and not folder.exists():
                os.rename(path, folder)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    if process == os.getpid():
        return False  # of an earlier process with this number, as in containers
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
