# SPDX-License-Identifier: Apache-2.0
"""The command line of `spanbert-pretrain`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from spanbert_ext.files.messages import CommandParser
from spanbert_ext.pretrain.settings.common_options import (
    add_corpus_options,
    add_output_options,
    add_vocabulary_options,
)
from spanbert_ext.pretrain.settings.defaults import DEMO, OWN_TEXT, PLAIN
from spanbert_ext.pretrain.settings.option_checks import CHOICES, flag
from spanbert_ext.pretrain.settings.options import Options
from spanbert_ext.pretrain.settings.recipes import RECIPES, recipe_list
from spanbert_ext.pretrain.settings.sizes import MODELS, RANDOM_START_RATES

DESCRIPTION = """Pre-trains SpanBERT (Joshi et al., TACL 2020): masks spans of words, predicts them by a
masked language model and by the span-boundary objective (SBO). Trains a BERT further on your own text, or
any of the paper's systems from random weights (--recipe). Without any option it trains a small model on the
English that the Python interpreter carries, in minutes on a CPU, and shows what it learned. A plan is
printed before training. Defaults that depend on --model and --recipe are in the table at the end."""

# What --corpus may name, here and in spanbert-prepare.
EXAMPLES = """examples:
  spanbert-pretrain                                   the demo: everything built in
  spanbert-pretrain --corpus notes.txt --model bert-base-cased       a BERT further on your own text
  spanbert-pretrain --corpus notes.txt --model bert-base-cased --plan-only          how long will it take?
  spanbert-pretrain --corpus notes.txt --model bert-base-cased --epochs 10 --learning-rate 1e-4
  spanbert-pretrain --corpus wiki/ --recipe our-bert --model small --max-tokens 500000000
  spanbert-pretrain --corpus wiki/ --recipe spanbert --model large --tokenizer bert-base-cased
                                                      the paper's own run
  spanbert-pretrain --output spanbert-out --resume    go on after an interruption

The output folder holds the model with its tokenizer (AutoModel and its kin load it), metrics.json,
losses.png, run.json, and the folders checkpoints, tensorboard (tensorboard --logdir OUTPUT) and tokenizer.
Exit status: 0 done, 1 the run cannot go on, 2 a mistake that you can correct, 128 + signal when interrupted.
"""


def _epilog() -> str:
    """The examples, the recipes, and the defaults that depend on model and recipe."""
    paper = RECIPES["spanbert"].options
    names = dict.fromkeys((*DEMO, *OWN_TEXT, "tokens_per_batch"))
    rows = [
        f"  {flag(name):<26}" + "".join(f"{_cell(layer.get(name)):>12}" for layer in (DEMO, OWN_TEXT, paper))
        for name in names
    ]
    rates = ", ".join(f"{name} {rate:g}" for name, rate in RANDOM_START_RATES.items())
    notes = (
        "  (demo: without --model and --recipe; own text: another --model; spanbert: --recipe spanbert)",
        "  (a short run warms up in a tenth of its steps, and evaluates and logs every tenth of them)",
        f"  (--learning-rate of models from random weights on own text: {rates})",
    )
    title = f"defaults that depend on --model and --recipe, in this order:\n{'demo':>40}{'own text':>12}"
    return "\n".join((EXAMPLES, f"recipes:\n{recipe_list()}\n", f"{title}{'spanbert':>12}", *rows, *notes))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:g}"


class _ListRecipes(argparse.Action):
    """`--recipe list` prints the recipes and ends, as `--help` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if values == "list":
            print(recipe_list())
            parser.exit()
        setattr(namespace, self.dest, values)


def build_parser() -> argparse.ArgumentParser:
    """Every option defaults to SUPPRESS: the namespace holds the user's options, `Options` the defaults."""
    parser = CommandParser(
        prog="spanbert-pretrain",
        description=DESCRIPTION,
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    _add_text(parser)
    _add_model(parser)
    _add_optimisation(parser)
    _add_output(parser)
    return parser


def _add_text(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("text").add_argument
    add_corpus_options(
        add,
        also=". Or the folder that spanbert-prepare wrote (default: the Python interpreter's own documentation)",
    )
    add(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="share of the text that is kept from training, to evaluate on: whole documents, chosen by a hash of their"
        " text; passages of some sentences where documents are too few or too unequal to give nearly that share",
    )
    add(
        "--rows",
        choices=CHOICES["rows"],
        help="what a training row is: a block of sentences of one document, or a pair of segments by Google's or by"
        f" the published SpanBERT algorithm (default: {PLAIN['rows']})",
    )
    add(
        "--block-size",
        type=int,
        metavar="N",
        help="most tokens of a training row, [CLS] and [SEP] included; a block holds whole sentences"
        " of one document, only a sentence longer than it is cut",
    )
    add(
        "--short-rows",
        type=float,
        metavar="SHARE",
        help="of pairs: share of the documents of a pass that have a random shorter length"
        f" (default: {PLAIN['short_rows']:g})",
    )
    add(
        "--short-phase",
        type=float,
        metavar="SHARE",
        help=f"share of the steps, the first ones, on rows of --short-block-size (default: {PLAIN['short_phase']:g})",
    )
    add(
        "--short-block-size",
        type=int,
        metavar="N",
        help=f"most tokens of a row in these steps (default: {PLAIN['short_block_size']}; demo:"
        f" {DEMO['short_block_size']})",
    )
    add_vocabulary_options(
        add,
        tokenizer="the model's; for a model from random weights a cased WordPiece trained on the training documents",
        unused_ids="100; demo: 0",
    )
    add(
        "--cache-dir",
        metavar="DIR",
        help="folder for the tables that are made of the text, which a second run on it reads (default: the cache of"
        " the datasets library)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model and objective").add_argument
    add(
        "--recipe",
        action=_ListRecipes,
        choices=("list", *RECIPES),
        metavar="NAME",
        help="one of the paper's systems or ablations, listed below; prints what it means and where it follows the"
        " paper; options given beside it replace its values; list: prints their names and ends",
    )
    add(
        "--model",
        metavar="NAME",
        help=f"{', '.join(MODELS)} (from random weights), or a folder or hub name of a masked language "
        f"model to train further (default: {Options.model})",
    )
    add(
        "--dropout",
        type=float,
        metavar="P",
        help="dropout of a model from random weights; others keep their own",
    )
    add(
        "--masking",
        choices=CHOICES["masking"],
        help="what is masked together; entities (capitalised words) and noun phrases (textblob; pip install"
        f" 'spanbert-ext[phrases]') beside whole words (default: {PLAIN['masking']})",
    )
    add(
        "--candidate-share",
        type=float,
        metavar="SHARE",
        help="of the draws that mask an entity or a noun phrase, the others mask a word (default:"
        f" {PLAIN['candidate_share']})",
    )
    add(
        "--dupe-factor",
        type=int,
        metavar="N",
        help="static masks: how many each row has, used in turn; 0: fresh ones in every epoch (default:"
        f" {PLAIN['dupe_factor']})",
    )
    add(
        "--ratio",
        type=float,
        metavar="R",
        help=f"share of a row's tokens to mask (default: {PLAIN['ratio']})",
    )
    _add_switch(add, "sbo", "the span-boundary objective; without it the masked language model alone")
    _add_switch(add, "nsp", "the next-sentence objective, on rows of pairs")


def _add_switch(add: Any, name: str, what: str) -> None:
    default = PLAIN.get(name)
    shown = "" if default is None else f" (default: {'yes' if default else 'no'})"
    add(flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=f"{what}{shown}")


def _add_optimisation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=float, metavar="N", help="length of the run: passes over the training text")
    add("--max-steps", type=int, metavar="N", help="length of the run: optimizer steps")
    add("--max-tokens", type=int, metavar="N", help="length of the run: tokens read, special ones included")
    add("--batch-size", type=int, metavar="N", help="rows per device and forward pass")
    add(
        "--tokens-per-batch",
        type=int,
        metavar="N",
        help="tokens of an update, in the place of --batch-size: in as many forward passes as --gradient-accumulation"
        " and the devices make",
    )
    add("--gradient-accumulation", type=int, metavar="N", help="forward passes per optimizer step and device")
    add(
        "--learning-rate",
        type=float,
        metavar="LR",
        help="peak; it rises linearly during the warm-up, then falls linearly to 0",
    )
    add("--warmup-steps", type=int, metavar="N", help="steps until the peak")
    add("--warmup-ratio", type=float, metavar="SHARE", help="the same as a share of all steps")
    add(
        "--weight-decay",
        type=float,
        metavar="W",
        help=f"decoupled (default: {PLAIN['weight_decay']}; own text: {OWN_TEXT['weight_decay']})",
    )
    _add_switch(add, "decay_all", "weight decay of biases and norms too")
    add("--adam-beta2", type=float, metavar="B", help="decay of Adam's second moment")
    add("--adam-epsilon", type=float, metavar="E", help=f"default: {PLAIN['adam_epsilon']}")
    _add_switch(
        add, "adam_bias_correction", "Adam's correction of its first steps, which Google's BERT has not"
    )
    add(
        "--max-grad-norm",
        type=float,
        metavar="G",
        help=f"gradients are clipped to this norm (default: {PLAIN['max_grad_norm']})",
    )
    _add_switch(
        add, "bf16", "compute in bfloat16 where that is safe (autocast; default: on GPUs that have bfloat16)"
    )
    add(
        "--on-bad-loss",
        choices=CHOICES["on_bad_loss"],
        help=f"what happens at a loss that is NaN or jumps: the run ends, or leaves that batch out (default:"
        f" {Options.on_bad_loss})",
    )
    add(
        "--impl",
        choices=CHOICES["impl"],
        help="how the heads are computed: by the compiled operators, which a GPU must pass a short check with, or in"
        f" plain PyTorch, slower and with more memory (default: {Options.impl})",
    )
    add(
        "--device",
        choices=CHOICES["device"],
        help=f"where to train; auto: on a GPU where torch finds one (default: {Options.device})",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help=f"of weights, order, pairs, masks and dropout; below 2**63 (default: {Options.seed})",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes that prepare batches; masks do not depend on it (default: {Options.workers})",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add_output_options(
        add,
        output=f"the run (default: {Options.output})",
        overwrite="run in --output, once all that the new one needs is checked",
    )
    add(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint of the run in --output, with its options; --corpus, --tokenizer and"
        " --model may say where these were moved, and are refused where they are not the same",
    )
    add(
        "--plan-only",
        action="store_true",
        help="print the plan, with a few trial steps for the time and the memory, and train nothing: --output is left"
        " as it is, also beside --overwrite; what was read and tokenized is in the cache for the run",
    )
    add("--eval-steps", type=int, metavar="N", help="steps between evaluations on the held-out documents")
    add(
        "--save-steps",
        type=int,
        metavar="N",
        help="steps between checkpoints; two are kept (default: --eval-steps)",
    )
    add("--logging-steps", type=int, metavar="N", help="steps between logged training losses")
    add(
        "--report-to",
        nargs="+",
        metavar="NAME",
        help="where training logs go: tensorboard, wandb, mlflow, ... as transformers' Trainer names them, or none"
        " (default: tensorboard)",
    )
    add(
        "--samples",
        type=int,
        metavar="N",
        help="masked spans of held-out text that are shown at the end, with what the model fills in (default:"
        f" {Options.samples})",
    )
