"""Scripts for masked language models as people have them run to the end with two changed lines, and as they were."""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evaluations import all_ways
from safetensors.torch import load_file
from tiny_models import VOCABULARY, one_thread, tiny_config, tiny_texts, tiny_tokenizer  # noqa: F401
from transformers import AutoModelForMaskedLM

import spanbert_ext
from spanbert_ext import DataCollatorForSpanMasking, SpanBertForPreTraining

HERE = Path(__file__).parent
SCRIPTS = {"trainer": "masked_lm.py", "loop": "masked_lm_no_trainer.py"}
TWO_LINES = {
    "from transformers import AutoModelForMaskedLM": (
        "from spanbert_ext import SpanBertForPreTraining as AutoModelForMaskedLM"
    ),
    "from transformers import DataCollatorForLanguageModeling": (
        "from spanbert_ext import DataCollatorForSpanMasking as DataCollatorForLanguageModeling"
    ),
}
KINDS = ("as it was", "two lines changed")


def changed(script: Path, folder: Path) -> Path:
    """A copy of the script with two other lines."""
    lines = script.read_text().splitlines(keepends=True)
    count = 0
    for i, line in enumerate(lines):
        code, comment, rest = line.partition("  # isort")
        if code in TWO_LINES:
            lines[i] = TWO_LINES[code] + comment + rest
            count += 1
    assert count == 2
    copy = folder / script.name
    copy.write_text("".join(lines))
    return copy


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A tokenizer, a configuration, texts and the changed scripts."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    tiny_config().save_pretrained(folder / "config")
    for name, count in (("train", 64), ("validation", 24)):
        (folder / f"{name}.txt").write_text("\n".join(tiny_texts(count, seed=count)) + "\n")
    for script in SCRIPTS.values():
        changed(HERE / script, folder)
    return folder


def script_of(kind: str, name: str, inputs: Path) -> str:
    return str((HERE if kind == "as it was" else inputs) / SCRIPTS[name])


def arguments(inputs: Path, output: Path, **options) -> list[str]:
    given = {
        "config_name": inputs / "config",
        "tokenizer_name": inputs / "tokenizer",
        "train_file": inputs / "train.txt",
        "validation_file": inputs / "validation.txt",
        "cache_dir": inputs / "cache",
        "output_dir": output,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 3,
        "learning_rate": 5e-3,
    }
    return [f"--{name}={x}" for name, x in (given | options).items()]


def trainer_runs(inputs: Path, output: Path) -> list[list[str]]:
    """Four steps, with logits for the metrics; resumed after two, with logits that are made predictions batch by batch;
    then what was saved goes on with lines of their own lengths."""
    options = {
        "do_train": True,
        "max_steps": 4,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    saved = {"model_name_or_path": output, "max_steps": 2, "save_strategy": "no"}
    return [
        arguments(inputs, output, **options),
        arguments(
            inputs,
            output / "resumed",
            **options,
            argmax_per_batch=True,
            resume_from_checkpoint=output / "checkpoint-2",
        ),
        arguments(inputs, output / "lines", **(options | saved), line_by_line=True),
    ]


def loop_runs(inputs: Path, output: Path) -> list[list[str]]:
    """Two epochs with a checkpoint after each; resumed after the first; then what was saved goes on, accumulating."""
    return [
        arguments(inputs, output),
        arguments(inputs, output / "resumed", resume_from_checkpoint=output / "epoch_0"),
        arguments(
            inputs,
            output / "steps",
            model_name_or_path=output,
            num_train_epochs=1,
            gradient_accumulation_steps=2,
            checkpointing_steps=2,
        ),
    ]


def runs_of(name: str, inputs: Path, folder: Path) -> list[tuple[str, list[str]]]:
    """Training and resuming of both kinds of a script, each in a folder of its own."""
    runs = ((kind, run) for kind in KINDS for run in RUNS[name](inputs, folder / kind)[:2])
    return [(script_of(kind, name, inputs), run) for kind, run in runs]


RUNS = {"trainer": trainer_runs, "loop": loop_runs}


def check_trainer(output: Path, kind: str, processes: int = 1) -> None:
    for run, steps in (("", 4), ("resumed", 4), ("lines", 2))[: 3 if processes == 1 else 2]:
        results = json.loads((output / run / "all_results.json").read_text())
        assert results["global_step"] == steps
        assert results["perplexity"] == pytest.approx(math.exp(results["eval_loss"]))
        # transformers' own BERT leaves out that Trainer multiplies the loss by the number of processes
        loss = results["eval_loss"] / (processes if kind == "as it was" else 1)
        assert 1 < loss < 1.1 * math.log(len(VOCABULARY))
        assert 0 <= results["eval_accuracy"] <= 1
    check_resumed(output, output / "resumed", "trainer_state.json")


def check_loop(output: Path, processes: int = 1) -> None:
    for run, epoch in (("", 1), ("resumed", 1), ("steps", 0))[: 3 if processes == 1 else 2]:
        results = json.loads((output / run / "all_results.json").read_text())
        assert results["epoch"] == epoch
        assert results["perplexity"] == pytest.approx(math.exp(results["eval_loss"]), rel=1e-4)
        assert 1 < results["eval_loss"] < 1.1 * math.log(len(VOCABULARY))
    whole, resumed = (json.loads((output / run / "all_results.json").read_text()) for run in ("", "resumed"))
    assert whole["step"] == resumed["step"] and whole["losses"] == resumed["losses"]
    assert processes > 1 or (output / "steps" / "step_2").is_dir()


def check_resumed(whole: Path, resumed: Path, state: str) -> None:
    history = [json.loads((folder / state).read_text())["log_history"] for folder in (whole, resumed)]
    steps = [[entry["step"] for entry in entries if "loss" in entry] for entries in history]
    assert steps == [[1, 2, 3, 4]] * 2


def check_saved(output: Path, kind: str) -> None:
    """The folder loads as a native model; ours has the SBO too, trained."""
    model, report = AutoModelForMaskedLM.from_pretrained(output, output_loading_info=True)
    assert not report["missing_keys"] and type(model).__name__ == "BertForMaskedLM"
    tensors = load_file(output / "model.safetensors")
    assert ("sbo.bias" in tensors) == (kind != "as it was")
    if kind == "as it was":
        return
    assert tensors["sbo.bias"].any()
    rows = [dict(tiny_tokenizer()(text)) for text in tiny_texts(8)]
    batch = DataCollatorForSpanMasking(tiny_tokenizer(), epoch=0)(rows)
    ours = SpanBertForPreTraining.from_pretrained(output).eval()(**batch)
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    native = model.eval()(**{name: batch[name] for name in names})
    torch.testing.assert_close(ours.loss, native.loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_one_process(name, kind, inputs, tmp_path, monkeypatch):
    for run in RUNS[name](inputs, tmp_path):
        monkeypatch.setattr(sys, "argv", ["script", *run])
        runpy.run_path(script_of(kind, name, inputs), run_name="__main__")
    check_trainer(tmp_path, kind) if name == "trainer" else check_loop(tmp_path)
    check_saved(tmp_path, kind)


def launch(launcher: list[str], folder: Path, runs: list[tuple[str, list[str]]]) -> None:
    (folder / "runs.json").write_text(json.dumps(runs))
    path = [HERE, HERE.parent, Path(spanbert_ext.__file__).parents[1], os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(folder),  # no configuration of the user's
    }
    subprocess.run(
        [sys.executable, "-m", *launcher, str(HERE / "in_two_processes.py"), str(folder)],
        env=os.environ | environment,
        check=True,
        timeout=300,
    )
    assert (folder / "done-0").exists() and (folder / "done-1").exists()


def test_two_processes_of_torchrun(inputs, tmp_path):
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    runs = runs_of("trainer", inputs, tmp_path)
    (tmp_path / "evaluations").mkdir()
    runs.append((str(HERE / "evaluations.py"), [str(tmp_path / "evaluations"), "4"]))
    launch(launcher, tmp_path, runs)
    for kind in KINDS:
        check_trainer(tmp_path / kind, kind, processes=2)
        check_saved(tmp_path / kind, kind)
    # evaluations of two processes, whatever is read of them, are those of one with twice the batch
    expected = all_ways(str(tmp_path), 8)
    assert [x.pop("logits") for x in expected.values()] == [True, False, False, False]
    for rank in range(2):
        found = json.loads((tmp_path / "evaluations" / f"evaluations-{rank}.json").read_text())
        assert [x.pop("logits") for x in found.values()] == [True, False, False, False]
        for way, numbers in expected.items():
            assert found[way] == pytest.approx(numbers, rel=1e-5), way


def test_two_processes_of_accelerate(inputs, tmp_path):
    launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    launcher += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    launch(launcher, tmp_path, runs_of("loop", inputs, tmp_path))
    for kind in KINDS:
        check_loop(tmp_path / kind, processes=2)
        check_saved(tmp_path / kind, kind)
