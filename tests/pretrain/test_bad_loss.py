# SPDX-License-Identifier: Apache-2.0
"""Updates with a loss that is not a number or jumps: found by a fixed rule, and no weight is changed by one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

import tiny_runs
from tiny_models import one_thread  # noqa: F401

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import bad_loss, checkpoints, trainer
from spanbert_ext.pretrain.run.bad_loss import LossRecord


def test_the_rule_by_hand():
    record = LossRecord()
    assert record.limit() == math.inf  # a first loss may be anything
    for loss in (8.0, 6.0, 10.0):
        record.add(loss)
    # means 8, 7, 8; distances from the mean before: 2 for the second, 3 for the third, at weights 1/2 and 1/3
    assert record.mean == pytest.approx(8) and record.deviation == pytest.approx(1 + (3 - 1) / 3)
    assert record.limit() == pytest.approx(8 + 10 * (1 + 2 / 3))
    steady = LossRecord()
    steady.add(3.0)
    for _ in range(98):
        steady.add(3.0)
    assert steady.limit() == pytest.approx(6.0)  # in the first hundred it must have doubled
    steady.add(3.0)
    assert steady.updates == 100 and steady.limit() == pytest.approx(4.0)
    steady.add(13.0)
    assert steady.mean == pytest.approx(3.1) and steady.deviation == pytest.approx(0.1)


def test_ordinary_losses_never_jump_and_a_divergence_does():
    generator = torch.Generator().manual_seed(0)
    for noise in (0.05, 0.5, 2.0):
        record = LossRecord()
        for step in range(20_000):
            loss = 2 + 8 * math.exp(-step / 300) + noise * torch.randn((), generator=generator).item()
            assert loss <= record.limit(), (noise, step)
            record.add(loss)
    record = LossRecord()
    for step in range(300):
        record.add(3 + 0.2 * math.sin(step))
    rising = [3 + 0.25 * step for step in range(40)]
    assert any(loss > record.limit() or record.add(loss) for loss in rising)


def arguments(corpus: Path, output: Path, *more: str) -> list[str]:
    return tiny_runs.arguments(corpus, output, "--save-steps", "2", "--logging-steps", "1", *more)


def bad_updates(monkeypatch, updates, harm) -> list[dict]:
    """`harm(loss)` in the place of the loss of these updates, from 1 on; the weights before and after every update."""
    seen: list[dict] = []
    compute_loss = trainer.SpanTrainer.compute_loss
    step_end = bad_loss.UpdateGuard.on_step_begin

    def harmed(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = compute_loss(self, model, inputs, True, num_items_in_batch)
        if model.training and self.state.global_step + 1 in updates:
            loss = harm(loss)
        return (loss, outputs) if return_outputs else loss

    def watched(self, args, state, control, model=None, **kwargs):
        seen.append({name: x.detach().clone() for name, x in model.named_parameters()})
        return step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(trainer.SpanTrainer, "compute_loss", harmed)
    monkeypatch.setattr(bad_loss.UpdateGuard, "on_step_begin", watched)
    return seen


def skip_bad_updates(monkeypatch) -> None:
    read = cli.read_options
    monkeypatch.setattr(
        cli, "read_options", lambda given: dataclasses.replace(read(given), on_bad_loss="skip")
    )


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "harm, said",
    [
        (lambda loss: loss * float("nan"), r"update 4 \(\d+ rows: [\d, .]+\): the loss is nan"),
        (lambda loss: loss * 1e30 * 1e30, r"update 4 \(\d+ rows: [\d, .]+\): the loss is inf"),
        (
            lambda loss: loss * 30,
            r"update 4 \(\d+ rows: [\d, .]+\): the loss jumped to [0-9.]+, from a mean of 10",
        ),
        # finite, but not what comes from it: the root's slope at 0
        (
            lambda loss: loss + (loss - loss.detach()).abs().sqrt(),
            r"update 4 \(\d+ rows: [\d, .]+\): the gradient holds NaN or an infinity",
        ),
    ],
)
def test_a_bad_update_ends_the_run_and_the_last_checkpoint_stays(
    corpus, tmp_path, monkeypatch, capsys, harm, said
):
    bad_updates(monkeypatch, {4}, harm)
    output = tmp_path / "out"
    assert cli.main(arguments(corpus, output)) == cli.FAILED
    errors = capsys.readouterr().err.splitlines()
    assert re.match(
        f"spanbert-pretrain: error: {said}.*No weight was changed by it. --resume takes the steps since the last"
        " checkpoint again, and with --on-bad-loss skip leaves this one out; a lower --learning-rate takes a new run$",
        errors[-2],
    ), errors[-2]
    assert errors[-1] == f"Go on from step 2 with: spanbert-pretrain --output {output} --resume"
    assert checkpoints.last_checkpoint(output)[0] == 2
    assert not (output / "metrics.json").exists() and not (output / "model.safetensors").exists()


def test_skipped_updates_change_nothing_and_are_counted(corpus, tmp_path, monkeypatch, capsys):
    skip_bad_updates(monkeypatch)
    seen = bad_updates(monkeypatch, {3, 5}, lambda loss: loss * float("nan"))
    output = tmp_path / "out"
    assert cli.main(arguments(corpus, output)) == 0
    moved = [not same(before, after) for before, after in itertools.pairwise(seen)]
    assert moved == [False, True, False, True, False]  # the warm-up begins with a rate of 0
    assert re.search(r"Skipped update 3 \(.*\): the loss is nan\.", capsys.readouterr().out)
    state = json.loads((output / "checkpoints" / "checkpoint-6" / "trainer_state.json").read_text())
    logs = {log["step"]: log for log in state["log_history"] if "loss" in log}
    assert [logs[step].get("skipped_updates") for step in range(1, 7)] == [None, None, 1, 1, 2, 2]
    kept = state["stateful_callbacks"]["UpdateGuard"]["attributes"]
    assert kept["skipped"] == 2 and kept["updates"] == 4 and 5 < kept["mean"] < 15
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["steps"] == 6
    # the tokens of skipped updates have been read, their losses are in no log
    assert logs[3]["tokens_seen"] > logs[2]["tokens_seen"] and "mlm_loss" not in logs[3]
    assert math.isnan(logs[3]["loss"])  # nothing was counted: not a loss of 0
    history = {log["step"]: log for log in json.loads((output / "history.json").read_text()) if "loss" in log}
    assert history[3]["loss"] is None and history[4]["loss"] > 0
    optimizer = torch.load(output / "checkpoints" / "checkpoint-6" / "optimizer.pt", weights_only=True)
    assert {float(state["step"]) for state in optimizer["state"].values()} == {4.0}

    # a resumed run keeps the record: of update 3, and of 5, which is as bad again
    shutil.rmtree(output / "checkpoints" / "checkpoint-6")
    (output / "metrics.json").unlink()
    assert cli.main(["--output", str(output), "--resume"]) == 0
    again = json.loads((output / "checkpoints" / "checkpoint-6" / "trainer_state.json").read_text())
    assert again["stateful_callbacks"]["UpdateGuard"]["attributes"] == kept


def test_skipping_without_end_ends(corpus, tmp_path, monkeypatch, capsys):
    skip_bad_updates(monkeypatch)
    monkeypatch.setattr(bad_loss, "_MOST_IN_A_ROW", 3)
    bad_updates(monkeypatch, {2, 3, 5, 6, 7, 8}, lambda loss: loss * float("nan"))
    command = arguments(corpus, tmp_path / "out")
    command[command.index("--max-steps") + 1] = "20"
    assert cli.main(command) == cli.FAILED
    assert re.search(
        r"update 7 \(4 rows: .*\): the loss is nan\. It is one of 3 in a row", capsys.readouterr().err
    )


def test_weights_that_are_no_numbers_are_never_saved(corpus, tmp_path, capsys):
    """A learning rate of 1e300 puts infinities into the weights with the first update."""
    output = tmp_path / "out"
    command = arguments(corpus, output, "--learning-rate", "1e300", "--warmup-steps", "0")
    assert cli.main(command) == cli.FAILED
    assert re.search(r"update 2 \(.*\): the loss is nan", capsys.readouterr().err)
    command[command.index("--max-steps") + 1] = "1"
    assert cli.main([*command, "--overwrite"]) == cli.FAILED
    errors = capsys.readouterr().err
    assert "the weights after update 1 hold NaN or an infinity and are not saved" in errors
    assert f"Go on from the beginning with: spanbert-pretrain --output {output} --resume" in errors
    assert checkpoints.last_checkpoint(output) is None
    assert not (output / "model.safetensors").exists() and not (output / "metrics.json").exists()


def test_a_held_out_loss_that_is_no_number_ends_with_valid_json(corpus, tmp_path, monkeypatch, capsys):
    evaluate = trainer.SpanTrainer.evaluate

    def no_number(self, *given, **options):
        metrics = evaluate(self, *given, **options)
        for log in self.state.log_history:
            log.update({name: float("nan") for name in log if name == "eval_mlm_loss"})
        return metrics

    monkeypatch.setattr(trainer.SpanTrainer, "evaluate", no_number)
    output = tmp_path / "out"
    assert cli.main(arguments(corpus, output)) == cli.FAILED
    assert "the held-out loss is not a number" in capsys.readouterr().err

    def refuse(name):
        raise ValueError(name)

    metrics = json.loads((output / "metrics.json").read_text(), parse_constant=refuse)
    assert metrics["eval_mlm_loss"] is None
    assert "finished" not in json.loads((output / "run.json").read_text())
