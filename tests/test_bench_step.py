"""The benchmark of a training step: what it writes, and that contestants must agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bench_runs import import_from_benchmarks  # noqa: F401

pytest.importorskip("matplotlib")


def test_report_has_the_promised_keys(tmp_path: Path) -> None:
    import bench_step
    from step_providers import NAMES, SAME_LOSS

    files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert bench_step.main(["--shape", "tiny", "--repeats", "3", "--threads", "1", *files]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert set(report["providers"]) == set(NAMES)
    assert report["sizes"]["layers"] == 2 and report["sizes"]["tokens"] == 64
    for entry in report["providers"].values():
        assert entry["tokens_per_s"] == pytest.approx(64 / entry["step_ms"]["p50"] * 1e3)
        assert "peak_mb" in report["unavailable"] or entry["peak_mb"] > 0
    assert report["providers"]["stock_mlm"]["speed_over_stock_mlm"]["p50"] == 1
    assert len(report["agreement"]) == len(SAME_LOSS)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_contestants_agree_in_bfloat16_and_on_ragged_rows() -> None:
    import bench_step
    from common import Progress
    from step_providers import NAMES, SAME_LOSS
    from text import Shape

    shape = Shape.parse("tiny-4x64-ragged")
    for dtype in (torch.float32, torch.bfloat16):
        trainer = bench_step.Trainer(shape, 1, torch.device("cpu"), dtype, compiled=False)
        assert len(trainer.check(NAMES, Progress(quiet=True))) == len(SAME_LOSS)


@pytest.mark.parametrize("wrong", ["loss", "gradient"])
def test_contestants_that_disagree_end_the_run(
    wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench_step
    import step_providers

    right = step_providers.MaskedRowsOnly.forward

    def forward(self: torch.nn.Module, **batch: torch.Tensor) -> torch.Tensor:
        loss = right(self, **batch)
        return loss * 1.01 if wrong == "loss" else loss.detach() + 0.9 * (loss - loss.detach())

    monkeypatch.setattr(step_providers.MaskedRowsOnly, "forward", forward)
    file = tmp_path / "out.json"
    assert bench_step.main(["--shape", "tiny", "--json", str(file)]) == 1
    assert "masked_only and spanbert should agree" in capsys.readouterr().err
    assert not file.exists()


def test_every_step_trains_the_shared_parameters() -> None:
    import bench_step
    from step_providers import NAMES
    from text import Shape

    trainer = bench_step.Trainer(Shape.parse("tiny"), 1, torch.device("cpu"), torch.float32, compiled=False)
    for name in NAMES:
        encoder = trainer.model.bert.encoder.layer[0].output.dense.weight
        sbo = trainer.model.sbo.dense1.weight
        before, sbo_before = encoder.detach().clone(), sbo.detach().clone()
        trainer.prepare(name, 0)()
        assert not torch.equal(encoder, before), name
        assert torch.equal(sbo, sbo_before) == (name not in ("spanbert", "masked_only")), name
        assert all(parameter.grad is None for parameter in trainer.model.parameters())
