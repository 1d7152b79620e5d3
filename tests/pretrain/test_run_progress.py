# SPDX-License-Identifier: Apache-2.0
"""Sums of a run: their values by hand, that a checkpoint in between changes no bit of them, and the FLOPs of a step."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, TrainerState

from spanbert_ext.files.run_files import write_json
from spanbert_ext.files.wording import duration, short
from spanbert_ext.models.pretraining import SpanBertForPreTraining
from spanbert_ext.pretrain.run import console, model_flops
from spanbert_ext.pretrain.run.console import BarLog, LineLog, log_line
from spanbert_ext.pretrain.run.model_flops import ModelFlops, count_flops, peak_flops
from spanbert_ext.pretrain.run.run_progress import PAIRS, TOKENS, RunProgress, head_means, peak_memory_gb
from spanbert_ext.pretrain.run.trainer import SpanTrainer


class Ranks:
    """Accelerate's part in the sums, with as many processes that all have the same."""

    def __init__(self, number: int = 1, first: bool = True, device: str = "cpu") -> None:
        self.number, self.is_main_process, self.device = number, first, torch.device(device)

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum" and tensor.device == self.device
        return tensor * self.number if self.number > 1 else tensor


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.rand(3, 6, generator=generator) * 7,
            torch.rand(3, 4, generator=generator),
            (torch.rand(3, 9, generator=generator) < 0.7).long(),
        )
        for _ in range(count)
    ]


def test_sums_by_hand():
    progress = RunProgress()
    statistics = torch.tensor([[6.0, 2, 1, 4, 2, 0], [3.0, 1, 1, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    progress.add(statistics, torch.tensor([[0.5, 1, 1, 1], [1.5, 1, 0, 0]]), mask)
    sums, seconds = progress.take(Ranks())
    assert sums[TOKENS] == 7 and sums[PAIRS] == 25 and seconds > 0
    assert head_means(sums) == pytest.approx(
        {
            "mlm_loss": 3.0,
            "mlm_accuracy": 2 / 3,
            "sbo_loss": 2.0,
            "sbo_accuracy": 0.0,
            "nsp_loss": 1.0,
            "nsp_accuracy": 0.5,
        }
    )
    assert progress.sums.count_nonzero() == 0 and torch.equal(progress.totals, sums)
    progress.add(statistics, None, mask)
    assert "nsp_loss" not in head_means(progress.take(Ranks())[0])
    assert progress.totals[TOKENS] == 14


def test_a_checkpoint_anywhere_changes_no_bit(tmp_path):
    """Gathered, written as JSON and read by another process between any two batches."""
    whole = RunProgress()
    for batch in batches(6):
        whole.add(*batch)
    expected = whole.take(Ranks())[0]
    for cut in range(7):
        first, second = RunProgress(), RunProgress()
        for batch in batches(6)[:cut]:
            first.add(*batch)
        first.gather(Ranks())
        state = TrainerState(global_step=cut + 1, stateful_callbacks=[first])
        state.save_to_json(str(tmp_path / "state.json"))
        second.on_train_begin(None, TrainerState.load_from_json(str(tmp_path / "state.json")), None)
        for batch in batches(6)[cut:]:
            second.add(*batch)
        assert torch.equal(second.take(Ranks())[0], expected)


def test_gathered_sums_are_the_first_ranks_alone():
    progress, other = RunProgress(), RunProgress()
    for batch in batches(2):
        progress.add(*batch)
        other.add(*batch)
    own = progress.sums.clone()
    assert torch.equal(progress.gather(Ranks(2)), 2 * own) and torch.equal(progress.sums, 2 * own)
    other.gather(Ranks(2, first=False))
    assert other.sums.count_nonzero() == 0


def test_sums_are_gathered_on_the_device_of_the_processes():
    """Also those of a run that took no step in this process, which are on the host: NCCL takes no such tensor."""

    class Elsewhere(Ranks):
        def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
            return torch.ones_like(super().reduce(tensor, reduction), device="cpu")

    assert RunProgress().gather(Elsewhere(device="meta")).tolist() == [1.0] * 11


def test_evaluations_and_checkpoints_are_no_training_time(tmp_path):
    progress = RunProgress()
    with progress.paused():
        time.sleep(0.2)
        assert progress.state()["attributes"]["elapsed"] < 0.15  # what the checkpoint itself keeps
    state = progress.state()["attributes"]
    assert 0 <= state["elapsed"] < 0.15
    assert progress.take(Ranks())[1] < 0.15


def test_a_new_run_forgets_steps_that_were_only_measured():
    progress = RunProgress()
    progress.add(*batches(1)[0])
    progress.on_train_begin(None, TrainerState(), None)
    assert progress.sums.count_nonzero() == 0


# --- FLOPs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(**sizes, vocab_size=90, attn_implementation="eager")  # torch counts no other on a CPU
    return SpanBertForPreTraining(config, skip_unread_rows=False).eval()


def test_flops_by_hand(model):
    flops = count_flops(model)
    last_layer_behind_attention = 32 * 32 + 2 * 32 * 64
    assert flops == ModelFlops(
        per_token=2 * (3 * 32 * 32 + last_layer_behind_attention + 3 * 32 * 32),
        per_pair=4 * 32 * 2,
        per_mlm_target=2 * (last_layer_behind_attention + 32 * 32 + 32 * 90),
        per_sbo_target=2 * ((2 * 32 + 200) * 32 + 32 * 32 + 32 * 90),
    )
    assert flops.training(10, 100, 2, 1) == 3 * (
        10 * flops.per_token + 100 * flops.per_pair + 2 * flops.per_mlm_target + flops.per_sbo_target
    )


def test_flops_are_those_that_torch_counts(model):
    """The native forward of one row computes the head at all of its positions: every token is a target there."""
    ids = torch.arange(20)[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids)
    flops = count_flops(model)
    counted = 20 * flops.per_token + 400 * flops.per_pair + 20 * flops.per_mlm_target
    assert counter.get_total_flops() == counted


def test_an_encoder_that_shares_its_layers_has_no_count():
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=90
    )
    model = SpanBertForPreTraining(config)
    model.config.num_hidden_layers = 3
    assert count_flops(model) is None


@pytest.mark.parametrize(
    "name, tflops",
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA GB200", 2500),
        ("NVIDIA A40-48Q", 149.7),
        ("NVIDIA RTX A4000", None),  # not an A40
        ("NVIDIA RTX A1000", None),  # not an A100
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("X", None),
    ],
)
def test_peaks_are_known_by_name_and_for_bfloat16_alone(monkeypatch, name, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    device = SimpleNamespace(type="cuda")
    assert peak_flops(device, bf16=True) == (None if tflops is None else tflops * 1e12)
    assert peak_flops(device, bf16=False) is None and peak_flops(torch.device("cpu"), bf16=True) is None


def test_a_longer_name_stands_before_the_one_that_it_holds():
    names = [name for name, _ in model_flops.PEAK_BF16]
    for place, name in enumerate(names):
        assert not any(earlier in name for earlier in names[:place]), name


def test_speed_and_utilisation_by_hand():
    sums = torch.zeros(11, dtype=torch.float64)
    sums[[1, 4, TOKENS, PAIRS]] = torch.tensor([2.0, 1.0, 10.0, 100.0], dtype=torch.float64)
    flops = ModelFlops(per_token=1e9, per_pair=1e7, per_mlm_target=3e9, per_sbo_target=5e9)  # 66e9 a step
    trainer = SimpleNamespace(_flops=flops, _peak=11e9, args=SimpleNamespace(world_size=3))
    found = SpanTrainer._speed(trainer, sums, 2.0)
    assert found == pytest.approx({"tokens_per_second": 5, "tflop_per_second": 0.033, "mfu": 1.0})
    trainer._peak = None
    assert "mfu" not in SpanTrainer._speed(trainer, sums, 2.0)
    trainer._flops = None
    assert SpanTrainer._speed(trainer, sums, 2.0) == {"tokens_per_second": 5}


# --- Files and lines -----------------------------------------------------------------------------------------


def test_json_is_valid_whatever_the_numbers_are(tmp_path):
    value = {
        "a": float("nan"),
        "b": [1.5, float("inf"), {"c": -float("inf")}],
        "d": "NaN",
        "e": (1, 2),
        "f": None,
    }
    write_json(value, tmp_path / "x.json")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None, {"c": None}], "d": "NaN", "e": [1, 2], "f": None}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_json([1], tmp_path / "x.json")
    with pytest.raises(TypeError):
        write_json([object()], tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_memory_of_this_process_is_plausible():
    assert 0.05 < peak_memory_gb(torch.device("cpu")) < 500


def test_lines_for_people():
    logs = {"loss": 12.5, "mlm_loss": 6.0, "mlm_accuracy": 0.125, "sbo_loss": 6.5, "sbo_accuracy": 0.1}
    logs |= {"tokens_per_second": 1000.0, "tokens_seen": 50_000, "grad_norm": 2.0, "mfu": 0.4}
    assert log_line(logs, 100, 300, 100.0) == (
        "step 100/300 · loss 12.500 · MLM 6.000 (12.5% right), SBO 6.500 (10.0% right) · 1,000 tokens/s · MFU 40%"
        " · gradient 2 · 1 min 40 s left"
    )
    evaluation = {"eval_mlm_loss": 6.0, "eval_mlm_accuracy": 0.5, "eval_loss": 6.0}
    assert log_line(evaluation, 100, 300) == "  held-out: MLM 6.000 (50.0% right)"
    tokens = {"eval_tokens_mlm_loss": 5.0, "eval_tokens_mlm_accuracy": 0.25}
    assert log_line(tokens, 100, 300) == "  held-out, tokens masked: MLM 5.000 (25.0% right)"
    assert log_line({"train_runtime": 5.0}, 300, 300) is None
    assert " left" not in log_line(logs, 300, 300, 0.0) and " left" not in log_line(logs, 1, 300)


def test_a_long_evaluation_says_how_far_it_is(capsys, monkeypatch):
    clock = iter((10.0, 40.0, 71.0, 100.0, 131.0, 500.0, 501.0))
    monkeypatch.setattr(console, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    log, state = LineLog(), TrainerState(is_world_process_zero=True)
    for _ in range(5):
        log.on_prediction_step(None, state, None, eval_dataloader=range(7))
    expected = ("3 of 7 batches, 2 min 2 s left", "5 of 7 batches, 1 min left")
    assert capsys.readouterr().out == "".join(f"  held-out: {line}\n" for line in expected)
    log.on_evaluate(None, state, None)
    log.on_prediction_step(None, state, None, eval_dataloader=range(7))
    log.on_prediction_step(None, state, None, eval_dataloader=range(7))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("first", [True, False])
def test_lines_stand_above_the_bars_and_come_from_the_first_rank_alone(capsys, first):
    state = TrainerState(global_step=3, max_steps=10, is_world_process_zero=first)
    evaluation = {"eval_mlm_loss": 6.0, "eval_mlm_accuracy": 0.5}
    expected = "  held-out: MLM 6.000 (50.0% right)\n" if first else ""
    bars, lines = BarLog(), LineLog()
    lines.on_log(None, state, None, logs=evaluation)
    assert capsys.readouterr().out == expected
    bars.on_train_begin(None, state, None)
    bars.on_step_end(None, state, None)
    bars.on_log(None, state, None, logs=evaluation)
    bars.on_train_end(None, state, None)
    printed = capsys.readouterr()
    assert printed.out == expected and ("3/10" in printed.err) == first
    bars.on_log(None, state, None, logs=evaluation)  # of an evaluation after training
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (0.0123, "12 ms"),
        (4.21, "4.2 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (4000, "1 h 6 min"),
        (3600, "1 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1k"),
        (1234, "1.23k"),
        (999_400, "999k"),
        (999_600, "1M"),
        (5.04e6, "5.04M"),
        (3e11, "300G"),
    ],
)
def test_short_numbers(value, text):
    assert short(value) == text
