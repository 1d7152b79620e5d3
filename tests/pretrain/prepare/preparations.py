# SPDX-License-Identifier: Apache-2.0
"""What tests of spanbert-prepare do to small preparations, and compare of them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("datasets")


from spanbert_ext.pretrain.prepare import prepare as prepare_module
from spanbert_ext.pretrain.prepare.prepare import PrepareOptions, prepare

PER_SHARD = 8


def bytes_of(folder: Path | str) -> dict[str, bytes]:
    """All but the picture and the lock."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.suffix != ".png"}


class Stop(Exception):
    pass


def stop_before_the_manifest(monkeypatch, options: PrepareOptions) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "finish", lambda *_: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            prepare(options)


def command(options: PrepareOptions, *more: str) -> list[str]:
    words = ["--corpus", *options.corpus, "--output", options.output, "--tokenizer", options.tokenizer]
    return [*words, "--documents-per-shard", str(PER_SHARD), "--workers", "1", "--no-progress", *more]
