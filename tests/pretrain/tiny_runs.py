# SPDX-License-Identifier: Apache-2.0
"""Runs of `spanbert-pretrain` that take a second, and what is compared of them."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.text.builtin_corpus import builtin_documents

STEPS, SAVED = 6, 4
FULL_DISK = shutil._ntuple_diskusage(10**9, 10**9, 4096)


def write_corpus(folder: Path, documents: int = 8, characters: int = 900) -> Path:
    """A file of the beginnings of documents."""
    path = folder / "text.txt"
    texts = (text[:characters] for _, text in itertools.islice(builtin_documents(), documents))
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


def arguments(corpus: Path, output: Path, *more: str) -> list[str]:
    """Of a run on `corpus`, whose folder has the cache beside it. more: options; those replace the ones here."""
    return [
        *("--corpus", str(corpus), "--output", str(output), "--cache-dir", str(corpus.parent / "cache")),
        *("--max-steps", str(STEPS), "--eval-steps", str(STEPS), "--save-steps", str(SAVED)),
        *("--logging-steps", "5", "--batch-size", "4", "--block-size", "32", "--vocab-size", "300"),
        *("--held-out", "0.3", "--dropout", "0.1", "--device", "cpu", "--samples", "0", "--no-progress"),
        *more,
    ]


def finished_run(corpus: Path, folder: Path) -> Path:
    output = folder / "out"
    assert cli.main(arguments(corpus, output)) == 0
    return output


def copy_of(run: Path, folder: Path) -> Path:
    """A copy of a finished run, as if it had been killed before its report."""
    output = folder / "out"
    shutil.copytree(run, output)
    (output / "metrics.json").unlink()
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(capsys, status: int, *given: str) -> str:
    assert cli.main([*given, "--no-progress"]) == status
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors


def same_result(a: Path, b: Path) -> bool:
    names = ("model.safetensors", "losses.png", f"checkpoints/checkpoint-{STEPS}/optimizer.pt")
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)
