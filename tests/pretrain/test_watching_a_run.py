# SPDX-License-Identifier: Apache-2.0
"""What a run logs and leaves to be looked at: by hand where there is a rule, equal after a resume in what it learned,
and held-out text judged under both laws as the model judges it by itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from tiny_runs import write_corpus
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.models.pretraining import SpanBertForPreTraining
from spanbert_ext.pretrain import cli, report_cli
from spanbert_ext.pretrain.run import trainer
from spanbert_ext.pretrain.run.reporting import reporting_callbacks
from spanbert_ext.pretrain.run.run_progress import MEASURED
from spanbert_ext.pretrain.run.span_examples import span_examples
from spanbert_ext.pretrain.run.trainer import SpanTrainer
from spanbert_ext.pretrain.settings.options import OptionError

STEPS, SAVED, LOGGED, EVALUATED = 8, 5, 3, 4  # the checkpoint stands between two logs


@pytest.fixture(scope="module")
def trainers() -> Iterator[list[SpanTrainer]]:
    """Those that the command has made, in their order."""
    made: list[SpanTrainer] = []
    make = SpanTrainer.__init__

    def noting(self: SpanTrainer, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpanTrainer, "__init__", noting)
        yield made


@pytest.fixture(scope="module")
def finished(tmp_path_factory, trainers) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    corpus, output = write_corpus(folder, characters=1200), folder / "out"
    numbers = {"max-steps": STEPS, "save-steps": SAVED, "logging-steps": LOGGED, "eval-steps": EVALUATED}
    numbers |= {
        "batch-size": 2,
        "gradient-accumulation": 2,
        "block-size": 32,
        "vocab-size": 300,
        "samples": 3,
    }
    options = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    options += ["--corpus", str(corpus), "--output", str(output), "--cache-dir", str(folder / "cache")]
    assert (
        cli.main([*options, "--held-out", "0.2", "--dropout", "0.1", "--device", "cpu", "--no-progress"]) == 0
    )
    return output


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text())


def training_logs(history: list[dict]) -> list[dict]:
    return [log for log in history if "loss" in log]


def test_the_loss_is_the_sum_of_the_heads_and_tokens_are_counted(finished):
    logs = training_logs(read(finished, "history.json"))
    assert [log["step"] for log in logs] == [1, 3, 6]
    for log in logs:
        assert log["loss"] == pytest.approx(log["mlm_loss"] + log["sbo_loss"], rel=1e-12)
        assert 0 <= log["mlm_accuracy"] <= 1 and log["grad_norm"] > 0 and log["memory_gb"] > 0.05
        assert log["tokens_per_second"] > 0 and log["tflop_per_second"] > 0 and "mfu" not in log
    counts = [log["tokens_seen"] for log in logs]
    assert counts == sorted(counts) and 3 * 4 * 8 < counts[1] <= 3 * 4 * 32
    metrics = read(finished, "metrics.json")
    assert counts[-1] < metrics["tokens_seen"] <= STEPS * 4 * 32  # the last two steps are in no log
    one_pass = metrics["train_tokens"] + 2 * metrics["train_blocks"]
    assert logs[-1]["passes"] == pytest.approx(counts[-1] / one_pass, rel=0.2)  # rows differ in length
    assert metrics["tokens_per_second"] == pytest.approx(metrics["tokens_seen"] / metrics["train_seconds"])


def test_held_out_text_is_judged_under_both_laws_as_the_model_judges_it_by_itself(finished, trainers):
    options, tokenizer, held_out = trainers[0].options, trainers[0].processing_class, trainers[0].eval_dataset
    model = SpanBertForPreTraining.from_pretrained(finished).eval()
    rows = [held_out[i] for i in range(len(held_out))]
    metrics = read(finished, "metrics.json")
    assert list(metrics["held_out"]) == ["spans", "tokens"]
    schemes = {"spans": {"scheme": "geometric"}, "tokens": {"scheme": "tokens", "replacement": "token"}}
    for law, scheme in schemes.items():
        batch = DataCollatorForSpanMasking(
            tokenizer, seed=options.seed, ratio=options.ratio, epoch=0, **scheme
        )(rows)
        with torch.no_grad():
            outputs = model(**batch)
        found = metrics["held_out"][law]
        for name in ("mlm_loss", "sbo_loss", "mlm_accuracy", "sbo_accuracy"):
            assert found[name] == pytest.approx(float(outputs[name]), rel=1e-5), (law, name)
        masked = int((batch["labels"] >= 0).sum())
        assert sum(row["tokens"] for row in found["by_span_length"]) == masked
        right = sum(row["tokens"] * row["mlm_accuracy"] for row in found["by_span_length"])
        assert right == pytest.approx(masked * float(outputs.mlm_accuracy))
    assert metrics["eval_mlm_loss"] == metrics["held_out"]["spans"]["mlm_loss"]
    assert not any("_length_" in name or "tokens_mlm" in name for name in metrics)


def test_a_resume_between_two_logs_leaves_the_same_logs_metrics_and_examples(finished, tmp_path):
    """In the last bit, but for what says how fast this machine was."""
    folder = tmp_path / "out"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints" / f"checkpoint-{STEPS}", ignore_errors=True)
    for name in ("metrics.json", "history.json", "samples.json"):
        (folder / name).unlink()
    assert cli.main(["--output", str(folder), "--resume"]) == 0

    def learned(log: dict) -> dict:
        return {name: value for name, value in log.items() if name not in MEASURED}

    expected, resumed = (list(map(learned, read(path, "history.json"))) for path in (finished, folder))
    assert resumed == expected
    assert read(folder, "samples.json") == read(finished, "samples.json")
    expected, resumed = (read(path, "metrics.json") for path in (finished, folder))
    measured = {"train_seconds", "tokens_per_second", "tflop_per_second", "memory_gb", "options"}
    assert list(resumed) == list(expected)
    for name in expected.keys() - measured:
        assert json.dumps(resumed[name]) == json.dumps(expected[name]), name  # in the same order
    assert resumed["train_seconds"] > expected["train_seconds"] / 4  # those before the resume count


def test_examples_are_of_the_held_out_text(finished):
    samples = read(finished, "samples.json")
    assert samples["step"] == STEPS and len(samples["examples"]) == 3
    for example in samples["examples"]:
        assert example["span"] and example["mlm"] and example["sbo"]
        assert 0 <= example["mlm_right"] <= example["tokens"]
        assert "[MASK]" not in example["before"] + example["span"] + example["after"]
        assert "[CLS]" not in example["before"] and "[SEP]" not in example["after"]


def test_many_examples_are_not_one_batch(trainers, finished, monkeypatch):
    rows: list[int] = []

    def noting(model, tokenizer, batch, *more):
        rows.append(len(batch["labels"]))
        return span_examples(model, tokenizer, batch, *more)

    monkeypatch.setattr(trainer, "span_examples", noting)
    monkeypatch.setattr(trainers[0].options, "samples", 1000)
    assert 3 < len(trainers[0].examples()) <= sum(rows) == len(trainers[0].eval_dataset)
    assert max(rows) == 2  # --batch-size


def test_tensorboard_has_all_logs(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    for name in ("mlm_loss", "sbo_accuracy", "tokens_per_second", "grad_norm", "memory_gb", "tokens_seen"):
        assert f"train/{name}" in tags
    for name in ("mlm_loss", "tokens_mlm_accuracy", "mlm_accuracy_length_1", "sbo_accuracy_length_5-6"):
        assert f"eval/{name}" in tags
    expected = [log["mlm_loss"] for log in training_logs(read(finished, "history.json"))]
    assert [event.value for event in events.Scalars("train/mlm_loss")] == pytest.approx(expected, rel=1e-6)


def test_what_a_resumed_run_logs_again_is_shown_once(tmp_path, monkeypatch):
    """Also where it begins anew, since it was killed before its first checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    # Files that one process writes in one second are told apart by a number, and read in the order of their names: 10
    # before 9. Resumed runs are processes of their own.
    counter = event_file_writer.AtomicCounter(0)
    monkeypatch.setattr(event_file_writer, "_global_uid", counter)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0)
    for first_step, steps in ((0, (0, 2, 4)), (0, (0, 2, 4, 6)), (4, (6, 8))):
        (callback,) = reporting_callbacks(["tensorboard"], tmp_path, first_step)
        for state.global_step in steps:
            callback.on_log(None, state, None, logs={"loss": 1.0 + state.global_step})
        callback.on_train_end(None, state, None)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (step, 1.0 + step) for step in (0, 2, 4, 6, 8)
    ]


def test_the_run_can_be_reported(finished, capsys):
    assert report_cli.main([str(finished)]) == 0
    printed = capsys.readouterr().out
    assert "finished" in printed and f"{read(finished, 'metrics.json')['eval_mlm_loss']:.3f}" in printed
    page = (finished / "report.html").read_text()
    assert "Accuracy by span length" in page and "Masked spans" in page
    (finished / "report.html").unlink()


@pytest.mark.parametrize("name", ["nothing-of-this-name", "clearml"])
def test_a_reporter_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(OptionError, match=f"--report-to {name}: .+"):
        reporting_callbacks([name], tmp_path)


def test_any_reporter_of_transformers_gets_the_logs(finished, trainers, tmp_path, monkeypatch):
    seen: list[dict] = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(dict(logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mine", Reporter)
    (reporter,) = reporting_callbacks(["none", "mine"], tmp_path)
    monkeypatch.setattr(trainers[0], "folder", tmp_path)  # the run is left as it is
    trainers[0].add_callback(reporter)
    trainers[0].evaluate()
    trainers[0].remove_callback(reporter)
    assert "eval_mlm_accuracy_length_1" in seen[0] and "eval_tokens_mlm_loss" in seen[1]


def test_reporters_are_on_the_first_rank_alone_and_none_means_none(tmp_path, monkeypatch):
    assert reporting_callbacks(["none"], tmp_path) == [] and not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "1")
    assert reporting_callbacks(["tensorboard"], tmp_path) == [] and not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    (callback,) = reporting_callbacks(["tensorboard", "tensorboard"], tmp_path)
    assert not list(tmp_path.iterdir())  # nothing before there is something to log
    state = SimpleNamespace(is_world_process_zero=True, global_step=1)
    callback.on_log(None, state, None, logs={"loss": 1.0})
    callback.on_train_end(None, state, None)
    assert list(tmp_path.glob("events.*"))
