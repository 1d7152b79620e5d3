"""The command line of `spanbert-pretrain`."""

from __future__ import annotations

import argparse
import dataclasses

from spanbert_ext.pretrain.options import DEMO, MASKING_SCHEMES, PAPER, PLAIN, Options, flag
from spanbert_ext.pretrain.sizes import MODELS

DESCRIPTION = """Pre-trains SpanBERT (Joshi et al., TACL 2020): masks spans of words, predicts them by a
masked language model and by the span-boundary objective (SBO). Without any option it trains a small model
on the English that the Python interpreter carries, in minutes on a CPU, and shows what it learned."""

EXAMPLES = """examples:
  spanbert-pretrain                                   the demo: everything built in
  spanbert-pretrain --corpus books/ 'wiki/*.txt.gz' --model base --tokenizer bert-base-cased --bf16
  spanbert-pretrain --corpus notes.txt --model bert-base-cased --max-steps 5000 --learning-rate 5e-5
  spanbert-pretrain --corpus notes.txt --no-sbo --masking tokens     BERT on single sequences, to compare
  spanbert-pretrain --output spanbert-out --resume    go on after an interruption

The output folder holds the model with its tokenizer (AutoModel and its kin load it), metrics.json,
losses.png, run.json, and the folders checkpoints, tensorboard (tensorboard --logdir OUTPUT) and tokenizer.
"""


def _epilog() -> str:
    """The examples, and the defaults that depend on the model."""
    rows = [
        f"  {flag(field.name):<26}{getattr(DEMO, field.name):>10,}{getattr(PAPER, field.name):>12,}"
        for field in dataclasses.fields(DEMO)
    ]
    note = "  (warm-up, evaluation and logging: at most a tenth of the steps)"
    return "\n".join((EXAMPLES, f"defaults that depend on --model:{'demo':>6}{'any other':>12}", *rows, note))


def build_parser() -> argparse.ArgumentParser:
    """Every option defaults to SUPPRESS: the namespace holds the user's options, `Options` the defaults."""
    parser = argparse.ArgumentParser(
        prog="spanbert-pretrain",
        description=DESCRIPTION,
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument_group("text").add_argument
    add(
        "--corpus",
        nargs="+",
        metavar="PATH",
        help="text: files, folders or quoted globs of .txt, .txt.gz, .txt.xz, .txt.bz2, .txt.zst; UTF-8, or UTF-16 or"
        " UTF-32 with a byte order mark; a blank line ends a document (default: the interpreter's own"
        " documentation)",
    )
    add(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="share of the documents kept for evaluation, chosen by a hash of their text; where whole documents would"
        " be less than a quarter or more than four times that share of the text, as with a single document,"
        " of passages of some sentences",
    )
    add(
        "--block-size",
        type=int,
        metavar="N",
        help="most tokens of a training block, [CLS] and [SEP] included; a block holds whole sentences"
        " of one document, only a sentence longer than it is cut",
    )
    add(
        "--tokenizer",
        metavar="NAME",
        help="folder or hub name of a fast tokenizer (default: the model's; for demo, base and large a"
        " cased WordPiece trained on the training documents)",
    )
    add("--vocab-size", type=int, metavar="N", help="size of a vocabulary that is trained")
    add(
        "--cache-dir",
        metavar="DIR",
        help="where the datasets library keeps its tables (default: its own cache)",
    )

    add = parser.add_argument_group("model and objective").add_argument
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
        choices=sorted(MASKING_SCHEMES),
        help=f"what is masked together (default: {PLAIN['masking']})",
    )
    add(
        "--ratio",
        type=float,
        metavar="R",
        help=f"share of a block's tokens to mask (default: {Options.ratio})",
    )
    add("--no-sbo", dest="sbo", action="store_false", help="train the masked language model alone")

    add = parser.add_argument_group("optimisation").add_argument
    add("--max-steps", type=int, metavar="N", help="optimizer steps")
    add("--batch-size", type=int, metavar="N", help="blocks per device and forward pass")
    add("--gradient-accumulation", type=int, metavar="N", help="forward passes per optimizer step")
    add(
        "--learning-rate",
        type=float,
        metavar="LR",
        help="peak; it rises linearly during the warm-up, then falls linearly to 0",
    )
    add("--warmup-steps", type=int, metavar="N", help="steps until the peak")
    add(
        "--weight-decay",
        type=float,
        metavar="W",
        help=f"decoupled, not on biases and norms (default: {PLAIN['weight_decay']})",
    )
    add("--adam-beta2", type=float, metavar="B", help="decay of Adam's second moment")
    add("--adam-epsilon", type=float, metavar="E", help=f"default: {PLAIN['adam_epsilon']}")
    add(
        "--max-grad-norm",
        type=float,
        metavar="G",
        help=f"gradients are clipped to this norm (default: {Options.max_grad_norm})",
    )
    add("--bf16", action="store_true", help="bfloat16 autocast, for hardware that is faster with it")
    add("--device", choices=("auto", "cpu", "cuda"), help=f"default: {Options.device}")
    add(
        "--seed",
        type=int,
        metavar="N",
        help=f"of weights, order, masks and dropout (default: {Options.seed})",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes that prepare batches; masks do not depend on it (default: {Options.workers})",
    )

    add = parser.add_argument_group("output").add_argument
    add("--output", metavar="DIR", help=f"folder of the run (default: {Options.output})")
    add(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint of the run in --output, with its options",
    )
    add("--overwrite", action="store_true", help="delete the run in --output first")
    add("--eval-steps", type=int, metavar="N", help="steps between evaluations on the held-out documents")
    add(
        "--save-steps",
        type=int,
        metavar="N",
        help="steps between checkpoints; two are kept (default: --eval-steps)",
    )
    add("--logging-steps", type=int, metavar="N", help="steps between logged training losses")
    add(
        "--samples",
        type=int,
        metavar="N",
        help=f"masked spans in the table at the end (default: {Options.samples})",
    )
    add("--no-progress", dest="progress", action="store_false", help="no progress bars")
    return parser
