# SPDX-License-Identifier: Apache-2.0
"""The benchmark: what it writes, that wrong providers end it, that its memory figure is right. Untimed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bench_runs import import_from_benchmarks, no_peak_memory  # noqa: F401

pytest.importorskip("matplotlib")


def test_report_has_the_promised_keys(tmp_path: Path) -> None:
    import bench_sbo

    # Without hf_all_positions, which the next test has: the process of peak memory would import transformers again.
    names = ["fused", "eager_masked", "eager_dense", "torch_linear_ce_default"]
    arguments = ["--shape", "tiny", "--repeats", "3", "--threads", "1", "--providers", ",".join(names)]
    files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert bench_sbo.main(arguments + files) == 0

    report = json.loads((tmp_path / "out.json").read_text())
    assert report["shape"] == "tiny" and report["dtype"] == "float32" and report["complete"] is True
    assert report["machine"]["torch_threads"] == 1
    assert report["versions"]["torch"] == torch.__version__
    (found,) = report["runs"]
    assert found["sizes"]["vocab"] == 257 and found["rounds"] == 3
    skipped = {"torch_linear_ce_default"} if not hasattr(torch.nn, "LinearCrossEntropyOptions") else set()
    assert set(found["unavailable"]) - {"peak_mb"} == skipped, found["unavailable"]
    assert set(found["providers"]) == set(names) - skipped
    for entry in [*found["providers"].values(), found["gemm_floor"]]:
        for key in ("forward_ms", "full_ms"):
            assert 0 < entry[key]["p20"] <= entry[key]["p50"] <= entry[key]["p80"]
        assert entry["forward_ms"]["p50"] < entry["full_ms"]["p50"]
        against = {key for key in entry if key.startswith("time_over_")}
        assert against == {"time_over_fused", "time_over_eager_masked", "time_over_gemm_floor"}
    assert found["providers"]["fused"]["time_over_fused"]["p50"] == 1
    assert found["providers"]["fused"]["relative_error"] < 1e-4
    if "peak_mb" not in found["unavailable"]:  # systems without VmHWM say so
        dense, masked = (found["providers"][name]["peak_mb"] for name in ("eager_dense", "eager_masked"))
        assert dense > masked >= 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_peak_memory")
def test_both_vocabularies_stand_in_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import bench_sbo
    from support.tables import page

    names = ["fused", "eager_masked", "hf_all_positions"]
    arguments = ["--shape", "tiny", "--repeats", "3", "--providers", ",".join(names), "--vocab", "both"]
    assert bench_sbo.main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [found["sizes"]["vocab"] for found in runs] == [257, 384]
    for found in runs:
        assert list(found["providers"]) == names
        stock = found["providers"]["hf_all_positions"]
        assert 0 < stock["forward_ms"]["p50"] < stock["full_ms"]["p50"] and stock["relative_error"] < 1e-4
    lines = capsys.readouterr().out.splitlines()
    begins = [line.split()[:2] for line in lines[3:11]]
    assert begins == [[name, vocab] for name in (*names, "gemm_floor") for vocab in ("257", "384")]
    shown = page(tmp_path)
    assert "| provider | vocabulary | forward ms |" in shown
    assert (
        shown.index("| **fused** | 257 |")
        < shown.index("| **fused** | 384 |")
        < shown.index("| eager_masked | 257")
    )
    assert "three bare GEMMs at vocabulary 384, fastest layouts: logits `" in shown
    assert "float32`" in shown.split("three bare GEMMs at vocabulary 257")[1].splitlines()[0]


def test_a_run_of_two_vocabularies_that_is_stopped_leaves_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench_sbo

    def run_vocabulary(_: object, vocab: int, __: object) -> dict[str, int]:
        if vocab == 384:
            raise KeyboardInterrupt
        return {"vocabulary": vocab}

    monkeypatch.setattr(bench_sbo, "run_vocabulary", run_vocabulary)
    with pytest.raises(KeyboardInterrupt):
        bench_sbo.main(["--shape", "tiny", "--vocab", "both", "--json", str(tmp_path / "out.json")])
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["complete"] is False and report["runs"] == [{"vocabulary": 257}]


@pytest.mark.parametrize(
    "options, device, expected",
    [
        ([], "cpu", [28996]),
        ([], "cuda", [28996, 29056]),
        (["--vocab", "both"], "cpu", [28996, 29056]),
        (["--vocab", "29056"], "cuda", [29056]),
        (["--vocab", "50265"], "cpu", [50265]),
    ],
)
def test_which_vocabularies_are_measured(options: list[str], device: str, expected: list[int]) -> None:
    import bench_sbo

    chosen = bench_sbo.parse(["--shape", "base-8x512", *options])
    chosen.device = device
    assert bench_sbo.vocabularies(chosen) == expected


@pytest.mark.parametrize("text", ["bot", "4", "-1", "1.5"])
def test_a_vocabulary_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    import bench_sbo

    with pytest.raises(SystemExit):
        bench_sbo.main(["--shape", "tiny", f"--vocab={text}"])
    assert repr(text) in capsys.readouterr().err


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
    from providers import heads as head_providers
    from support.head_problem import Batch, Heads

    def loss(heads: Heads, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        if wrong == "gradient_missing":  # the value is right, one parameter is cut off
            heads.transform[2].requires_grad_(False)
            right = head_providers.masked_loss(heads, hidden, batch)
            heads.transform[2].requires_grad_(True)
            return right
        if wrong == "heads_swapped_biases":
            heads.mlm_bias, heads.sbo.bias = heads.sbo.bias, heads.mlm_bias
            swapped = head_providers.masked_loss(heads, hidden, batch)
            heads.mlm_bias, heads.sbo.bias = heads.sbo.bias, heads.mlm_bias
            return swapped
        right = head_providers.masked_loss(heads, hidden, batch)
        return right * (float("nan") if wrong == "nan" else 0)

    def builder(setting: head_providers.Setting) -> head_providers.Provider:
        return head_providers.Provider("eager_dense", setting.precision, loss)

    # The machine's rate in bfloat16, measured before the providers are checked, takes 16 s on some CPUs.
    monkeypatch.setattr(bench_sbo, "device_rates", lambda *_: {})
    monkeypatch.setitem(head_providers.BUILDERS, "eager_dense", builder)
    arguments = ["--shape", "tiny", "--dtype", dtype, "--providers", "eager_masked,eager_dense"]
    assert bench_sbo.main([*arguments, "--json", str(tmp_path / "out.json")]) == 1
    assert "eager_dense is wrong" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.usefixtures("no_peak_memory")
def test_wrong_provider_of_another_project_is_listed_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import bench_sbo
    from providers import head_peers
    from support.head_setting import Provider, Setting

    def builder(setting: Setting) -> Provider:  # forgets the bias
        def head_loss(
            rows: torch.Tensor, weight: torch.Tensor, _: torch.Tensor, targets: torch.Tensor
        ) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(rows @ weight.T, targets)

        return head_peers._provider("cce", setting, head_loss, {})

    monkeypatch.setitem(bench_sbo.BUILDERS, "cce", builder)
    files = ["--json", str(tmp_path / "out.json")]
    assert (
        bench_sbo.main(["--shape", "tiny", "--repeats", "3", "--providers", "cce,eager_masked", *files]) == 0
    )
    (found,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert list(found["providers"]) == ["eager_masked"]
    assert "cce is wrong" in found["unavailable"]["cce"]


def test_peers_that_a_cpu_cannot_run_are_listed_with_the_reason() -> None:
    from providers.heads import BUILDERS
    from support import head_runner
    from support.report import Progress
    from support.text import Shape

    bench = head_runner.Bench(Shape.parse("tiny"), torch.device("cpu"), torch.float32)
    names = ["liger_default", "liger_best", "cce"]
    providers, unavailable = head_runner.build(BUILDERS, names, bench.setting(Progress(quiet=True)))
    assert not providers and list(unavailable) == names
    assert all("CUDA kernels alone" in reason for reason in unavailable.values())


def test_provider_that_cannot_run_is_listed_with_its_reason() -> None:
    from providers.heads import BUILDERS
    from support import head_runner
    from support.errors import Unavailable
    from support.report import Progress
    from support.text import Shape

    def builder(setting: object) -> None:
        raise Unavailable("not on this machine")

    bench = head_runner.Bench(Shape.parse("tiny"), torch.device("cpu"), torch.float32)
    providers, unavailable = head_runner.build(
        {**BUILDERS, "compile": builder}, ["eager_masked", "compile"], bench.setting(Progress(quiet=True))
    )
    assert [provider.name for provider in providers] == ["eager_masked"]
    assert unavailable == {"compile": "not on this machine"}


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
