# SPDX-License-Identifier: Apache-2.0
"""`spanbert-convert`: published checkpoints in, checkpoints for transformers, fairseq or old programs out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from spanbert_ext.files.bars import quiet_transformers
from spanbert_ext.files.messages import CommandParser, escaped
from spanbert_ext.files.output import lasting_output
from spanbert_ext.files.packages import missing_packages
from spanbert_ext.files.signals import signal_of, signals_stop

DESCRIPTION = """Reads a SpanBERT or BERT checkpoint, with the heads that are in it, and writes it in another form.
SOURCE is
  a checkpoint of the published SpanBERT code (fairseq): model.pt, or the folder that it is in;
  a folder with config.json and model.safetensors or pytorch_model.bin, as SpanBERT/spanbert-base-cased;
  such a name on the Hugging Face hub.
No file is run: a pickle that calls for anything but tensors and plain values is refused by the name it calls for."""

EXAMPLES = """examples:
  spanbert-convert spanbert_large_with_head/model.pt --vocab vocab.txt --output spanbert-large
  spanbert-convert SpanBERT/spanbert-base-cased --output spanbert-base
  spanbert-convert my-spanbert --to fairseq --with-args --output for-fairseq
  spanbert-convert my-spanbert --legacy --output for-coref
  spanbert-pretrain --corpus notes/ --model spanbert-large --output my-spanbert

The output folder is written whole or not at all. --to transformers: what AutoModel and its kin, and
SpanBertForPreTraining, load. --to fairseq: model.pt as published, dict.txt and vocab.txt. --to legacy: config.json,
bert_config.json, pytorch_model.bin that torch before 1.6 reads, vocab.txt.
"""


def build_parser() -> argparse.ArgumentParser:
    """Every option defaults to SUPPRESS: the namespace holds the user's options, `ConvertOptions` the defaults."""
    parser = CommandParser(
        prog="spanbert-convert",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a file, a folder or a hub name")
    add("--output", required=True, metavar="DIR", help="the folder to write")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--to",
        choices=("transformers", "fairseq", "legacy"),
        help="the form to write (default: transformers)",
    )
    form.add_argument(
        "--legacy",
        dest="to",
        action="store_const",
        const="legacy",
        help="as --to legacy: for the published fine-tuning and coreference code, and old libraries",
    )
    add(
        "--vocab",
        metavar="NAME",
        help="the tokenizer, where the source has none or in the place of its own: vocab.txt, fairseq's dict.txt, a"
        " folder or a hub name",
    )
    add(
        "--attention-heads",
        type=int,
        metavar="N",
        help="of a fairseq checkpoint that does not say it (default: hidden size / 64)",
    )
    add(
        "--with-args",
        action="store_true",
        help="with --to fairseq: also what train.py --restore-file expects beside the tensors",
    )
    add("--dtype", choices=("float32", "float16"), help="with --to fairseq (default: float32)")
    add("--overwrite", action="store_true", help="replace a conversion that is in --output")
    add("--no-progress", dest="progress", action="store_false", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 for what the user can correct, 128 + signal when stopped."""
    given = vars(build_parser().parse_args(arguments))
    if missing := missing_packages(""):
        print(f"spanbert-convert: error: {missing}", file=sys.stderr)
        return 2
    from spanbert_ext.convert.checkpoint_file import CheckpointError  # only now: --help answers at once
    from spanbert_ext.convert.convert import ConvertOptions, convert
    from spanbert_ext.files.disk import DiskError

    options = ConvertOptions(**given)
    with lasting_output():
        try:
            with signals_stop(), quiet_transformers():
                summary = convert(options)
        except (CheckpointError, DiskError) as error:  # names in a file are anybody's
            print(f"spanbert-convert: error: {escaped(str(error))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as stop:
            print(f"\nStopped. Nothing was written to {escaped(options.output)}.", file=sys.stderr)
            return 128 + signal_of(stop)
        print("\n".join(map(escaped, summary.splitlines())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
