# SPDX-License-Identifier: Apache-2.0
"""Every recipe trains by the command, from text to a folder that transformers' Auto classes load."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from tiny_runs import write_corpus
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
)

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run.optimizer import UncorrectedAdamW
from spanbert_ext.pretrain.run.trainer import SpanTrainer
from spanbert_ext.pretrain.settings.recipes import RECIPES

SYSTEMS = ("bert", "our-bert", "our-bert-1seq", "spanbert")
DISTINCT = [
    name for name in RECIPES if name not in ("masking-subword", "masking-spans", "objective-1seq-sbo")
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return str(write_corpus(tmp_path_factory.mktemp("corpus"), documents=24, characters=1500))


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory) -> str:
    return str(write_corpus(tmp_path_factory.mktemp("long-corpus"), documents=60, characters=3000))


def train(corpus: str, output: Path, recipe: str, steps: int | None, *more: str) -> dict:
    """metrics.json of a run of the demo's size."""
    arguments = [
        *("--corpus", corpus, "--output", str(output), "--cache-dir", str(Path(corpus).parent / "cache")),
        *("--recipe", recipe, "--block-size", "48", "--short-block-size", "40"),
        *("--vocab-size", "400", "--held-out", "0.2", "--device", "cpu", "--no-progress"),
        *("--samples", "1", *more),
    ]
    if steps is not None:
        arguments += ["--batch-size", "8", "--max-steps", str(steps), "--eval-steps", str(steps)]
    assert cli.main(arguments) == 0
    return json.loads((output / "metrics.json").read_text())


def check_folder(folder: Path, recipe: str) -> None:
    """It loads in the classes that people fine-tune, with a pooler and an NSP head where these were trained."""
    nsp = RECIPES[recipe].options["nsp"]
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForPreTraining" if nsp else "BertForMaskedLM"]
    for auto in (AutoModel, AutoModelForMaskedLM, AutoModelForQuestionAnswering):
        auto.from_pretrained(folder)
    if nsp:
        from transformers import BertForNextSentencePrediction

        for auto in (AutoModelForPreTraining, BertForNextSentencePrediction):
            _, loading = auto.from_pretrained(folder, output_loading_info=True)
            assert not loading["missing_keys"]


@pytest.mark.parametrize("recipe", SYSTEMS)
def test_a_system_of_the_paper_trains(corpus, tmp_path, capsys, monkeypatch, recipe):
    made = []
    create = SpanTrainer.create_optimizer
    monkeypatch.setattr(
        SpanTrainer, "create_optimizer", lambda *given: made.append(create(*given)) or made[-1]
    )
    metrics = train(corpus, tmp_path / "out", recipe, 5)
    printed = capsys.readouterr().out
    assert printed.index(f"Recipe {recipe}: ") < printed.index("Plan:") < printed.index("What comes next:")
    assert "Held-out loss at step 0 and at step 5" in printed
    options = RECIPES[recipe].options
    for name in ("rows", "nsp", "sbo", "masking", "dupe_factor", "adam_bias_correction", "weight_decay"):
        assert metrics["options"][name] == options[name], name
    assert 0 < metrics["eval_mlm_loss"] < math.log(400) + 1
    ending = printed[printed.index("Held-out loss at step 0") :]
    assert ("  SBO " in ending, "  NSP " in ending) == (options["sbo"], options["nsp"])
    assert {isinstance(optimizer, UncorrectedAdamW) for optimizer in made} == {recipe == "bert"}
    check_folder(tmp_path / "out", recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", DISTINCT)
def test_a_recipe_learns_in_200_steps(long_corpus, tmp_path, recipe):
    pytest.importorskip("textblob") if recipe == "masking-noun-phrases" else None
    train(long_corpus, tmp_path / "out", recipe, 200)
    log = json.loads((tmp_path / "out" / "checkpoints" / "checkpoint-200" / "trainer_state.json").read_text())
    losses = {entry["step"]: entry for entry in log["log_history"] if "eval_mlm_loss" in entry}
    gains = {
        head: losses[0][name] - losses[200][name]
        for head in ("mlm", "sbo", "nsp")
        if (name := f"eval_{head}_loss") in losses[200]
    }
    assert gains["mlm"] > 0 and max(gains.values()) > 0.05, gains
    for head in ("sbo", "nsp"):
        assert (head in gains) == RECIPES[recipe].options[head]
    check_folder(tmp_path / "out", recipe)


def test_a_run_of_so_many_tokens_reads_them(corpus, tmp_path):
    metrics = train(
        *(corpus, tmp_path / "out", "spanbert", None, "--max-tokens", "3000", "--tokens-per-batch", "600"),
        *("--gradient-accumulation", "2", "--eval-steps", "5", "--seed", str(2**40)),
    )
    assert metrics["steps"] == metrics["options"]["max_steps"] == 5
    assert metrics["tokens_seen"] == pytest.approx(3000, abs=150)
    assert metrics["options"]["seed"] == 2**40
