# SPDX-License-Identifier: Apache-2.0
"""benchmarks/tune_cuda.py at tiny sizes on a CPU: every line, its limits, its command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bench_runs import import_from_benchmarks  # noqa: F401
from torch import Tensor

TUNING = "spanbert_ext_tuning"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def measure(path: Path, *arguments: str) -> dict[str, Any]:
    import tune_cuda

    assert tune_cuda.main(["--device", "cpu", "--quick", "--output", str(path), *arguments]) == 0
    return read(path)


# --- Measuring ------------------------------------------------------------------------------------------------------


def test_products_compute_what_they_are_called() -> None:
    from support.tuner.gemm import Product, multiply_into

    out = torch.ones(3, 2)
    left, right = torch.randn(3, 4).bfloat16(), torch.randn(4, 2).bfloat16()
    expected = left.float() @ right.float()
    assert torch.allclose(multiply_into(out, left, right, 1), expected + 1, atol=1e-5)
    assert torch.allclose(multiply_into(out, left, right, 0), expected, atol=1e-5)
    rows, vocab, width, inner = 5, 16, 8, 10
    shapes = {1: (rows, vocab), 2: (vocab, width), 3: (rows, width)}
    for number, shape in shapes.items():
        made = Product(number, rows, vocab, 24, width, inner, "bfloat16").make(torch.device("cpu"))()
        assert isinstance(made, Tensor) and made.shape == shape
        assert shape == Product(number, rows, vocab, 24, width, inner).shape[:2]


def test_rates_and_products_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = measure(tmp_path / "tune.json", "--parts", "rates,gemm")
    lines = report["lines"]
    assert {line["part"] for line in lines} == {"rates", "gemm"}
    assert all(line["measured_us"] > 0 and line["p20_us"] <= line["p80_us"] for line in lines)
    assert all(line["ratio"] == line["measured_us"] / line["predicted_us"] for line in lines)
    assert set(report["decisions"]) == {
        "engine",
        "library",
        "unequal",
        "result_of_dw",
        "width",
        "vocabulary",
        "rounding",
    }
    printed = capsys.readouterr().out
    assert all(line["name"] in printed for line in lines) and "decisions" in printed


def test_a_report_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    before = measure(path, "--parts", "rates")["lines"]
    path.write_text(json.dumps({"lines": before[:3]}))
    after = measure(path, "--parts", "rates", "--resume")["lines"]
    assert after[:3] == before[:3] and [line["name"] for line in after] == [line["name"] for line in before]
    assert after[3]["measured_us"] != before[3]["measured_us"]


def test_without_time_lines_say_so(tmp_path: Path) -> None:
    lines = measure(tmp_path / "tune.json", "--parts", "gemm", "--limit", "0.001")["lines"]
    assert lines and all("no time left" in line["skipped"] for line in lines[1:])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_line_that_takes_too_long_or_fails_leaves_the_others() -> None:
    from support.report import Progress
    from support.tuner.session import QUICK, Bench, Line, describe, measure_line

    bench = Bench(torch.device("cpu"), QUICK, Progress(quiet=True))

    def sleep(_: Bench) -> dict[str, Any]:
        time.sleep(60)
        return {}

    class Stubborn:
        def __del__(self) -> None:
            time.sleep(0.4)  # an exception raised here is only printed

    def swallow(_: Bench) -> dict[str, Any]:
        thing = Stubborn()
        time.sleep(0.1)
        del thing
        time.sleep(60)
        return {}

    def fail(_: Bench) -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access\nand more")

    begin = time.perf_counter()
    for work in (sleep, swallow):
        found = measure_line(Line("ce", "slow", {}, 1.0, work), bench, 0.2)
        assert "stopped" in found["skipped"] and "skipped" in describe(found)
    assert time.perf_counter() - begin < 10
    found = measure_line(Line("ce", "wrong", {}, 1.0, fail), bench, 5)
    assert (
        found["error"] == "RuntimeError: CUDA error: an illegal memory access"
        and found["predicted_us"] == 1.0
    )
    time.sleep(1.2)  # no alarm is left behind


def test_a_lost_device_is_replaced_by_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tune_cuda

    def fail(*_: object) -> dict[str, Any]:
        return {"part": "rates", "name": "copy", "key": {}, "predicted_us": 1.0, "error": "CUDA error"}

    started: list[list[str]] = []
    monkeypatch.setattr(tune_cuda, "measure_line", fail)
    monkeypatch.setattr(tune_cuda, "device_is_lost", lambda _: True)
    monkeypatch.setattr(tune_cuda.os, "execv", lambda _, command: started.append(command))
    path = tmp_path / "tune.json"
    report = measure(path, "--parts", "rates,ce")
    (command,) = started
    assert len(report["lines"]) == 1
    options = tune_cuda.parse(command[2:])
    assert options.resume and options.quick and options.output == path and options.parts == ["rates", "ce"]
    assert 0 < options.limit <= 240


def test_a_profiler_that_fails_costs_the_profile_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from support.profiling import StepProfile
    from support.tuner import steps as tuner_steps

    def fail(*_: object, **__: object) -> None:
        raise ValueError("expected two waits")

    monkeypatch.setattr(tuner_steps, "profile_step", fail)
    found = tuner_steps.profile_fields(lambda: None, [3.0, 1.0, 2.0])
    assert found == {"measured_us": 2e3, "full_ms": 2.0, "profile_error": "ValueError: expected two waits"}
    profile = StepProfile(4.0, 1.0, 7, 2, [("nvjet", 3, 750.0), ("copy", 1, 250.0)])
    monkeypatch.setattr(tuner_steps, "profile_step", lambda *_, **__: profile)
    found = tuner_steps.profile_fields(lambda: None, [5.0])
    assert found["measured_us"] == 1e3 and found["busy_over_wall"] == 0.25 and found["full_ms"] == 5.0
    assert found["longest"][0] == {"kernel": "nvjet", "calls": 3, "us": 750.0, "share": 0.75}


def test_kernels_are_named_by_their_share() -> None:
    from support.tuner.session import kernel_names

    kernels = [("nvjet_hsh", 1, 90.0), ("splitKreduce", 1, 9.0), ("memset", 1, 1.0)]
    assert kernel_names(kernels) == "nvjet_hsh + splitKreduce" and kernel_names([]) == ""


# --- The row kernel's variants and the chunks, by operators that stand in for those of csrc/tuning -------------------


def cross_entropy(
    logits: Tensor, rows: Tensor, targets: Tensor, row_weight: Tensor, vocab: int, variant: int
) -> tuple[Tensor, Tensor]:
    """Variant 0 is right; 1 forgets the weight, 2 the pad columns, 3 dead rows, 4 takes the last maximum."""
    live = rows >= 0
    owner = rows.clamp_min(0)
    wide = logits[:, :vocab].float()
    nll, prediction = torch.zeros(len(targets)), torch.full((len(targets),), -1)
    nll[owner[live]] = F.cross_entropy(wide[live], targets[owner[live]], reduction="none")
    best = wide.argmax(1) if variant != 4 else vocab - 1 - wide.flip(1).argmax(1)
    prediction[owner[live]] = best[live]
    gradient = wide.softmax(1)
    gradient[torch.arange(len(rows)), targets[owner]] -= 1
    gradient *= 1 if variant == 1 else row_weight[owner, None]
    logits[:, :vocab] = gradient if variant == 3 else gradient * live[:, None]
    logits[:, vocab:] = 1 if variant == 2 else 0
    return nll, prediction


def vocab_ce(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    first_rows: list[int],
    targets: Tensor,
    row_weight: Tensor,
    compute_dtype: torch.dtype,
    label_smoothing: float,
    max_rows: int | None,
    need_dh: bool,
    need_dw: bool,
    need_db: bool,
    chunk_rows: int,
) -> list[Tensor]:
    head = (torch.arange(len(h)) >= first_rows[1]).long()
    logits = h @ weight.t() + bias[head]
    loss = (F.cross_entropy(logits, targets, reduction="none") * row_weight).sum()
    return [loss * (2 if chunk_rows == 256 else 1)]  # one chunk size is wrong


@pytest.fixture
def tuning_operators() -> Iterator[None]:
    import spanbert_ext  # noqa: F401

    if hasattr(getattr(torch.ops, TUNING), "cross_entropy"):
        pytest.skip("this build has the real operators")
    with torch.library._scoped_library(TUNING, "FRAGMENT") as library:
        library.define("cross_entropy_variants() -> str[]")
        library.define(
            "cross_entropy(Tensor(a!) logits, Tensor rows, Tensor targets, Tensor row_weight, int vocab, int variant)"
            " -> (Tensor nll, Tensor prediction)"
        )
        library.define(
            "vocab_ce(Tensor h, Tensor weight, Tensor? bias, int[] first_rows, Tensor targets, Tensor row_weight,"
            " ScalarType compute_dtype, float label_smoothing, int? max_rows, bool need_dh, bool need_dw, bool need_db,"
            " int chunk_rows) -> Tensor[]"
        )
        library.impl(
            "cross_entropy_variants",
            lambda: ["512x2", "weight", "pad", "dead", "last"],
            "CompositeExplicitAutograd",
        )
        library.impl("cross_entropy", cross_entropy, "CPU")
        library.impl("vocab_ce", vocab_ce, "CPU")
        yield


def test_wrong_variants_are_reported_and_not_timed(tuning_operators: None, tmp_path: Path) -> None:
    report = measure(tmp_path / "tune.json", "--parts", "ce,chunk")
    for rows in (24, 300):
        found = {
            line["key"]["variant"]: line
            for line in report["lines"]
            if line["part"] == "ce" and line["key"]["rows"] == rows
        }
        assert found["512x2"]["measured_us"] > 0
        assert "gradient: relative error" in found["weight"]["error"]
        assert "beyond the vocabulary" in found["pad"]["error"]
        assert "without a target" in found["dead"]["error"]
        assert "not the first of the largest" in found["last"]["error"]
        assert not any("measured_us" in found[name] for name in ("weight", "pad", "dead", "last"))
    chunks = {line["key"]["chunk"]: line for line in report["lines"] if line["part"] == "chunk"}
    assert "the loss is" in chunks[256]["error"] and all(chunks[n]["measured_us"] > 0 for n in (128, 384))
    assert report["decisions"]["row_kernel"].startswith("row kernel 512x2")
    assert report["decisions"]["chunk_rows"].startswith(("chunks of 128", "chunks of 384"))


def test_the_builds_own_variants_are_right(tmp_path: Path) -> None:
    from support.errors import Unavailable
    from support.tuner.vocab_ce import tuning

    try:
        tuning()
    except Unavailable as reason:
        pytest.skip(str(reason))
    lines = measure(tmp_path / "tune.json", "--parts", "ce,chunk", "--limit", "3000")["lines"]
    assert len(lines) >= 5 and all(line.get("measured_us", 0) > 0 for line in lines), lines


def test_a_build_without_tuning_operators_says_how_to_get_them(tmp_path: Path) -> None:
    from support.errors import Unavailable
    from support.tuner.vocab_ce import tuning

    try:
        tuning()
        pytest.skip("this build has them")
    except Unavailable:
        pass
    lines = measure(tmp_path / "tune.json", "--parts", "ce,chunk")["lines"]
    assert lines and all("SPANBERT_EXT_TUNING=ON" in line["skipped"] for line in lines)


# --- Heads and steps ------------------------------------------------------------------------------------------------


def test_heads_and_steps_are_profiled_eager_and_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from providers.heads import BUILDERS
    from support.tuner import steps as tuner_steps

    torch.set_num_threads(1)
    # compile is only counted: compiling takes minutes
    asked: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: asked.append(type(module).__name__))
    monkeypatch.setitem(BUILDERS, "compile", BUILDERS["eager_masked"])
    steps = [("spanbert", "eager", True), ("stock_mlm", "layers", False), ("spanbert", "model", False)]
    monkeypatch.setattr(tuner_steps, "STEP_MS", {key: tuner_steps.STEP_MS[key] for key in steps})
    lines = measure(tmp_path / "tune.json", "--parts", "head,step")["lines"]
    assert [line["name"] for line in lines[:4]] == [
        "fused",
        "eager_masked",
        "compile",
        "spanbert, with attention_mask, eager",
    ]
    assert len(lines) == 6
    for line in lines:
        assert line["measured_us"] > 0 and line["full_ms"] > 0 and line["wall_ms"] > 0, line
        assert "nothing ran on a GPU" in line["table"]  # read from the CPU's clock
    assert asked == [
        "BertLayer",
        "BertLayer",
        "BertForSpanPreTraining",
    ]  # both of stock's layers, then all of ours


# --- The command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "gemms"], "no part 'gemms'"),
        (["--limit", "0"], "--limit must be above 0"),
        (["--resume"], "--resume needs --output"),
        pytest.param(
            [],
            "sees no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_options_that_cannot_be_met(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import tune_cuda

    with pytest.raises(SystemExit) as stopped:
        tune_cuda.main(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    import tune_cuda

    with pytest.raises(SystemExit):
        tune_cuda.main(["--help"])
    assert "tune_cuda.py --plan" in capsys.readouterr().out
