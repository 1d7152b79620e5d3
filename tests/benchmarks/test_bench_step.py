# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a training step: what it writes, that contestants must agree, what each is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import import_from_benchmarks, no_peak_memory  # noqa: F401

pytest.importorskip("matplotlib")

COMPUTED_ALIKE = 6  # pairs in SAME_LOSS
SMALL = ["--shape", "tiny", "--repeats", "3", "--threads", "1"]


def small_trainer(shape: str = "tiny", dtype: torch.dtype = torch.float32, backend: str = "eager") -> Any:
    from providers.steps import make_provider
    from support.step_runner import Sizes, Trainer
    from support.text import Shape

    return Trainer(Sizes(Shape.parse(shape), 1, dtype, backend), torch.device("cpu"), make_provider)


def test_report_has_the_promised_keys(tmp_path: Path) -> None:
    import bench_step
    from providers.steps import NAMES

    files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert bench_step.main([*SMALL, *files]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [entry["provider"] for entry in report["entries"]] == list(NAMES)
    assert report["sizes"]["layers"] == 2 and report["sizes"]["tokens"] == 64
    assert report["rounds"] == 3 and report["complete"] is True
    for entry in report["entries"]:
        assert entry["mode"] == "eager"
        assert entry["tokens_per_s"] == pytest.approx(64 / entry["step_ms"]["p50"] * 1e3)
        assert "peak_mb" in report["unavailable"] or entry["peak_mb"] > 0
        assert set(entry["speed_over"]) == {"stock_mlm, eager", "masked_only, eager"}
        if not torch.cuda.is_available():
            assert entry["gpu_busy_ms"] is None and entry["kernels"] is None and entry["syncs"] is None
    assert "CUDA alone" in report["unavailable"]["gpu_busy_ms, kernels, syncs"]
    stock = next(entry for entry in report["entries"] if entry["provider"] == "stock_mlm")
    assert stock["speed_over"]["stock_mlm, eager"]["p50"] == 1
    assert len(report["agreement"]) == COMPUTED_ALIKE
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_peak_memory")
def test_modes_stand_beside_each_other_and_a_failing_compiler_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench_step
    from providers.steps import MaskedRowsOnly
    from support import step_runner
    from support.step_problem import MODES

    right = step_runner.compile_provider

    def compile_provider(provider: Any, mode: str, backend: str) -> Any:
        found = right(provider, mode, backend)
        if mode == "model" and isinstance(provider.module, MaskedRowsOnly):
            provider.module.forward = fail
        return found

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel for this\nand more")

    monkeypatch.setattr(step_runner, "compile_provider", compile_provider)
    names = ["stock_mlm", "masked_only"]
    arguments = [*SMALL, "--layers", "1", "--backend", "eager", "--providers", ",".join(names)]
    file = tmp_path / "out.json"
    assert bench_step.main([*arguments, "--modes", ",".join(MODES), "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    found = [(entry["provider"], entry["mode"]) for entry in report["entries"]]
    assert found == [(name, mode) for mode in MODES for name in names][:-1]
    assert "no kernel for this" in report["unavailable"]["masked_only, model"]
    assert "and more" not in report["unavailable"]["masked_only, model"]
    for entry in report["entries"]:
        assert {f"stock_mlm, {mode}" for mode in MODES} < set(entry["speed_over"])
    assert report["graphs_compiled_while_timed"] == 0


@pytest.mark.usefixtures("no_peak_memory")
def test_nothing_is_compiled_once_the_time_for_it_is_over(tmp_path: Path) -> None:
    import bench_step

    arguments = [*SMALL, "--layers", "1", "--backend", "eager", "--modes", "eager,layers"]
    limits = ["--compile-seconds", "0", "--providers", "stock_mlm,masked_only_labels"]
    assert bench_step.main([*arguments, *limits, "--json", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [entry["mode"] for entry in report["entries"]] == ["eager", "eager", "layers"]
    assert "were over" in report["unavailable"]["masked_only_labels, layers"]


def test_a_run_that_is_stopped_leaves_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench_step
    from support.tables import page

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "out.json"
    arguments = [*SMALL, "--layers", "1", "--providers", "spanbert,stock_mlm", "--json", str(file)]
    for place, rounds in (("interleave", 0), ("in_child", 3)):
        file.unlink(missing_ok=True)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(bench_step, place, stopped)
            bench_step.main(arguments)
        report = json.loads(file.read_text())
        assert report["complete"] is False and report["rounds"] == rounds
        assert [entry["provider"] for entry in report["entries"]] == ["spanbert", "stock_mlm"]
        assert all(entry["step_ms"]["p50"] > 0 for entry in report["entries"])
        assert "stopped early" in page(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_contestants_agree_on_ragged_rows(dtype: torch.dtype) -> None:
    from providers.steps import SAME_LOSS
    from support.report import Progress

    trainer = small_trainer("tiny-4x64-ragged", dtype)
    assert len(trainer.check(SAME_LOSS, Progress(quiet=True))) == COMPUTED_ALIKE


@pytest.mark.parametrize("wrong", ["loss", "gradient"])
def test_contestants_that_disagree_end_the_run(
    wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench_step
    from providers import steps

    right = steps.MaskedRowsOnly.forward

    def forward(self: torch.nn.Module, **batch: torch.Tensor) -> torch.Tensor:
        loss = right(self, **batch)
        return loss * 1.01 if wrong == "loss" else loss.detach() + 0.9 * (loss - loss.detach())

    monkeypatch.setattr(steps.MaskedRowsOnly, "forward", forward)
    file = tmp_path / "out.json"
    assert bench_step.main(["--shape", "tiny", "--json", str(file)]) == 1
    assert "masked_only and spanbert should agree" in capsys.readouterr().err
    assert not file.exists()


def test_every_step_trains_the_shared_parameters() -> None:
    from providers.steps import NAMES
    from support.step_runner import Contestant

    trainer = small_trainer()
    for name in NAMES:
        encoder = trainer.model.bert.encoder.layer[0].output.dense.weight
        sbo = trainer.model.sbo.dense1.weight
        before, sbo_before = encoder.detach().clone(), sbo.detach().clone()
        trainer.prepare(Contestant(name, "eager"), 0)()
        assert not torch.equal(encoder, before), name
        assert torch.equal(sbo, sbo_before) == (name not in ("spanbert", "masked_only")), name
        assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_modules_are_each_contestants_own_and_parameters_are_not() -> None:
    from providers.steps import make_provider
    from support.step_problem import twin

    trainer = small_trainer()
    other = twin(trainer.model)
    assert all(
        mine is theirs for mine, theirs in zip(trainer.model.parameters(), other.parameters(), strict=True)
    )
    assert not set(map(id, trainer.model.modules())) & set(map(id, other.modules()))
    assert other.cls.predictions.decoder.weight is other.bert.embeddings.word_embeddings.weight
    stock = make_provider("stock_mlm", other, trainer.masks).module
    assert stock.bert is other.bert


def given(name: str, shape: str) -> dict[str, Any]:
    """What the module of a contestant is called with."""
    from providers.steps import make_provider

    trainer = small_trainer(shape)
    provider = make_provider(name, trainer.model, trainer.masks)
    seen: dict[str, Any] = {}

    def forward(**batch: Any) -> torch.Tensor:
        seen.update(batch)
        return torch.zeros(())

    provider.module.forward = forward
    provider.loss(provider.masks(0))
    return seen


SPANS = {"masked_positions", "left_boundary", "right_boundary"}


@pytest.mark.parametrize(
    "name, keys",
    [
        ("stock_mlm", set()),
        ("masked_only", SPANS),
        ("masked_only_no_sbo", {"masked_positions"}),
        ("masked_only_labels", set()),
        ("spanbert_labels", set()),
    ],
)
def test_the_mask_is_given_where_a_batch_is_padded(name: str, keys: set[str]) -> None:
    plain = {"input_ids", "labels", *keys}
    assert set(given(name, "tiny")) == plain
    assert set(given(name, "tiny-4x64-ragged")) == {*plain, "attention_mask"}


def test_stock_as_shipped_has_the_mask_of_its_collator() -> None:
    assert set(given("stock_mlm_as_shipped", "tiny")) == {"input_ids", "labels", "attention_mask"}


def test_ours_gets_what_the_collator_gives() -> None:
    found = given("spanbert", "tiny")
    assert {"input_ids", "labels", "attention_mask", *SPANS} <= set(found)
    assert found["all_text"] == 1
    without = given("spanbert_no_sbo", "tiny")
    assert set(found) - set(without) == {"left_boundary", "right_boundary"}
    padded = given("spanbert", "tiny-32x64-ragged")
    assert not padded.get("all_text") and padded["input_ids"].shape == (32, 64)


def test_the_tuner_gives_ours_tensors_with_the_mask_or_all_but_the_mask() -> None:
    assert set(given("spanbert_tensors", "tiny")) == {"input_ids", "labels", "attention_mask", *SPANS}
    whole = set(given("spanbert", "tiny"))
    assert whole - set(given("spanbert_without_mask", "tiny")) == {"attention_mask"}


def test_layers_of_ours_are_compiled_but_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    from providers.steps import make_provider
    from support.step_problem import compile_provider, twin

    trainer = small_trainer()
    trainer.model.bert.encoder.layer.append(trainer.model.bert.encoder.layer[0])  # two layers

    def compiled(name: str, mode: Any) -> tuple[bool, list[bool]]:
        provider = compile_provider(make_provider(name, twin(trainer.model), trainer.masks), mode, "eager")
        layers = provider.module.bert.encoder.layer
        found = [module._compiled_call_impl is not None for module in (provider.module, *layers)]
        return found[0], found[1:]

    assert compiled("spanbert", "eager") == (False, [False, False])
    assert compiled("spanbert", "model") == (True, [False, False])
    assert compiled("stock_mlm", "layers") == (False, [True, True])


def test_unknown_modes_and_backends_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    import bench_step

    for option in (["--modes", "eager,fast"], ["--backend", "nothing"]):
        with pytest.raises(SystemExit):
            bench_step.main(["--shape", "tiny", *option])
        assert repr(option[1].split(",")[-1]) in capsys.readouterr().err
