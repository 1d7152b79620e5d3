"""A folder that is written whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from spanbert_ext.convert.checkpoint_file import CheckpointError
from spanbert_ext.files.disk import explained, sync, sync_tree

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


def check_output(folder: Path, overwrite: bool, source: Path | None) -> None:
    """Whether a conversion may write to `folder`. Nothing is changed.

    Args:
        source: what is read, which must not go away; None: it is on the hub.

    Raises:
        CheckpointError: it may not.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"--output {folder} is a file; expected a folder")
    if source is not None:
        inner, outer = source.resolve(), folder.resolve()
        if inner == outer or outer in inner.parents:
            raise CheckpointError(
                f"--output {folder} holds what is to be read, {source}: choose another folder"
            )
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if names and not overwrite:
        raise CheckpointError(
            f"--output {folder} exists and is not empty: choose another folder, or give --overwrite"
        )
    for name in names:
        if (folder / name).is_dir() or not any(fnmatch(name, pattern) for pattern in _OURS):
            raise CheckpointError(
                f"--output {folder} holds {name}, which no conversion wrote: --overwrite deletes only what one wrote"
            )


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block has ended without an exception.

    Raises:
        DiskError: it cannot be written; the message says why. What was there before is still there.
    """
    folder = Path(os.path.realpath(folder))
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        with explained("the converted model", folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _delete_leftovers(folder)
            staging.mkdir()
            yield staging
            sync_tree(staging)
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
        shutil.rmtree(old, ignore_errors=True)


def _delete_leftovers(folder: Path) -> None:
    """What conversions to `folder` left whose process was killed."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.unfinished"):
        number = path.name.split(".")[-2]
        if number.isdigit() and not _is_running(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
