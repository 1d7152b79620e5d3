# SPDX-License-Identifier: Apache-2.0
"""Tries an installed spanbert-ext: the operators, every public name, every command.

  cd ELSEWHERE && .../bin/python .../tools/try_installed.py

For an environment into which nothing was installed but a wheel with what it requires: commands that need an extra have
to say so.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points, requires
from importlib.util import find_spec
from pathlib import Path

# What the commands that need an extra are asked for, which must not get as far as reading it.
NEED_EXTRAS = {
    "spanbert-pretrain": ("pretrain", "--corpus", "text.txt"),
    "spanbert-prepare": ("pretrain", "--corpus", "text.txt"),
    "spanbert-fill": ("plots", "model", "A [MASK].", "--heat-map", "map.png"),
    "spanbert-evaluate": ("evaluate", "qa", "model", "--data", "squad.json"),
}


def training_steps(count: int) -> list[float]:
    """The losses of a small model with random weights on one batch of masked text."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, PreTrainedTokenizerFast

    from spanbert_ext import DataCollatorForSpanMasking, SpanBertForPreTraining

    special = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "mask_token")}
    words = "a span of whole words is masked and predicted from the two tokens just outside".split()
    vocabulary = {token: i for i, token in enumerate((*special.values(), *words))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    torch.manual_seed(0)
    batch = DataCollatorForSpanMasking(tokenizer, seed=1)([tokenizer(" ".join(words * 3)) for _ in range(4)])
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = SpanBertForPreTraining(BertConfig(vocab_size=len(vocabulary), **small))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(count):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def command_fault(name: str) -> str | None:
    """What is wrong with a command: with its --help or, where it needs an extra, with what it says without."""
    extra, *arguments = NEED_EXTRAS.get(name, ("", "--help"))
    program = Path(sysconfig.get_path("scripts"), name)
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if extra:
        advice = f"pip install 'spanbert-ext[{extra}]'\n"
        right = result.returncode == 2 and result.stderr.endswith(advice) and result.stderr.count("\n") == 1
    else:
        right = result.returncode == 0 and result.stdout.startswith(f"usage: {name}")
    return None if right else f"{name} {' '.join(arguments)}: status {result.returncode}\n{result.stderr}"


def main() -> int:
    import spanbert_ext

    package = Path(spanbert_ext.__file__)
    if not package.is_relative_to(sysconfig.get_path("platlib")):
        raise SystemExit(f"{package} is not an installed one: start this in another folder")
    for name, value in spanbert_ext.build_info().items():
        print(f"{name:18} {value}")
    faults = [f"{name} is missing" for name in spanbert_ext.__all__ if not hasattr(spanbert_ext, name)]
    first, *_, last = training_steps(20)
    print(f"{'loss':18} {first:.2f}, after 20 steps {last:.2f}")
    if not last < 0.8 * first:
        faults.append("the model does not learn")
    if find_spec("datasets"):
        faults.append("datasets is installed, of which the library has no need")
    scripts = entry_points(group="console_scripts")
    commands = sorted(script.name for script in scripts if script.value.startswith("spanbert_ext."))
    faults += filter(None, map(command_fault, commands))
    print(f"{'commands':18} {', '.join(commands)}")
    torch = next(line for line in requires("spanbert-ext") or () if line.startswith("torch"))
    print(f"{'requires':18} {torch}")
    print(*faults, sep="\n", end="\n" if faults else "")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
