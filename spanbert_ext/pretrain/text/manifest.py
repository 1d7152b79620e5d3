# SPDX-License-Identifier: Apache-2.0
"""The manifest of a prepared corpus: what marks a folder as one, and whether this version can read it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from spanbert_ext.pretrain.text.corpus_names import shown
from spanbert_ext.pretrain.text.text_files import CorpusError

MANIFEST = "manifest.json"
# Of a preparation that has not ended: its settings, then a line a finished shard. The name is no text's: a search for
# text in a folder around it must not find it.
PROGRESS = "shards.progress"
FORMAT = 1


class PreparedError(CorpusError):
    """A prepared corpus cannot be made or used; the message names the folder or the file, and the remedy."""


def is_prepared(name: str) -> bool:
    """Whether a corpus' name is the folder of a preparation, finished or not."""
    folder = os.path.expanduser(name)  # any name: what no file can be called is no folder
    if not name or not os.path.isdir(folder):
        return False
    return _names_shards(Path(folder, MANIFEST)) or any(Path(folder).glob(f"*{PROGRESS}"))


def _names_shards(path: Path) -> bool:
    """Whether a manifest is of a prepared corpus, perhaps a damaged one: others have a file of that name too."""
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return any(path.parent.glob("*shard-*.arrow"))
    return isinstance(manifest, dict) and "shards" in manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises `PreparedError` when there is none that this version can read."""
    path = folder / MANIFEST
    if not path.is_file():
        if any(folder.glob(f"*{PROGRESS}")):
            raise PreparedError(
                f"the preparation in {shown(folder)} has not ended: call spanbert-prepare as before, and it goes on"
            )
        raise PreparedError(f"{shown(folder)} holds no prepared corpus (no {MANIFEST})")
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PreparedError(f"cannot read {shown(path)}: {error!r}") from error
    if version != FORMAT:
        raise PreparedError(
            f"{shown(path)} is of format {version}, expected {FORMAT}: prepare the corpus again"
        )
    return manifest
