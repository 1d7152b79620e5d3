# SPDX-License-Identifier: Apache-2.0
"""Whether a run that deletes the one in its output folder would delete what it is to begin with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from spanbert_ext.files.paths import given_path
from spanbert_ext.pretrain.run.checkpoints import FOLDERS, RunError
from spanbert_ext.pretrain.settings.option_checks import flag
from spanbert_ext.pretrain.settings.options import Options
from spanbert_ext.pretrain.text.corpus_names import DATASET, DatasetName


def check_not_read(options: Options, folder: Path) -> None:
    """Raises `RunError` where the model, the tokenizer or the text of a run that overwrites its output `folder` lies
    in it, also by links from there or to there. Reads no text, and of a folder only what is in it itself."""
    if not options.overwrite:
        return
    deleted = [Path(os.path.realpath(path)) for path in (folder, *(folder / name for name in FOLDERS))]
    for option, name, path in _inputs(options):
        for place in (path, *_links(path)):
            real = Path(os.path.realpath(place))
            if any(real.is_relative_to(gone) for gone in deleted):
                raise RunError(
                    f"{flag(option)} {name} lies in --output {folder}, which --overwrite deletes: choose another folder"
                    " for the new run"
                )


def _inputs(options: Options) -> Iterator[tuple[str, str, Path]]:
    """Option, name and path of all that is on a disk."""
    named = [("model", options.model)] if not options.starts_fresh else []
    named += [("tokenizer", options.tokenizer)] if options.tokenizer is not None else []
    named += [("corpus", name) for name in options.corpus]
    for option, name in named:
        is_dataset = option == "corpus" and name.startswith(DATASET)
        path = given_path(DatasetName.parse(name).path if is_dataset else name)
        of_the_hub = (is_dataset or option != "corpus") and not os.path.lexists(path)
        if not of_the_hub:
            yield option, name, path


def _links(folder: Path) -> list[Path]:
    """The links to files in a folder."""
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_symlink() and entry.is_file()]
    except OSError:  # no folder, or none that can be read: whoever reads it says so
        return []
