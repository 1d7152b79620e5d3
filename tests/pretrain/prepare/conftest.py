# SPDX-License-Identifier: Apache-2.0
"""A corpus with its tokenizer, and the options of a small preparation of it."""

from __future__ import annotations

import itertools
import json
import random

import pytest

pytest.importorskip("datasets")

from preparations import PER_SHARD

from spanbert_ext.pretrain.prepare import prepare as prepare_module
from spanbert_ext.pretrain.prepare.prepare import PrepareOptions
from spanbert_ext.pretrain.rows.tokenizer import train_tokenizer
from spanbert_ext.pretrain.text.builtin_corpus import builtin_documents


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Of very different lengths, in an order of no meaning."""
    found = [text for _, text in itertools.islice(builtin_documents(), 24)]
    found = [*found, *(text.split("\n")[0] for text in found[:5]), "\u200b"]  # the last: no token
    random.Random(1).shuffle(found)
    return found


@pytest.fixture(scope="module")
def tokenizer_folder(texts, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(lambda: texts, 700).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def corpus(texts, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text("\n\n".join(texts[:13]), encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[13:]))
    return [str(folder)]


@pytest.fixture(autouse=True)
def no_picture(request, monkeypatch):
    """Which takes most of the time of a preparation as small as these."""
    if "draws" not in request.fixturenames:
        monkeypatch.setattr(prepare_module, "draw_lengths", lambda path, *lengths: path.write_bytes(b"PNG"))


@pytest.fixture
def draws() -> None:
    """For a test that looks at the picture."""


@pytest.fixture
def options(corpus, tokenizer_folder, tmp_path):
    def options(name: str = "out", **given) -> PrepareOptions:
        rest = {
            "documents_per_shard": PER_SHARD,
            "workers": 1,
            "progress": False,
            "tokenizer": tokenizer_folder,
        }
        return PrepareOptions(**{"corpus": corpus, "output": str(tmp_path / name), **rest, **given})

    return options
