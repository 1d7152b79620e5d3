# SPDX-License-Identifier: Apache-2.0
"""The benchmark of masking: what it writes and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bench_runs import import_from_benchmarks  # noqa: F401

MASK = 3


def test_report_has_the_promised_keys(tmp_path: Path) -> None:
    import bench_span_mask
    from providers.span_masks import BUILDERS

    files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    sizes = ["--rows", "8", "--length", "64", "--vocab", "257"]
    assert bench_span_mask.main([*sizes, "--repeats", "3", *files]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["sizes"] == {"rows": 8, "length": 64, "vocab": 257}
    assert report["machine"]["torch_threads"] == 1  # the default
    assert set(report["providers"]) == set(BUILDERS) and report["unavailable"] == {}
    for name, entry in report["providers"].items():
        assert entry["tokens_per_s"] == pytest.approx(8 * 64 / entry["call_ms"]["p50"] * 1e3)
        assert entry["masked_share"] == (0 if "padding" in name else pytest.approx(0.15, abs=0.08))
    assert report["providers"]["span_mask"]["time_over_span_mask"]["p50"] == 1
    assert set(report["collator_over_padding"]) == {"collator_tensors", "collator_lists"}
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", ["special", "labels", "share", "kept"])
def test_provider_that_does_not_do_its_job_ends_the_run(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench_span_mask
    from providers.span_masks import BUILDERS
    from support.mask_problem import Provider, Setting, Text

    def builder(_: Setting) -> Provider:
        def work(text: Text, call: int) -> tuple[torch.Tensor, torch.Tensor]:
            budget = torch.ceil(0.15 * (~text.special).sum(1).double()).long()[:, None]
            place = torch.arange(text.ids.shape[1])
            first = 0 if wrong == "special" else 1
            masked = (place >= first) & (place < first + budget + (wrong == "share"))
            labels = torch.where(masked, text.ids, -100)
            if wrong == "labels":
                labels = torch.where(masked, MASK, -100)
            return text.ids if wrong == "kept" else text.ids.masked_fill(masked, MASK), labels

        return Provider(work, lambda text: text, exact=True)

    monkeypatch.setitem(BUILDERS, "published_numpy", builder)
    arguments = ["--rows", "4", "--length", "64", "--providers", "published_numpy", "--repeats", "1"]
    assert bench_span_mask.main(arguments) == 1
    reasons = {"special": "masks special", "labels": "not the original ids", "share": "15%", "kept": "leaves"}
    assert reasons[wrong] in capsys.readouterr().err
