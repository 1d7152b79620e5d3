"""The benchmark: what it writes, that wrong providers end it, that its memory figure is right. Untimed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bench_runs import import_from_benchmarks  # noqa: F401

pytest.importorskip("matplotlib")


def test_report_has_the_promised_keys(tmp_path: Path) -> None:
    import bench_sbo

    names = ["fused", "eager_masked", "hf_all_positions", "eager_dense", "torch_linear_ce_default"]
    arguments = ["--shape", "tiny", "--repeats", "3", "--threads", "1", "--providers", ",".join(names)]
    files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert bench_sbo.main(arguments + files) == 0

    report = json.loads((tmp_path / "out.json").read_text())
    assert report["shape"] == "tiny" and report["dtype"] == "float32" and report["rounds"] == 3
    assert report["machine"]["torch_threads"] == 1
    assert report["versions"]["torch"] == torch.__version__
    skipped = {"torch_linear_ce_default"} if not hasattr(torch.nn, "LinearCrossEntropyOptions") else set()
    assert set(report["unavailable"]) - {"peak_mb"} == skipped, report["unavailable"]
    assert set(report["providers"]) == set(names) - skipped
    for entry in [*report["providers"].values(), report["gemm_floor"]]:
        for key in ("forward_ms", "full_ms"):
            assert 0 < entry[key]["p20"] <= entry[key]["p50"] <= entry[key]["p80"]
        assert entry["forward_ms"]["p50"] < entry["full_ms"]["p50"]
    assert report["providers"]["fused"]["time_over_fused"]["p50"] == 1
    assert report["providers"]["fused"]["relative_error"] < 1e-4
    if "peak_mb" not in report["unavailable"]:  # systems without VmHWM say so
        dense, masked = (report["providers"][name]["peak_mb"] for name in ("eager_dense", "eager_masked"))
        assert dense > masked >= 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("wrong", ["gradient_missing", "heads_swapped_biases", "no_loss", "nan"])
def test_wrong_provider_ends_the_run_before_timing(
    wrong: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import bench_sbo
    import sbo_providers
    from sbo_problem import Batch, Heads

    def loss(heads: Heads, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        if wrong == "gradient_missing":  # the value is right, one parameter is cut off
            heads.transform[2].requires_grad_(False)
            right = sbo_providers.masked_loss(heads, hidden, batch)
            heads.transform[2].requires_grad_(True)
            return right
        if wrong == "heads_swapped_biases":
            heads.mlm_bias, heads.sbo.bias = heads.sbo.bias, heads.mlm_bias
            swapped = sbo_providers.masked_loss(heads, hidden, batch)
            heads.mlm_bias, heads.sbo.bias = heads.sbo.bias, heads.mlm_bias
            return swapped
        right = sbo_providers.masked_loss(heads, hidden, batch)
        return right * (float("nan") if wrong == "nan" else 0)

    def builder(setting: sbo_providers.Setting) -> sbo_providers.Provider:
        return sbo_providers.Provider("eager_dense", setting.precision, loss)

    monkeypatch.setitem(sbo_providers.BUILDERS, "eager_dense", builder)
    arguments = ["--shape", "tiny", "--dtype", dtype, "--providers", "eager_masked,eager_dense"]
    assert bench_sbo.main([*arguments, "--json", str(tmp_path / "out.json")]) == 1
    assert "eager_dense is wrong" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_wrong_provider_of_another_project_is_listed_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import bench_sbo
    import sbo_peers
    from sbo_setting import Provider, Setting

    def builder(setting: Setting) -> Provider:  # forgets the bias
        def head_loss(
            rows: torch.Tensor, weight: torch.Tensor, _: torch.Tensor, targets: torch.Tensor
        ) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(rows @ weight.T, targets)

        return sbo_peers._provider("cce", setting, head_loss, {})

    monkeypatch.setitem(bench_sbo.BUILDERS, "cce", builder)
    files = ["--json", str(tmp_path / "out.json")]
    assert (
        bench_sbo.main(["--shape", "tiny", "--repeats", "3", "--providers", "cce,eager_masked", *files]) == 0
    )
    report = json.loads((tmp_path / "out.json").read_text())
    assert list(report["providers"]) == ["eager_masked"]
    assert "cce is wrong" in report["unavailable"]["cce"]


def test_peers_that_a_cpu_cannot_run_say_why() -> None:
    import sbo_runner
    from common import Progress
    from text import Shape

    bench = sbo_runner.Bench(Shape.parse("tiny"), torch.device("cpu"), torch.float32)
    names = ["liger_default", "liger_best", "cce"]
    providers, unavailable = sbo_runner.build(names, bench.setting(Progress(quiet=True)))
    assert not providers and list(unavailable) == names
    assert all("CUDA kernels alone" in reason for reason in unavailable.values())


def test_provider_that_cannot_run_is_listed_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import sbo_runner
    from common import Progress, Unavailable
    from text import Shape

    def builder(setting: object) -> None:
        raise Unavailable("not on this machine")

    monkeypatch.setitem(sbo_runner.BUILDERS, "compile", builder)
    bench = sbo_runner.Bench(Shape.parse("tiny"), torch.device("cpu"), torch.float32)
    providers, unavailable = sbo_runner.build(
        ["eager_masked", "compile"], bench.setting(Progress(quiet=True))
    )
    assert [provider.name for provider in providers] == ["eager_masked"]
    assert unavailable == {"compile": "not on this machine"}


def _known_peaks() -> list[float]:
    from memory import peak_mb, watch_resident_memory

    peak = watch_resident_memory()

    def step(freed: int, kept: int) -> torch.Tensor:
        torch.ones(freed // 4)
        return torch.ones(kept // 4)

    sizes = [(40_000_000, 0), (40_000_000, 10_000_000), (10_000_000, 40_000_000), (100_000, 0)]
    return [peak_mb(peak, lambda _, f=f, k=k: lambda: step(f, k)) for f, k in sizes]


def test_peak_memory_is_the_high_water_mark_minus_what_stays_alive() -> None:
    from common import Unavailable
    from memory import in_child

    try:
        measured = in_child(_known_peaks)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert measured == pytest.approx([40, 30, 0, 0.1], abs=0.5)


def test_unwritable_output_is_refused_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench_sbo

    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        bench_sbo.main(["--shape", "tiny", "--json", str(tmp_path / "file" / "out.json")])
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["huge-8x512", "base-0x512", "base-8", "base-8x512-square", "base-8x4"])
def test_unknown_shape_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    import bench_sbo

    with pytest.raises(SystemExit):
        bench_sbo.main(["--shape", name])
    assert repr(name) in capsys.readouterr().err


def test_ragged_rows_and_their_targets_agree_in_every_form() -> None:
    from sbo_problem import IGNORED, make_batch
    from text import Shape

    shape = Shape("ragged", hidden=8, vocab=97, rows=16, length=64, ragged=True)
    batch = make_batch(shape, 3, torch.device("cpu"))
    assert (batch.masked_positions < 0).sum() > batch.masked_positions.numel() // 2
    assert torch.equal(batch.labels.flatten()[batch.mlm_rows], batch.mlm_targets)
    assert (batch.labels != IGNORED).sum() == len(batch.mlm_targets)
    dense = batch.pair_targets[batch.pair_targets != IGNORED]
    assert torch.equal(dense, batch.sbo_targets)  # both run by row, span and slot
    spans, slots = (batch.pair_targets != IGNORED).flatten(0, 1).nonzero().unbind(1)
    left, right = batch.pairs.flatten(0, 1)[spans].unbind(1)
    assert torch.equal(left, batch.sbo_left_rows) and torch.equal(right, batch.sbo_right_rows)
    assert torch.equal(slots, batch.sbo_slots)
