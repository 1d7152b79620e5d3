# SPDX-License-Identifier: Apache-2.0
"""The scripts of tests/scripts as they were and with two changed lines: their runs, and what these must leave."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import VOCABULARY, tiny_config, tiny_texts, tiny_tokenizer
from transformers import AutoModelForMaskedLM

from spanbert_ext import DataCollatorForSpanMasking, SpanBertForPreTraining

HERE = Path(__file__).parent / "scripts"
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


def write_inputs(folder: Path) -> Path:
    """A tokenizer, a configuration, texts and the changed scripts, in `folder`."""
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
