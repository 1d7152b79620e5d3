# SPDX-License-Identifier: Apache-2.0
"""The model card in a run's folder."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

pytest.importorskip("datasets")

from huggingface_hub import ModelCard
from tiny_models import make_model
from tiny_runs import STEPS

from spanbert_ext.models.model_card import CARD, is_our_card
from spanbert_ext.pretrain.run import run_card
from spanbert_ext.pretrain.run.checkpoints import delete_run
from spanbert_ext.pretrain.run.run_card import write_run_card
from spanbert_ext.pretrain.settings.options import Options, load_options


def test_the_card_of_a_run(left_alone, corpus):
    text = (left_alone / CARD).read_text(encoding="utf-8")
    metrics = json.loads((left_alone / "metrics.json").read_text())
    data = ModelCard(text).data
    assert is_our_card(left_alone / CARD) and "# out\n" in text
    assert (data.pipeline_tag, data.base_model, data.language, data.license) == (
        "fill-mask",
        None,
        None,
        None,
    )
    assert f"* `{corpus.name}`\n" in text and str(corpus.parent) not in text
    assert (
        f"* steps: {STEPS}\n" in text and "* objectives: masked tokens, spans from their boundaries\n" in text
    )
    assert "* begun with: random weights\n" in text
    for law, found in metrics["held_out"].items():
        for head in ("mlm", "sbo"):
            before = metrics["held_out_at_start"][law][f"{head}_loss"]
            assert (
                f"| {head.upper()}, {law} masked | {before:.3f} | {found[f'{head}_loss']:.3f} |"
                f" {found[f'{head}_accuracy']:.1%} |" in text
            )
    assert f"on {metrics['held_out_tokens']:,} tokens of" in text and "without dropout" in text
    assert f"is {metrics['unigram_entropy']:.3f} nats" in text


def test_checkpoints_have_no_card_and_the_run_file_does_not_list_it(left_alone):
    assert not list(left_alone.glob(f"checkpoints/**/{CARD}"))
    assert CARD not in json.loads((left_alone / "run.json").read_text())["files"]


@pytest.fixture
def written(left_alone, tmp_path):
    """A function that writes the card of options that differ."""
    options, _ = load_options(left_alone / "run.json", {})
    metrics = json.loads((left_alone / "metrics.json").read_text())

    def written(**given) -> str:
        write_run_card(tmp_path, make_model(), dataclasses.replace(options, **given), metrics)
        return (tmp_path / CARD).read_text(encoding="utf-8")

    return written


def test_names_are_published_without_their_place(written):
    corpus = [
        "/home/me/notes",
        "dataset:/home/me/saved",
        "dataset:wikitext@raw:train",
        "/data/crawl/*.jsonl.zst",
    ]
    text = written(corpus=corpus, model="/home/me/first", sbo=False, recipe="spanbert")
    assert "/home" not in text and "/data" not in text
    for name in ("notes", "dataset:saved", "dataset:wikitext@raw:train", "*.jsonl.zst"):
        assert f"* `{name}`\n" in text
    assert "* begun with: `first`\n" in text and "* objectives: masked tokens\n" in text
    assert "* recipe: `spanbert`\n" in text
    assert run_card._corpus(Options(), {"corpus": ["documentation (built-in)"]}) == [
        "documentation (built-in)"
    ]


def test_a_card_of_the_users_outlives_the_run(left_alone, written, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(left_alone / "run.json", run)
    shutil.copy(left_alone / CARD, run)
    delete_run(run)
    assert not (run / CARD).exists()
    (run / CARD).write_text("# Mine\n")
    delete_run(run)
    assert (run / CARD).read_text() == "# Mine\n"
    shutil.copy(run / CARD, tmp_path)
    assert written() == "# Mine\n"
