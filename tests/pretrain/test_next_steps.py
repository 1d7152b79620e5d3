# SPDX-License-Identifier: Apache-2.0
"""What a run says at its end: losses before and after, and commands that can be copied."""

from __future__ import annotations

import shlex

from spanbert_ext.fill.fill_cli import build_parser as fill_parser
from spanbert_ext.pretrain.run.next_steps import before_and_after, next_commands
from spanbert_ext.pretrain.settings.options import Options
from spanbert_ext.pretrain.settings.parser import build_parser


def test_losses_before_and_after():
    history = [
        {"step": 0, "eval_mlm_loss": 8.25, "eval_sbo_loss": 9.0},
        {"step": 5, "loss": 3.0},
        {"step": 5, "eval_mlm_loss": 6.0, "eval_sbo_loss": 6.5},
        {"step": 10, "eval_mlm_loss": 5.125, "eval_sbo_loss": 5.5},
        {"step": 10, "eval_tokens_mlm_loss": 1.0},
    ]
    lines = before_and_after(history).splitlines()
    assert "step 0 and at step 10" in lines[0]
    assert lines[1].split()[:4] == ["MLM", "8.250", "->", "5.125"]
    assert lines[2].split()[:4] == ["SBO", "9.000", "->", "5.500"] and len(lines) == 3


def test_nothing_is_said_of_a_single_evaluation():
    assert before_and_after([]) == ""
    assert before_and_after([{"step": 5, "eval_mlm_loss": 6.0}]) == ""


def test_commands_can_be_copied_whatever_the_names():
    options = Options(corpus=["my notes.txt", "b", "c"], output="it's here")
    lines = next_commands(options).splitlines()
    assert len(lines) == 5
    report, fill, further = (shlex.split(line) for line in lines[2:])
    assert report[-2:] == ["spanbert-report", "it's here"]
    asked = fill_parser().parse_args(fill[fill.index("spanbert-fill") + 1 :])
    assert (asked.checkpoint, asked.interactive) == ("it's here", True)
    command = further[further.index("spanbert-pretrain") + 1 :]
    given = build_parser().parse_args([x for x in command if x != "..."])
    assert (given.model, given.corpus, given.output) == (
        "it's here",
        ["my notes.txt", "b"],
        "it's here-further",
    )
    compile(lines[1].split(maxsplit=2)[2], "printed", "exec")
    assert "UNEXPECTED, which is right" in lines[1]


def test_a_text_is_read_again_as_it_was():
    options = Options(
        corpus=["a.jsonl"],
        text_field="the body",
        document_separator="# #",
        model="tiny",
        block_size=128,
        max_steps=1,
    )
    last = next_commands(options.resolve()).splitlines()[-1]
    command = shlex.split(last)[shlex.split(last).index("spanbert-pretrain") + 1 :]
    given = build_parser().parse_args(command)
    assert (given.text_field, given.document_separator, given.block_size) == ("the body", "# #", 128)


def test_the_built_in_text_needs_no_corpus():
    assert "--corpus" not in next_commands(Options())


def test_a_run_goes_on_as_the_system_that_it_was():
    last = next_commands(Options(recipe="our-bert", model="tiny", max_steps=1).resolve()).splitlines()[-1]
    assert "--rows spanbert-pairs --masking tokens --nsp --no-sbo" in last
    plain = next_commands(Options(recipe="spanbert", model="tiny", max_steps=1).resolve()).splitlines()[-1]
    assert not {"--rows", "--masking", "--nsp", "--sbo"} & set(plain.split())
