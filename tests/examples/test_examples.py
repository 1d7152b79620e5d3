# SPDX-License-Identifier: Apache-2.0
"""Every example runs to its end on the CPU, with text of one's own too; two_processes.py in test_two_processes.py."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import make_model, one_thread, tiny_texts, tiny_tokenizer  # noqa: F401
from torch.utils.data import DataLoader

from spanbert_ext import DataCollatorForSpanMasking

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RUN_HERE = [
    "accelerate_loop",
    "bare_loop",
    "lightning_module",
    "lora",
    "masks_in_forward",
    "streaming_datasets",
]
RUN_HERE += ["streaming_shards", "trainer"]
NO_TRAINERS = ["beginning", "datatrove_prepare"]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """`run(name, *options)`: what the example prints."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)

    def run(name: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def losses(printed: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<!_)loss'?:? '?(\d+\.\d+)", printed)]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice on workers, PEFT's on tied weights
@pytest.mark.parametrize("name", RUN_HERE)
def test_it_learns(run, name):
    found = losses(run(name))
    assert len(found) >= 3 and min(found[1:]) < found[0] - 0.15, found


def test_text_of_ones_own(run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tiny_texts(40)), encoding="utf-8")
    found = losses(run("bare_loop", "--text", str(text), "--steps", "6", "--batch-size", "4"))
    assert len(found) == 2 and found[1] < found[0] < 12


def test_each_is_short_and_explains_itself(run, capsys):
    names = [path.stem for path in EXAMPLES.glob("*.py")]
    assert sorted(names) == sorted([*RUN_HERE, *NO_TRAINERS, "two_processes"])
    for name in names:
        assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 60
        if name not in NO_TRAINERS:
            with pytest.raises(SystemExit, match="0"):
                run(name, "--help")
            assert "--steps" in capsys.readouterr().out


def test_lightnings_epochs_reach_the_collator(run, monkeypatch):
    lightning = pytest.importorskip("pytorch_lightning")
    names = runpy.run_path(str(EXAMPLES / "lightning_module.py"))
    rows = [dict(tiny_tokenizer()(text)) for text in tiny_texts(8)]
    collator = DataCollatorForSpanMasking(tiny_tokenizer())
    model, seen = make_model().train(), []
    model.register_forward_pre_hook(lambda *call: seen.append(call[-1]["input_ids"]), with_kwargs=True)
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "accelerator": "cpu",
    }
    trainer = lightning.Trainer(max_epochs=3, callbacks=[names["MaskingEpoch"](collator)], **options)
    trainer.fit(names["SpanBertModule"](model, 1e-3), DataLoader(rows, 8, collate_fn=collator))
    assert len(seen) == 3
    for epoch, ids in enumerate(seen):
        assert torch.equal(ids, DataCollatorForSpanMasking(tiny_tokenizer(), epoch=epoch)(rows)["input_ids"])
