# SPDX-License-Identifier: Apache-2.0
"""`spanbert-pretrain` end to end, tiny: what it writes, resuming, interruption; losses are means over tokens."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import tiny_runs

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import checkpoints, data, span_examples, trainer
from spanbert_ext.pretrain.settings.options import Options
from spanbert_ext.pretrain.text.builtin_corpus import builtin_documents

STEPS, SAVED = 8, 5  # a checkpoint in the middle of an epoch


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return tiny_runs.write_corpus(tmp_path_factory.mktemp("corpus"), documents=12)


def arguments(corpus: Path, output: Path, *more: str) -> list[str]:
    own = [
        *("--max-steps", str(STEPS), "--eval-steps", "4", "--save-steps", str(SAVED), "--logging-steps", "2"),
        *("--held-out", "0.2", "--samples", "10", "--overwrite"),
    ]
    return tiny_runs.arguments(corpus, output, *own, *more)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run") / "out"
    assert cli.main(arguments(corpus, output)) == 0
    return output


def read_metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_metrics_are_in_nats_on_held_out_text(finished):
    metrics = read_metrics(finished)
    assert 3 < metrics["unigram_entropy"] < math.log(300)
    assert metrics["unigram_entropy"] < metrics["unigram_cross_entropy"]
    for head in ("mlm", "sbo"):
        assert 3 < metrics[f"eval_{head}_loss"] < math.log(300) + 1
        assert 0 <= metrics[f"eval_{head}_accuracy"] <= 1
    assert metrics["steps"] == STEPS and metrics["tokens_per_second"] > 0 and metrics["seed"] == 0
    assert metrics["versions"]["torch"]


def test_unigram_entropy_by_hand():
    import numpy as np

    from spanbert_ext.pretrain.run.results import unigram_cross_entropy, unigram_entropy

    counts = np.array([2, 1, 1, 0])
    assert unigram_entropy(counts) == pytest.approx(1.5 * math.log(2))
    # training counts (3, 0, 0, 1) plus one: probabilities 4/8, 1/8, 1/8, 2/8
    expected = (2 * math.log(2) + 2 * math.log(8)) / 4
    assert unigram_cross_entropy(counts, np.array([3, 0, 0, 1])) == pytest.approx(expected)


def test_evaluation_weighs_tokens_not_batches(finished, corpus):
    """The reported loss equals one over all held-out blocks at once."""
    import torch

    from spanbert_ext.masking.collator import DataCollatorForSpanMasking
    from spanbert_ext.models.pretraining import SpanBertForPreTraining
    from spanbert_ext.pretrain.settings.options import load_options

    options, _ = load_options(finished / "run.json", {"resume": True})
    loaded = data.load_data(options, finished)
    tokenizer, held_out = loaded.tokenizer, loaded.held_out
    collator = DataCollatorForSpanMasking(tokenizer, seed=options.seed, ratio=options.ratio, epoch=0)
    model = SpanBertForPreTraining.from_pretrained(finished).eval()
    with torch.no_grad():
        outputs = model(**collator([held_out[i] for i in range(len(held_out))]))
    metrics = read_metrics(finished)
    assert len(held_out) % options.batch_size  # the last batch is smaller
    assert float(outputs.mlm_loss) == pytest.approx(metrics["eval_mlm_loss"], rel=1e-5)
    assert float(outputs.sbo_loss) == pytest.approx(metrics["eval_sbo_loss"], rel=1e-5)


def test_checkpoint_loads_in_the_native_classes(finished):
    from transformers import AutoModelForMaskedLM, AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(finished)
    model = AutoModelForMaskedLM.from_pretrained(finished)
    logits = model(**tokenizer("The [MASK] statement.", return_tensors="pt")).logits
    assert logits.shape[-1] == len(tokenizer)
    AutoModelForQuestionAnswering.from_pretrained(finished)


def test_picture_and_table(finished, corpus, tmp_path, capsys):
    assert (finished / "losses.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert list((finished / "tensorboard").glob("events.*"))
    copy = tmp_path / "out"
    shutil.copytree(finished, copy)
    (copy / "metrics.json").unlink()  # killed when nothing was left but to report
    assert cli.main(["--output", str(copy), "--resume", "--samples", "5"]) == 0
    printed = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(printed) if "masked span" in line)
    width = span_examples.CELL + 3  # columns are separated by " | "
    table = list(itertools.takewhile(bool, printed[start + 2 :]))
    assert 2 <= len(table) <= 5
    for line in table:
        assert all(line[column * width :][: span_examples.CELL].strip() for column in range(1, 5)), line
    assert any(line.split()[:2] == ["unigram", "entropy"] for line in printed)
    assert read_metrics(copy)["eval_mlm_loss"] == read_metrics(finished)["eval_mlm_loss"]


def test_resume_gives_the_uninterrupted_result(finished, corpus, tmp_path):
    """Dropout, order, masks and optimizer state go on where they were, in the middle of an epoch."""
    cut = tmp_path / "out"
    shutil.copytree(finished, cut)
    shutil.rmtree(cut / "checkpoints" / f"checkpoint-{STEPS}")
    (cut / "metrics.json").unlink()
    assert checkpoints.last_checkpoint(cut)[0] == SAVED
    assert cli.main(["--output", str(cut), "--resume", "--workers", "2"]) == 0
    expected, resumed = read_metrics(finished), read_metrics(cut)
    for key in ("eval_mlm_loss", "eval_sbo_loss", "eval_mlm_accuracy", "eval_sbo_accuracy"):
        assert resumed[key] == expected[key], key


def test_resume_refuses_another_corpus(finished, corpus, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    run = json.loads((output / "run.json").read_text())
    run["corpus_digest"] = "0" * 16
    del run["finished"]
    (output / "run.json").write_text(json.dumps(run))
    assert cli.main(["--output", str(output), "--resume"]) == 2
    assert "not the one that the run" in capsys.readouterr().err


def test_one_document_is_held_out_by_passages_and_files_keep_their_order(tmp_path, capsys):
    texts = [text for _, text in itertools.islice(builtin_documents(), 2)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")

    def load(*names: str) -> dict:
        corpus = [str(tmp_path / f"{name}.txt") for name in names]
        cache = str(tmp_path / "cache")
        options = Options(corpus=corpus, cache_dir=cache, vocab_size=200, block_size=16).resolve()
        return data.load_data(options, tmp_path).facts

    alone = load("0")
    printed = capsys.readouterr().out
    assert (
        "Held out: " in printed and "whole documents would be 100.0% of the text instead of 10.0%." in printed
    )
    assert alone["held_out_unit"] == "passages" and alone["held_out_passages"] > 0
    assert alone["train_blocks"] > 4 * alone["held_out_blocks"] > 0
    forth, back = load("0", "1"), load("1", "0")
    assert forth.pop("corpus_digest") != back.pop("corpus_digest")
    assert forth.pop("corpus") != back.pop("corpus") and forth == back


def endless(corpus: str, output: Path) -> list[str]:
    return arguments(corpus, output, "--max-steps", "100000")


def assert_goes_on(output: Path, errors: str) -> None:
    from transformers import AutoModelForMaskedLM

    assert f"spanbert-pretrain --output {output} --resume" in errors
    AutoModelForMaskedLM.from_pretrained(checkpoints.last_checkpoint(output)[1])


def test_interrupted_process_leaves_a_loadable_checkpoint(corpus, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "spanbert_ext.pretrain.cli", *endless(corpus, output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            while not list(output.glob("checkpoints/*/trainer_state.json")):
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            errors = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert_goes_on(output, errors)


def test_ctrl_c_ends_the_run_after_a_checkpoint(corpus, tmp_path, monkeypatch, capsys):
    """In this process: the signal comes in the third step, between two checkpoints."""
    output, step = tmp_path / "out", trainer.SpanTrainer.training_step
    handler = signal.getsignal(signal.SIGINT)

    def interrupted(self, *given, **options):
        if self.state.global_step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, *given, **options)

    monkeypatch.setattr(trainer.SpanTrainer, "training_step", interrupted)
    assert cli.main(endless(corpus, output)) == 128 + signal.SIGINT
    assert checkpoints.last_checkpoint(output)[0] == 3
    assert signal.getsignal(signal.SIGINT) is handler
    assert_goes_on(output, capsys.readouterr().err)


def test_no_sbo_trains_the_masked_language_model_alone(corpus, tmp_path):
    output = tmp_path / "out"
    assert cli.main(arguments(corpus, output, "--no-sbo", "--masking", "tokens", "--samples", "2")) == 0
    metrics = read_metrics(output)
    assert "eval_mlm_loss" in metrics and "eval_sbo_loss" not in metrics


def test_model_folder_is_trained_further_with_its_tokenizer(finished, corpus, tmp_path):
    output = tmp_path / "out"
    more = ["--model", str(finished), "--max-steps", "2", "--gradient-accumulation", "2", "--bf16"]
    assert cli.main(arguments(corpus, output, *more)) == 0
    assert read_metrics(output)["options"]["model"] == str(finished)
    expected = (finished / "tokenizer" / "tokenizer.json").read_text()
    assert (output / "tokenizer" / "tokenizer.json").read_text() == expected
